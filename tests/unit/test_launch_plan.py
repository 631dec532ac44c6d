"""What a start decides: vLLM's command line, its environment, and the table that says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phi_vision import plugin_names
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.installation import Installation, find_installation
from phi_vision.planning.launch_plan import LaunchPlan, engine_flags, served_names
from phi_vision.planning.profiles import PROFILES

from tests.support.launch import A10, A100_80, CPU, H100, PUBLISHED, T4, candidates, launch, row_of, value_of


def parsed(argv: Sequence[str]) -> Any:
    """As vLLM's own parser takes it."""
    from phi_vision.serving.vllm_compat.flag_parser import vllm_parser

    return vllm_parser().parse_args(list(argv))


def test_the_command_line_says_what_the_model_needs() -> None:
    argv = launch(A10, num_crops=8, crops="adaptive", port=8123).argv
    assert argv[0] == PUBLISHED.path
    assert {"--disable-sliding-window", "--interleave-mm-strings"} <= set(argv)
    assert "--trust-remote-code" not in argv
    assert int(value_of(argv, "--renderer-num-workers")) > 1
    assert value_of(argv, "--port") == "8123"
    policy = json.loads(value_of(argv, "--mm-processor-kwargs"))
    assert policy == {"single": 8, "multi": 4, "adaptive": True}


def test_vllm_is_told_what_was_planned() -> None:
    plan = launch(A10)
    assert plan.memory is not None
    told = {
        "--max-model-len": "131072",
        "--quantization": "fp8_per_block",
        "--quantization-config": '{"ignore": ["re:.*vision_embed_tokens.*"]}',
        "--kv-cache-dtype": "int4_per_token_head",
        "--attention-backend": "TRITON_ATTN",
        "--max-num-seqs": "256",
        "--max-num-batched-tokens": "2048",
        "--gpu-memory-utilization": "0.92",
    }
    assert {flag: value_of(plan.argv, flag) for flag in told} == told
    for word in ("fp8_per_block", "int4_per_token_head", "0.800", "--profile"):
        assert word in row_of(plan, "memory")


def test_the_context_that_was_planned_decides_about_the_rest() -> None:
    """Here the profile sets it, to the short window, in which all requests are in one mode."""
    plan = launch(A10, profile="faithful")
    assert value_of(plan.argv, "--max-model-len") == "4096" and "4096" in row_of(plan, "context")
    assert "--scheduler-cls" not in plan.argv and "short factors" in row_of(plan, "rope mode")


def test_a_flag_that_the_user_gave_stands_once() -> None:
    """Twice, vLLM would warn of it; the last would win, and nobody sees which that is."""
    flags = ("--attention-backend", "FLASHINFER", "--max_num_seqs=3", "-q", "mxfp4", "--no-enforce-eager")
    plan = launch(A10, *flags, max_model_len=4096)
    assert plan.argv[-6:] == (
        *("--attention-backend", "FLASHINFER", "--max-num-seqs=3", "-q", "mxfp4"),
        "--no-enforce-eager",
    )
    assert not {"--max-num-seqs", "--quantization"} & set(plan.argv)
    assert plan.argv.count("--attention-backend") == 1 and "FLASHINFER" in row_of(plan, "attention")
    args = parsed(plan.argv)
    assert (args.attention_backend, args.max_num_seqs, args.quantization) == ("FLASHINFER", 3, "mxfp4")


@pytest.mark.parametrize(
    ("device", "backend"), [(A100_80, "FLASH_ATTN"), (T4, "TRITON_ATTN"), (CPU, "CPU_ATTN")]
)
def test_the_summary_names_what_runs(device: Device, backend: str) -> None:
    plan = launch(device, max_model_len=4096, port=0)
    assert device.name in row_of(plan, "device") and backend in row_of(plan, "attention")
    assert "4096" in row_of(plan, "context") and "16 for one picture" in row_of(plan, "crops")
    assert "phi-3.5-vision:ocr" in row_of(plan, "served as") and "open to all" in row_of(plan, "access")
    assert "a free port" in row_of(plan, "listening")
    assert "with a key" in row_of(launch(A10, keyed=True), "access")


def test_a_processor_that_is_slow_in_bfloat16_is_given_float32() -> None:
    slow, demo = replace(CPU, has_avx512=False, has_fast_bfloat16=False), find_checkpoint("demo", None)
    usual = launch(CPU, checkpoint=demo)
    wide = launch(slow, checkpoint=demo)
    theirs = launch(slow, "--dtype", "bfloat16", checkpoint=demo)
    assert "--dtype" not in usual.argv and "many times slower in bfloat16" in row_of(wide, "dtype")
    assert value_of(wide.argv, "--dtype") == "float32" and value_of(theirs.argv, "--dtype") == "bfloat16"
    assert wide.memory and usual.memory and theirs.memory
    assert wide.memory.plan.kv_bytes_per_token == 2 * usual.memory.plan.kv_bytes_per_token
    assert theirs.memory.plan.kv_bytes_per_token == usual.memory.plan.kv_bytes_per_token


