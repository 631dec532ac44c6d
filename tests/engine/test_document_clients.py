"""A ten-page PDF through four clients, read by the demo: a wrong page or order leaves nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, draw_text
from mistralai.client import Mistral
from rapidfuzz.distance import Levenshtein

from tests.support.ocr_clients import curl, litellm_ocr
from tests.support.pdf import pdf
from tests.support.pictures import data_url, user
from tests.support.serving import PATIENCE_S, Server

MODEL = "phi-3.5-vision"
PAGES = [
    draw_text(Random(f"document-{i}"), em=PRINT_EM, lines=(1, 2), max_chars=10, words=HELD_OUT_WORDS)
    for i in range(10)
]
TEXTS = ["\n".join(page.lines) for page in PAGES]
URL = data_url(pdf(*[page.image for page in PAGES]), "application/pdf")
DOCUMENT: Any = {"type": "document_url", "document_url": URL}


def with_mistralai(server: Server) -> list[str]:
    client = Mistral(api_key="none", server_url=server.url, timeout_ms=PATIENCE_S * 1000)
    return [page.markdown for page in client.ocr.process(model=MODEL, document=DOCUMENT).pages]


def with_litellm(server: Server) -> list[str]:
    (texts,) = litellm_ocr(DOCUMENT, server.base_url)
    return texts


def with_openai(server: Server) -> list[str]:
    """A page a request: the demo has learned to look at one picture."""
    client = server.client()
    texts = []
    for i in range(len(PAGES)):
        part = {"type": "file", "file": {"filename": "ten.pdf", "file_data": URL, "pages": str(i + 1)}}
        answer = client.chat.completions.create(model=f"{MODEL}:ocr", messages=[user(part)])
        texts.append(answer.choices[0].message.content or "")
    return texts


def with_curl(server: Server) -> list[str]:
    read = curl(f"{server.base_url}/ocr", {"model": MODEL, "document": DOCUMENT})
    return [page["markdown"] for page in read["pages"]]


@pytest.mark.full  # what each client sends and gets is in tests/http, with the engine stubbed out
@pytest.mark.parametrize("read", [with_mistralai, with_litellm, with_openai, with_curl])
def test_a_ten_page_pdf_is_read(server: Server, read: Callable[[Server], list[str]]) -> None:
    said = read(server)
    assert len(said) == len(TEXTS)
    # It is no perfect reader; see its model card.
    edits = sum(map(Levenshtein.distance, said, TEXTS))
    assert edits <= 0.03 * sum(map(len, TEXTS)), list(zip(TEXTS, said, strict=True))
