"""What the launcher decides before vLLM starts."""

import json
from argparse import Namespace
from typing import Any

import pytest
from phi_vision import plugin_names
from phi_vision.cli import serve
from phi_vision.config import ServeConfig
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning.checkpoint import Checkpoint, find_checkpoint
from phi_vision.planning.hardware import Device, find_device, installed_engine
from phi_vision.spec import PHI_3_5_VISION

CPU = Device("cpu", "x86_64", 24 << 30)
A10 = Device("cuda", "NVIDIA A10", 22 << 30, (8, 6))
T4 = Device("cuda", "Tesla T4", 15 << 30, (7, 5))
REAL = Checkpoint("microsoft/Phi-3.5-vision-instruct", "phi-3.5-vision")


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[len(arguments) - 1 - arguments[::-1].index(flag) + 1]


def test_arguments_say_what_the_model_needs() -> None:
    arguments = serve.vllm_arguments(ServeConfig(num_crops=8, crops="adaptive"), A10, REAL)
    assert "--disable-sliding-window" in arguments and "--interleave-mm-strings" in arguments
    assert int(arguments[arguments.index("--renderer-num-workers") + 1]) > 1
    assert "--trust-remote-code" not in arguments
    assert value_of(arguments, "--attention-backend") == "FLASH_ATTN"
    policy = json.loads(value_of(arguments, "--mm-processor-kwargs"))
    assert policy == {"single": 8, "multi": 4, "adaptive": True}


def test_a_flag_of_vllm_given_by_the_user_stands_last() -> None:
    config = ServeConfig(vllm_args=("--attention-backend", "FLASHINFER", "--max-num-seqs", "3"))
    arguments = serve.vllm_arguments(config, A10, REAL)
    assert value_of(arguments, "--attention-backend") == "FLASHINFER"
    assert "FLASHINFER" in serve.summary(config, A10, REAL)


@pytest.mark.parametrize(("device", "backend"), [(A10, "FLASH_ATTN"), (T4, "TRITON_ATTN"), (CPU, "CPU_ATTN")])
def test_the_summary_names_what_runs(device: Device, backend: str) -> None:
    summary = serve.summary(ServeConfig(), device, REAL)
    for word in (device.name, backend, "131072", "16 for one picture", "phi-3.5-vision:ocr"):
        assert word in summary


@pytest.mark.parametrize(
    ("rope", "max_model_len", "says", "per_request"),
    [
        ("per-request", 131072, "per request: short factors up to 4096 tokens", True),
        ("per-request", 4096, "short factors for every request", False),
        ("long", 131072, "long factors for every request", False),
        ("short", 4096, "short factors for every request", False),
    ],
)
def test_the_rope_mode_is_named_and_handed_on(
    rope: str, max_model_len: int, says: str, per_request: bool
) -> None:
    config = ServeConfig(rope=rope, max_model_len=max_model_len)
    assert says in serve.summary(config, A10, REAL)
    args = parsed()
    serve.join_settings(args, config)
    assert args.hf_overrides == {"longrope_per_request": per_request}
    assert args.scheduler_cls == ("phi_vision.model.rope_scheduler.scheduler" if per_request else None)


def parsed(**given: Any) -> Namespace:
    """vLLM's arguments where ours join them, with what the user gave."""
    silent = {"hf_overrides": {}, "override_generation_config": {}}
    silent |= dict.fromkeys(("scheduler_cls", "kv_transfer_config", "kv_offloading_size"))
    return Namespace(**silent | given)


def test_what_settings_decide_joins_what_the_user_gave() -> None:
    args = parsed(hf_overrides={"initializer_range": 0.1}, override_generation_config={"top_p": 0.5})
    serve.join_settings(args, ServeConfig())
    assert args.hf_overrides == {"initializer_range": 0.1, "longrope_per_request": True}
    assert args.override_generation_config == {"top_p": 0.5, "temperature": 0.0}
    args = parsed(override_generation_config={"temperature": 0.7})
    serve.join_settings(args, ServeConfig())
    assert args.override_generation_config == {"temperature": 0.7}


@pytest.mark.parametrize(
    "given", [{"scheduler_cls": "x.Y"}, {"kv_transfer_config": {}}, {"kv_offloading_size": 4.0}], ids=str
)
def test_what_would_undo_the_modes_needs_one_for_all(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="add --rope long"):
        serve.join_settings(parsed(**given), ServeConfig())
    serve.join_settings(args := parsed(**given), ServeConfig(rope="long"))
    assert vars(args).items() >= given.items()


def test_our_plugins_are_added_to_the_users_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    names = serve.environment(CPU)["VLLM_PLUGINS"].split(",")
    assert names == ["theirs", plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN]


def test_other_installed_plugins_stay_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    names = serve.environment(CPU)["VLLM_PLUGINS"].split(",")
    assert {plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN} <= set(names) and len(names) > 2


def test_what_the_user_set_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert "VLLM_CPU_KVCACHE_SPACE" not in serve.environment(CPU)


def test_a_cpu_gives_all_of_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_CPU_NUM_OF_RESERVED_CPU"
    monkeypatch.delenv(name, raising=False)
    assert serve.environment(CPU)[name] == "0"
    monkeypatch.setenv(name, "1")
    assert name not in serve.environment(CPU)


@pytest.mark.parametrize("missing", ["phi_vision_tasks", "phi_vision_model"])
def test_without_a_plugin_it_refuses_to_start(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.plugins
    from vllm import ModelRegistry

    kept = [n for n in (plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN) if n != missing]
    monkeypatch.setenv("VLLM_PLUGINS", ",".join(kept))
    monkeypatch.setattr(vllm.plugins, "plugins_loaded", False)
    monkeypatch.setattr(ModelRegistry, "models", dict(ModelRegistry.models))
    ModelRegistry.models.pop("Phi3VForCausalLM", None)
    with pytest.raises(PhiVisionError, match="plugin did not load"):
        serve._check_plugins()


def test_without_weights_and_hub_the_demo_is_loud(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("empty")))
    found = find_checkpoint("auto", None)
    assert found.name == PHI_3_5_VISION.demo_name and found.aliases == ("phi-3.5-vision",)
    assert found.banner and "DEMO MODEL" in found.banner and "hub" in found.banner
    assert found.banner in serve.summary(ServeConfig(), CPU, found)
    assert all(len(line) == len(found.banner.splitlines()[0]) for line in found.banner.splitlines())


def test_a_chosen_name_replaces_ours_and_its_tasks() -> None:
    names = serve.served_names(find_checkpoint("demo", "eyes"))
    assert names == ["eyes", "eyes:caption", "eyes:ocr", "eyes:vqa"]


def test_a_device_that_is_not_here_names_the_remedy() -> None:
    other = "cuda" if installed_engine() == "cpu" else "cpu"
    with pytest.raises(UsageError, match=f"make install ACCEL={other}"):
        find_device(other)
