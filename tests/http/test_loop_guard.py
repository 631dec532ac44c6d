"""Loops through the real API process: how an answer ends, what is left of it, what the engine is told."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from tests.support.pictures import data_url, encoded, reference_picture, user
from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import StubServer

PHOTO = {"type": "image_url", "image_url": {"url": data_url(encoded(reference_picture(60, 40, seed=2)))}}
BEFORE = "ITEM 17\nTOTAL 25.00\n"
LINE = "THE SAME LINE OVER AND OVER\n"
LOOP = BEFORE + LINE * 60
KEPT = BEFORE + LINE.rstrip()
CONTENTS = "\n".join(f"CHAPTER {i} {'.' * 30} {3 * i + 4}" for i in range(1, 31))


def post(stub: StubServer, **fields: Any) -> httpx.Response:
    body = {"model": "phi-3.5-vision:ocr", "messages": [user(PHOTO)], **fields}
    response = httpx.post(f"{stub.url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response


def aborted(stub: StubServer) -> int:
    return sum("aborted" in entry for entry in stub.requests)


def test_a_loop_ends_and_is_kept_once(stub: StubServer) -> None:
    before = aborted(stub)
    with stub.answers(ScriptedAnswer(LOOP)):
        response = post(stub)
    choice, usage = response.json()["choices"][0], response.json()["usage"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("repetition", "repetition_detected")
    assert choice["message"]["content"].strip() == KEPT
    assert len(KEPT) / 8 < usage["completion_tokens"] < len(LOOP) / 2
    assert response.headers["x-phi-vision-status"] == "repetition"
    assert aborted(stub) == before + 1


def test_the_tokens_are_those_of_the_text(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        body = post(stub, logprobs=True).json()
    tokens = body["choices"][0]["logprobs"]["content"]
    said = "".join(token["token"] for token in tokens)
    assert re.sub(r"\s", "", said) == re.sub(r"\s", "", KEPT)
    assert body["usage"]["completion_tokens"] > len(tokens)


def test_a_table_of_contents_passes_whole(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(CONTENTS)):
        response = post(stub, logprobs=True)
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"].strip() == CONTENTS
    assert response.headers["x-phi-vision-status"] == "complete"


def test_a_truncated_answer_says_so(stub: StubServer) -> None:
    response = post(stub, max_tokens=2)
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.headers["x-phi-vision-status"] == "truncated"


def test_a_loop_at_the_limit_of_tokens_is_a_loop(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP, times=None)):
        ended_at = post(stub).json()["usage"]["completion_tokens"]
        response = post(stub, max_tokens=ended_at + 1)
    assert response.headers["x-phi-vision-status"] == "repetition"


def test_several_choices_end_each_in_its_way(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP), ScriptedAnswer("ONE"), ScriptedAnswer(LOOP)):
        response = post(stub, n=3, temperature=1.0, seed=1)
    choices = response.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["repetition", "stop", "repetition"]
    assert [choice["message"]["content"].strip() for choice in choices] == [KEPT, "ONE", KEPT]
    assert response.headers["x-phi-vision-status"] == "repetition,complete,repetition"


@pytest.mark.parametrize("fields", [{}, {"logprobs": True}, {"stream_interval": 7}])
def test_a_stream_ends_with_the_loop(stub: StubServer, fields: dict[str, Any]) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        response = post(stub, stream=True, **fields)
    assert "x-phi-vision-status" not in response.headers
    events = [
        line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")
    ]
    choices = [json.loads(event)["choices"][0] for event in events]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert choices[-1]["finish_reason"] == "repetition"
    assert LOOP.strip().startswith(text.strip()) and len(KEPT) < len(text) < len(KEPT) + 300


def test_the_clients_own_detection_is_obeyed(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        choice = post(stub, repetition_detection={"max_pattern_size": 0}).json()["choices"][0]
    assert choice["message"]["content"].strip() == LOOP.strip() and choice["finish_reason"] == "stop"
    sampling = stub.requests[-1]["sampling"]
    assert "max_pattern_size=0" in sampling["repetition_detection"] and sampling["extra_args"] is None


def test_min_tokens_comes_first(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        response = post(stub, min_tokens=300)
    assert response.json()["usage"]["completion_tokens"] >= 300
    assert response.json()["choices"][0]["message"]["content"].strip() == KEPT


@pytest.mark.parametrize("model", ["phi-3.5-vision", "phi-3.5-vision:caption"])
def test_other_requests_are_left_alone(stub: StubServer, model: str) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        response = post(stub, model=model, max_tokens=2000)
    assert response.json()["choices"][0]["message"]["content"].strip() == LOOP.strip()
    assert ("x-phi-vision-status" in response.headers) == (model != "phi-3.5-vision")


def test_a_stop_string_in_the_loop_ends_it_first(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        choice = post(stub, stop=["OVER AND"]).json()["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "OVER AND"


def test_vllm_counts_it_as_finished(stub: StubServer) -> None:
    def counted() -> float:
        metrics = httpx.get(f"{stub.url}/metrics").text
        found = re.findall(
            r'^vllm:request_success_total\{.*finished_reason="repetition".*\} (.*)$', metrics, re.M
        )
        return sum(map(float, found))

    before = counted()
    with stub.answers(ScriptedAnswer(LOOP)):
        post(stub)
    assert counted() == before + 1


def test_the_sdk_takes_the_answer(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)), stub.client() as client:
        answer = client.chat.completions.create(model="phi-3.5-vision:ocr", messages=[user(PHOTO)])
    reason: str = answer.choices[0].finish_reason  # not one of OpenAI's
    assert reason == "repetition"
