"""A picture's way to its canvas, and whose pictures are whose on the way through vLLM's renderer."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

import pytest
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.media.decode import PictureRefused
from phi_vision.media.fetch import FetchRefused
from phi_vision.model.canvas import Canvas, resize_and_pad
from phi_vision.model.crops import CropLimit, CropPolicy
from phi_vision.model.geometry import num_image_tokens
from phi_vision.serving.batch_places import is_batch_line
from phi_vision.serving.files import FileStore
from phi_vision.serving.media_files import FileBudget, FileBudgets, MediaFile
from phi_vision.serving.pictures import Picture, Pictures
from phi_vision.serving.vllm_compat import renderer as vllm_renderer
from pydantic import BaseModel

from tests.support.pictures import reference_picture

SIZE = (800, 600)


class Files:
    """Files by their URL."""

    async def read(self, url: str) -> bytes:
        if url == "gone":
            raise FetchRefused("the host answered 404", "answer")
        return url.encode()


class Pool:
    """Draws everything, and notes for whom."""

    def __init__(self) -> None:
        self.shares: list[object] = []
        self.limits: list[CropLimit] = []

    def share(self) -> object:
        return object()

    async def count_pages(self, data: bytes, share: object) -> int:
        return 1

    async def draw(self, data: bytes, limit: CropLimit, share: object) -> Canvas:
        self.shares.append(share)
        self.limits.append(limit)
        await asyncio.sleep(0)
        if data == b"bad":
            raise PictureRefused("it has no pixels")
        num_crops = limit.num_crops(*SIZE)
        pixels = resize_and_pad(reference_picture(*SIZE, seed=0), num_crops)
        return Canvas(pixels, *SIZE, num_crops, f"{data.decode()}-{num_crops}")


def service(pool: Pool, policy: CropPolicy | None = None) -> Pictures:
    sources: Any = Files()
    drawing: Any = pool
    return Pictures(sources, drawing, policy or CropPolicy(), FileStore(Limits(max_files_mb=0)))


def draw(pictures: Pictures, sent: Sequence[Any]) -> list[Canvas]:
    return asyncio.run(pictures.draw(sent, pictures.share()))


def test_the_number_of_pictures_decides() -> None:
    pool = Pool()
    draw(service(pool), [Picture("a")])
    draw(service(pool), [Picture("a"), Picture("b", detail="low"), Picture("c", detail="high")])
    assert [limit.most for limit in pool.limits] == [16, 4, 1, 16]


def test_what_the_client_sets_is_taken_as_it_is() -> None:
    pool = Pool()
    sent = [Picture("a", explicit_num_crops=9), Picture("b", detail="low", explicit_num_crops=9)]
    draw(service(pool, CropPolicy(adaptive=True)), sent)
    assert pool.limits == [CropLimit(9), CropLimit(9)]


def test_a_picture_says_what_it_costs_once_it_is_drawn() -> None:
    picture = Picture("a")
    (canvas,) = draw(service(Pool(), CropPolicy(adaptive=True)), [picture])
    assert picture.num_crops == canvas.num_crops == 4
    assert picture.num_image_tokens == num_image_tokens(*SIZE, 4)


def test_canvases_come_in_the_order_of_the_pictures() -> None:
    canvases = draw(service(Pool()), [Picture(name) for name in "abcd"])
    assert [canvas.key for canvas in canvases] == ["a-4", "b-4", "c-4", "d-4"]


@pytest.mark.parametrize(("url", "reason"), [("gone", "404"), ("bad", "no pixels")])
def test_the_first_bad_picture_is_named(url: str, reason: str) -> None:
    sent = [Picture("a", "first"), Picture(url, "second"), Picture(url, "third")]
    with pytest.raises(RequestError, match=f"the picture cannot be read: .*{reason}") as caught:
        draw(service(Pool()), sent)
    assert (caught.value.param, caught.value.status) == ("second", 400)


@pytest.mark.parametrize("sent", [None, {"url": "a"}, "a", b"bytes", reference_picture(4, 4, 0)])
def test_anything_else_in_the_place_of_a_picture_is_refused(sent: Any) -> None:
    with pytest.raises(RequestError, match="by its URL"):
        draw(service(Pool()), [Picture("a"), sent])


def test_the_url_of_a_picture_is_not_shown() -> None:
    assert "secret" not in repr(Picture("data:image/png;base64,secret"))


def test_too_many_bytes_at_once_are_overload() -> None:
    async def overload() -> None:
        budget = FileBudget(budget_bytes=10, timeout_s=0)
        file: MediaFile | None = MediaFile(bytes(11), budget)
        with pytest.raises(RequestError, match="try again later") as caught:
            await budget.wait_for_capacity()
        assert caught.value.status == 429 and file
        file = None  # no longer in memory, so no longer counted
        await budget.wait_for_capacity()

    asyncio.run(overload())


def test_a_file_waits_until_there_is_room() -> None:
    async def room() -> None:
        budget = FileBudget(budget_bytes=10, timeout_s=300)
        file: MediaFile | None = MediaFile(bytes(11), budget)
        waiting = asyncio.ensure_future(budget.wait_for_capacity())
        await asyncio.sleep(0)
        assert not waiting.done() and file
        file = None
        await waiting

    asyncio.run(room())


def test_files_of_batches_keep_no_client_waiting() -> None:
    budgets = FileBudgets()
    of_clients, line = budgets.current, contextvars.copy_context()
    line.run(is_batch_line.set, True)
    assert line.run(lambda: budgets.current) is not of_clients
    assert budgets.current is of_clients


class Renderer:
    """The two steps of vLLM's renderer that matter here."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def render_chat_async(
        self, conversations: list[list[Picture]], *, prompt_extras: dict[str, Any] | None = None
    ) -> None:
        prompts = [
            {"multi_modal_data": {"image": images}, **(prompt_extras or {})} for images in conversations
        ]
        await asyncio.gather(*(self.process_for_engine_async(prompt) for prompt in prompts))

    async def process_for_engine_async(self, prompt: dict[str, Any]) -> None:
        self.seen.append(prompt)


