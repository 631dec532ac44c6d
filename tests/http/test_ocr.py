"""`POST /v1/ocr`: real clients, page ranges, what is refused, what fails, and who leaves."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from PIL import Image

from tests.support.ocr_clients import curl, litellm_ocr
from tests.support.pdf import pdf, picture_page
from tests.support.pictures import data_url, encoded
from tests.support.serving import PATIENCE_S, eventually
from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import StubServer

MODEL = "phi-3.5-vision"
PAPERS = [250 - 4 * page for page in range(10)]
READ = {"retries": False, "tiles": "off"}  # one request a page


def paper(grey: int) -> Image.Image:
    """A page of this grey, with something on it."""
    image = Image.new("RGB", (600, 600), (grey,) * 3)
    image.paste((0, 0, 0), (100, 100, 500, 130))
    return image


def document(*papers: int) -> bytes:
    return pdf(*[picture_page(paper(grey)) for grey in papers])


TEN_PAGES = document(*PAPERS)
SCRIPT = [ScriptedAnswer(f"Page {i}\nGREY {grey}", paper=grey, times=None) for i, grey in enumerate(PAPERS)]
TEXTS = [answer.text for answer in SCRIPT]


def by_url(data: bytes = TEN_PAGES, mime: str = "application/pdf") -> dict[str, Any]:
    return {"type": "document_url", "document_url": data_url(data, mime)}


@pytest.fixture
def scripted(stub: StubServer) -> Iterator[StubServer]:
    """Ten pages of different paper, each with its own answer."""
    with stub.answers(*SCRIPT):
        yield stub


def mistral(stub: StubServer) -> Any:
    """The SDK, which has a type of its own for each dict that it takes."""
    return Mistral(api_key="none", server_url=stub.url, timeout_ms=PATIENCE_S * 1000)


def post(stub: StubServer, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "document": by_url(), **READ, **fields}
    return httpx.post(f"{stub.url}/v1/ocr", json={k: v for k, v in body.items() if v is not ...})


def refusal(answer: httpx.Response, status: int = 422) -> dict[str, Any]:
    """The error, in OpenAI's shape and in FastAPI's."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    error: dict[str, Any] = body["error"]
    if status == 422:
        (detail,) = body["detail"]
        assert detail["msg"] == error["message"] and ".".join(detail["loc"]) == f"body.{error['param']}"
    return error


# Clients ------------------------------------------------------------------------------------------


def test_mistralai(scripted: StubServer) -> None:
    read = mistral(scripted).ocr.process(
        model="mistral-ocr-latest", document=by_url(), confidence_scores_granularity="page"
    )
    assert [page.markdown for page in read.pages] == TEXTS
    assert [page.index for page in read.pages] == list(range(10))
    assert read.model == "phi-3.5-vision-demo"
    assert read.usage_info.pages_processed == 10 and read.usage_info.doc_size_bytes == len(TEN_PAGES)
    first = read.pages[0]
    assert first.dimensions is not None and first.dimensions.width == first.dimensions.height
    assert first.confidence_scores is not None
    assert math.isclose(first.confidence_scores.average_page_confidence_score, math.exp(-0.01))


def test_mistralai_with_a_picture(scripted: StubServer) -> None:
    url = data_url(encoded(paper(PAPERS[3])))
    for image_url in (url, {"url": url}):
        read = mistral(scripted).ocr.process(
            model=MODEL, document={"type": "image_url", "image_url": image_url}
        )
        assert [page.markdown for page in read.pages] == [TEXTS[3]]


