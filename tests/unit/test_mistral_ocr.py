"""Mistral's OCR API: which pages are asked for, which field is at fault, what is said of a page."""

from __future__ import annotations

import math
from typing import Any

import pytest
from phi_vision.documents.answers import Token
from phi_vision.documents.pages import Attempt, PageResult
from phi_vision.serving import mistral_ocr
from phi_vision.serving.mistral_ocr import FieldRefused

DOCUMENT = {"type": "document_url", "document_url": "data:,"}


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("0", [0]),
        ("0-2", [0, 1, 2]),
        ("4, 0 - 1", [4, 0, 1]),
        ("3-", [3, 4]),
        ("1-2,2-3", [1, 2, 3]),
        ([3, 3, 1], [3, 1]),
    ],
)
def test_pages_are_taken_once_in_the_order_asked_for(pages: Any, expected: list[int]) -> None:
    assert mistral_ocr.select_pages(pages, num_pages=5, max_pages=64) == expected


@pytest.mark.parametrize("pages", ["", "x", "5-", "-1", "3-1", "5", "0-5", "1,,2", "²", [5], [-1], []])
def test_pages_that_are_none_are_refused(pages: Any) -> None:
    with pytest.raises(FieldRefused) as caught:
        mistral_ocr.select_pages(pages, num_pages=5, max_pages=64)
    assert caught.value.param == "pages" and caught.value.status == 422


@pytest.mark.parametrize("pages", [None, "0-3", "0-999999998", [0, 1, 2, 3]])
def test_more_pages_than_the_limit(pages: Any) -> None:
    with pytest.raises(FieldRefused, match="at most 3") as caught:
        mistral_ocr.select_pages(pages, num_pages=1_000_000_000, max_pages=3)
    assert caught.value.param == "pages"


def test_an_error_is_in_both_shapes() -> None:
    with pytest.raises(FieldRefused) as caught:
        mistral_ocr.parse({"model": "x", "document": {**DOCUMENT, "colour": 1}})
    body = caught.value.body()
    assert body["error"]["param"] == "document.colour" and body["error"]["code"] == 422
    assert body["detail"][0]["loc"] == ["body", "document", "colour"]
    assert body["detail"][0]["msg"] == body["error"]["message"]


@pytest.mark.parametrize("document", [DOCUMENT, {"type": "image_url", "image_url": {"url": "data:,"}}])
def test_a_document_is_let_go_of(document: dict[str, Any]) -> None:
    request = mistral_ocr.parse({"model": "x", "document": document})
    assert request.url == "data:,"
    request.forget_url()
    assert request.url == ""


def test_what_an_answer_says_of_a_page() -> None:
    attempt = Attempt("read", 90, 1, 0.0, "complete", 0.9, 100, 3)
    tokens = (Token("A", math.log(0.5), 0), Token("B", math.log(0.8), 1), Token("C", math.log(0.9), 3))
    page = PageResult(
        index=3,
        markdown="AB C",
        raw_text="It says: AB C",
        status="complete",
        attempts=(attempt,),
        rotation=90,
        tiles=1,
        width=800,
        height=600,
        dpi=149.6,
        tokens=tokens,
        prompt_tokens=250,
        completion_tokens=7,
    )
    answer = mistral_ocr.page_object(page, "word")
    assert answer["index"] == 3 and answer["markdown"] == "AB C" and answer["raw_text"] == "It says: AB C"
    assert answer["dimensions"] == {"dpi": 150, "height": 600, "width": 800}
    assert answer["rotation"] == 90 and answer["attempts"][0]["confidence"] == 0.9
    assert answer["usage"] == {"prompt_tokens": 250, "completion_tokens": 7}
    assert answer["attempts"][0]["usage"] == {"prompt_tokens": 100, "completion_tokens": 3}
    scores = answer["confidence_scores"]
    first, second = scores["word_confidence_scores"]
    assert (first["text"], first["start_index"]) == ("AB", 0)
    assert math.isclose(first["confidence"], math.sqrt(0.5 * 0.8))
    assert (second["text"], second["start_index"]) == ("C", 3)
    assert math.isclose(scores["minimum_page_confidence_score"], first["confidence"])

    scores = mistral_ocr.page_object(page, "page")["confidence_scores"]
    assert set(scores) == {"average_page_confidence_score", "minimum_page_confidence_score"}
    assert math.isclose(scores["minimum_page_confidence_score"], 0.5)
    assert "confidence_scores" not in mistral_ocr.page_object(page, None)
