"""Pictures on every route that takes them: the same crops, the same tokens, the same refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import phi_vision
import pytest
from phi_vision.model.geometry import num_image_tokens

from tests.support.pictures import data_url, encoded, image_part, png, reference_picture, user, with_scans
from tests.support.stub_server import StubServer

IMAGE_TOKEN = json.loads((Path(phi_vision.__file__).parent / "demo" / "config.json").read_text())[
    "image_token_id"
]
SIZES = [(800, 600), (300, 500), (500, 100)]
FILES = [encoded(reference_picture(*size, seed=7)) for size in SIZES]


def chat_messages(files: list[bytes]) -> list[dict[str, Any]]:
    return [user(*(image_part(file) for file in files), "hello")]


def anthropic_messages(files: list[bytes]) -> list[dict[str, Any]]:
    urls = [data_url(file) for file in files]
    sources = [{"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]} for url in urls]
    parts = [{"type": "image", "source": source} for source in sources]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "hello"}]}]


def responses_input(files: list[bytes]) -> list[dict[str, Any]]:
    parts = [{"type": "input_image", "image_url": data_url(file), "detail": "auto"} for file in files]
    return [{"role": "user", "content": [*parts, {"type": "input_text", "text": "hello"}]}]


MODEL = "phi-3.5-vision-demo"
BODIES: dict[str, Callable[[list[bytes]], dict[str, Any]]] = {
    "/v1/chat/completions": lambda files: {"messages": chat_messages(files)},
    "/v1/chat/completions/batch": lambda files: {"messages": [chat_messages(files)]},
    "/v1/responses": lambda files: {"input": responses_input(files)},
    "/v1/messages": lambda files: {"messages": anthropic_messages(files), "max_tokens": 5},
    "/v1/messages/count_tokens": lambda files: {"messages": anthropic_messages(files)},
    "/tokenize": lambda files: {"messages": chat_messages(files)},
    "/invocations": lambda files: {"messages": chat_messages(files)},
}
COUNTING = ("/v1/messages/count_tokens", "/tokenize")


@pytest.fixture(scope="module")
def http(stub: StubServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stub.url, timeout=300) as client:
        yield client


def post(http: httpx.Client, path: str, files: list[bytes]) -> httpx.Response:
    return http.post(path, json={"model": MODEL, **BODIES[path](files)})


def prompt_length(http: httpx.Client, stub: StubServer, path: str, files: list[bytes]) -> tuple[int, int]:
    """Image tokens and all tokens of the prompt; where nothing reaches the engine, all twice."""
    already = len(stub.requests)
    answer = post(http, path, files)
    assert answer.status_code == 200, answer.text
    if path in COUNTING:
        count = answer.json().get("count", answer.json().get("input_tokens"))
        return count, count
    (request,) = [record for record in stub.requests[already:] if "prompt_token_ids" in record]
    return request["prompt_token_ids"].count(IMAGE_TOKEN), len(request["prompt_token_ids"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_pictures_have_the_same_crops_on_every_route(
    http: httpx.Client, stub: StubServer, count: int
) -> None:
    num_crops = 16 if count == 1 else 4
    expected = sum(num_image_tokens(*size, num_crops) for size in SIZES[:count])
    lengths = {path: prompt_length(http, stub, path, FILES[:count]) for path in BODIES}
    assert {path: of_images for path, (of_images, _) in lengths.items() if path not in COUNTING} == {
        path: expected for path in BODIES if path not in COUNTING
    }
    of_chat = lengths["/v1/chat/completions"][1]
    assert {lengths[path][1] for path in COUNTING} == {of_chat}  # what is counted is what is served


def test_the_pictures_of_a_batch_count_for_each_conversation(http: httpx.Client, stub: StubServer) -> None:
    already = len(stub.requests)
    conversations = [chat_messages(FILES[:1]), chat_messages(FILES[:2])]
    answer = http.post("/v1/chat/completions/batch", json={"model": MODEL, "messages": conversations})
    assert answer.status_code == 200, answer.text
    counts = [record["prompt_token_ids"].count(IMAGE_TOKEN) for record in stub.requests[already:]]
    alone, *two = [
        num_image_tokens(*size, n) for size, n in zip((SIZES[0], *SIZES), (16, 4, 4), strict=False)
    ]
    assert sorted(counts) == sorted([alone, sum(two)])


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no picture at all", "none of"),
        (png(100_000, 100_000), "megapixels"),
        (png(500, 4), "narrower"),
        (with_scans(200), "scans"),
        (FILES[0][:3000], "cannot be decoded"),
    ],
    ids=["text", "bomb", "sliver", "scans", "truncated"],
)
def test_a_bad_picture_is_refused_on_every_route(
    http: httpx.Client, path: str, data: bytes, reason: str
) -> None:
    answer = post(http, path, [FILES[1], data])
    assert answer.status_code == 400, answer.text
    assert reason in answer.text
    if path == "/v1/chat/completions":
        assert answer.json()["error"]["param"] == "messages[0].content[1].image_url"


@pytest.mark.parametrize("part", [{"type": "image_pil", "image_pil": {"a": 1}}, {"image_pil": "x"}])
@pytest.mark.parametrize("path", ["/tokenize", "/invocations", "/v1/chat/completions"])
def test_a_picture_is_given_by_its_url_alone(http: httpx.Client, path: str, part: dict[str, Any]) -> None:
    answer = http.post(path, json={"model": MODEL, "messages": [user(part, "hello")]})
    assert answer.status_code == 400, answer.text


def test_a_uuid_neither_stands_for_a_picture_nor_shares_one(http: httpx.Client, stub: StubServer) -> None:
    """One client's name for a picture must not have another client see it."""
    for file, size in zip(FILES[:2], SIZES[:2], strict=True):
        already = len(stub.requests)
        part = {**image_part(file), "uuid": "mine"}
        answer = http.post("/invocations", json={"model": MODEL, "messages": [user(part, "hello")]})
        assert answer.status_code == 200, answer.text
        ids = stub.requests[already]["prompt_token_ids"]
        assert ids.count(IMAGE_TOKEN) == num_image_tokens(*size, 16)
    alone = {"type": "image_url", "image_url": None, "uuid": "mine"}
    answer = http.post("/invocations", json={"model": MODEL, "messages": [user(alone, "hello")]})
    assert answer.status_code == 400, answer.text