def test_mistralai_with_an_upload(scripted: StubServer) -> None:
    client = mistral(scripted)
    file = client.files.upload(file={"file_name": "scan.pdf", "content": TEN_PAGES}, purpose="ocr")
    read = client.ocr.process(model=MODEL, document={"type": "file", "file_id": file.id}, pages=[4, 2])
    assert [page.markdown for page in read.pages] == [TEXTS[4], TEXTS[2]]
    signed = client.files.get_signed_url(file_id=file.id)
    read = client.ocr.process(
        model=MODEL, document={"type": "document_url", "document_url": signed.url}, pages="8-9"
    )
    assert [page.markdown for page in read.pages] == TEXTS[8:]
    client.files.delete(file_id=file.id)
    with pytest.raises(SDKError) as caught:
        client.ocr.process(model=MODEL, document={"type": "file", "file_id": file.id})
    assert caught.value.status_code == 404 and "document.file_id" in caught.value.body


def test_mistralai_reads_what_is_refused(stub: StubServer) -> None:
    with pytest.raises(HTTPValidationError) as caught:
        mistral(stub).ocr.process(model=MODEL, document=by_url(), pages=[10])
    (detail,) = caught.value.data.detail or []
    assert detail.loc == ["body", "pages"] and "no page 10" in detail.msg


def test_litellm(scripted: StubServer) -> None:
    assert litellm_ocr(by_url(), scripted.url, scripted.base_url) == [TEXTS, TEXTS]


def test_curl(scripted: StubServer) -> None:
    read = curl(f"{scripted.url}/v1/ocr", {"model": MODEL, "document": by_url()})
    assert [page["markdown"] for page in read["pages"]] == TEXTS


def test_the_request_is_described(stub: StubServer) -> None:
    document = httpx.get(f"{stub.url}/openapi.json").json()
    body = document["paths"]["/v1/ocr"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    described = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert {"document", "pages", "tiles"} <= set(described["properties"])


# What is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "expected"),
    [("0", [0]), ("0-2", [0, 1, 2]), ("9, 0-1", [9, 0, 1]), ([3, 3, 1], [3, 1]), ("1-2,2-3", [1, 2, 3])],
)
def test_pages(scripted: StubServer, pages: Any, expected: list[int]) -> None:
    read = post(scripted, pages=pages).json()["pages"]
    assert [page["index"] for page in read] == expected
    assert [page["markdown"] for page in read] == [TEXTS[page] for page in expected]


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}-demo", f"{MODEL}:ocr", "mistral-ocr-latest", None])
def test_models(scripted: StubServer, name: str | None) -> None:
    assert post(scripted, model=name, pages="0").status_code == 200


