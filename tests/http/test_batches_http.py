"""`/v1/batches` with OpenAI's unchanged SDK on a server whose engine is a stub."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from tests.support.pdf import pdf, text_page
from tests.support.pictures import image_part, reference_picture
from tests.support.serving import PATIENCE_S, eventually
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import MINE, QUEUE, YOURS, StubServer, running_stub

CHAT: Any = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "phi-3.5-vision", "messages": [{"role": "user", "content": text}], **more}


def create(
    client: openai.OpenAI, bodies: list[dict[str, Any]], endpoint: Any = CHAT, **options: Any
) -> Batch:
    lines = [
        {"custom_id": f"line {n}", "method": "POST", "url": endpoint, "body": body}
        for n, body in enumerate(bodies)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    eventually(lambda: client.batches.retrieve(batch.id).status in ENDED)
    return client.batches.retrieve(batch.id)


def lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def text_of(line: dict[str, Any]) -> str:
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def at_work(stub: StubServer) -> int:
    """Requests that have reached the engine."""
    return sum("request_id" in request for request in stub.requests)


def test_a_batch_with_openais_sdk(stub: StubServer) -> None:
    client = stub.client()
    metadata = {"job": "nightly"}
    batch = create(client, [chat(), chat(made_up=1), chat(max_tokens=1)], metadata=metadata)
    assert batch.status in ("validating", "in_progress", "finalizing", "completed")
    client.files.delete(batch.input_file_id)  # it is held
    batch = ended(client, batch)
    assert (batch.status, batch.endpoint, batch.metadata) == ("completed", CHAT, metadata)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
    first, last = lines(client, batch.output_file_id)
    assert [first["custom_id"], last["custom_id"]] == ["line 0", "line 2"] and text_of(first) == ANSWER
    assert first["response"]["status_code"] == 200 and first["response"]["request_id"]
    assert last["response"]["body"]["usage"]["completion_tokens"] == 1
    (error,) = lines(client, batch.error_file_id)
    assert error["custom_id"] == "line 1" and error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "made_up"
    output = client.files.retrieve(str(batch.output_file_id))
    assert output.purpose == "batch_output" and output.filename.startswith(batch.id)


def test_every_endpoint(stub: StubServer) -> None:
    client = stub.client()
    document = pdf(text_page("HELLO"), text_page("WORLD"))
    uploaded = client.files.create(file=("a.pdf", document), purpose="user_data").id
    part = image_part(reference_picture(60, 40, 1))
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"task": "ocr", "messages": [{"role": "user", "content": [part]}]},
        "/v1/completions": {"prompt": "hello", "max_tokens": 4},
        "/v1/responses": {"input": "hello"},
        "/v1/ocr": {"model": None, "document": {"type": "file", "file_id": uploaded}},
    }
    batches = {endpoint: create(client, [body], endpoint) for endpoint, body in asked.items()}
    for endpoint, batch in batches.items():
        done = ended(client, batch)
        assert done.output_file_id, lines(client, done.error_file_id)
        (line,) = lines(client, done.output_file_id)
        direct = httpx.post(stub.url + endpoint, json=asked[endpoint], timeout=PATIENCE_S).json()
        assert set(line["response"]["body"]) == set(direct), endpoint


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"custom_id": "line 0"}, "duplicate_custom_id", "custom_id"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/models"}, "invalid_url", "url"),
        ({"body": chat(stream=True)}, "invalid_body", "body.stream"),
    ],
)
def test_a_bad_file_fails_with_the_line_at_fault(
    stub: StubServer, changes: dict[str, Any], code: str, param: str
) -> None:
    client = stub.client()
    good = {"custom_id": "line 0", "method": "POST", "url": CHAT, "body": chat()}
    data = "\n".join(json.dumps(line) for line in (good, good | {"custom_id": "b"} | changes))
    file = client.files.create(file=("in.jsonl", data.encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = ended(client, batch)
    assert batch.status == "failed" and batch.errors and batch.errors.data
    (error,) = batch.errors.data
    assert (error.code, error.param, error.line) == (code, param, 2)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {f"{n}": "x" for n in range(17)}}, "metadata"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 24 * 3600 + 1}},
            "output_expires_after",
        ),
        ({"made_up": 1}, "made_up"),
        ({"input_file_id": "file-x"}, "input_file_id"),
        ({"input_file_id": None}, "input_file_id"),
    ],
)
def test_what_cannot_be_had_names_its_field(stub: StubServer, changes: dict[str, Any], param: str) -> None:
    file = stub.client().files.create(file=("in.jsonl", b"{}"), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    answer = httpx.post(f"{stub.base_url}/batches", json=body | changes)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_other_files_are_no_batches(stub: StubServer) -> None:
    file = stub.client().files.create(file=("in.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        stub.client().batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def test_outputs_can_expire_sooner(stub: StubServer) -> None:
    client = stub.client()
    batch = create(client, [chat()], output_expires_after={"anchor": "created_at", "seconds": 3600})
    output = client.files.retrieve(str(ended(client, batch).output_file_id))
    assert output.expires_at == output.created_at + 3600


def test_a_batch_is_only_seen_with_its_key(keyed: StubServer) -> None:
    mine, yours = keyed.client(MINE), keyed.client(YOURS)
    batch = ended(mine, create(mine, [chat()]))
    assert batch.id in [each.id for each in mine.batches.list()]
    assert batch.id not in [each.id for each in yours.batches.list()]
    for act in (yours.batches.retrieve, yours.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            act(batch.id)
    with pytest.raises(openai.NotFoundError):
        yours.files.content(str(batch.output_file_id))
    with pytest.raises(openai.NotFoundError):
        yours.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    assert httpx.get(f"{keyed.base_url}/batches/{batch.id}").status_code == 401
    assert text_of(lines(mine, batch.output_file_id)[0]) == ANSWER


def test_lists_come_in_pages(stub: StubServer) -> None:
    client = stub.client()
    made = [ended(client, create(client, [chat()])).id for _ in range(3)]
    assert set(made) <= {batch.id for batch in client.batches.list(limit=2)}  # follows `after`
    page = httpx.get(f"{stub.base_url}/batches?limit=1").json()
    assert len(page["data"]) == 1 and page["has_more"] and page["first_id"] == page["last_id"]
    for query in ("limit=0", "limit=101", "made_up=1"):
        assert httpx.get(f"{stub.base_url}/batches?{query}").status_code == 400


def test_batches_take_no_place_from_clients(keyed: StubServer) -> None:
    client = keyed.client(MINE)
    before = at_work(keyed)

    def ask() -> Any:
        return client.chat.completions.create(**chat("a client's"))

    with ThreadPoolExecutor(QUEUE) as threads:
        with keyed.hold():
            batch = create(client, [chat("a batch's")] * 3)
            eventually(lambda: at_work(keyed) == before + 1)  # one line is at work
            asked = [threads.submit(ask) for _ in range(QUEUE)]  # as many as without it
            eventually(lambda: at_work(keyed) == before + 1 + QUEUE)
            with pytest.raises(openai.RateLimitError):
                ask()
            assert (
                at_work(keyed) == before + 1 + QUEUE
                and client.batches.retrieve(batch.id).status == "in_progress"
            )
        assert [each.result().choices[0].message.content for each in asked] == [ANSWER] * QUEUE
    assert len(lines(client, ended(client, batch).output_file_id)) == 3


def test_a_batch_is_cancelled_at_once(keyed: StubServer) -> None:
    client = keyed.client(MINE)
    before = at_work(keyed)
    with keyed.hold():
        batch = create(client, [chat()] * 3)
        eventually(lambda: at_work(keyed) == before + 1)
        assert client.batches.cancel(batch.id).status == "cancelling"
        cancelled = ended(client, batch)
    assert cancelled.status == "cancelled" and cancelled.cancelling_at and cancelled.cancelled_at
    assert "aborted" in keyed.requests[-1] and at_work(keyed) == before + 1
    assert cancelled.output_file_id is None
    assert [line["error"]["code"] for line in lines(client, cancelled.error_file_id)] == [
        "batch_cancelled"
    ] * 3
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_key_has_so_many_batches_at_once(keyed: StubServer) -> None:
    client = keyed.client(MINE)
    with keyed.hold():
        running = [create(client, [chat()]) for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="have not ended"):
            create(client, [chat()])
        create(keyed.client(YOURS), [chat()])
    assert [ended(client, batch).status for batch in running] == ["completed"] * 2


@pytest.mark.full
def test_batches_and_files_survive_a_crash_and_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    flags = ("--batch-share", "0.01", "--shutdown-timeout", "3600")  # one line at a time
    first = StubServer(tmp_path, *flags)
    with first, first.hold("question 2"):
        first.wait_until_ready()
        file = first.client().files.create(file=("a.pdf", b"%PDF-"), purpose="user_data")
        batch = create(first.client(), [chat(f"question {n}") for n in range(4)])
        eventually(lambda: at_work(first) == 3)
        first.process.kill()
        first.process.wait()
    with running_stub(tmp_path, *flags) as second:
        client = second.client()
        assert client.files.content(file.id).read() == b"%PDF-"
        done = ended(client, batch)
        answers = lines(client, done.output_file_id)
        assert done.status == "completed" and [text_of(line) for line in answers] == [ANSWER] * 4
        assert [line["custom_id"] for line in answers] == [f"line {n}" for n in range(4)]
        asked = [str(request["prompt_token_ids"]) for request in second.requests]
        assert sorted(map(asked.count, set(asked))) == [1, 1, 1, 2]  # only what was in flight comes again
        with second.hold():
            create(client, [chat()])
            eventually(lambda: at_work(second) == 6)
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(PATIENCE_S) == 0
