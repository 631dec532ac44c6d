"""Caption many pictures at once, with a bounded number of requests in flight."""

import asyncio
import base64
import mimetypes
import os
import sys
from pathlib import Path

from openai import AsyncOpenAI

IN_FLIGHT = 4


async def main(paths: list[Path]) -> None:
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none"
    )
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def caption(path: Path) -> str:
        mime = mimetypes.guess_type(path)[0]
        url = f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
        async with slots:
            answer = await client.chat.completions.create(
                model="phi-3.5-vision:caption",
                messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
                max_tokens=60,
            )
        return answer.choices[0].message.content or ""

    for path, text in zip(paths, await asyncio.gather(*map(caption, paths)), strict=True):
        print(f"{path.name}: {text}")


images = Path("tests/images")
pictures = [Path(name) for name in sys.argv[1:]] or [*images.glob("*.png"), *images.glob("*.jpg")]
asyncio.run(main(sorted(pictures)))