def test_mistrals_name_is_for_this_route_alone(stub: StubServer) -> None:
    body = {"model": "mistral-ocr-latest", "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx.post(f"{stub.url}/v1/chat/completions", json=body).status_code == 404


def test_what_is_known_of_a_page(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer("AB CD", logprob=[-0.1, -2.0]), ScriptedAnswer("X", finish="length")):
        read = post(stub, pages="0", confidence_scores_granularity="word").json()
        (page,) = read["pages"]
        assert page["status"] == "complete" and page["rotation"] == 0 and page["tiles"] == 1
        assert [attempt["status"] for attempt in page["attempts"]] == ["complete"]
        words = page["confidence_scores"]["word_confidence_scores"]
        assert [(word["text"], word["start_index"]) for word in words] == [("AB", 0), ("CD", 3)]
        assert page["confidence_scores"]["minimum_page_confidence_score"] == min(
            word["confidence"] for word in words
        )
        (page,) = post(stub, pages="0").json()["pages"]
        assert page["status"] == "truncated" and "confidence_scores" not in page


def test_a_loop_is_cut(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer("TOTAL 5\n" + "the same line again\n" * 50)):
        (page,) = post(stub, pages="0").json()["pages"]
    assert page["status"] == "repetition" and page["markdown"] == "TOTAL 5\nthe same line again"


def test_a_blank_page_is_not_read(scripted: StubServer) -> None:
    already = len(scripted.requests)
    blank = pdf(picture_page(Image.new("RGB", (600, 600), "white")), picture_page(paper(250)))
    read = post(scripted, document=by_url(blank), confidence_scores_granularity="word").json()
    assert [page["status"] for page in read["pages"]] == ["blank", "complete"]
    assert read["pages"][0]["markdown"] == "" and read["pages"][0]["confidence_scores"] is None
    assert len(scripted.requests) == already + 1


def test_each_page_is_a_request_of_its_own_at_full_crops(scripted: StubServer) -> None:
    already = len(scripted.requests)
    headers = {"X-Request-Id": "mine"}
    body = {"model": MODEL, "document": by_url(), **READ}
    assert httpx.post(f"{scripted.url}/v1/ocr", json=body, headers=headers).status_code == 200
    asked = scripted.requests[already:]
    assert len(asked) == len({request["request_id"] for request in asked}) == 10
    assert all("mine" in request["request_id"] for request in asked)
    assert {request["sampling"]["max_tokens"] for request in asked} == {2048}
    assert all(len(request["prompt_token_ids"]) > 2000 for request in asked)


def test_what_the_sdk_sends_by_default_and_null_are_no_wish(scripted: StubServer) -> None:
    nothing = {
        "include_blocks": True,
        "include_image_base64": False,
        "image_limit": 4,
        "image_min_size": 20,
        "extract_header": False,
        "table_format": None,
        "bbox_annotation_format": None,
    }
    answer = post(scripted, pages="0", **nothing)
    assert answer.status_code == 200, answer.text
    assert "blocks" not in answer.json()["pages"][0]


# What is refused ----------------------------------------------------------------------------------

JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bbox_annotation_format": JSON_SCHEMA}, "bbox_annotation_format"),
    ({"include_image_base64": True}, "include_image_base64"),
    ({"table_format": "html"}, "table_format"),
    ({"table_format": "markdown"}, "table_format"),
    ({"extract_header": True}, "extract_header"),
    ({"extract_footer": True}, "extract_footer"),
    ({"confidence_scores_granularity": "block"}, "confidence_scores_granularity"),
    ({"document_annotation_prompt": "Who?"}, "document_annotation_prompt"),
    ({"document_annotation_format": {"type": "text"}}, "document_annotation_format.type"),
    ({"document": ...}, "document"),
    ({"document": {"type": "pdf"}}, "document.type"),
    ({"document": {"type": "file"}}, "document.file_id"),
    ({"document": {"type": "document_url", "document_url": 5}}, "document.document_url"),
    ({"document": {"type": "image_url", "image_url": 5}}, "document.image_url"),
    (
        {"document": {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}},
        "document.image_url.detail",
    ),
    ({"pages": [10]}, "pages"),
    ({"pages": [-1]}, "pages"),
    ({"pages": []}, "pages"),
    ({"pages": "3-1"}, "pages"),
    ({"pages": "one"}, "pages"),
    ({"pages": 1}, "pages"),
    ({"tiles": 0}, "tiles"),
    ({"tiles": "many"}, "tiles"),
    ({"retries": "never"}, "retries"),
    ({"model": f"{MODEL}:caption"}, "model"),
    ({"model": ...}, "model"),
    ({"temperature": 0.5}, "temperature"),
    ({"task": "ocr"}, "task"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(stub: StubServer, fields: dict[str, Any], param: str) -> None:
    already = len(stub.requests)
    assert refusal(post(stub, **fields))["param"] == param
    assert len(stub.requests) == already


def test_an_unknown_model(stub: StubServer) -> None:
    assert refusal(post(stub, model="gpt-4o"), 404)["param"] == "model"


def test_too_many_pages(stub: StubServer) -> None:
    error = refusal(post(stub, document=by_url(document(*[250] * 65))))
    assert error["param"] == "pages" and "64" in error["message"]


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7 nothing", b"no picture", TEN_PAGES[:400]])
def test_files_that_cannot_be_read(stub: StubServer, data: bytes) -> None:
    assert refusal(post(stub, document=by_url(data)), 400)["param"] == "document.document_url"


def test_a_large_document_is_no_text(stub: StubServer) -> None:
    """Bodies are bounded by what text costs; a document has limits of its own."""
    with stub.answers(ScriptedAnswer("large", times=None)):
        picture = paper(250).resize((1500, 1500))
        picture.paste(Image.effect_noise((1500, 1000), 100).convert("RGB"), (0, 500))
        large = encoded(picture)
        assert len(large) > 1_500_000
        assert post(stub, document=by_url(large, "image/png")).json()["pages"][0]["markdown"] == "large"
    long = {"document_annotation_format": JSON_SCHEMA, "document_annotation_prompt": "word " * 200_000}
    assert refusal(post(stub, **long), 400)["param"] == "document_annotation_prompt"


# What fails, and who leaves -----------------------------------------------------------------------


def test_a_page_that_fails_does_not_lose_the_others(scripted: StubServer) -> None:
    broken = pdf(picture_page(paper(250)), count=2)  # a page that is not there
    read = post(scripted, document=by_url(broken)).json()
    assert [page["status"] for page in read["pages"]] == ["complete", "failed"]
    assert read["pages"][1]["markdown"] == "" and read["pages"][1]["error"]
    assert read["pages"][1]["dimensions"] is None
    assert read["usage_info"]["pages_processed"] == 1


def test_who_leaves_ends_all_pages(scripted: StubServer) -> None:
    already = len(scripted.requests)
    body = json.dumps({"model": MODEL, "document": by_url(), **READ})
    head = f"POST /v1/ocr HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with scripted.hold():
        with socket.create_connection(("127.0.0.1", scripted.port)) as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            eventually(lambda: len(scripted.requests) >= already + 8)  # as many as are read at once
            ids = {request["request_id"] for request in scripted.requests[already:]}
        eventually(lambda: ids <= {record.get("aborted") for record in scripted.requests[already:]})
    assert len(ids) == 8


# Annotations --------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "integer"}},
    "required": ["total"],
    "additionalProperties": False,
}


def wanted(schema: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "bill", "schema": schema}}


