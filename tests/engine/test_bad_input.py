"""Requests that cannot be served: each with its exact status and field, and none harms the next."""

import struct
import zlib
from typing import Any

import httpx
import openai
import pytest

from tests.support.pictures import data_url, encoded, image_part, reference_picture, text_part, user
from tests.support.serving import Server

PHOTO = reference_picture(400, 300, 0)
JPEG = encoded(PHOTO, "JPEG")
PART = "messages[0].content[0].image_url"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def picture_url(url: str) -> dict[str, Any]:
    return {"messages": [user({"type": "image_url", "image_url": {"url": url}})]}


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [user(text)], **fields}


def crops(value: Any) -> dict[str, Any]:
    return {"messages": [user(image_part(PHOTO))], "mm_processor_kwargs": {"num_crops": value}}


CASES: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "unknown task": ({"messages": [user(image_part(PHOTO))], "task": "translate"}, 400, "task"),
    "unknown model": (chat(model="gpt-4o"), 404, "model"),
    "two tasks": (
        {"messages": [user(image_part(PHOTO))], "model": "phi-3.5-vision:ocr", "task": "vqa"},
        400,
        "task",
    ),
    "task without picture": (chat(task="ocr"), 400, "messages"),
    "vqa without question": ({"messages": [user(image_part(PHOTO))], "task": "vqa"}, 400, "messages"),
    "broken base64": (picture_url("data:image/png;base64,@@@@"), 400, PART),
    "no base64": (picture_url("data:image/png,hello"), 400, PART),
    "text as picture": (picture_url(data_url(b"just a text file\n" * 20)), 400, PART),
    "truncated JPEG": (picture_url(data_url(JPEG[: len(JPEG) // 2], "image/jpeg")), 400, PART),
    "zero bytes": (picture_url(data_url(b"")), 400, PART),
    "20,000 x 20,000 pixels": (picture_url(data_url(png_header(20000, 20000))), 400, PART),
    "PNG without pixels": (picture_url(data_url(png_header(64, 64))), 400, PART),
    "unreachable URL": (picture_url("http://127.0.0.1:9/x.png"), 400, PART),
    "no URL": (picture_url("just words"), 400, PART),
    "file URL": (picture_url("file:///etc/hostname"), 400, PART),
    "second picture broken": (
        {"messages": [user(image_part(PHOTO), "and", image_part(b"no picture"))]},
        400,
        "messages[0].content[2].image_url",
    ),
    "17 crops": (crops(17), 400, "mm_processor_kwargs.num_crops"),
    "0 crops": (crops(0), 400, "mm_processor_kwargs.num_crops"),
    "crops as text": (crops("4"), 400, "mm_processor_kwargs.num_crops"),
    "crops as truth": (crops(True), 400, "mm_processor_kwargs.num_crops"),
    "another multimodal kwarg": (
        {"messages": [user(image_part(PHOTO))], "mm_processor_kwargs": {"size": 3}},
        400,
        "mm_processor_kwargs",
    ),
    "media kwargs": (chat(media_io_kwargs={"image": {"image_mode": "L"}}), 400, "media_io_kwargs"),
    "too many pictures": ({"messages": [user(*[image_part(PHOTO, "low")] * 7)]}, 400, "messages"),
    "beyond the context": (chat("word " * 20000), 400, "input_tokens"),
    "answer beyond the context": (chat(max_tokens=20000), 400, "max_tokens"),
    "unknown field": (chat(frobnicate=1), 400, "frobnicate"),
    "max_tokens as text": (chat(max_tokens="many"), 400, "max_tokens"),
    "temperature below zero": (chat(temperature=-1), 400, "temperature"),
    "messages as text": ({"messages": "hello"}, 400, "messages"),
    "no messages": ({"messages": []}, 400, "messages"),
    "a part that is no object": (
        {"messages": [{"role": "user", "content": ["x"]}]},
        400,
        "messages[0].content[0].type",
    ),
    "a video": (
        {"messages": [user({"type": "video_url", "video_url": {"url": "http://x/"}})]},
        400,
        "messages[0].content[0].type",
    ),
    "an unknown detail": (
        {"messages": [user({"type": "image_url", "image_url": {"url": data_url(JPEG), "detail": "ultra"}})]},
        400,
        f"{PART}.detail",
    ),
    "a tag of the model in the text": (
        {"messages": [user(image_part(PHOTO), text_part("<|image_1|> again"))]},
        400,
        "messages",
    ),
}


def post(server: Server, body: dict[str, Any]) -> httpx.Response:
    body = {"model": "phi-3.5-vision", "max_tokens": 4} | body
    return httpx.post(f"{server.base_url}/chat/completions", json=body)


@pytest.mark.parametrize("name", CASES)
def test_is_refused_by_its_field(server: Server, name: str) -> None:
    body, status, param = CASES[name]
    answer = post(server, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert set(error) >= {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in answer.text and "site-packages" not in answer.text


@pytest.mark.parametrize("body", [b"{", b"[1, 2]", b'"text"', b"[" * 100_000, b"\xff\xfe", b""])
def test_a_body_that_is_no_json_object(server: Server, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.base_url}/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_the_sdk_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=[user("hello")])
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="phi-3.5-vision:ocr", messages=[user("hello")])
    assert caught.value.param == "messages"


@pytest.mark.full
def test_after_all_that_a_good_request_is_answered(server: Server, client: openai.OpenAI) -> None:
    for body, _, _ in CASES.values():
        post(server, body)
    answer = client.chat.completions.create(
        model="phi-3.5-vision:caption", messages=[user(image_part(PHOTO))], max_tokens=4
    )
    assert answer.usage is not None and answer.usage.completion_tokens > 0
