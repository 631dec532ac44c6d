"""Clients of Mistral's OCR API that tests run as their users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_LITELLM = """
import json, litellm, sys
document = json.load(sys.stdin)
texts = []
for api_base in sys.argv[1:]:
    read = litellm.ocr(
        model="mistral/mistral-ocr-latest",
        document=document,
        api_base=api_base,
        api_key="none",
        include_image_base64=False,
    )
    texts.append([page.markdown for page in read.pages])
print(json.dumps(texts))
"""


def litellm_ocr(document: dict[str, Any], *api_bases: str) -> list[list[str]]:
    """The texts of the pages from each server.

    In a process of its own: LiteLLM takes seconds to import and changes much.
    """
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # or it asks the internet for prices
    command = [sys.executable, "-c", _LITELLM, *api_bases]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    texts: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return texts


def curl(url: str, body: dict[str, Any]) -> Any:
    """The JSON that curl gets for this one, which it reads from its standard input."""
    command = ["curl", "-sS", url, "-H", "Content-Type: application/json", "--data-binary", "@-"]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
