"""What the user gave to vLLM, read as vLLM's own parser reads it."""

from __future__ import annotations

from typing import Any

import pytest
from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags


def parse(*argv: str, **environ: str) -> EngineFlags:
    return EngineFlags.parse(argv, environ)


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--quantization", "mxfp4"], "quantization", "mxfp4"),
        (["-q", "mxfp4"], "quantization", "mxfp4"),
        (["-q=mxfp4"], "quantization", "mxfp4"),
        (["-qmxfp4"], "quantization", "mxfp4"),
        (["--quantization", "None"], "quantization", None),
        (["--quantization", "mxfp4", "--quantization=fp8_per_block"], "quantization", "fp8_per_block"),
        (["--kv_cache_dtype=int8_per_token_head"], "kv_cache_dtype", "int8_per_token_head"),
        (["--dtype", "float32"], "dtype", "float32"),
        (["--attention-backend", "TRITON_ATTN"], "attention_backend", "TRITON_ATTN"),
        (["--max_num_seqs", "7"], "max_num_seqs", 7),
        (["--max-num-batched-tokens", "8k"], "max_num_batched_tokens", 8000),
        (["--max-num-batched-tokens", "8K"], "max_num_batched_tokens", 8192),
        (["--max-num-batched-tokens=2.5k"], "max_num_batched_tokens", 2500),
        (["--kv-cache-memory-bytes", "50G"], "kv_cache_memory_bytes", 50 << 30),
        (["--mm-processor-cache-gb", "0.5"], "mm_processor_cache_gib", 0.5),
        (["-tp", "2"], "tensor_parallel_size", 2),
        (["--pipeline_parallel_size", "3"], "pipeline_parallel_size", 3),
        (["--enforce-eager"], "quantization", None),
    ],
    ids=str,
)
def test_a_flag_is_read_as_vllm_reads_it(argv: list[str], field: str, value: Any) -> None:
    from phi_vision.serving.vllm_compat.flag_parser import vllm_parser

    flags = parse(*argv)
    assert getattr(flags, field) == value
    vllms = {"mm_processor_cache_gib": "mm_processor_cache_gb"}.get(field, field)
    theirs = getattr(vllm_parser().parse_args(["model", *flags.argv]), vllms)
    assert getattr(theirs, "name", theirs) == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max-num-seqs", "many"], "--max-num-seqs: must be a positive number, not 'many'"),
        (["--max-num-seqs", "0"], "--max-num-seqs"),
        (["--max-num-batched-tokens", "2.5K"], "--max-num-batched-tokens"),
        (["--mm-processor-cache-gb", "nan"], "--mm-processor-cache-gb"),
        (["--kv-cache-dtype"], "--kv-cache-dtype: expected one argument"),
        (["--hf-overrides", "{"], "--hf-overrides must be a JSON object"),
        (["--hf-overrides=[1]"], "--hf-overrides must be a JSON object"),
        (["--config", "serve.yaml"], "--config is not read here"),
        (["microsoft/Phi-3.5-vision-instruct"], "name a model with --model"),
    ],
    ids=str,
)
def test_a_mistake_names_its_flag(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(*argv)


def test_other_flags_go_on_as_they_are() -> None:
    flags = parse("--enable_lora", "--lora-modules", "a_b=c_d", "-O3", "--compilation-config.x_y", "3")
    assert flags.argv[:3] == ("--enable-lora", "--lora-modules", "a_b=c_d")
    assert flags.argv[3:] == ("-O3", "--compilation-config.x_y", "3")
    compilation = {"--compilation-config", "--compilation-config.x_y"}
    assert flags.names == {"--enable-lora", "--lora-modules"} | compilation


def test_objects_go_on_a_key_at_a_time() -> None:
    flags = parse("--hf-overrides", '{"a": 1, "b": {"c": "d"}}', "--hf-overrides.e", "2")
    assert flags.argv == ("--hf-overrides.a", "1", "--hf-overrides.b", '{"c": "d"}', "--hf-overrides.e", "2")


def test_the_environment_is_read_once() -> None:
    silent = parse()
    assert (silent.cpu_kv_cache_gib, silent.plugins, silent.use_flashinfer_sampler) == (None, None, None)
    flags = parse(VLLM_CPU_KVCACHE_SPACE="5", VLLM_PLUGINS="a,,b", VLLM_USE_FLASHINFER_SAMPLER="0")
    assert (flags.cpu_kv_cache_gib, flags.plugins, flags.use_flashinfer_sampler) == (5, ("a", "b"), False)
    with pytest.raises(UsageError, match=r"VLLM_CPU_KVCACHE_SPACE must be whole GiB, not '1\.5'"):
        parse(VLLM_CPU_KVCACHE_SPACE="1.5")
