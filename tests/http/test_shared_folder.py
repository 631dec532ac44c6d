"""Two servers with one `--files-folder`: what one keeps, the other has. Without that, they say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from tests.support.pdf import pdf, text_page
from tests.support.scraped import scraped, total
from tests.support.serving import PATIENCE_S, eventually
from tests.support.stub_engine import ANSWER
from tests.support.stub_server import MINE, YOURS, StubServer

pytestmark = pytest.mark.full

MODEL = "phi-3.5-vision"
CHAT: Any = "/v1/chat/completions"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StubServer, StubServer]]:
    """The second has fewer keys, and less room. The last test kills the first."""
    shared = ("--files-folder", str(tmp_path_factory.mktemp("shared")))
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    (folders[0] / "keys").write_text(f"{MINE}\n{YOURS}\n")
    (folders[1] / "keys").write_text(f"{MINE}\n")
    flags = [("--api-key-file", str(folder / "keys"), *shared) for folder in folders]
    with (
        StubServer(folders[0], *flags[0]) as first,
        StubServer(folders[1], *flags[1], "--max-files-mb", "1") as second,
    ):
        first.wait_until_ready()
        second.wait_until_ready()
        yield first, second


def document_part(file_id: str) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": file_id}}


def ask(server: StubServer, *parts: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": list(parts)}]}
    headers = {"Authorization": f"Bearer {MINE}"}
    return httpx.post(server.url + CHAT, json=body, headers=headers, timeout=PATIENCE_S)


def upload(client: openai.OpenAI, data: bytes | None = None, purpose: Any = "user_data") -> str:
    return client.files.create(file=("a", data or pdf(text_page("HELLO"))), purpose=purpose).id


def create(client: openai.OpenAI, *texts: str) -> Batch:
    lines = [
        {
            "custom_id": text,
            "method": "POST",
            "url": CHAT,
            "body": {"model": MODEL, "messages": [{"role": "user", "content": text}]},
        }
        for text in texts
    ]
    file_id = upload(client, "\n".join(map(json.dumps, lines)).encode(), "batch")
    return client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")


def test_a_file_of_one_is_the_others_too(pair: tuple[StubServer, StubServer]) -> None:
    first, second = pair
    mine, there = first.client(MINE), second.client(MINE)
    file_id = upload(mine)
    assert there.files.content(file_id).read() == mine.files.content(file_id).read()
    assert [file.id for file in there.files.list()] == [file_id]
    assert ask(second, document_part(file_id), {"type": "text", "text": "?"}).status_code == 200
    body = {"model": MODEL, "document": {"type": "file", "file_id": file_id}}
    headers = {"Authorization": f"Bearer {MINE}"}
    assert httpx.post(f"{second.base_url}/ocr", json=body, headers=headers).status_code == 200
    signed = httpx.get(f"{first.base_url}/files/{file_id}/url", headers=headers).json()["url"]
    token = signed.rpartition("/")[2]
    assert httpx.get(f"{second.url}/files/{token}").content.startswith(b"%PDF-")
    part = {"type": "image_url", "image_url": {"url": signed}}  # read from the folder, not fetched
    assert ask(second, part, {"type": "text", "text": "?"}).status_code == 200
    there.files.delete(file_id)
    with pytest.raises(openai.NotFoundError):
        mine.files.retrieve(file_id)


def test_keys_and_room_are_each_servers_own(pair: tuple[StubServer, StubServer]) -> None:
    first, second = pair
    yours = upload(first.client(YOURS))
    with pytest.raises(openai.NotFoundError):
        second.client(MINE).files.retrieve(yours)
    with pytest.raises(openai.AuthenticationError):
        second.client(YOURS).files.retrieve(yours)
    large = upload(first.client(MINE), bytes(1_500_000))
    with pytest.raises(openai.InternalServerError, match="no room"):
        upload(second.client(MINE))
    second.client(MINE).files.delete(large)
    second.client(MINE).files.delete(upload(second.client(MINE)))
    first.client(YOURS).files.delete(yours)


def test_a_batch_of_one_is_seen_and_cancelled_at_the_other(pair: tuple[StubServer, StubServer]) -> None:
    first, second = pair
    with first.hold("never"):
        batch = create(first.client(MINE), "now", "never")
        there = second.client(MINE).batches
        eventually(lambda: getattr(there.retrieve(batch.id).request_counts, "completed", 0) == 1)
        assert there.cancel(batch.id).status == "cancelling"
        eventually(lambda: there.retrieve(batch.id).status == "cancelled")
    ended = there.retrieve(batch.id)
    assert first.client(MINE).batches.retrieve(batch.id) == ended
    (line,) = second.client(MINE).files.content(str(ended.output_file_id)).text.splitlines()
    assert json.loads(line)["custom_id"] == "now"


def test_what_is_kept_elsewhere_is_refused_and_not_missing(
    pair: tuple[StubServer, StubServer], keyed: StubServer
) -> None:
    """`keyed` has a folder of its own."""
    mine = pair[0].client(MINE)
    file_id, headers = upload(mine), {"Authorization": f"Bearer {MINE}"}
    batch_id = create(mine, "hello").id
    signed = httpx.get(f"{pair[0].base_url}/files/{file_id}/url", headers=headers).json()["url"]
    before = total(scraped(keyed.url), "phi_vision_refusals_total", reason="misdirected")
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/files/{file_id}/content", None),
        ("DELETE", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/files?after={file_id}", None),
        ("GET", f"/files/{signed.rpartition('/')[2]}", None),
        ("GET", f"/v1/batches/{batch_id}", None),
        ("POST", f"/v1/batches/{batch_id}/cancel", {}),
        ("GET", f"/v1/batches?after={batch_id}", None),
        ("POST", CHAT, {"messages": [{"role": "user", "content": [document_part(file_id)]}]}),
        ("POST", "/v1/ocr", {"model": MODEL, "document": {"type": "file", "file_id": file_id}}),
        (
            "POST",
            "/v1/batches",
            {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"},
        ),
    ]
    for method, path, body in asked:
        answer = httpx.request(method, keyed.url + path, json=body, headers=headers)
        assert answer.status_code == 421, (method, path, answer.text)
        error = answer.json()["error"]
        assert "--files-folder" in error["message"] and error["code"] == 421
        assert method != "POST" or "file_id" in (error["param"] or "file_id"), error
    counted = sum(path.startswith("/v1/") for _, path, _ in asked)
    eventually(
        lambda: (
            total(scraped(keyed.url), "phi_vision_refusals_total", reason="misdirected") == before + counted
        )
    )


def test_a_batch_goes_on_where_its_server_was_killed(pair: tuple[StubServer, StubServer]) -> None:
    first, second = pair
    asked_before = len(second.requests)
    with first.hold("later"):
        batch = create(first.client(MINE), "now", "later")
        there = second.client(MINE)
        eventually(lambda: getattr(there.batches.retrieve(batch.id).request_counts, "completed", 0) == 1)
        first.process.kill()
        eventually(lambda: there.batches.retrieve(batch.id).status == "completed")
    output = there.files.content(str(there.batches.retrieve(batch.id).output_file_id)).text
    answers = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, output.splitlines())}
    assert {name: body["choices"][0]["message"]["content"] for name, body in answers.items()} == {
        "now": ANSWER,
        "later": ANSWER,
    }
    assert len(second.requests) - asked_before == 1  # what was done stays done
