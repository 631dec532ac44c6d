"""The second engine's settings are used; `tests/support/other_settings` has them."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.engine_plan import GIB, assert_agrees, plan_of
from tests.support.other_settings import KEY, KEY_IN_FILE, KV_DTYPE
from tests.support.pictures import image_part, reference_picture, user
from tests.support.serving import Server

pytestmark = pytest.mark.slow


def headers_of(server: Server, *sizes: tuple[int, int], model: str = "eyes") -> Mapping[str, str]:
    parts = [image_part(reference_picture(*size, seed=1)) for size in sizes]
    raw = server.client(KEY).chat.completions.with_raw_response.create(
        model=model, messages=[user(*parts, "Describe.")], max_tokens=2
    )
    return raw.headers


def test_remote_code_is_never_run(other: Server, trap: Path) -> None:
    assert headers_of(other, (400, 300))["x-phi-vision-num-crops"]
    assert not (trap / "WAS_RUN").exists()


def test_crops_settings_are_used(other: Server) -> None:
    assert headers_of(other, (1008, 1008))["x-phi-vision-num-crops"] == "9"
    assert headers_of(other, (1008, 1008), (1008, 400))["x-phi-vision-num-crops"] == "1,2"


def test_adaptive_spares_thumbnails(other: Server) -> None:
    headers = headers_of(other, (336, 336))
    assert headers["x-phi-vision-num-crops"] == "1"
    assert headers["x-phi-vision-image-tokens"] == "313"


def test_names_follow(other: Server) -> None:
    listed = {model.id for model in other.client(KEY).models.list()}
    assert listed == {"eyes", "eyes:caption", "eyes:ocr", "eyes:vqa"}
    assert headers_of(other, (336, 336), model="eyes:caption")["x-phi-vision-task"] == "caption"


def test_the_key_is_asked_for(other: Server) -> None:
    for key in (KEY, KEY_IN_FILE):
        assert other.client(key).models.list().data
    with pytest.raises(openai.AuthenticationError):
        other.client("wrong").models.list()
    with pytest.raises(openai.AuthenticationError):
        other.client("wrong").chat.completions.create(model="eyes", messages=[user("hello")])


def test_there_is_no_page(other: Server) -> None:
    for path in ("/", "/page/app.js"):
        assert httpx.get(other.url + path).status_code == 404


def test_flags_of_vllm_pass_through(other: Server) -> None:
    ask = other.client(KEY).chat.completions.create
    assert ask(model="eyes", messages=[user("hi")], max_tokens=1, logprobs=True, top_logprobs=3)
    with pytest.raises(openai.BadRequestError):
        ask(model="eyes", messages=[user("hi")], max_tokens=1, logprobs=True, top_logprobs=4)


def test_the_plan_of_a_cache_of_a_given_size_for_the_whole_context(other: Server) -> None:
    assert plan_of(other, KEY)["plan"]["max_model_len"] == 131072
    assert_agrees(other, KEY, kv_dtype=KV_DTYPE, kv_bytes=2 * GIB)
