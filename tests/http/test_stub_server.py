"""The stub server answers as the real one would, and shows what would have reached the engine."""

from __future__ import annotations

import json
import math
import socket

from PIL import Image

from tests.support.pictures import image_part, reference_picture, user
from tests.support.serving import eventually
from tests.support.stub_engine import ANSWER, ScriptedAnswer
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


def test_gives_scripted_answers_in_order(stub: StubServer) -> None:
    def ask(text: str = "Hello") -> tuple[str | None, str]:
        answer = stub.client().chat.completions.create(
            model="phi-3.5-vision", messages=[{"role": "user", "content": text}]
        )
        return answer.choices[0].message.content, answer.choices[0].finish_reason

    script = (
        ScriptedAnswer("  the FIRST\n\n| a |", finish="length"),
        ScriptedAnswer("for poets", prompt="a poem", times=None),
        ScriptedAnswer("second"),
    )
    for _ in range(2):  # a script begins anew
        with stub.answers(*script):
            assert ask() == ("  the FIRST\n\n| a |", "length")
            assert ask("Write a poem") == ask("Now a poem") == ("for poets", "stop")
            assert ask() == ("second", "stop")
            assert ask() == (ANSWER, "stop")
    assert ask() == (ANSWER, "stop")


def test_gives_log_probabilities_where_asked(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer("ABC", logprob=[-0.5, -2.0])):
        answer = stub.client().chat.completions.create(
            model="phi-3.5-vision",
            messages=[{"role": "user", "content": "Hello"}],
            logprobs=True,
            top_logprobs=2,
        )
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens).startswith("ABC")
    assert [token.logprob for token in tokens] == [-0.5, *[-2.0] * (len(tokens) - 1)]
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(math.isclose(token.top_logprobs[0].logprob, token.logprob) for token in tokens)


def test_gives_each_picture_its_own_answer(stub: StubServer) -> None:
    greys = (250, 240, 250)
    script = [ScriptedAnswer(f"page {grey}", paper=grey, times=None) for grey in (240, 250)]
    with stub.answers(*script):
        for grey in greys:
            picture = image_part(Image.new("L", (400, 300), grey))
            answer = stub.client().chat.completions.create(
                model="phi-3.5-vision:ocr", messages=[user(picture)]
            )
            assert answer.choices[0].message.content == f"page {grey}"
