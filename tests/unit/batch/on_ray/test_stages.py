"""What the processes of a cluster do with an item, here without a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch import inputs
from phi_vision.batch.on_ray import stages
from phi_vision.batch.on_ray.outcomes import decoded
from phi_vision.batch.on_ray.stages import AskItems, AskSettings, Row, count_pages, read_page
from phi_vision.batch.run_settings import Question
from phi_vision.batch.work import ItemError, TryLater
from phi_vision.client.exchange import Endpoint
from phi_vision.client.images import Input
from phi_vision.errors import UsageError
from phi_vision.media.pdf import extract_page

from tests.support.answering_server import AnsweringServer, text_of
from tests.support.asking import Folder
from tests.support.pdf import Page, pdf
from tests.support.serving import eventually

TWO_PAGES = pdf(Page(), Page(size=(200, 100)))


@pytest.fixture(autouse=True)
def where_workers_import_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(inputs.__file__).parents[2]))


def row(request: Any, number: int = 0) -> Row:
    return {"number": number, "attempts": 1, "request": json.dumps(request), "outcome": ""}


def settings(*servers: AnsweringServer | Endpoint, concurrency: int | None = None, **question: Any) -> Any:
    endpoints = [each if isinstance(each, Endpoint) else Endpoint(each.base_url) for each in servers]
    return AskSettings(Question(**question), concurrency, endpoints, "cpu")


def asked(how: AskSettings, rows: Sequence[Row]) -> list[Row]:
    async def run() -> list[Row]:
        ask = AskItems(how)
        return await asyncio.gather(*map(ask, rows))

    return asyncio.run(run())


def test_the_pages_of_a_document_are_counted(tmp_path: Path) -> None:
    whole, broken = tmp_path / "a.pdf", tmp_path / "b.pdf"
    whole.write_bytes(TWO_PAGES)
    broken.write_bytes(TWO_PAGES[:99])
    for path, num_pages in ((whole, 2), (broken, 0)):
        source = json.dumps(str(path))
        counted = count_pages({"source": source}, str(tmp_path / "fetched"))
        assert counted == {"source": source, "num_pages": num_pages}


def test_a_page_is_read_asked_and_answered(answering: AnsweringServer, folder: Folder) -> None:
    document = folder.path / "a.pdf"
    document.write_bytes(TWO_PAGES)
    picture, text = folder.picture(1)
    requests = [{"source": str(document), "page": 2, "pages": 2}, dict(picture.request)]
    rows = [read_page(row(each, number), "fetched") for number, each in enumerate(requests)]
    assert Input(**json.loads(rows[0]["request"])).page == 1  # of a file by itself
    answers = asked(settings(answering, task="ocr"), rows)
    assert [each.keys() for each in answers] == [{"number", "attempts", "outcome"}] * 2
    assert [(each["number"], each["attempts"]) for each in answers] == [(0, 1), (1, 1)]
    results: Any = [decoded(each["outcome"]) for each in answers]
    assert [each["text"] for each in results] == [text_of(extract_page(TWO_PAGES, 1), 1), text]


def test_what_cannot_be_read_is_not_asked(answering: AnsweringServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    read = read_page(row({"source": str(tmp_path / "a.png")}), "fetched")
    before = answering.asks
    [answer] = asked(settings(answering, task="ocr"), [read])
    outcome = decoded(answer["outcome"])
    assert isinstance(outcome, ItemError) and outcome.cause == "unreadable" and answering.asks == before
    fault = decoded(read_page(row({}), "fetched")["outcome"])  # of ours
    assert isinstance(fault, ItemError) and str(fault) == "KeyError: 'source'"


def test_the_lines_of_a_batch_file_are_asked_as_they_are(answering: AnsweringServer) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "a word"}]}
    line = row({"method": "POST", "url": "/v1/chat/completions", "body": body})
    outcome: Any = decoded(asked(settings(answering), [line])[0]["outcome"])
    assert outcome["status_code"] == 200
    assert outcome["body"]["choices"][0]["message"]["content"] == text_of("a word")


def read_pictures(folder: Folder, count: int) -> tuple[list[Row], list[str]]:
    pictures = [folder.picture(seed) for seed in range(count)]
    rows = [read_page(row(dict(item.request), n), "fetched") for n, (item, _) in enumerate(pictures)]
    return rows, [text for _, text in pictures]


def test_no_more_are_under_way_than_may_be(answering: AnsweringServer, folder: Folder) -> None:
    rows, texts = read_pictures(folder, 9)
    answering.fail("hang", count=None)

    async def run() -> list[Row]:
        ask = AskItems(settings(answering, concurrency=3, task="ocr"))
        asks = asyncio.gather(*map(ask, rows))
        await asyncio.to_thread(eventually, lambda: answering.state["in_flight"] == 3)
        await asyncio.to_thread(answering.mend)
        return await asks

    before = answering.state["most_in_flight"]
    outcomes: Any = [decoded(each["outcome"]) for each in asyncio.run(run())]
    assert [each["text"] for each in outcomes] == texts
    assert answering.state["most_in_flight"] == max(before, 3)


def test_an_item_that_no_server_takes_is_asked_again_and_then_goes_back(
    answering: AnsweringServer, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, [text] = read_pictures(folder, 1)
    how = settings(answering, task="ocr")
    answering.fail("429", retry_after=0)
    again: Any = decoded(asked(how, rows)[0]["outcome"])
    assert again["text"] == text
    monkeypatch.setattr(stages, "_PATIENCE_S", 0.0)
    answering.fail("503", retry_after=1)
    later = decoded(asked(how, rows)[0]["outcome"])
    assert isinstance(later, TryLater) and "is not ready" in str(later)


def test_what_each_item_would_meet_is_no_items_fault(folder: Folder) -> None:
    rows, _ = read_pictures(folder, 1)
    outcome = decoded(asked(settings(Endpoint("ftp://there/v1"), task="ocr"), rows)[0]["outcome"])
    assert isinstance(outcome, UsageError) and "not an http or https address" in str(outcome)
