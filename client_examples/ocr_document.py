"""Read a document, page by page, with Mistral's SDK: `pip install mistralai`."""

import base64
import mimetypes
import os
import sys
from pathlib import Path

from mistralai.client import Mistral

path = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/images/sign.png")
kind = mimetypes.guess_type(path.name)[0] or "application/pdf"
document = f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()

server = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1").removesuffix("/v1")
client = Mistral(server_url=server, api_key="none")
read = client.ocr.process(
    model="phi-3.5-vision",
    document={"type": "document_url", "document_url": document},
    confidence_scores_granularity="page",
)
for page in read.pages:
    scores = page.confidence_scores
    sure = f"confidence {scores.average_page_confidence_score:.2f}" if scores else "blank"
    print(f"--- page {page.index + 1}, {sure}\n{page.markdown}")
