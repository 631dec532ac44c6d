"""Ask about a picture."""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

path = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/images/shapes.png")
question = sys.argv[2] if len(sys.argv) > 2 else "What color is the circle?"
picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
answer = client.chat.completions.create(
    model="phi-3.5-vision:vqa",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": picture}},
                {"type": "text", "text": question},
            ],
        }
    ],
)
print(answer.choices[0].message.content)