def test_memory_that_others_hold_is_told_to_vllm() -> None:
    plan = launch(replace(A10, free_bytes=12 * GIB), max_model_len=4096)
    assert "22.1 GiB, 12.0 free" in row_of(plan, "device")
    assert 0.49 < float(value_of(plan.argv, "--gpu-memory-utilization")) < 0.5


@pytest.mark.parametrize(
    ("gpu", "flags", "backend"),
    [
        ("a10", (), "FLASH_ATTN"),
        ("a10", ("--dtype", "float32"), "TRITON_ATTN"),
        ("t4", ("--dtype", "float16"), "TRITON_ATTN"),
        ("l4", ("--kv-cache-dtype", "fp8"), "TRITON_ATTN"),
        ("a10", ("--kv-cache-dtype", "int8_per_token_head"), "TRITON_ATTN"),
    ],
)
def test_the_attention_kernels_can_read_what_they_get(gpu: str, flags: tuple[str, ...], backend: str) -> None:
    """FlashAttention has no float32 and, but for Hopper's, no quantized cache; vLLM refuses it there."""
    plan = launch(named_gpu(gpu), *flags, max_model_len=2048)
    assert value_of(plan.argv, "--attention-backend") == backend
    assert backend in row_of(plan, "attention")


def test_several_gpus_are_not_planned_and_it_says_so() -> None:
    plan = launch(A10, "--tensor_parallel_size", "2")
    assert plan.memory is None and "one GPU" in row_of(plan, "memory")
    assert launch(A10, "-tp", "2").memory is None and launch(A10, "-tp", "1").memory is not None
    with pytest.raises(UsageError, match="--profile long needs a memory plan"):
        launch(A10, "-pp=2", profile="long")


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
    plan = launch(A10, rope=rope, max_model_len=max_model_len)
    assert says in row_of(plan, "rope mode")
    args = parsed(plan.argv)
    assert args.hf_overrides == {"longrope_per_request": per_request}
    assert args.scheduler_cls == ("phi_vision.model.rope_scheduler.scheduler" if per_request else None)


def test_objects_of_the_user_join_ours() -> None:
    given = ("--hf-overrides", '{"initializer_range": 0.1}', '--override-generation-config={"top_p": 0.5}')
    args = parsed(launch(A10, *given).argv)
    assert args.hf_overrides == {"initializer_range": 0.1, "longrope_per_request": True}
    assert args.override_generation_config == {"top_p": 0.5, "temperature": 0.0}
    alone: tuple[tuple[str, ...], ...] = (
        ("--override-generation-config", '{"temperature": 0.7}'),
        ("--override_generation_config.temperature=0.7",),
    )
    for flags in alone:
        assert parsed(launch(A10, *flags).argv).override_generation_config == {"temperature": 0.7}


@pytest.mark.parametrize("flag", ["--scheduler-cls", "--kv-transfer-config.kv_role", "--kv_offloading_size"])
def test_what_would_undo_the_modes_needs_one_for_all(flag: str) -> None:
    with pytest.raises(UsageError, match="add --rope long"):
        launch(A10, flag, "4")
    assert launch(A10, flag, "4", rope="long").argv[-1] == "4"


def plugins(**more: Any) -> list[str]:
    return launch(CPU, max_model_len=4096, **more).env["VLLM_PLUGINS"].split(",")


def test_our_plugins_join_the_users_list_or_all_that_are_installed() -> None:
    ours = [plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN]
    there = Installation(plugins=("another", *ours))
    assert plugins(installation=there) == ["another", *ours]
    assert plugins(installation=there, environ={"VLLM_PLUGINS": "theirs"}) == ["theirs", *ours]
    assert plugins(installation=there, environ={"VLLM_PLUGINS": ""}) == ours
    assert plugin_names.GENERAL_PLUGIN in find_installation().plugins


def test_the_environment_of_the_user_stays() -> None:
    name = "VLLM_CPU_NUM_OF_RESERVED_CPU"
    ours = launch(CPU, max_model_len=4096)
    assert ours.env[name] == "0" and ours.env["VLLM_CPU_KVCACHE_SPACE"] == "7"
    theirs = launch(CPU, max_model_len=4096, environ={name: "1", "VLLM_CPU_KVCACHE_SPACE": "5"})
    assert name not in theirs.env and theirs.env["VLLM_CPU_KVCACHE_SPACE"] == "5"
    assert name not in launch(A10).env