def installed(pool: Pool) -> Renderer:
    renderer = Renderer()
    vllm_renderer.install(renderer, service(pool))
    return renderer


def test_the_pictures_of_a_request_have_one_share() -> None:
    pool = Pool()
    renderer = installed(pool)

    async def two_requests() -> None:
        batches = [[[Picture("a"), Picture("b")], [Picture("c")]] for _ in range(2)]
        await asyncio.gather(*map(renderer.render_chat_async, batches))

    asyncio.run(two_requests())
    assert len(pool.shares) == 6 and len(set(pool.shares)) == 2
    crops = [[canvas.num_crops for canvas in prompt["multi_modal_data"]["image"]] for prompt in renderer.seen]
    assert sorted(crops) == [[4, 4], [4, 4], [16], [16]]


def test_what_vllm_puts_beside_the_pictures_stays() -> None:
    renderer = installed(Pool())
    asyncio.run(renderer.render_chat_async([[Picture("a")]], prompt_extras={"cache_salt": "s"}))
    (prompt,) = renderer.seen
    assert set(prompt) == {"multi_modal_data", "cache_salt"} and prompt["cache_salt"] == "s"


def test_a_prompt_without_pictures_passes() -> None:
    renderer = installed(Pool())
    asyncio.run(renderer.process_for_engine_async({"prompt_token_ids": [1]}))
    assert renderer.seen == [{"prompt_token_ids": [1]}]


def test_a_request_with_pictures_can_be_logged_as_json() -> None:
    """vLLM does so with `--enable-log-requests`."""

    class Request(BaseModel):
        messages: Any

    picture = Picture("data:secret", "input", file=MediaFile(b"secret", FileBudget()))
    written = Request(messages=[{"image_pil": picture}]).model_dump_json()
    assert "Picture(param='input'" in written and "secret" not in written
