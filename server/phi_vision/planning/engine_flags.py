"""What the user gave of vLLM's own flags and environment, parsed once.

vLLM's parser is not used: importing it takes seconds, and vLLM reads its environment when it is imported.
Here are only the flags that the launch plan depends on; all others go on to vLLM unread.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from phi_vision.errors import UsageError
from phi_vision.planning.hardware import Device

# Flags with JSON objects that the launch plan has keys of its own for. They are handed on a key at a time
# (`--hf-overrides.KEY VALUE`), the form in which vLLM merges them.
_MERGED_FLAGS = ("--hf-overrides", "--override-generation-config")

_NUMBERS_OF_PROCESSES = {
    "tensor_parallel_size": "-tp",
    "pipeline_parallel_size": "-pp",
    "data_parallel_size": "-dp",
    "data_parallel_size_local": "-dpl",
    "api_server_count": "-asc",
}

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class EngineFlags:
    """vLLM's flags and variables as given, or as `for_device` adds; None: not given.

    Args:
        argv: the flags as vLLM gets them, in the order given.
        names: the long names of all flags in `argv`, with dashes. Of `--name.key` both that and `--name`.
        variables: names of environment variables that are set, to something.
        quantization: of the weights.
        revision: of the model on the hub.
        kv_cache_dtype: of the KV cache.
        dtype: of everything that is not quantized.
        attention_backend: name of the attention kernels.
        max_num_seqs: sequences in one step.
        max_num_batched_tokens: tokens in one step.
        kv_cache_memory_bytes: size of the KV cache on a GPU.
        mm_processor_cache_gib: size of the cache of processed pictures.
        tensor_parallel_size: GPUs that share each layer.
        pipeline_parallel_size: GPUs that share the layers out.
        data_parallel_size: engines, each with the whole model.
        data_parallel_size_local: how many of them are on this machine.
        api_server_count: processes that answer requests.
        keeps_responses: `VLLM_ENABLE_RESPONSES_API_STORE`.
        cpu_kv_cache_gib: size of the KV cache on a CPU, `VLLM_CPU_KVCACHE_SPACE`.
        cpu_cores: of each engine's process, `VLLM_CPU_OMP_THREADS_BIND`.
        cpu_reserved_cores: for all else, `VLLM_CPU_NUM_OF_RESERVED_CPU`.
        plugins: the vLLM plugins to load, `VLLM_PLUGINS`.
        use_flashinfer_sampler: `VLLM_USE_FLASHINFER_SAMPLER`.
    """

    argv: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()
    quantization: str | None = None
    revision: str | None = None
    kv_cache_dtype: str | None = None
    dtype: str | None = None
    attention_backend: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    mm_processor_cache_gib: float | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    data_parallel_size_local: int | None = None
    api_server_count: int | None = None
    keeps_responses: bool = False
    cpu_kv_cache_gib: int | None = None
    cpu_cores: str | None = None
    cpu_reserved_cores: int | None = None
    plugins: tuple[str, ...] | None = None
    use_flashinfer_sampler: bool | None = None

    @property
    def is_float32(self) -> bool:
        """Whether what is not quantized takes four bytes an element instead of two."""
        return self.dtype in ("float32", "float")

    def for_device(self, device: Device) -> EngineFlags:
        """With float32 on a processor that is slow in bfloat16, unless the user chose a dtype."""
        if self.dtype is None and not device.has_fast_bfloat16:
            return replace(self, dtype="float32")
        return self

    @classmethod
    def parse(cls, argv: Sequence[str], environ: Mapping[str, str]) -> EngineFlags:
        """Parse them.

        Args:
            argv: what is left of the command line without our own flags.
            environ: the environment.

        Raises:
            UsageError: a value that vLLM would not take either, or a flag that has no effect here.
        """
        if argv and not argv[0].startswith("-"):
            raise UsageError(f"unrecognized argument: {argv[0]}; name a model with --model")
        parsed, _ = _parser().parse_known_args(argv := with_dashes(argv))
        if parsed.config is not None:
            raise UsageError("--config is not read here: give its flags on the command line")
        if _is_on(environ, "VLLM_USE_RUST_FRONTEND"):
            raise UsageError("VLLM_USE_RUST_FRONTEND: vLLM's other server has no routes and limits of ours")
        del parsed.config
        argv = _split_merged_flags(argv)
        plugins = environ.get("VLLM_PLUGINS")
        return cls(
            argv=tuple(argv),
            names=_names(argv, parsed),
            variables=frozenset(name for name, value in environ.items() if value),
            keeps_responses=_is_on(environ, "VLLM_ENABLE_RESPONSES_API_STORE") or False,
            cpu_kv_cache_gib=_whole(environ, "VLLM_CPU_KVCACHE_SPACE", "whole GiB"),
            cpu_cores=environ.get("VLLM_CPU_OMP_THREADS_BIND") or None,
            cpu_reserved_cores=_whole(environ, "VLLM_CPU_NUM_OF_RESERVED_CPU", "a number of cores"),
            plugins=None if plugins is None else tuple(filter(None, plugins.split(","))),
            use_flashinfer_sampler=_is_on(environ, "VLLM_USE_FLASHINFER_SAMPLER"),
            **{name: value for name, value in vars(parsed).items() if value is not None},
        )


def with_dashes(argv: Sequence[str]) -> list[str]:
    """The same flags with dashes in their names, in which vLLM takes underscores too."""

    def rename(match: re.Match[str]) -> str:
        return match[0].replace("_", "-")

    return [re.sub(r"^--[^=.]*", rename, argument) for argument in argv]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--quantization", "-q", type=_optional)
    parser.add_argument("--revision", type=_optional)
    parser.add_argument("--kv-cache-dtype", type=_optional)
    parser.add_argument("--dtype", type=_optional)
    parser.add_argument("--attention-backend", type=_optional)
    parser.add_argument("--max-num-seqs", type=_count)
    parser.add_argument("--max-num-batched-tokens", type=_count_with_suffix)
    parser.add_argument("--kv-cache-memory-bytes", type=_count_with_suffix)
    parser.add_argument("--mm-processor-cache-gb", type=_gib, dest="mm_processor_cache_gib")
    for name, short in _NUMBERS_OF_PROCESSES.items():
        parser.add_argument("--" + name.replace("_", "-"), short, type=_count)
    return parser


def _optional(text: str) -> str | None:
    """As vLLM has it, `None` and nothing are no value."""
    return None if text in ("", "None") else text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return int(text)


def _count_with_suffix(text: str) -> int:
    """vLLM's `human_readable_int`: `8k` is 8,000, `8K` is 8,192, `1.5k` is 1,500."""
    match = re.fullmatch(r"(\d+|\d+\.\d+(?=[kmgt]))([kmgtKMGT]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be a positive number such as 8192, 8k or 8K, not {text!r}")
    return _count(str(int(float(match[1]) * _SUFFIXES.get(match[2], 1))))