def test_an_annotation(stub: StubServer) -> None:
    script = [
        ScriptedAnswer('{"total": 12}', prompt="Which total?"),
        ScriptedAnswer("TOTAL 12", times=None),
    ]
    with stub.answers(*script):
        already = len(stub.requests)
        read = mistral(stub).ocr.process(
            model=MODEL,
            document=by_url(),
            pages=[0, 1],
            document_annotation_format=wanted(),
            document_annotation_prompt="Which total?",
        )
    assert isinstance(read.document_annotation, str)
    assert json.loads(read.document_annotation) == {"total": 12}
    *pages, annotation = stub.requests[already:]
    assert len(pages) == 2 and not annotation["modalities"]
    assert annotation["sampling"]["structured_outputs"] and annotation["sampling"]["temperature"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        ScriptedAnswer('{"total": "twelve"}', prompt="schema"),
        ScriptedAnswer('{"total": 12', prompt="schema", finish="length"),
    ],
)
def test_an_annotation_that_does_not_match(stub: StubServer, answer: ScriptedAnswer) -> None:
    with stub.answers(answer, ScriptedAnswer("TOTAL 12", times=None)):
        error = refusal(post(stub, pages="0", document_annotation_format=wanted()))
    assert error["param"] == "document_annotation_format"


def test_a_schema_that_cannot_be_held_is_refused_before_pages_are_read(stub: StubServer) -> None:
    already = len(stub.requests)
    error = refusal(
        post(stub, document_annotation_format=wanted({"$ref": "https://example.org/schema.json"}))
    )
    assert error["param"] == "document_annotation_format.json_schema.schema"
    assert len(stub.requests) == already


def test_a_document_without_text_has_no_annotation(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer("", times=None)):
        read = post(stub, pages="0", document_annotation_format=wanted()).json()
    assert read["document_annotation"] is None
