"""A conversation: earlier turns keep their pictures, a later turn brings another."""

import base64
import mimetypes
import os
from pathlib import Path

from openai import OpenAI
from openai.types.chat import ChatCompletionContentPartImageParam, ChatCompletionMessageParam


def image(path: str) -> ChatCompletionContentPartImageParam:
    """A picture as a content part."""
    mime = mimetypes.guess_type(path)[0]
    url = f"data:{mime};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
turns: list[tuple[list[str], str]] = [
    (["tests/images/invoice.png"], "Who sent this invoice?"),
    ([], "What is the total?"),
    (["tests/images/receipt.jpg"], "Is this receipt's total higher?"),
]
messages: list[ChatCompletionMessageParam] = []
for pictures, question in turns:
    messages.append({"role": "user", "content": [*map(image, pictures), {"type": "text", "text": question}]})
    answer = client.chat.completions.create(
        model="phi-3.5-vision", messages=messages, max_tokens=60, temperature=0
    )
    text = answer.choices[0].message.content or ""
    messages.append({"role": "assistant", "content": text})
    print(f"{question}\n  -> {text}")