def _gib(text: str) -> float:
    size = float(text)
    if not 0 <= size < math.inf:
        raise ValueError
    return size


def _whole(environ: Mapping[str, str], name: str, what: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise UsageError(f"{name} must be {what}, not {text!r}")
    return int(text)


def _is_on(environ: Mapping[str, str], name: str) -> bool | None:
    """A switch, 1 or 0; None where it is not set."""
    text = environ.get(name)
    return None if text is None else text not in ("", "0")


def _split_merged_flags(argv: Sequence[str]) -> list[str]:
    """`--hf-overrides {"a": 1}` as `--hf-overrides.a 1`."""
    split: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in _MERGED_FLAGS:
            split.append(argument)
            continue
        text = value if equals else next(rest, "")
        try:
            keys = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{name} must be a JSON object: {error}") from error
        if not isinstance(keys, dict):
            raise UsageError(f"{name} must be a JSON object, not {text}")
        for key, value in keys.items():
            split += [f"{name}.{key}", json.dumps(value)]
    return split


def _names(argv: Sequence[str], parsed: argparse.Namespace) -> frozenset[str]:
    """Of all flags; those with a short name are known by what was parsed."""
    names = {argument.partition("=")[0] for argument in argv if argument.startswith("--")}
    names |= {name.partition(".")[0] for name in names}
    aliased = ("quantization", *_NUMBERS_OF_PROCESSES)
    names |= {"--" + name.replace("_", "-") for name in aliased if getattr(parsed, name) is not None}
    return frozenset(names)
