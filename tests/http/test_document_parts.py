"""Documents in chat requests: each page a picture in its place, through OpenAI's SDK and by hand."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import phi_vision
import pytest
from anthropic.types import DocumentBlockParam, ImageBlockParam, TextBlockParam
from phi_vision.model.geometry import num_image_tokens
from PIL import Image

from tests.support.pdf import pdf, picture_page, text_page
from tests.support.pictures import data_url, encoded, image_part, reference_picture, user
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import MINE, YOURS, StubServer

IMAGE_TOKEN = json.loads((Path(phi_vision.__file__).parent / "demo" / "config.json").read_text())[
    "image_token_id"
]
CHAT = "/v1/chat/completions"
MODEL = "phi-3.5-vision-demo"
PAGE = text_page("HELLO")
PDFS = {count: pdf(*[PAGE] * count) for count in (1, 3, 70)}


def tiff(count: int) -> bytes:
    frames = [reference_picture(60, 40, seed) for seed in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def file_part(data: bytes, mime: str = "application/pdf", **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url(data, mime), **more}}


def chat(stub: StubServer, *parts: Any, **more: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [user(*parts)], **more}
    return httpx.post(stub.url + CHAT, json=body)


def crops(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-phi-vision-num-crops"]


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_each_page_is_a_picture_in_its_place(stub: StubServer) -> None:
    already = len(stub.requests)
    picture = reference_picture(800, 600, seed=1)
    answer = chat(stub, "one", file_part(PDFS[3]), "two", image_part(picture), "three")
    assert crops(answer) == "4,4,4,4"
    tokens = [int(number) for number in answer.headers["x-phi-vision-image-tokens"].split(",")]
    assert tokens[3] == num_image_tokens(800, 600, 4) and len(set(tokens[:3])) == 1
    ids = stub.requests[already]["prompt_token_ids"]
    runs = [len(run) for run in _runs(ids)]
    assert runs == [*tokens[:3], tokens[3]]


def _runs(ids: list[int]) -> list[list[int]]:
    """The image tokens of a prompt, each run of them."""
    runs: list[list[int]] = [[]]
    for token in ids:
        if token == IMAGE_TOKEN:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (file_part(PDFS[1]), "16"),
        (file_part(PDFS[3]), "4,4,4"),
        (file_part(PDFS[3], pages="2"), "16"),
        (file_part(PDFS[3], pages="3,1-2"), "4,4,4"),
        (file_part(PDFS[70], pages="1-2"), "4,4"),
        (file_part(PDFS[3], detail="low"), "1,1,1"),
        (file_part(PDFS[3], mime="application/octet-stream"), "4,4,4"),
        (file_part(tiff(2), "image/tiff"), "4,4"),
        (file_part(encoded(reference_picture(60, 40, 1))), "16"),
        (image_part(PDFS[3]), "4,4,4"),  # whatever its data URL says that it is
        (image_part(tiff(3), "high"), "16,16,16"),
    ],
)
def test_the_ways_to_give_a_document(stub: StubServer, part: dict[str, Any], expected: str) -> None:
    assert crops(chat(stub, part, "hello")) == expected


def test_openais_sdk_sends_a_file_and_an_uploaded_one(stub: StubServer) -> None:
    client = stub.client()
    uploaded = client.files.create(file=("a.pdf", PDFS[3]), purpose="user_data")
    parts: Any = [
        file_part(PDFS[1]),
        {"type": "file", "file": {"file_id": uploaded.id}},
        {"type": "text", "text": "hello"},
    ]
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": parts}]
    )
    assert answer.headers["x-phi-vision-num-crops"] == "4,4,4,4"


def test_a_signed_url_is_read_without_a_fetch(stub: StubServer) -> None:
    """The stub's own address is private, so a fetch would be refused."""
    uploaded = stub.client().files.create(file=("a.pdf", PDFS[3]), purpose="user_data")
    url = httpx.get(f"{stub.url}/v1/files/{uploaded.id}/url").json()["url"]
    assert crops(chat(stub, {"type": "image_url", "image_url": {"url": url}}, "hello")) == "4,4,4"
    other = url[:-1] + ("0" if url[-1] != "0" else "1")
    assert "not public" in refusal(chat(stub, {"type": "image_url", "image_url": {"url": other}}))["message"]


