"""What is chosen on which device, what vLLM is told of it, and the errors when nothing fits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from phi_vision import plugin_names
from phi_vision.cli import serve
from phi_vision.config import PROFILE_NAMES, ServeConfig
from phi_vision.errors import UsageError
from phi_vision.model.dimensions import read_config_json
from phi_vision.planning import hardware, planner
from phi_vision.planning.checkpoint import Checkpoint
from phi_vision.planning.hardware import GIB, Device, named_gpu
from phi_vision.planning.planner import Option
from phi_vision.planning.profiles import PROFILES, Setting, candidates
from phi_vision.spec import PHI_3_5_VISION

MODEL = PHI_3_5_VISION.dimensions
CPU_24GB = Device("cpu", "x86_64", round(23.5 * GIB), free_bytes=round(22 * GIB))
REAL = Checkpoint(PHI_3_5_VISION.hub_id, "phi-3.5-vision")


@pytest.fixture(autouse=True)
def no_space_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


def chosen(device: Device, **settings: object) -> Option:
    config = ServeConfig(**settings)  # type: ignore[arg-type]
    return planner.choose(planner.options(config, device, MODEL), device)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("gpu", "profile", "setting"),
    [
        ("a10", "long", Setting("fp8_per_block", "int4_per_token_head")),
        ("l4", "long", Setting("fp8_per_block", "int4_per_token_head")),
        ("4090", "long", Setting("fp8_per_block", "int4_per_token_head")),
        ("a100-40", "balanced", Setting("bf16", "int8_per_token_head")),
        ("a100-80", "balanced", Setting("bf16", "bf16")),
        ("h100", "balanced", Setting("bf16", "bf16")),
    ],
)
def test_the_default_keeps_the_promised_context(gpu: str, profile: str, setting: Setting) -> None:
    option = chosen(named_gpu(gpu))
    assert (option.profile, option.setting) == (profile, setting)
    assert option.plan.longest_context == option.plan.max_model_len == 131072


@pytest.mark.parametrize(
    ("context", "profile", "setting"),
    [
        (4096, "faithful", Setting("bf16", "bf16")),
        (4097, "balanced", Setting("bf16", "bf16")),
        (35000, "balanced", Setting("fp8_per_block", "bf16")),
        (50000, "balanced", Setting("bf16", "int8_per_token_head")),
        (70000, "balanced", Setting("fp8_per_block", "int8_per_token_head")),
        (100000, "long", Setting("bf16", "int4_per_token_head")),
    ],
)
def test_less_context_buys_accuracy_on_an_a10(context: int, profile: str, setting: Setting) -> None:
    option = chosen(named_gpu("a10"), max_model_len=context)
    assert (option.profile, option.setting) == (profile, setting)


def test_each_profile_can_be_asked_for() -> None:
    a10 = named_gpu("a10")
    assert chosen(a10, profile="faithful").plan.max_model_len == 4096
    assert chosen(a10, profile="long", max_model_len=8192).setting.kv_dtype == "int4_per_token_head"
    with pytest.raises(UsageError, match=r"131,072 tokens does not fit .* --max-model-len 74928 fits"):
        chosen(a10, profile="balanced")
    with pytest.raises(UsageError, match="--profile faithful allows 4096 at most"):
        chosen(a10, profile="faithful", max_model_len=8192)


def test_what_the_refusal_offers_does_fit() -> None:
    t4 = named_gpu("t4")
    with pytest.raises(UsageError) as refused:
        chosen(t4)
    first, header, *rows = str(refused.value).splitlines()
    offered = int(first.split("--max-model-len ")[1].split()[0])
    assert chosen(t4, max_model_len=offered).plan.longest_context == offered
    with pytest.raises(UsageError):
        chosen(t4, max_model_len=offered + 16)
    assert header.split() == ["profile", "weights", "KV", "cache", "longest", "context"]
    assert len(rows) == 7 and any("fp8_per_block" in row and f"{offered:,}" in row for row in rows)


def test_a_gpu_too_small_for_the_weights_says_so() -> None:
    with pytest.raises(UsageError, match="a device with more memory"):
        chosen(Device("cuda", "tiny", 3 * GIB, (8, 6)))


def test_four_bit_weights_need_bfloat16() -> None:
    """Below 8.0 vLLM serves in float16, for which its kernel of mxfp4 does not exist."""
    assert not any(s.weights == "mxfp4" for _, s in candidates("auto", named_gpu("t4")))
    assert any(s.weights == "mxfp4" for _, s in candidates("auto", named_gpu("a100-40")))
    with pytest.raises(UsageError, match="runs on NVIDIA Tesla T4"):
        chosen(named_gpu("t4"), vllm_args=("--quantization", "mxfp4"))


def test_memory_that_others_hold_is_not_planned_with() -> None:
    a10 = named_gpu("a10")
    shared = replace(a10, free_bytes=12 * GIB)
    plan = chosen(shared, max_model_len=4096).plan
    assert plan.budget_bytes == 11 * GIB  # less what the process takes outside vLLM's share
    arguments = planner.engine_arguments(chosen(shared, max_model_len=4096), ServeConfig(), shared)
    share = float(arguments[arguments.index("--gpu-memory-utilization") + 1])
    assert 0.99 * plan.budget_bytes < share * a10.memory_bytes <= plan.budget_bytes
    with pytest.raises(
        UsageError, match=r"11\.0 of 22\.1 GiB to use\); .* or end the programs that hold 10\.1 GiB"
    ):
        chosen(shared)
    assert "22.1 GiB, 12.0 free" in serve.summary(ServeConfig(), shared, REAL)
    little = replace(a10, free_bytes=a10.memory_bytes - GIB // 2)  # a desktop
    assert chosen(little).plan == chosen(a10).plan
    assert "0.92" in planner.engine_arguments(chosen(little), ServeConfig(), little)


@pytest.mark.parametrize(
    ("gpu", "flags", "backend"),
    [
        ("a10", (), "FLASH_ATTN"),
        ("a10", ("--dtype", "float32"), "TRITON_ATTN"),
        ("t4", ("--dtype", "float32"), "TRITON_ATTN"),
        ("l4", ("--kv-cache-dtype", "fp8"), "TRITON_ATTN"),
        ("a10", ("--kv-cache-dtype", "int8_per_token_head"), "TRITON_ATTN"),
    ],
)
def test_the_attention_kernels_can_read_what_they_get(gpu: str, flags: tuple[str, ...], backend: str) -> None:
    """FlashAttention has no float32 and, but for Hopper's, no quantized cache; vLLM refuses it there."""
    device, config = named_gpu(gpu), ServeConfig(max_model_len=2048, vllm_args=flags)
    option = planner.choose(planner.options(config, device, MODEL), device)
    assert ("--attention-backend", backend) in pairwise(planner.engine_arguments(option, config, device))
    summary = serve.summary(config, device, REAL, option).splitlines()
    (line,) = [x for x in summary if x.split()[0] == "attention"]
    assert backend in line


