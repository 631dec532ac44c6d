"""Items asked of servers that answer, fail, are full, come back, or mean harm."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from phi_vision.batch import sending
from phi_vision.batch.any_server import AnyServerAsk
from phi_vision.batch.asking import FileAsk, LineAsk, _Known
from phi_vision.batch.breaks import MAX_BREAKS
from phi_vision.batch.pages import Pages
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item, ItemError, TryLater
from phi_vision.client import images
from phi_vision.client.exchange import ApiKeyRequired, Endpoint, Unreachable
from phi_vision.client.text import visible
from phi_vision.errors import UsageError
from phi_vision.media.pdf import extract_page

from tests.support.answering_server import MODEL, AnsweringServer, text_of
from tests.support.pdf import pdf, picture_page
from tests.support.pictures import data_url, encoded, reference_picture
from tests.support.serving import eventually

NOWHERE = Endpoint("http://127.0.0.1:1/v1")  # nobody listens on this port


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("answering")) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("second"), "--no-ocr") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(autouse=True)
def _mended(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"answering", "second"} & set(request.fixturenames):
        request.getfixturevalue(name).mend()


class Folder:
    """Pictures, each with its own answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def picture(self, seed: int) -> tuple[Item, str]:
        """An item, and the answer that it will get."""
        path = self.path / f"{seed}.png"
        path.write_bytes(encoded(reference_picture(40, 30, seed)))
        return Item(path.name, {"source": str(path)}), text_of(path.read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def endpoints(*servers: AnsweringServer | Endpoint) -> list[Endpoint]:
    return [each if isinstance(each, Endpoint) else Endpoint(each.base_url) for each in servers]


def asked(
    use: Callable[[FileAsk], Awaitable[Any]],
    *servers: AnsweringServer | Endpoint,
    clock: Clock | None = None,
    task: str = "ocr",
    **options: Any,
) -> Any:
    """What `use` returns for an ask of these servers."""

    async def run() -> Any:
        known = Servers(endpoints(*servers), clock or Clock())
        with closing(Pages(Path("fetched"))) as pages:
            async with FileAsk(known, pages, task, **options) as ask:
                result = await use(ask)
            assert [server.in_flight for server in ask._servers.all] == [0] * len(servers)
            return result

    return asyncio.run(run())


async def refused(ask: AnyServerAsk[Any], item: Item) -> Any:
    """The error, whose text no terminal would act on."""
    with pytest.raises((TryLater, ItemError, UsageError)) as raised:
        await ask(item)
    message = str(raised.value)
    assert message and "\n" not in message and visible(message) == message
    return raised.value


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


# Servers that take nothing now --------------------------------------------------------------------


def test_a_full_server_is_asked_when_it_says(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(6)
    clock = Clock()
    answering.fail("429", retry_after=7)

    async def use(ask: FileAsk) -> None:
        later = await refused(ask, item)
        assert isinstance(later, TryLater) and later.is_overload and later.wait_s == 7
        assert str(later) == f"{answering.base_url} is full: as asked"
        clock.now_s += 6
        assert (await refused(ask, item)).wait_s == 1
        clock.now_s += 1
        assert (await ask(item))["text"] == text

    asked(use, answering, clock=clock)
    assert answering.asks[text] == 2


@pytest.mark.parametrize("status", ["502", "503", "504"])
def test_a_server_that_is_not_ready(answering: AnsweringServer, folder: Folder, status: str) -> None:
    item, _ = folder.picture(7)
    answering.fail(status)
    later = asked(lambda ask: refused(ask, item), answering)
    assert isinstance(later, TryLater) and not later.is_overload and later.wait_s == 1
    assert str(later) == f"{answering.base_url} is not ready: as asked"


@pytest.mark.parametrize("status", ["429", "503"])
def test_another_server_is_asked_at_once(
    answering: AnsweringServer, second: AnsweringServer, folder: Folder, status: str
) -> None:
    items = [folder.picture(seed) for seed in range(30, 34)]
    answering.fail(status, count=None)
    before = sum(answering.asks.values())

    async def use(ask: FileAsk) -> list[Any]:
        return [await ask(item) for item, _ in items]

    results = asked(use, answering, second)
    assert [result["text"] for result in results] == [text for _, text in items]
    assert {result["server"] for result in results} == {second.base_url}
    assert sum(answering.asks.values()) == before + 1  # then it was left alone


def test_a_server_that_is_not_there(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(8)
    later = asked(lambda ask: refused(ask, item), NOWHERE)
    assert isinstance(later, TryLater) and not later.is_overload
    assert str(later).startswith(f"{NOWHERE.base_url} does not answer (")
    assert asked(lambda ask: ask(item), NOWHERE, answering)["text"] == text


def test_a_server_that_ends_and_comes_back(tmp_path: Path, folder: Folder) -> None:
    items = [folder.picture(seed) for seed in range(40, 44)]
    clock = Clock()
    first = AnsweringServer(tmp_path)
    with first:
        first.wait_until_ready()
        port = first.port

        async def use(ask: FileAsk) -> None:
            first.fail("hang", count=None)
            waiting = [asyncio.create_task(refused(ask, item)) for item, _ in items]
            await asyncio.to_thread(eventually, lambda: first.state["in_flight"] == 4)
            first.process.kill()
            laters = await asyncio.gather(*waiting)
            assert all(isinstance(later, TryLater) for later in laters)
            assert {str(later).partition(" (")[0] for later in laters} == {
                "the connection broke while the answer was awaited"
            }
            first.process.wait()
            later = await refused(ask, items[0][0])
            assert isinstance(later, TryLater) and "does not answer" in str(later)
            with AnsweringServer(tmp_path, port=port) as again:
                await asyncio.to_thread(again.wait_until_ready)
                assert "does not answer" in str(await refused(ask, items[0][0]))  # not before its time
                clock.now_s += 1
                results = [await ask(item) for item, _ in items]
                assert [result["text"] for result in results] == [text for _, text in items]

        asked(use, Endpoint(f"http://127.0.0.1:{port}/v1"), clock=clock)


def test_one_item_that_breaks_its_connection_is_given_up(answering: AnsweringServer, folder: Folder) -> None:
    poison, poison_text = folder.picture(50)
    answering.fail("drop", count=None, text=poison_text)

    async def use(ask: FileAsk) -> Any:
        for _ in range(MAX_BREAKS - 1):
            assert isinstance(await refused(ask, poison), TryLater)
        return await refused(ask, poison)

    error = asked(use, answering)
    assert isinstance(error, ItemError) and error.is_final and error.cause == "no answer"
    assert answering.asks[poison_text] == MAX_BREAKS


def test_a_server_whose_connections_all_break_is_not_the_items_fault(folder: Folder) -> None:
    """As a tunnel whose other end is gone."""
    item, _ = folder.picture(52)
    clock = Clock()

    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    async def use(ask: FileAsk) -> None:
        ask._known[ask._servers.all[0]] = _Known(MODEL)  # it answered until now
        for _ in range(4 * MAX_BREAKS):
            assert isinstance(await refused(ask, item), TryLater)
            clock.now_s += 60

    http = httpx.AsyncClient(transport=httpx.MockTransport(break_off))
    asked(use, Endpoint("http://tunnel/v1"), clock=clock, http=http)


def test_an_answer_that_does_not_come(answering: AnsweringServer, folder: Folder) -> None:
    item, _ = folder.picture(60)

    async def use(ask: FileAsk) -> Any:
        await ask.check()
        return await refused(ask, item)

    later = asked(use, answering, timeout_s=0.0)
    assert isinstance(later, TryLater) and str(later) == "no answer came within 0 s"


def test_an_ask_that_is_called_off(answering: AnsweringServer, folder: Folder) -> None:
    item, text = folder.picture(61)
    answering.fail("hang", text=text)

    async def use(ask: FileAsk) -> None:
        waiting = asyncio.create_task(ask(item))
        await asyncio.to_thread(eventually, lambda: answering.state["in_flight"] == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asked(use, answering)


# What is known before the first item --------------------------------------------------------------


def test_the_check(answering: AnsweringServer) -> None:
    asked(lambda ask: ask.check(), answering, NOWHERE)
    with pytest.raises(Unreachable, match=r"^http://127.0.0.1:1/v1 does not answer"):
        asked(lambda ask: ask.check(), NOWHERE)
    with pytest.raises(UsageError, match="does not do the task sing; its tasks: caption, ocr, vqa"):
        asked(lambda ask: ask.check(), answering, task="sing")
    with pytest.raises(UsageError, match="is not an http or https address"):
        asked(lambda ask: ask.check(), Endpoint("127.0.0.1:8000"))


# Servers of one's own making ----------------------------------------------------------------------


class Body(httpx.AsyncByteStream):
    """A body that is sent in pieces."""

    def __init__(self, *pieces: bytes, times: int = 1) -> None:
        self._pieces, self._times = pieces, times

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._times):
            for piece in self._pieces:
                yield piece


def reply(status: int, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, headers=headers, stream=Body(content))


class Scripted:
    """A server in this process: answers the routes as told, and keeps what it was asked."""

    def __init__(self, **routes: Callable[[], httpx.Response]) -> None:
        self.routes = {
            "/v1/tasks": lambda: reply(200, {"data": [{"id": "ocr", "models": ["m:ocr"]}]}),
            **{path.replace("_", "/"): answer for path, answer in routes.items()},
        }
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.url.path, body))
        answer = self.routes.get(request.url.path)
        return answer() if answer is not None else reply(404, {"detail": "Not Found"})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))


OURS = Endpoint("http://scripted/v1", "secret", named=True)


def ask_scripted(
    scripted: Scripted, item: Item, endpoint: Endpoint = OURS, *, fails: bool = False, **options: Any
) -> Any:
    use = (lambda ask: refused(ask, item)) if fails else (lambda ask: ask(item))
    return asked(use, endpoint, http=scripted.client(), **options)


def chat_answer(text: str = "a word") -> httpx.Response:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return reply(200, {"choices": [choice], "model": "m"})


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