def chat(
    http: httpx.Client, *parts: Any, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"model": MODEL, "messages": [user(*parts, "hello")], **more}
    return http.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_the_chat_route_says_what_pictures_cost(http: httpx.Client, stream: bool) -> None:
    parts = [image_part(FILES[0], "low"), image_part(FILES[1], "high"), image_part(FILES[2])]
    answer = chat(http, *parts, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-phi-vision-num-crops"] == "1,16,4"
    tokens = [num_image_tokens(*size, n) for size, n in zip(SIZES, (1, 16, 4), strict=True)]
    assert answer.headers["x-phi-vision-image-tokens"] == ",".join(map(str, tokens))
    assert "x-phi-vision-num-crops" not in chat(http, stream=stream).headers


def test_explicit_crops_are_for_each_picture(http: httpx.Client) -> None:
    parts = [image_part(FILES[0], "low"), image_part(FILES[1])]
    answer = chat(http, *parts, mm_processor_kwargs={"num_crops": 9})
    assert answer.headers["x-phi-vision-num-crops"] == "9,9"


def test_what_a_vllm_route_adds_to_an_answer_is_there(http: httpx.Client) -> None:
    """The header of load metrics, which a copy of vLLM's route once lost."""
    answer = chat(http, image_part(FILES[0]), headers={"endpoint-load-metrics-format": "TEXT"})
    assert answer.status_code == 200
    assert "kv_cache_usage_perc" in answer.headers["endpoint-load-metrics"]
    assert answer.headers["x-phi-vision-num-crops"] == "16"


def test_other_content_types_are_refused_as_on_vllms_route(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code in (400, 415)


def test_adaptive_crops_are_the_same_on_every_route(unusual: StubServer) -> None:
    with httpx.Client(base_url=unusual.url) as http:
        small = [encoded(reference_picture(336, 336, seed=1))]
        paths = [path for path in BODIES if path not in COUNTING]
        counts = {prompt_length(http, unusual, path, small)[0] for path in paths}
        assert counts == {num_image_tokens(336, 336, 1)}


@pytest.mark.parametrize(
    "late",
    [
        {"max_tokens": 0},
        {"logit_bias": {"99999999": 1}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 3}},
            }
        },
    ],
)
def test_a_request_that_is_refused_late_takes_no_picture_from_the_next(
    stub: StubServer, http: httpx.Client, late: dict[str, Any]
) -> None:
    seed = 100 + len(json.dumps(late))  # a picture that the engine has not had
    body = {"model": MODEL, "messages": chat_messages([encoded(reference_picture(200, 100, seed=seed))])}
    assert http.post("/v1/chat/completions", json=body | late).status_code == 400
    already = len(stub.requests)
    for _ in range(2):
        assert http.post("/v1/chat/completions", json=body).status_code == 200
    assert [request["carried"] for request in stub.requests[already:]] == [[True], [False]]