def test_the_task_ocr_reads_a_document(stub: StubServer) -> None:
    answer = chat(stub, file_part(PDFS[3]), model=f"{MODEL}:ocr")
    assert crops(answer) == "4,4,4" and answer.headers["x-phi-vision-task"] == "ocr"


BAD_PARTS: list[tuple[dict[str, Any], str, str]] = [
    (file_part(b"no document"), "file", "none of"),
    (file_part(b"%PDF-1.7 broken"), "file", "cannot be"),
    (file_part(PDFS[3][:400]), "file", "cannot be"),
    (file_part(tiff(2)[:100], "image/tiff"), "file", "cannot be"),
    ({"type": "file", "file": {"file_data": "data:application/pdf;base64,%%%"}}, "file", "base64"),
    ({"type": "file", "file": {"file_data": "data:application/pdf,x"}}, "file", "base64"),
    ({"type": "file", "file": {"file_data": "http://127.0.0.1/a.pdf"}}, "file", "base64"),
    ({"type": "file", "file": {"file_url": "http://127.0.0.1/a.pdf"}}, "file", "not public"),
    ({"type": "file", "file": {"file_id": "file-gone"}}, "file.file_id", "no file"),
    ({"type": "file", "file": {"file_id": "../secret"}}, "file.file_id", "no file"),
    (file_part(PDFS[3], pages="4"), "file.pages", "no page 4: the document has 3 pages"),
    (file_part(PDFS[3], pages="x"), "file.pages", "'1-3,7'"),
    (file_part(PDFS[3], page=1), "file.page", "no field"),
    (file_part(PDFS[70]), "file", "page 65 is one too many"),
    (image_part(PDFS[70]), "image_url", "page 65 is one too many"),
    ({"type": "file"}, "file", "an object"),
]


@pytest.mark.parametrize(("part", "param", "message"), BAD_PARTS)
def test_a_bad_document_is_named(stub: StubServer, part: dict[str, Any], param: str, message: str) -> None:
    already = len(stub.requests)
    error = refusal(chat(stub, "hello", part), 404 if "no file" in message else 400)
    assert error["param"] == f"messages[0].content[1].{param}" and message in error["message"], error
    assert len(error["message"]) < 300 and len(stub.requests) == already


def test_the_page_that_cannot_be_read_is_named(stub: StubServer) -> None:
    sliver = picture_page(Image.new("RGB", (2, 1000)), size=(1, 5000))
    error = refusal(chat(stub, file_part(pdf(PAGE, sliver)), "hello"))
    assert error["param"] == "messages[0].content[0].file" and error["message"].startswith("page 2 ")


def test_a_hundred_files_are_refused_before_one_is_read(stub: StubServer) -> None:
    error = refusal(chat(stub, *[file_part(PDFS[1])] * 100, "hello"))
    assert error["param"] == "messages" and "100 pictures" in error["message"]


def test_pages_of_all_documents_count_together(stub: StubServer) -> None:
    error = refusal(chat(stub, *[file_part(PDFS[3])] * 22, "hello", max_tokens=1))
    assert error["param"] == "messages[0].content[21].file" and "page 2 is one too many" in error["message"]


