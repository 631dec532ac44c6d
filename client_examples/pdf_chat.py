"""Ask about a PDF: uploaded once, then named by its id, some pages at a time."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from openai import OpenAI
from PIL import Image

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")


def made_of_pictures(path: Path) -> Path:
    """A PDF of two pages, where none is given."""
    first, second = (
        Image.open(f"tests/images/{name}").convert("RGB") for name in ("sign.png", "receipt.jpg")
    )
    first.save(path, save_all=True, append_images=[second])
    return path


path = Path(sys.argv[1]) if len(sys.argv) > 1 else made_of_pictures(Path(tempfile.mkdtemp(), "pages.pdf"))
uploaded = client.files.create(file=path, purpose="user_data")
for pages in sys.argv[2:] or ["1", "1-2"]:
    document: Any = {"file_id": uploaded.id, "pages": pages}  # `pages` is this server's; without it: all
    answer = client.chat.completions.create(
        model="phi-3.5-vision",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": document},
                    {"type": "text", "text": "What do these pages show?"},
                ],
            }
        ],
        max_tokens=60,
    )
    print(f"pages {pages}: {answer.choices[0].message.content}")
client.files.delete(uploaded.id)
