"""What the running server refuses before it works, on our route and on vLLM's, and random requests."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phi_vision.limits import Limits
from phi_vision.serving.middleware.body import MAX_JSON_VALUES, MAX_MESSAGES, MAX_PARTS

from tests.support.mutations import FUZZ_FACTOR, FUZZ_RANDOM, mutated_files
from tests.support.pictures import data_url, image_part, reference_picture, user
from tests.support.serving import PATIENCE_S, Server

PHOTO = image_part(reference_picture(64, 48, 0), "low")
CHAT = "/v1/chat/completions"
BODY_BYTES = Limits().max_body_bytes


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert error.keys() >= {"message", "type", "param", "code"} and error["code"] == status
    return error


@pytest.fixture
def post(server: Server) -> Iterator[Any]:
    """POST to a path; afterwards the server must still serve."""
    with httpx.Client(base_url=server.url) as http:
        yield http.post
        good = http.post(CHAT, json={"messages": [user(PHOTO)], "task": "caption", "max_tokens": 4})
        assert good.status_code == 200 and good.json()["choices"], good.text


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_cap_is_413_on_every_route(post: Any, path: str, announced: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(BODY_BYTES // 1_000_000 + 1):
            yield bytes(1_000_000)

    content = b"".join(chunks()) if announced else chunks()
    answer = post(path, content=content, headers={"Content-Type": "application/json"})
    assert "larger than 64 MB" in error_of(answer, 413)["message"]


def test_a_body_that_announces_too_much_is_not_read(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**15}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


BAD_BODIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "messages": ({"messages": [user("x")] * (MAX_MESSAGES + 1)}, "messages"),
    "parts": ({"messages": [user(*["x"] * (MAX_PARTS // 2 + 1))] * 2}, "messages"),
    "values": ({"messages": [user("x")], "logit_bias": {str(i): 0 for i in range(MAX_JSON_VALUES)}}, None),
    "choices": ({"messages": [user("x")], "n": 17}, None),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_counts(post: Any, name: str) -> None:
    body, param = BAD_BODIES[name]
    error = error_of(post(CHAT, json=body), 400)
    assert param is None or error["param"] == param


@pytest.mark.parametrize("depth", [65, 5_000, 200_000])
def test_depth(post: Any, depth: int) -> None:
    nested = (
        b'{"messages": [{"role": "user", "content": "x"}], "tools": ' + b"[" * depth + b"]" * depth + b"}"
    )
    error_of(post(CHAT, content=nested, headers={"Content-Type": "application/json"}), 400)
    elsewhere = post("/v1/completions", content=nested, headers={"Content-Type": "application/json"})
    assert elsewhere.status_code == 400


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/x", "http://[::ffff:10.0.0.1]/", "file:///etc/passwd"]
)  # fmt: skip
def test_private_addresses_are_refused_on_every_route(post: Any, url: str) -> None:
    chat = {"messages": [user("look", {"type": "image_url", "image_url": {"url": url}})]}
    error = error_of(post(CHAT, json=chat), 400)
    assert error["param"] == "messages[0].content[1].image_url"
    assert "not public" in error["message"] or "only http" in error["message"]
    elsewhere = {
        "/tokenize": chat,
        "/v1/responses": {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}
            ]
        },
        "/v1/messages": {
            "model": "phi-3.5-vision",
            "max_tokens": 4,
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}
            ],
        },
    }
    for path, body in elsewhere.items():
        answer = post(path, json=body)
        assert 400 <= answer.status_code < 500 and "cannot be read" in answer.text, (path, answer.text[:300])


def test_livez_and_readyz(server: Server) -> None:
    for path in ("/livez", "/readyz"):
        answer = httpx.get(server.url + path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


# Random requests ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=40) | JSON})
IMAGE_URL = st.sampled_from([PHOTO["image_url"]["url"], "data:image/png;base64,AAAA", "http://10.0.0.1/", ""])
IMAGE = st.fixed_dictionaries(
    {"type": st.just("image_url")},
    optional={
        "image_url": st.fixed_dictionaries({"url": IMAGE_URL | JSON}, optional={"detail": JSON}) | JSON
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | JSON},
    optional={
        "content": st.text(max_size=40) | st.lists(TEXT | IMAGE | JSON, max_size=4) | JSON,
        "name": JSON,
        "tool_calls": JSON,
    },
)
FIELDS = {
    "task": st.sampled_from(["caption", "ocr", "vqa"]) | JSON,
    "model": st.sampled_from(["phi-3.5-vision", "phi-3.5-vision:ocr"]) | JSON,
    "temperature": st.floats() | JSON,
    "top_p": st.floats(0, 1) | JSON,
    "n": st.integers(-1, 3) | JSON,
    "stop": JSON,
    "seed": st.integers() | JSON,
    "logit_bias": st.dictionaries(st.integers(-5, 40000).map(str), st.floats(-100, 100), max_size=3) | JSON,
    "logprobs": st.booleans() | JSON,
    "top_logprobs": st.integers(-1, 30) | JSON,
    "presence_penalty": st.floats(-3, 3) | JSON,
    "repetition_penalty": st.floats() | JSON,
    "response_format": JSON,
    "tools": JSON,
    "tool_choice": JSON,
    "mm_processor_kwargs": st.fixed_dictionaries({"num_crops": st.integers(-1, 20) | JSON}) | JSON,
    "stream_options": JSON,
    "repetition_detection": JSON,
    "chat_template": st.text(max_size=20),
    "chat_template_kwargs": JSON,
    "prompt_logprobs": st.integers(-2, 3) | JSON,
    "min_tokens": st.integers(-1, 10) | JSON,
    "stop_token_ids": JSON,
    "bad_words": JSON,
    "user": JSON,
    "metadata": JSON,
    "echo": st.booleans() | JSON,
}
GOOD_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=40)}
    ),
    max_size=2,
).map(lambda before: [*before, user(PHOTO, "what?")])


@st.composite
def bodies(draw: Any) -> dict[str, Any]:
    """A request that is good or not, with up to three other fields that are good or not."""
    body = {"messages": draw(GOOD_MESSAGES | st.lists(MESSAGE, max_size=4) | JSON), "max_tokens": 2}
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True)):
        body[name] = draw(FIELDS[name])
    return body


FUZZING = settings(
    max_examples=150 * FUZZ_FACTOR,
    deadline=None,
    derandomize=not FUZZ_RANDOM,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def test_random_bodies_are_served_or_refused(post: Any) -> None:
    seen: dict[int, int] = {}

    @FUZZING
    @given(bodies())
    def check(body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()  # with NaN and Infinity, which Python's JSON lets through
        answer = post(CHAT, content=text, headers={"Content-Type": "application/json"})
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (text, answer.text[:500])
        if answer.status_code >= 400:
            error_of(answer, answer.status_code)

    check()
    print(f"random bodies: {seen}")
    assert min(seen.get(200, 0), seen.get(400, 0)) >= 10


def test_random_bytes_are_refused(post: Any) -> None:
    @FUZZING
    @given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
    def check(content: bytes) -> None:
        error_of(post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)

    check()


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "", "application/xml"]
)
def test_other_content_types(post: Any, content_type: str) -> None:
    answer = post(CHAT, content=b'{"messages": []}', headers={"Content-Type": content_type})
    assert 400 <= answer.status_code < 500


def test_the_served_openapi_holds(server: Server, post: Any) -> None:
    """Schemathesis makes requests from the schema of our routes, valid ones and broken ones."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", timeout=PATIENCE_S).include(
        path=[CHAT, "/v1/tasks", "/livez", "/readyz"]
    )
    tried: Counter[str] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # a schema that is wrong fails here

        @settings(FUZZING, max_examples=40 * FUZZ_FACTOR)
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case[Any]) -> None:
            if isinstance(case.body, dict):
                case.body["max_tokens"] = case.body["max_completion_tokens"] = 2
                case.body["stream"] = False
            answer = case.call(timeout=PATIENCE_S)
            tried[case.path] += 1
            assert answer.status_code < 500, (case.body, answer.text[:500])

        check()
    assert len(tried) == 4 and tried[CHAT] >= 40 * FUZZ_FACTOR  # a body without a schema is tried once


def test_mutated_pictures_through_the_server(post: Any) -> None:
    outcomes: dict[int, int] = {}
    for data in mutated_files(60 * FUZZ_FACTOR, seed=1000 + FUZZ_FACTOR):
        picture = {"type": "image_url", "image_url": {"url": data_url(data), "detail": "low"}}
        answer = post(CHAT, json={"messages": [user(picture, "?")], "max_tokens": 1})
        outcomes[answer.status_code] = outcomes.get(answer.status_code, 0) + 1
        if answer.status_code != 200:
            assert error_of(answer, 400)["param"] == "messages[0].content[0].image_url"
    assert outcomes.keys() == {200, 400}
