"""Tasks and documents on `/v1/responses`, through OpenAI's SDK: what reaches the engine."""

from __future__ import annotations

import re
from typing import Any

import httpx
import openai
import pytest
from phi_vision.tasks.presets import PRESETS

from tests.http.test_document_parts import PDFS, _runs
from tests.http.test_loop_guard import KEPT, LOOP
from tests.support.pictures import data_url, encoded, reference_picture
from tests.support.stub_engine import ANSWER, ScriptedAnswer
from tests.support.stub_server import StubServer

MODEL = "phi-3.5-vision-demo"
PICTURE = {
    "type": "input_image",
    "detail": "auto",
    "image_url": data_url(encoded(reference_picture(60, 40, seed=2))),
}


def file_part(count: int, **more: Any) -> dict[str, Any]:
    data = data_url(PDFS[count], "application/pdf")
    return {"type": "input_file", "filename": "a.pdf", "file_data": data, **more}


def text(value: str) -> dict[str, Any]:
    return {"type": "input_text", "text": value}


def create(stub: StubServer, *parts: Any, model: str = MODEL, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The answer, and what the engine was asked."""
    already = len(stub.requests)
    raw = stub.client().responses.with_raw_response.create(
        model=model, input=[{"role": "user", "content": list(parts)}], **more
    )
    return raw, stub.requests[already]


def refusal(stub: StubServer, *parts: Any, **more: Any) -> Any:
    with pytest.raises(openai.APIStatusError) as caught:
        create(stub, *parts, **more)
    assert caught.value.status_code in (400, 404)
    return caught.value.body


@pytest.mark.parametrize("how", ["name", "field"])
@pytest.mark.parametrize("task", PRESETS)
def test_a_preset_applies(stub: StubServer, task: str, how: str) -> None:
    parts = [PICTURE, text("Why?")] if task == "vqa" else [PICTURE]
    asked: Any = {"model": f"{MODEL}:{task}"} if how == "name" else {"extra_body": {"task": task}}
    raw, asked_of_engine = create(stub, *parts, **asked)
    assert raw.headers["x-phi-vision-task"] == task and raw.parse().output_text
    sampling, fields = asked_of_engine["sampling"], PRESETS[task].fields
    assert (sampling["temperature"], sampling["max_tokens"]) == (fields["temperature"], fields["max_tokens"])
    assert bool(sampling["extra_args"]) == PRESETS[task].ends_loops


def test_the_prompt_is_the_chat_routes(stub: StubServer) -> None:
    for task, parts in (("ocr", [PICTURE]), ("vqa", [PICTURE, text("Why?")])):
        _, asked = create(stub, *parts, model=f"{MODEL}:{task}")
        already = len(stub.requests)
        chat: list[Any] = [{"type": "image_url", "image_url": {"url": PICTURE["image_url"]}}]
        chat += [{"type": "text", "text": part["text"]} for part in parts[1:]]
        messages: Any = [{"role": "user", "content": chat}]
        stub.client().chat.completions.create(model=f"{MODEL}:{task}", messages=messages)
        assert stub.requests[already]["prompt_token_ids"] == asked["prompt_token_ids"]


def test_what_the_client_sets_wins(stub: StubServer) -> None:
    raw, asked = create(
        stub,
        PICTURE,
        text("Read."),
        model=f"{MODEL}:vqa",
        max_output_tokens=7,
        temperature=0.5,
        instructions="x",
    )
    assert (asked["sampling"]["max_tokens"], asked["sampling"]["temperature"]) == (7, 0.5)
    assert raw.parse().instructions == "x"


def test_each_page_is_a_picture_in_its_place(stub: StubServer) -> None:
    uploaded = stub.client().files.create(file=("a.pdf", PDFS[3]), purpose="user_data")
    document: dict[str, Any] = {**PICTURE, "image_url": data_url(PDFS[1], "application/pdf")}
    by_id = {"type": "input_file", "file_id": uploaded.id, "pages": "2-3"}
    _, asked = create(stub, text("a"), file_part(3), PICTURE, text("b"), document, by_id, text("c"))
    assert len(asked["modalities"]) == 7 and len(_runs(asked["prompt_token_ids"])) >= 3
    _, low = create(stub, file_part(1, detail="low"), text("x"))
    _, high = create(stub, file_part(1), text("x"))
    assert len(low["prompt_token_ids"]) < len(high["prompt_token_ids"])


def test_an_uploaded_picture_and_a_stream(stub: StubServer) -> None:
    client = stub.client()
    uploaded = client.files.create(file=("a.png", encoded(reference_picture(60, 40, 1))), purpose="vision")
    part: Any = {"type": "input_image", "detail": "auto", "file_id": uploaded.id}
    content: Any = [{"role": "user", "content": [part]}]
    events = list(client.responses.create(model=f"{MODEL}:ocr", input=content, stream=True))
    assert events[-1].type == "response.completed"


def test_how_an_answer_ended_is_said(stub: StubServer) -> None:
    def ended(**more: Any) -> tuple[Any, ...]:
        raw, _ = create(stub, PICTURE, model=f"{MODEL}:ocr", **more)
        response = raw.parse()
        reason = response.incomplete_details and response.incomplete_details.reason
        return raw.headers["x-phi-vision-status"], response.status, reason, response.output_text.strip()

    assert ended() == ("complete", "completed", None, ANSWER)
    assert ended(max_output_tokens=2)[:3] == ("truncated", "incomplete", "max_output_tokens")
    with stub.answers(ScriptedAnswer(LOOP)):
        assert ended() == ("repetition", "incomplete", "repetition", KEPT)


def test_a_loops_tokens_are_those_of_the_text(stub: StubServer) -> None:
    with stub.answers(ScriptedAnswer(LOOP)):
        raw, _ = create(
            stub, PICTURE, model=f"{MODEL}:ocr", top_logprobs=1, include=["message.output_text.logprobs"]
        )
    response = raw.parse()
    tokens = response.output[0].content[0].logprobs
    assert re.sub(r"\s", "", "".join(token.token for token in tokens)) == re.sub(r"\s", "", KEPT)
    assert response.usage.output_tokens > len(tokens)


def test_a_stream_says_at_its_end_that_it_ran_in_a_loop(stub: StubServer) -> None:
    content: Any = [{"role": "user", "content": [PICTURE]}]
    with stub.answers(ScriptedAnswer(LOOP)):
        events = list(stub.client().responses.create(model=f"{MODEL}:ocr", input=content, stream=True))
    last: Any = events[-1]
    assert (last.type, last.response.status) == ("response.completed", "incomplete")
    assert last.response.incomplete_details.reason == "repetition"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == said and len(KEPT) < len(said.strip()) < len(KEPT) + 300


def test_what_is_kept_of_an_earlier_response(unusual: StubServer) -> None:
    """Where vLLM stores responses: pictures by their URL, but no document."""
    client = unusual.client()
    with unusual.answers(ScriptedAnswer(LOOP)):
        earlier = create(unusual, PICTURE, model=f"{MODEL}:ocr")[0].parse()
    assert client.responses.retrieve(earlier.id).status == "incomplete"
    client.responses.create(model=MODEL, input="and then?", previous_response_id=earlier.id)
    assert unusual.requests[-1]["modalities"] == ["image"]

    earlier = create(unusual, file_part(3), text("hello"))[0].parse()
    already = len(unusual.requests)
    with pytest.raises(openai.BadRequestError, match="send it again") as caught:
        client.responses.create(model=MODEL, input="and then?", previous_response_id=earlier.id)
    assert caught.value.param == "previous_response_id" and len(unusual.requests) == already


def test_without_a_store_there_is_no_earlier_response(stub: StubServer) -> None:
    earlier = create(stub, file_part(1), text("hello"))[0].parse()
    with pytest.raises(openai.NotFoundError, match="not found"):
        stub.client().responses.create(model=MODEL, input="and then?", previous_response_id=earlier.id)


def test_without_a_task_vllm_alone_says_how_it_ended(stub: StubServer) -> None:
    raw, _ = create(stub, PICTURE, text("hello"), max_output_tokens=2)
    assert "x-phi-vision-status" not in raw.headers and raw.parse().status == "incomplete"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([file_part(3, pages="4")], "input[0].content[0].pages"),
        ([file_part(70)], "input[0].content[0]"),
        ([text("x"), {"type": "input_file", "file_id": "file-gone"}], "input[0].content[1].file_id"),
        ([{"type": "input_file", "file_url": "http://127.0.0.1/a.pdf"}], "input[0].content[0]"),
        ([{"type": "input_file", "filename": "a.pdf"}], "input[0].content[0]"),
        ([{"type": "input_file", "file_data": "data:;base64,%%"}], "input[0].content[0]"),
        ([{**PICTURE, "file_id": "file-1"}], "input[0].content[0]"),
        ([file_part(1)] * 100, "input"),
    ],
)
def test_a_bad_document_is_named(stub: StubServer, parts: list[Any], param: str) -> None:
    already = len(stub.requests)
    assert refusal(stub, *parts)["param"] == param and len(stub.requests) == already


@pytest.mark.parametrize(
    ("task", "sent", "param"),
    [
        ("ocr", "hello", "input"),
        ("ocr", [{"role": "user", "content": [text("hello")]}], "input"),
        ("vqa", [{"role": "user", "content": [PICTURE]}], "input"),
        ("vqa", [{"role": "system", "content": [PICTURE]}], "input"),
        ("translate", "hello", "task"),
    ],
)
def test_a_task_without_what_it_needs(stub: StubServer, task: str, sent: Any, param: str) -> None:
    answer = httpx.post(f"{stub.url}/v1/responses", json={"model": MODEL, "input": sent, "task": task})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_the_body_is_described(stub: StubServer) -> None:
    document = httpx.get(f"{stub.url}/openapi.json").json()
    schema = document["components"]["schemas"]["ResponsesRequest"]
    assert {"input", "task"} <= set(schema["properties"])