def test_pictures_and_pages_have_limits_of_their_own(unusual: StubServer) -> None:
    """At most two pictures and three pages."""
    picture = image_part(reference_picture(60, 40, seed=2), "low")
    assert crops(chat(unusual, picture, picture, file_part(PDFS[3], detail="low"), "x")) == "1,1,1,1,1"
    error = refusal(chat(unusual, picture, picture, picture, "hello"))
    assert error["param"] == "messages" and "at most 2" in error["message"]
    error = refusal(chat(unusual, file_part(PDFS[3]), file_part(PDFS[1])))
    assert "page 1 is one too many" in error["message"]
    plain = image_part(reference_picture(60, 40, seed=2))
    body = {"model": MODEL, "messages": [user(plain, plain, plain, "hello")]}
    assert "at most 2" in refusal(httpx.post(f"{unusual.url}/tokenize", json=body))["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/invocations", f"{CHAT}/batch"])
def test_other_routes_take_no_pages_silently(stub: StubServer, path: str) -> None:
    messages: list[Any] = [user(image_part(PDFS[3]), "hello")]
    body = {"model": MODEL, "messages": [messages] if path.endswith("batch") else messages}
    assert "3 pages" in refusal(httpx.post(stub.url + path, json=body))["message"]
    one = [user(image_part(PDFS[1]), "hello")]
    body = {"model": MODEL, "messages": [one] if path.endswith("batch") else one}
    assert httpx.post(stub.url + path, json=body).status_code == 200


DOCUMENT: DocumentBlockParam = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(PDFS[1]).decode()},
}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}, DOCUMENT]}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("block", "where"),
    [(DOCUMENT, "messages[0].content[1]"), (RESULT, "messages[0].content[1].content[1]")],
)
def test_messages_say_where_documents_are_read(stub: StubServer, path: str, block: Any, where: str) -> None:
    content = [{"type": "text", "text": "hello"}, block]
    body = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    answer = httpx.post(stub.url + path, json=body)
    error = refusal(answer)
    assert answer.json()["type"] == "error" and error["type"] == "invalid_request_error"  # Anthropic's shape
    assert error["param"] == where and error["message"].startswith(where)
    assert "/v1/chat/completions" in error["message"] and "/v1/ocr" in error["message"]


def test_anthropics_sdk_is_told_so_too_and_sees_pictures(stub: StubServer) -> None:
    client = anthropic.Anthropic(base_url=stub.url, api_key="none", max_retries=0)
    hello: TextBlockParam = {"type": "text", "text": "hello"}
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": [hello, DOCUMENT]}]
        )
    assert refused.value.type == "invalid_request_error" and "/v1/ocr" in refused.value.message
    data = base64.b64encode(encoded(reference_picture(800, 600, seed=1))).decode()
    picture: ImageBlockParam = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
    already = len(stub.requests)
    with client.messages.stream(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": [picture, hello]}]
    ) as stream:
        assert stream.get_final_text() == ANSWER
    assert stub.requests[already]["prompt_token_ids"].count(IMAGE_TOKEN) == num_image_tokens(800, 600, 16)


def test_an_expired_file_is_a_404(stub: StubServer) -> None:
    uploaded = stub.client().files.create(file=("a.pdf", PDFS[1]), purpose="user_data")
    (path,) = (stub.folder / "files").rglob(uploaded.id)
    os.utime(path, (time.time(), time.time() - 1))
    error = refusal(chat(stub, {"type": "file", "file": {"file_id": uploaded.id}}), 404)
    assert error["param"] == "messages[0].content[0].file.file_id"


def test_another_keys_file_is_a_404(keyed: StubServer) -> None:
    uploaded = keyed.client(MINE).files.create(file=("a.pdf", PDFS[1]), purpose="user_data")
    parts: Any = [{"type": "file", "file": {"file_id": uploaded.id}}, {"type": "text", "text": "hello"}]
    messages: Any = [{"role": "user", "content": parts}]
    assert keyed.client(MINE).chat.completions.create(model=MODEL, messages=messages)
    with pytest.raises(openai.NotFoundError):
        keyed.client(YOURS).chat.completions.create(model=MODEL, messages=messages)
    keyed.client(MINE).files.delete(uploaded.id)