def test_old_gpus_get_no_quantization() -> None:
    found = planner.options(ServeConfig(), Device("cuda", "V100", 32 * GIB, (7, 0)), MODEL)
    assert {option.setting for option in found} == {Setting("bf16", "bf16")}


def test_a_cpu_leaves_memory_to_others() -> None:
    option = chosen(CPU_24GB, max_model_len=4096)
    assert option.plan.kv_available_bytes == 7 * GIB  # four full requests of 1.5 GiB, in whole GiB
    most = chosen(CPU_24GB, max_model_len=16384).plan
    used = sum((most.text_weights_bytes, most.vision_weights_bytes, most.activations_bytes))
    assert used + most.runtime_bytes + most.kv_available_bytes <= 22 * GIB * 0.99
    assert "--mm-processor-cache-gb" in planner.engine_arguments(option, ServeConfig(), CPU_24GB)
    more = chosen(CPU_24GB, max_model_len=4096, vllm_args=("--mm-processor-cache-gb", "3"))
    assert more.plan.runtime_bytes - option.plan.runtime_bytes == 2 * GIB
    busy = replace(CPU_24GB, free_bytes=14 * GIB)
    assert chosen(busy, max_model_len=4096).plan.kv_available_bytes == 2 * GIB
    with pytest.raises(UsageError, match="does not fit"):
        chosen(replace(CPU_24GB, free_bytes=11 * GIB), max_model_len=4096)


def test_the_demo_serves_the_whole_context_on_a_small_cpu() -> None:
    from phi_vision.planning.checkpoint import DEMO_FOLDER

    small = Device("cpu", "x86_64", 8 * GIB, free_bytes=6 * GIB)
    model = read_config_json(DEMO_FOLDER)
    option = planner.choose(planner.options(ServeConfig(), small, model), small)
    assert option.plan.max_model_len == 131072
    assert planner.engine_environment(option, small) == {"VLLM_CPU_KVCACHE_SPACE": "2"}


