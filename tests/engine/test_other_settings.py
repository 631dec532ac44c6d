"""A second server: a published-looking checkpoint with remote code, other crops, a key, a name, fp8 KV."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import openai
import pytest
from phi_vision.planning.checkpoint import DEMO_FOLDER

from tests.support.engine_plan import GIB, assert_agrees, plan_of
from tests.support.pictures import image_part, reference_picture, user
from tests.support.serving import Server, running_server

pytestmark = pytest.mark.slow

KEY = "a-secret-key"


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint with the published one's `auto_map`, to code that tells when it is run."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "trap.py").write_text(
        f"open({str(folder / 'WAS_RUN')!r}, 'w'); raise SystemExit('remote code ran')"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"auto_map": {"AutoProcessor": "trap.P", "AutoImageProcessor": "trap.I"}, "num_crops": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["trap.T", "trap.T"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def other(trap: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log_path = tmp_path_factory.mktemp("other") / "log.txt"
    flags = ["--model", str(trap), "--served-model-name", "eyes", "--api-key", KEY, "--crops", "adaptive"]
    flags += ["--num-crops", "9", "--num-crops-multi", "2", "--max-logprobs", "3"]
    flags += ["--kv-cache-dtype", "fp8_e4m3"]
    with running_server(log_path, *flags, env={"VLLM_CPU_KVCACHE_SPACE": "2"}) as running:
        yield running


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
    with pytest.raises(openai.AuthenticationError):
        other.client("wrong").models.list()
    with pytest.raises(openai.AuthenticationError):
        other.client("wrong").chat.completions.create(model="eyes", messages=[user("hello")])


def test_flags_of_vllm_pass_through(other: Server) -> None:
    ask = other.client(KEY).chat.completions.create
    assert ask(model="eyes", messages=[user("hi")], max_tokens=1, logprobs=True, top_logprobs=3)
    with pytest.raises(openai.BadRequestError):
        ask(model="eyes", messages=[user("hi")], max_tokens=1, logprobs=True, top_logprobs=4)


def test_the_plan_of_an_fp8_cache_of_a_given_size_for_the_whole_context(other: Server) -> None:
    assert plan_of(other, KEY)["plan"]["max_model_len"] == 131072
    assert_agrees(other, KEY, kv_dtype="fp8_e4m3", kv_bytes=2 * GIB)
