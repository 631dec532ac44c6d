"""Pictures, pages and lines asked of servers that answer."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch.asking import FileAsk, LineAsk
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item, ItemError, TryLater
from phi_vision.client import images
from phi_vision.client.exchange import Endpoint, Unreachable
from phi_vision.errors import UsageError
from phi_vision.media.pdf import extract_page

from tests.support.answering_server import MODEL, AnsweringServer, text_of
from tests.support.asking import (
    NOWHERE,
    OURS,
    Clock,
    Folder,
    Scripted,
    asked,
    endpoints,
    refused,
    reply,
)
from tests.support.pdf import pdf, picture_page
from tests.support.pictures import encoded, reference_picture

# Answers ------------------------------------------------------------------------------------------


def test_a_picture_is_read(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(1)
    result = asked(lambda ask: ask(item), answering)
    assert result.pop("seconds") >= 0
    assert result == {
        "text": text,
        "status": "complete",
        "model": f"{MODEL}:ocr",
        "server": answering.base_url,
        "confidence": 0.875,
        "words": [["read", 0.875, 0], [text.split()[1], 0.875, 5]],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2},
        "rotation": 0,
        "tiles": 1,
        "attempts": [],
    }
    json.dumps(result, allow_nan=False)


def test_a_task_is_asked_through_the_chat(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(2)
    result = asked(lambda ask: ask(item), answering, task="caption")
    assert (result["text"], result["model"]) == (text, f"{MODEL}:caption")
    assert result["confidence"] == pytest.approx(0.882, abs=0.001) and len(result["words"]) == 2
    assert result["usage"] == {"prompt_tokens": 100, "completion_tokens": 2}
    assert (result["rotation"], result["tiles"], result["attempts"]) == (None, None, None)


@pytest.mark.parametrize("task", ["ocr", "caption"])
def test_a_page_of_a_document(answering: AnsweringServer, tmp_path: Path, task: str) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf(*[picture_page(reference_picture(40, 30, seed)) for seed in range(3)]))
    item = Item("scan.pdf#2", {"source": str(path), "page": 2, "pages": 3})
    alone = extract_page(path.read_bytes(), 1)
    assert asked(lambda ask: ask(item), answering, task=task)["text"] == text_of(alone, 1)


def test_many_at_once(answering: AnsweringServer, second: AnsweringServer, folder: Folder) -> None:
    items = [folder.picture(seed) for seed in range(10, 30)]
    before = [sum(server.asks.values()) for server in (answering, second)]

    async def use(ask: FileAsk) -> list[Any]:
        return await asyncio.gather(*(ask(item) for item, _ in items))

    results = asked(use, answering, second)
    assert [result["text"] for result in results] == [text for _, text in items]
    after = [sum(server.asks.values()) for server in (answering, second)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [10, 10]


def test_a_file_is_read_when_it_is_asked(answering: AnsweringServer, folder: Folder) -> None:
    item, _ = folder.picture(3)

    async def use(ask: FileAsk) -> Any:
        Path(item.request["source"]).write_bytes(encoded(reference_picture(20, 20, 99)))
        return await ask(item)

    assert asked(use, answering)["text"] == text_of(encoded(reference_picture(20, 20, 99)))


def test_a_picture_behind_a_url(answering: AnsweringServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(reference_picture(20, 20, 98))
    monkeypatch.setattr(images, "fetch", lambda url, limits: asyncio.sleep(0, data))
    item = Item("x", {"source": "https://example.org/x.png"})
    assert asked(lambda ask: ask(item), answering)["text"] == text_of(data)


# What is wrong with the item ----------------------------------------------------------------------


def test_a_file_that_cannot_be_read(answering: AnsweringServer, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    before = answering.state
    for name, words in (("none.png", "No such file"), ("notes.png", "it is none of"), (".", "directory")):
        item = Item(name, {"source": str(tmp_path / name)})
        error = asked(partial(refused, item=item), answering)
        assert isinstance(error, ItemError) and error.is_final and error.cause == "unreadable"
        assert words in str(error)
    assert answering.state == before


def test_a_file_is_not_read_while_no_server_takes_it(folder: Folder) -> None:
    item, _ = folder.picture(9)

    async def use(ask: FileAsk) -> None:
        assert isinstance(await refused(ask, item), TryLater)
        Path(item.request["source"]).unlink()
        assert isinstance(await refused(ask, item), TryLater)

    asked(use, NOWHERE)


def test_a_request_that_is_refused(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(4)
    for status in (400, 413, 422):
        answering.fail(str(status))
        error = asked(lambda ask: refused(ask, item), answering)
        assert isinstance(error, ItemError) and error.is_final
        assert error.as_json() == {
            "message": "the server refused: as asked",
            "cause": "refused",
            "status": status,
            "body": {"error": {"message": "as asked", "type": "fault", "param": None, "code": status}},
        }
    assert asked(lambda ask: ask(item), answering)["text"] == text


def test_a_failure_of_the_server_is_no_final_answer(answering: AnsweringServer, folder: Folder) -> None:
    item, _ = folder.picture(5)
    answering.fail("500")
    error = asked(lambda ask: refused(ask, item), answering)
    assert isinstance(error, ItemError) and not error.is_final
    assert (error.cause, error.status, str(error)) == ("server", 500, "the server failed: as asked")


# What is known before the first item --------------------------------------------------------------


def test_the_check(answering: AnsweringServer) -> None:
    asked(lambda ask: ask.check(), answering, NOWHERE)
    with pytest.raises(Unreachable, match=r"^http://127.0.0.1:1/v1 does not answer"):
        asked(lambda ask: ask.check(), NOWHERE)
    with pytest.raises(UsageError, match="does not do the task sing; its tasks: caption, ocr, vqa"):
        asked(lambda ask: ask.check(), answering, task="sing")
    with pytest.raises(UsageError, match="is not an http or https address"):
        asked(lambda ask: ask.check(), Endpoint("127.0.0.1:8000"))


# Lines of batch files -----------------------------------------------------------------------------


def line(body: Any, url: Any = "/v1/chat/completions", method: Any = "POST") -> Item:
    return Item("a-line", {"method": method, "url": url, "body": body})


BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


def asked_line(item: Item, *servers: AnsweringServer | Endpoint, fails: bool = False, **options: Any) -> Any:
    async def run() -> Any:
        async with LineAsk(Servers(endpoints(*servers), Clock()), **options) as ask:
            return await (refused(ask, item) if fails else ask(item))

    return asyncio.run(run())


def test_a_line(answering: AnsweringServer) -> None:
    result = asked_line(line(BODY), answering)
    text = text_of("hello")
    assert (result["status_code"], result["request_id"]) == (200, f"chatcmpl-{text.replace(' ', '-')}")
    assert result["body"]["choices"][0]["message"]["content"] == text
    assert set(result) == {"status_code", "request_id", "body"}


def test_a_line_is_sent_as_it_is() -> None:
    scripted = Scripted(_v1_embeddings=lambda: reply(200, {}, **{"x-request-id": "req-7"}))
    result = asked_line(line({"input": "x", "odd": [1]}, "/v1/embeddings"), OURS, http=scripted.client())
    assert result == {"status_code": 200, "request_id": "req-7", "body": {}}
    assert scripted.asked == [("/v1/embeddings", {"input": "x", "odd": [1]})]


def test_a_line_without_an_id_gets_one() -> None:
    scripted = Scripted(_v1_embeddings=lambda: reply(200, {"id": 7}))
    assert asked_line(line({}, "/v1/embeddings"), OURS, http=scripted.client())["request_id"]


def test_a_line_that_is_refused_keeps_the_answer(answering: AnsweringServer) -> None:
    answering.fail("422")
    error = asked_line(line(BODY), answering, fails=True)
    assert isinstance(error, ItemError) and error.is_final and error.status == 422
    assert error.as_json()["body"]["error"]["message"] == "as asked"


@pytest.mark.parametrize(
    "item",
    [
        line(BODY, "/v1/chat/completions", "GET"),
        line(BODY, "http://elsewhere/v1/chat/completions"),
        line(BODY, "@elsewhere/v1/chat"),
        line(BODY, "/v1/../admin"),
        line(BODY, "/v1/files?x=1"),
        line(BODY, "/v1"),
        line(BODY, "/v1/a\x1b[2J"),
        line(BODY, None),
        line(None),
        line("text"),
        line(BODY | {"stream": True}),
        line(BODY | {"background": True}, "/v1/responses"),
    ],
    ids=lambda item: repr(item.request)[:60],
)
def test_a_line_that_cannot_be_asked(item: Item) -> None:
    scripted = Scripted()
    error = asked_line(item, OURS, http=scripted.client(), fails=True)
    assert isinstance(error, ItemError) and error.cause == "refused" and error.is_final
    assert scripted.asked == []


def test_a_line_waits_for_its_server(answering: AnsweringServer) -> None:
    answering.fail("429", retry_after=3)
    later = asked_line(line(BODY), answering, fails=True)
    assert isinstance(later, TryLater) and later.wait_s == 3 and later.is_overload


def test_the_check_of_lines(answering: AnsweringServer) -> None:
    async def check(endpoint: Endpoint) -> None:
        async with LineAsk(Servers([endpoint])) as ask:
            await ask.check()

    asyncio.run(check(Endpoint(answering.base_url)))
    with pytest.raises(Unreachable):
        asyncio.run(check(NOWHERE))