def test_the_cache_size_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")
    option = chosen(CPU_24GB, max_model_len=4096)
    assert planner.engine_environment(option, CPU_24GB) == {"VLLM_CPU_KVCACHE_SPACE": "5"}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "500")
    with pytest.raises(UsageError, match=r"VLLM_CPU_KVCACHE_SPACE is 500 GiB, but only .* are free"):
        chosen(CPU_24GB, max_model_len=4096)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "lots")
    with pytest.raises(UsageError, match="whole GiB, not 'lots'"):
        chosen(CPU_24GB, max_model_len=4096)
    with pytest.raises(UsageError, match="set VLLM_CPU_KVCACHE_SPACE"):
        chosen(CPU_24GB, vllm_args=("--kv-cache-memory-bytes", "1"))


def test_flags_for_vllm_restrict_the_choice() -> None:
    h100 = named_gpu("h100")
    assert chosen(h100, vllm_args=("--kv-cache-dtype", "fp8")).setting == Setting("bf16", "fp8_e4m3")
    assert chosen(h100, vllm_args=("--quantization=mxfp4",)).setting.weights == "mxfp4"
    limits = ("--max-num-seqs", "4", "--max-num-batched-tokens", "4096")
    plan = chosen(h100, vllm_args=limits).plan
    assert (plan.max_num_seqs, plan.max_num_batched_tokens, plan.pictures_at_once) == (4, 4096, 4)
    assert (
        chosen(h100, vllm_args=("--kv-cache-memory-bytes", str(50 * GIB))).plan.kv_available_bytes == 50 * GIB
    )
    with pytest.raises(UsageError, match="runs on NVIDIA A10"):
        chosen(named_gpu("a10"), vllm_args=("--kv-cache-dtype", "fp8"))  # refused below 8.9
    wide, plain = chosen(h100, vllm_args=("--dtype", "float32"), max_model_len=4096).plan, chosen(h100).plan
    assert wide.kv_bytes_per_token == 2 * plain.kv_bytes_per_token
    assert wide.text_weights_bytes == 2 * plain.text_weights_bytes
    assert wide.vision_weights_bytes == 2 * plain.vision_weights_bytes
    for flag in ("--kv-cache-dtype", "--quantization", "--max-num-seqs"):
        with pytest.raises(UsageError, match=flag):
            chosen(h100, vllm_args=(flag, "nonsense"))


def test_several_gpus_are_not_planned_and_it_says_so() -> None:
    config = ServeConfig(vllm_args=("--tensor-parallel-size", "2"))
    a10 = named_gpu("a10")
    assert serve.plan(config, a10, REAL) is None
    assert "one GPU" in serve.summary(config, a10, REAL)
    assert serve.plan(ServeConfig(vllm_args=("-tp", "1")), a10, REAL) is not None
    with pytest.raises(UsageError, match="--profile long needs a memory plan"):
        serve.plan(replace(config, profile="long"), a10, REAL)


def test_vllm_is_told_what_was_planned() -> None:
    a10 = named_gpu("a10")
    option = chosen(a10)
    arguments = serve.vllm_arguments(ServeConfig(), a10, REAL, option)
    pairs = list(pairwise(arguments))
    assert ("--quantization", "fp8_per_block") in pairs
    assert ("--quantization-config", '{"ignore": ["re:.*vision_embed_tokens.*"]}') in pairs
    assert ("--kv-cache-dtype", "int4_per_token_head") in pairs
    assert ("--attention-backend", "TRITON_ATTN") in pairs
    assert ("--max-num-seqs", "256") in pairs and ("--max-num-batched-tokens", "2048") in pairs
    assert "--disable-sliding-window" in arguments
    environment = serve.environment(a10, option)
    assert json.loads(environment[plugin_names.PLAN_VARIABLE]) == json.loads(json.dumps(option.to_json()))
    line = next(x for x in serve.summary(ServeConfig(), a10, REAL, option).splitlines() if "memory" in x)
    for word in ("fp8_per_block", "int4_per_token_head", "0.800", "README.md", "--profile"):
        assert word in line


def test_the_limits_are_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    for name in hardware.GPU_NAMES:
        gpu = named_gpu(name)
        memory, title = gpu.memory_bytes, gpu.name
        monkeypatch.setattr(type(current_platform), "get_device_total_memory", lambda *_, m=memory: m)
        monkeypatch.setattr(type(current_platform), "get_device_name", lambda *_, t=title: t)
        tokens, seqs = (table[UsageContext.OPENAI_API_SERVER] for table in EngineArgs.get_batch_defaults(1))
        ours = planner.engine_limits(ServeConfig(), gpu, 131072)
        assert (ours.max_num_batched_tokens, ours.max_num_seqs) == (tokens, seqs), name


def test_profiles_are_ordered_and_named() -> None:
    assert list(PROFILES) == ["faithful", "balanced", "long"]
    assert PROFILES["faithful"].settings == PROFILES["balanced"].settings[:1]
    assert all("int4" in s.kv_dtype for s in PROFILES["long"].settings)


