"""Read the text of a picture as it is recognised: the task is a field of the request."""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

path = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/images/sign.png")
picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
stream = client.chat.completions.create(
    model="phi-3.5-vision",
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}],
    stream=True,
    extra_body={"task": "ocr"},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
