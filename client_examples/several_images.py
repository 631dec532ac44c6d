"""Compare pictures in one request, one of them at low detail, and see what they cost."""

import base64
import mimetypes
import os
from pathlib import Path
from typing import Literal

from openai import OpenAI
from openai.types.chat import ChatCompletionContentPartImageParam


def image(path: str, detail: Literal["auto", "low", "high"] = "auto") -> ChatCompletionContentPartImageParam:
    """A picture as a content part; `detail` low is one crop, high is as many as the server allows."""
    mime = mimetypes.guess_type(path)[0]
    url = f"data:{mime};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
response = client.chat.completions.with_raw_response.create(
    model="phi-3.5-vision",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First picture:"},
                image("tests/images/receipt.jpg"),
                {"type": "text", "text": "Second picture:"},
                image("tests/images/diagram.png", detail="low"),
                {"type": "text", "text": "What do the two pictures have in common?"},
            ],
        }
    ],
    max_tokens=100,
    temperature=0,
)
print("crops: ", response.headers["x-phi-vision-num-crops"])
print("tokens:", response.headers["x-phi-vision-image-tokens"])
print(response.parse().choices[0].message.content)
