"""Read many pictures as one batch: upload the requests, wait, fetch the answers."""

import base64
import json
import mimetypes
import os
import sys
import time
from pathlib import Path

from openai import OpenAI

ENDED = ("completed", "failed", "expired", "cancelled")

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
paths = [Path(name) for name in sys.argv[1:]] or [
    Path("tests/images/sign.png"),
    Path("tests/images/receipt.jpg"),
]


def line(path: Path) -> str:
    kind = mimetypes.guess_type(path)[0]
    url = f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "phi-3.5-vision:ocr", "messages": [{"role": "user", "content": content}]}
    return json.dumps({"custom_id": str(path), "method": "POST", "url": "/v1/chat/completions", "body": body})


requests = "\n".join(map(line, paths)).encode()
uploaded = client.files.create(file=("requests.jsonl", requests), purpose="batch")
batch = client.batches.create(
    input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
)
while batch.status not in ENDED:
    time.sleep(1)
    batch = client.batches.retrieve(batch.id)

print(batch.status, batch.request_counts, batch.errors or "")
for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
    for answer in map(json.loads, client.files.content(file_id).text.splitlines()):
        body = (answer["response"] or {}).get("body", {})
        text = body["choices"][0]["message"]["content"] if "choices" in body else answer["error"] or body
        print(f"--- {answer['custom_id']}\n{text}")
