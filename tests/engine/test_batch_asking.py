"""Items of a run asked of the real server: a page, a picture, a schema, a line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, draw_text
from phi_vision.batch.any_server import AnyServerAsk
from phi_vision.batch.asking import FileAsk, LineAsk
from phi_vision.batch.pages import Pages
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item, ItemError
from phi_vision.client.exchange import Endpoint
from rapidfuzz.distance import Levenshtein

from tests.support.pdf import pdf
from tests.support.pictures import encoded, image_part, user
from tests.support.serving import Server

MODEL = "phi-3.5-vision"
PAGES = [
    draw_text(Random(f"batch-{i}"), em=PRINT_EM, lines=(1, 2), max_chars=10, words=HELD_OUT_WORDS)
    for i in range(2)
]
TEXTS = ["\n".join(page.lines) for page in PAGES]


def ask(asker: AnyServerAsk[Any], *items: Item) -> list[Mapping[str, Any]]:
    async def run() -> list[Mapping[str, Any]]:
        async with asker:
            await asker.check()
            return await asyncio.gather(*(asker(item) for item in items))

    return asyncio.run(run())


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    with closing(Pages(tmp_path / "fetched")) as opened:
        yield opened


def servers(server: Server) -> Servers:
    return Servers([Endpoint(server.base_url)])


def test_pages_and_pictures_are_read(server: Server, pages: Pages, tmp_path: Path) -> None:
    scan, picture, blank = tmp_path / "scan.pdf", tmp_path / "page.png", tmp_path / "blank.png"
    scan.write_bytes(pdf(*[page.image for page in PAGES]))
    picture.write_bytes(encoded(PAGES[0].image))
    blank.write_bytes(encoded(PAGES[0].image.point(lambda _: 255)))
    page, alone, nothing = ask(
        FileAsk(servers(server), pages, "ocr"),
        Item("scan.pdf#2", {"source": str(scan), "page": 2, "pages": 2}),
        Item("page.png", {"source": str(picture)}),
        Item("blank.png", {"source": str(blank)}),
    )
    said = [result["text"] for result in (alone, page)]
    # It is no perfect reader; see its model card.
    assert sum(map(Levenshtein.distance, said, TEXTS)) <= 0.05 * sum(map(len, TEXTS)), said
    for result in (alone, page):
        assert result["status"] == "complete" and 0.5 < result["confidence"] <= 1
        assert [word for word, _, _ in result["words"]] == result["text"].split()
        assert result["usage"]["prompt_tokens"] > 100 and result["usage"]["completion_tokens"] > 3
        assert result["rotation"] == 0 and result["tiles"] == 1 and len(result["attempts"]) >= 1
        assert result["server"] == server.base_url
    assert (nothing["text"], nothing["status"], nothing["attempts"]) == ("", "blank", [])


def test_a_task_and_a_schema_through_the_chat(server: Server, pages: Pages, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    picture.write_bytes(encoded(PAGES[0].image))
    item = Item("page.png", {"source": str(picture)})
    (caption,) = ask(FileAsk(servers(server), pages, "caption"), item)
    assert caption["text"] and caption["status"] in ("complete", "truncated")
    assert caption["model"].startswith(MODEL) and 0 < caption["confidence"] <= 1
    (answer,) = ask(FileAsk(servers(server), pages, "ocr", "Is it blue?", {"type": "boolean"}), item)
    assert isinstance(json.loads(answer["text"]), bool)


def test_lines(server: Server) -> None:
    def line(**body: Any) -> Item:
        return Item("line", {"method": "POST", "url": "/v1/chat/completions", "body": body})

    good = line(model=f"{MODEL}:ocr", messages=[user(image_part(PAGES[0].image))])
    (result,) = ask(LineAsk(servers(server)), good)
    assert result["status_code"] == 200 and result["request_id"]
    assert result["body"]["usage"]["completion_tokens"] > 3
    with pytest.raises(ItemError) as refused:
        ask(LineAsk(servers(server)), line(model="gpt-4o", messages=[user("hello")]))
    assert refused.value.status == 404
    assert refused.value.as_json()["body"]["error"]["param"] == "model"