def test_threads_on_few_cores_spin_for_a_short_time() -> None:
    name = "GOMP_SPINCOUNT"
    assert launch(CPU, max_model_len=4096, cores=2).env[name] == "10000"
    for env in (
        launch(CPU, max_model_len=4096, cores=16).env,
        launch(CPU, max_model_len=4096, cores=2, environ={name: "0"}).env,
        launch(CPU, max_model_len=4096, cores=2, environ={"OMP_WAIT_POLICY": "ACTIVE"}).env,
        launch(A10, cores=2).env,
    ):
        assert name not in env


def test_nothing_is_compiled_in_eager_mode() -> None:
    def plan(device: Device, *flags: str, **environ: str) -> LaunchPlan:
        return launch(device, *flags, max_model_len=4096, environ=environ)

    name = "TORCHDYNAMO_DISABLE"
    assert "--enforce-eager" in plan(CPU).argv and plan(CPU).env[name] == "1"
    compiled = plan(CPU, "--no-enforce-eager")
    assert "--enforce-eager" not in compiled.argv
    for each in (compiled, plan(A10), plan(CPU, **{name: "0"})):
        assert name not in each.env


def test_without_a_toolkit_vllm_samples_itself_and_the_summary_says_so() -> None:
    name = "VLLM_USE_FLASHINFER_SAMPLER"
    without = Installation(flashinfer_can_sample=False)
    plan = launch(A10, installation=without)
    assert plan.env[name] == "0"
    for word in ("vLLM's own", "nvcc", "flashinfer-jit-cache"):
        assert word in row_of(plan, "sampler")
    chosen = launch(A10, installation=without, environ={name: "1"})
    assert name not in chosen.env and "sampler" not in chosen.summary
    assert "vLLM's own" in row_of(launch(A10, environ={name: "0"}), "sampler")
    with_one = launch(A10)
    assert name not in with_one.env and "sampler" not in with_one.summary


def test_the_demo_is_loud() -> None:
    demo = find_checkpoint("demo", None)
    assert demo.banner and "DEMO MODEL" in demo.banner
    assert demo.banner in launch(CPU, checkpoint=demo).summary


def test_a_chosen_name_replaces_ours_and_its_tasks() -> None:
    names = ["eyes", "eyes:caption", "eyes:ocr", "eyes:vqa"]
    demo = find_checkpoint("demo", "eyes")
    assert served_names(demo) == names
    assert parsed(launch(CPU, checkpoint=demo).argv).served_model_name == names


@pytest.mark.parametrize("profile", list(PROFILES))
def test_vllm_understands_the_flags_of_each_precision(profile: str) -> None:
    from vllm.config.quantization import resolve_quantization_config
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend

    config = ServeConfig(profile=profile, max_model_len=4096)
    for candidate in candidates(H100, profile=profile, max_model_len=4096):
        flags = engine_flags(config, EngineFlags(), H100, candidate)
        args = parsed([PUBLISHED.path, *(word for flag in flags for word in flag)])
        assert args.max_model_len == 4096 and args.disable_sliding_window
        resolved = resolve_quantization_config(args.quantization, args.quantization_config)
        if candidate.precision.weights == "bf16":
            assert resolved is None
        else:
            assert resolved.linear is not None and resolved.ignore == ["re:.*vision_embed_tokens.*"]
        if args.attention_backend == "TRITON_ATTN":
            assert args.kv_cache_dtype in TritonAttentionBackend.supported_kv_cache_dtypes


def test_the_weights_of_a_repository_are_downloaded_first() -> None:
    plan = launch(A10, "--revision", "v2")
    assert (plan.hub_id, plan.revision) == (PUBLISHED.path, "v2")
    here = plan.with_weights(Path("/cache/snapshot"))
    assert here.argv == ("/cache/snapshot", *plan.argv[1:])
    assert launch(A10).revision is None
    assert launch(CPU, checkpoint=find_checkpoint("demo", None)).hub_id is None


@pytest.mark.parametrize("flag", ["--download-dir=/x", "--load-format=dummy", "--tokenizer-revision=v2"])
def test_vllm_downloads_where_the_user_says_how(flag: str) -> None:
    assert launch(A10, flag).hub_id is None


@pytest.mark.parametrize(
    ("flags", "is_plain"),
    [
        ((), True),
        (("--api-server-count", "2"), True),
        (("--uds", "/tmp/socket"), False),
        (("--ssl-certfile=a.pem", "--ssl-keyfile", "a.key"), False),
        (("--headless",), False),
    ],
)
def test_which_port_can_be_answered_before(flags: tuple[str, ...], is_plain: bool) -> None:
    assert launch(A10, *flags).is_plain_http is is_plain
