"""The stub server answers as the real one would, and shows what would have reached the engine."""

from __future__ import annotations

import json
import socket

from tests.support.pictures import image_part, reference_picture, user
from tests.support.serving import eventually
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import StubServer


def test_answers_and_shows_what_the_engine_would_get(stub: StubServer) -> None:
    picture = image_part(reference_picture(400, 300, seed=1))
    answer = stub.client().chat.completions.create(model="phi-3.5-vision:ocr", messages=[user(picture)])
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    asked = stub.requests[-1]
    assert asked["modalities"].count("image") == 1
    assert asked["sampling"]["max_tokens"] == 2048
    assert answer.usage is not None and answer.usage.prompt_tokens == len(asked["prompt_token_ids"])


def test_holds_answers_and_records_aborts(stub: StubServer) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    already = len(stub.requests)
    with stub.hold():
        with socket.create_connection(("127.0.0.1", stub.port)) as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            eventually(lambda: len(stub.requests) > already)
            request_id = stub.requests[-1]["request_id"]
        eventually(lambda: {"aborted": request_id} in stub.requests)
