"""What servers are asked, and answers that are not as they should be."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from phi_vision.batch import sending
from phi_vision.batch.asking import FileAsk
from phi_vision.batch.work import ItemError, TryLater
from phi_vision.client.exchange import ApiKeyRequired, Endpoint
from phi_vision.errors import UsageError

from tests.support.asking import (
    OURS,
    Body,
    Folder,
    Scripted,
    ask_scripted,
    asked,
    chat_answer,
    refused,
    reply,
)
from tests.support.pictures import data_url


def test_what_is_asked(folder: Folder) -> None:
    item, _ = folder.picture(1)
    data = Path(item.request["source"]).read_bytes()
    url = data_url(data)
    part = {"type": "image_url", "image_url": {"url": url}}

    scripted = Scripted(_v1_chat_completions=chat_answer)
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    ask_scripted(scripted, item, prompt="What is the total?", schema=schema)
    assert scripted.asked[1] == (
        "/v1/chat/completions",
        {
            "model": "m:ocr",
            "messages": [{"role": "user", "content": [part, {"type": "text", "text": "What is the total?"}]}],
            "logprobs": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        },
    )
    assert {headers["authorization"] for headers in scripted.headers} == {"Bearer secret"}
    assert {headers["accept-encoding"] for headers in scripted.headers} == {"identity"}

    page = {"markdown": "a word"}
    scripted = Scripted(_v1_ocr=lambda: reply(200, {"pages": [page], "model": "m"}))
    assert ask_scripted(scripted, item)["text"] == "a word"
    assert scripted.asked[1:] == [
        (
            "/v1/ocr",
            {
                "model": "m:ocr",
                "document": {"type": "image_url", "image_url": url},
                "confidence_scores_granularity": "word",
            },
        )
    ]


def test_a_server_without_the_ocr_route_is_asked_through_the_chat(folder: Folder) -> None:
    item, _ = folder.picture(1)
    for missing in (404, 405):
        answer = lambda missing=missing: reply(missing, {"detail": "Not Found"})  # noqa: E731
        scripted = Scripted(_v1_ocr=answer, _v1_chat_completions=chat_answer)

        async def use(ask: FileAsk) -> None:
            for _ in range(2):
                assert (await ask(item))["text"] == "a word"

        asked(use, OURS, http=scripted.client())
        assert [path for path, _ in scripted.asked] == [
            "/v1/tasks",
            "/v1/ocr",
            "/v1/chat/completions",
            "/v1/chat/completions",
        ]


def test_a_model_that_is_gone_is_looked_up_again(folder: Folder) -> None:
    item, _ = folder.picture(1)
    error = {"error": {"message": "the model does not exist", "param": "model"}}
    scripted = Scripted(_v1_ocr=lambda: reply(404, error))

    async def use(ask: FileAsk) -> None:
        for _ in range(2):
            gone = await refused(ask, item)
            assert isinstance(gone, ItemError) and not gone.is_final and gone.status == 404

    asked(use, OURS, http=scripted.client())
    assert [path for path, _ in scripted.asked] == ["/v1/tasks", "/v1/ocr"] * 2


def test_tasks_by_the_names_of_models(folder: Folder) -> None:
    item, _ = folder.picture(1)
    models = {"data": [{"id": "x"}, {"id": "x:ocr"}]}
    scripted = Scripted(_v1_models=lambda: reply(200, models), _v1_chat_completions=chat_answer)
    del scripted.routes["/v1/tasks"]
    ask_scripted(scripted, item)
    assert scripted.asked[-1][1]["model"] == "x:ocr"


def test_a_server_that_does_not_know_itself_is_in_trouble(folder: Folder) -> None:
    item, _ = folder.picture(1)
    scripted = Scripted(_v1_tasks=lambda: reply(200, b"<html>"), _v1_models=lambda: reply(500))
    later = ask_scripted(scripted, item, fails=True)
    assert isinstance(later, TryLater) and str(later).startswith("http://scripted/v1 is in trouble: ")


def test_what_no_item_can_be_asked_with_ends_the_run(folder: Folder) -> None:
    item, _ = folder.picture(1)
    unauthorized = Scripted(_v1_tasks=lambda: reply(401, {"error": {"message": "wrong key"}}))
    error = ask_scripted(unauthorized, item, fails=True)
    assert isinstance(error, UsageError)
    assert str(error) == "the server at http://scripted/v1 does not take the key: wrong key"
    error = ask_scripted(unauthorized, item, Endpoint("http://scripted/v1"), fails=True)
    assert isinstance(error, ApiKeyRequired)
    moved = Scripted(_v1_tasks=lambda: reply(301, location="https://elsewhere/v1/tasks"))
    error = ask_scripted(moved, item, fails=True)
    assert isinstance(error, UsageError) and "redirects to https://elsewhere/v1/tasks" in str(error)
    error = ask_scripted(Scripted(), item, Endpoint("http://scripted/v1", "k\n", named=True), fails=True)
    assert isinstance(error, UsageError) and "cannot be sent" in str(error)


HOSTILE: dict[str, Callable[[], httpx.Response]] = {
    "too large": lambda: httpx.Response(200, stream=Body(bytes(1 << 20), times=1000)),
    "compressed": lambda: reply(200, zlib.compress(bytes(1000)), **{"content-encoding": "deflate"}),
    "not JSON": lambda: reply(200, b"<html>"),
    "a list": lambda: reply(200, [1]),
    "too deep": lambda: reply(200, b"[" * 100_000),
    "NaN": lambda: reply(200, b'{"pages": NaN}'),
    "not UTF-8": lambda: reply(200, b'{"pages": "\xff\xfe"}'),
    "no pages": lambda: reply(200, {}),
    "no content": lambda: reply(204),
    "an endless error": lambda: httpx.Response(500, stream=Body(bytes(1 << 20), times=1000)),
    "an error that would ring": lambda: reply(500, {"error": {"message": "a\x1b]0;b\x07\nc" * 1000}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer(folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_ANSWER_BYTES", 4 << 20)
    item, _ = folder.picture(1)
    error = ask_scripted(Scripted(_v1_ocr=HOSTILE[name]), item, fails=True)
    assert isinstance(error, ItemError) and error.cause == "server" and not error.is_final
    assert len(json.dumps(error.as_json())) < 100_000
