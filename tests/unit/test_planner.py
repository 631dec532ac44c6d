"""What is chosen on which device, and the errors when nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from phi_vision.config import PROFILE_NAMES, ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.planner import choose, plan_candidates
from phi_vision.planning.profiles import PROFILES, Precision, precisions

from tests.support.launch import A10, CPU, H100, T4, candidates, chosen


@pytest.mark.parametrize(
    ("gpu", "profile", "precision"),
    [
        ("a10", "long", Precision("fp8_per_block", "int4_per_token_head")),
        ("l4", "long", Precision("fp8_per_block", "int4_per_token_head")),
        ("4090", "long", Precision("fp8_per_block", "int4_per_token_head")),
        ("a100-40", "balanced", Precision("bf16", "int8_per_token_head")),
        ("a100-80", "balanced", Precision("bf16", "bf16")),
        ("h100", "balanced", Precision("bf16", "bf16")),
    ],
)
def test_the_default_keeps_the_promised_context(gpu: str, profile: str, precision: Precision) -> None:
    choice = chosen(named_gpu(gpu))
    assert (choice.profile, choice.precision) == (profile, precision)
    assert choice.plan.longest_context == choice.plan.max_model_len == 131072


@pytest.mark.parametrize(
    ("context", "profile", "precision"),
    [
        (4096, "faithful", Precision("bf16", "bf16")),
        (4097, "balanced", Precision("bf16", "bf16")),
        (35000, "balanced", Precision("fp8_per_block", "bf16")),
        (50000, "balanced", Precision("bf16", "int8_per_token_head")),
        (70000, "balanced", Precision("fp8_per_block", "int8_per_token_head")),
        (100000, "long", Precision("bf16", "int4_per_token_head")),
    ],
)
def test_less_context_buys_accuracy_on_an_a10(context: int, profile: str, precision: Precision) -> None:
    choice = chosen(A10, max_model_len=context)
    assert (choice.profile, choice.precision) == (profile, precision)


def test_each_profile_can_be_asked_for() -> None:
    assert chosen(A10, profile="faithful").plan.max_model_len == 4096
    assert chosen(A10, profile="long", max_model_len=8192).precision.kv_dtype == "int4_per_token_head"
    with pytest.raises(UsageError, match=r"131,072 tokens does not fit .* --max-model-len 74928 fits"):
        chosen(A10, profile="balanced")
    with pytest.raises(UsageError, match="--profile faithful allows 4096 at most"):
        chosen(A10, profile="faithful", max_model_len=8192)


def test_what_is_offered_instead_does_fit() -> None:
    with pytest.raises(UsageError) as refused:
        chosen(T4)
    first, header, *rows = str(refused.value).splitlines()
    offered = int(first.split("--max-model-len ")[1].split()[0])
    assert chosen(T4, max_model_len=offered).plan.longest_context == offered
    with pytest.raises(UsageError):
        chosen(T4, max_model_len=offered + 16)
    assert header.split() == ["profile", "weights", "KV", "cache", "longest", "context"]
    assert len(rows) == 7 and any("fp8_per_block" in row and f"{offered:,}" in row for row in rows)


def test_a_gpu_too_small_for_the_weights_says_so() -> None:
    with pytest.raises(UsageError, match="a device with more memory"):
        chosen(Device("cuda", "tiny", 3 * GIB, (8, 6)))


def test_four_bit_weights_need_bfloat16() -> None:
    """Below 8.0 vLLM serves in float16, for which its kernel of mxfp4 does not exist."""
    assert not any(p.weights == "mxfp4" for _, p in precisions("auto", T4))
    assert any(p.weights == "mxfp4" for _, p in precisions("auto", named_gpu("a100-40")))
    with pytest.raises(UsageError, match="--quantization mxfp4 does not run on NVIDIA Tesla T4"):
        chosen(T4, "--quantization", "mxfp4")


def test_quantized_weights_are_not_multiplied_in_every_dtype() -> None:
    """vLLM ends the start: `torch.float32 is not supported for quantization method fp8_per_block`."""
    assert chosen(A10, "--dtype", "float32", max_model_len=8192).precision.weights == "bf16"
    with pytest.raises(UsageError, match="fp8_per_block with --dtype float32 does not run on NVIDIA A10"):
        chosen(A10, "--dtype", "float32", "--quantization", "fp8_per_block")
    half = ("--dtype", "float16", "--quantization")
    assert chosen(A10, *half, "fp8_per_block", max_model_len=8192).precision.weights == "fp8_per_block"
    with pytest.raises(UsageError, match="--quantization mxfp4 with --dtype float16 does not run"):
        chosen(A10, *half, "mxfp4")


def test_memory_that_others_hold_is_not_planned_with() -> None:
    shared = replace(A10, free_bytes=12 * GIB)
    plan = chosen(shared, max_model_len=4096).plan
    assert plan.budget_bytes == 11 * GIB  # less what the process takes outside vLLM's share
    with pytest.raises(
        UsageError, match=r"11\.0 of 22\.1 GiB to use\); .* or end the programs that hold 10\.1 GiB"
    ):
        chosen(shared)
    little = replace(A10, free_bytes=A10.memory_bytes - GIB // 2)  # a desktop
    assert chosen(little).plan == chosen(A10).plan


def test_old_gpus_get_no_quantization() -> None:
    found = candidates(Device("cuda", "V100", 32 * GIB, (7, 0)))
    assert {candidate.precision for candidate in found} == {Precision("bf16", "bf16")}


def test_a_cpu_leaves_memory_to_others() -> None:
    choice = chosen(CPU, max_model_len=4096)
    assert choice.plan.kv_available_bytes == 7 * GIB  # four full requests of 1.5 GiB, in whole GiB
    most = chosen(CPU, max_model_len=16384).plan
    used = sum((most.text_weights_bytes, most.vision_weights_bytes, most.activations_bytes))
    assert used + most.runtime_bytes + most.kv_available_bytes <= 22 * GIB * 0.99
    more = chosen(CPU, "--mm-processor-cache-gb", "3", max_model_len=4096)
    assert more.plan.runtime_bytes - choice.plan.runtime_bytes == 2 * GIB
    busy = replace(CPU, free_bytes=14 * GIB)
    assert chosen(busy, max_model_len=4096).plan.kv_available_bytes == 2 * GIB
    with pytest.raises(UsageError, match="does not fit"):
        chosen(replace(CPU, free_bytes=11 * GIB), max_model_len=4096)


def test_the_demo_serves_the_whole_context_on_a_small_cpu() -> None:
    small = Device("cpu", "x86_64", 8 * GIB, free_bytes=6 * GIB)
    model = find_checkpoint("demo", None).dimensions
    choice = choose(plan_candidates(ServeConfig(), EngineFlags(), small, model), small)
    assert choice.plan.max_model_len == 131072
    assert choice.plan.kv_available_bytes == 2 * GIB


def test_the_cache_size_of_the_user_is_kept() -> None:
    def with_space(text: str) -> int:
        choice = chosen(CPU, environ={"VLLM_CPU_KVCACHE_SPACE": text}, max_model_len=4096)
        return choice.plan.kv_available_bytes

    assert with_space("5") == 5 * GIB
    with pytest.raises(UsageError, match=r"VLLM_CPU_KVCACHE_SPACE is 500 GiB, but only .* are free"):
        with_space("500")
    with pytest.raises(UsageError, match="whole GiB, not 'lots'"):
        with_space("lots")
    with pytest.raises(UsageError, match="set VLLM_CPU_KVCACHE_SPACE"):
        chosen(CPU, "--kv-cache-memory-bytes", "1")


def test_flags_for_vllm_restrict_the_choice() -> None:
    assert chosen(H100, "--kv-cache-dtype", "fp8").precision == Precision("bf16", "fp8_e4m3")
    assert chosen(H100, "--quantization=mxfp4").precision.weights == "mxfp4"
    limits = ("--max-num-seqs", "4", "--max-num-batched-tokens", "4096")
    plan = chosen(H100, *limits).plan
    assert (plan.max_num_seqs, plan.max_num_batched_tokens, plan.pictures_at_once) == (4, 4096, 4)
    assert chosen(H100, "--kv-cache-memory-bytes", str(50 * GIB)).plan.kv_available_bytes == 50 * GIB
    with pytest.raises(UsageError, match="--kv-cache-dtype fp8 does not run on x86_64"):
        chosen(replace(CPU, has_avx512=False), "--kv-cache-dtype", "fp8")
    with pytest.raises(UsageError, match="--kv-cache-dtype fp8 does not run on NVIDIA A10"):
        chosen(A10, "--kv-cache-dtype", "fp8")  # refused below 8.9
    wide, plain = chosen(H100, "--dtype", "float32", max_model_len=4096).plan, chosen(H100).plan
    assert wide.kv_bytes_per_token == 2 * plain.kv_bytes_per_token
    assert wide.text_weights_bytes == 2 * plain.text_weights_bytes
    assert wide.vision_weights_bytes == 2 * plain.vision_weights_bytes
    for flag in ("--kv-cache-dtype", "--quantization", "--max-num-seqs"):
        with pytest.raises(UsageError, match=flag):
            chosen(H100, flag, "nonsense")


def test_profiles_are_ordered_and_named() -> None:
    assert ("auto", *PROFILES) == PROFILE_NAMES == ("auto", "faithful", "balanced", "long")
    assert PROFILES["faithful"].precisions == PROFILES["balanced"].precisions[:1]
    assert all("int4" in p.kv_dtype for p in PROFILES["long"].precisions)


def test_a_profile_that_a_device_cannot_run_says_so() -> None:
    with pytest.raises(UsageError, match="nothing of --profile long runs on x86_64"):
        chosen(CPU, profile="long")