def test_serve_refuses_before_anything_is_loaded(tmp_path: Path) -> None:
    for file in _demo().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((tmp_path / "config.json").read_text()), "num_hidden_layers": 40000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("serve", "--model", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "does not fit" in done.stderr
    assert "longest context" in done.stderr and "fp8_e4m3" in done.stderr
    assert not done.stdout


def test_plan_of_an_a10_on_one_screen() -> None:
    done = run("plan", "--gpu", "a10")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    marked = [line.split() for line in lines if line.startswith("> long")]
    assert marked[0][:4] == [">", "long", "fp8_per_block", "int4_per_token_head"]
    assert "131,072" in marked[0]
    assert "1,921 tokens = 195 MiB" in done.stdout
    assert "phi-vision serve --profile long --max-model-len 131072" in done.stdout
    assert "vllm serve microsoft/Phi-3.5-vision-instruct --max-model-len 131072" in done.stdout


def test_plan_as_json_and_its_command_lines_parse() -> None:
    done = run("plan", "--gpu", "a100-40", "--json")
    body = json.loads(done.stdout)
    plan = body["plans"][body["chosen"]]
    assert (plan["profile"], plan["weights"], plan["kv_dtype"]) == ("balanced", "bf16", "int8_per_token_head")
    terms = ("text_weights_bytes", "vision_weights_bytes", "activations_bytes", "runtime_bytes")
    assert sum(plan[term] for term in terms) + plan["kv_available_bytes"] == plan["budget_bytes"]
    from phi_vision.cli.main import parser

    command = body["commands"]["phi-vision"].split()
    options = parser().parse_args(command[1:])
    assert (options.profile, options.max_model_len) == ("balanced", 131072)


def test_plan_counts_the_crops_that_it_plans_with() -> None:
    """Several pictures get four crops each, however few a single one gets."""
    few = run("plan", "--gpu", "a100-80", "--num-crops", "1").stdout
    assert "up to 4 crops" in few and "picture at 4 crops = 757 tokens" in few
    one = run("plan", "--gpu", "a100-80", "--num-crops", "1", "--num-crops-multi", "1").stdout
    assert "up to 1 crops" in one and "picture at 1 crops = 313 tokens" in one


def test_plan_of_a_described_gpu_equals_the_named_one() -> None:
    named = json.loads(run("plan", "--gpu", "a10", "--json").stdout)
    described = json.loads(run("plan", "--vram", "22.1", "--capability", "8.6", "--json").stdout)
    assert described["plans"] == named["plans"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "t4"], "--max-model-len 74544 fits"),
        (["--vram", "24"], "--vram and --capability go together"),
        (["--gpu", "a10", "--vram", "24", "--capability", "8.6"], "give one of them"),
        (["--vram", "24", "--capability", "new"], "major.minor"),
        (["--vram", "nan", "--capability", "8.6"], "above zero"),
        (["--gpu", "voodoo2"], "invalid choice"),
        (["--gpu", "a10", "--max-model-len", "many"], "invalid tokens value"),
        (["--gpu", "a10", "--model", "./no-such-folder"], "no config.json"),
        (["--gpu", "a10", "--profile", "faithful", "--max-model-len", "9000"], "allows 4096 at most"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_plan(arguments: list[str], said: str) -> None:
    done = run("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def _demo() -> Path:
    from phi_vision.planning.checkpoint import DEMO_FOLDER

    return DEMO_FOLDER


def test_each_profile_can_be_chosen() -> None:
    assert ("auto", *PROFILES) == PROFILE_NAMES


@pytest.mark.parametrize("profile", list(PROFILES))
def test_vllm_understands_the_flags_of_each_setting(profile: str) -> None:
    from vllm.config.quantization import resolve_quantization_config
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend

    h100 = named_gpu("h100")
    config = ServeConfig(profile=profile, max_model_len=4096)
    for option in planner.options(config, h100, MODEL):
        arguments = planner.engine_arguments(option, config, h100)
        args = make_arg_parser(FlexibleArgumentParser()).parse_args([PHI_3_5_VISION.hub_id, *arguments])
        assert args.max_model_len == 4096 and args.disable_sliding_window
        resolved = resolve_quantization_config(args.quantization, args.quantization_config)
        if option.setting.weights == "bf16":
            assert resolved is None
        else:
            assert resolved.linear is not None and resolved.ignore == ["re:.*vision_embed_tokens.*"]
        if args.attention_backend == "TRITON_ATTN":
            assert args.kv_cache_dtype in TritonAttentionBackend.supported_kv_cache_dtypes
