"""What the memory plan offers on a card: each precision at its longest context, and the rotary modes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from phi_vision.config import PROFILE_NAMES, ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import Device
from phi_vision.planning.memory import KV_DTYPES, WEIGHTS_BITS
from phi_vision.planning.planner import Candidate, plan_candidates
from phi_vision.planning.profiles import PROFILES, Precision
from phi_vision.spec import PHI_3_5_VISION

Flags = tuple[str, ...]  # of `phi-vision serve`

# Flags of vLLM's that go with what the card gets at this context.
_CONTEXT = ("--max-model-len", "8192")
_BESIDE: tuple[Flags, ...] = (
    ("--enforce-eager",),
    ("--dtype", "float16"),
    ("--dtype", "float32"),
    ("--max-num-batched-tokens", "8192", "--max-num-seqs", "64"),
    ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}'),
)


def combinations(device: Device) -> list[Flags]:
    """A start for each precision: those of the profiles in each rotary mode, others by vLLM's flags."""
    window = PHI_3_5_VISION.short_window
    taken = {precision for profile in PROFILES.values() for precision in profile.precisions}
    found: dict[tuple[object, ...], Flags] = {}
    for start in _starts():
        for candidate in _reaching_further(_candidates(start, device)):
            precision, longest = candidate.precision, candidate.plan.longest_context
            starts = [(start, longest, "per-request")]
            if precision in taken:
                starts.append((_naming(precision), min(longest, window), "short"))
            if precision in taken and longest > window:
                starts.append((start, longest, "long"))
            for flags, tokens, rope in starts:
                whole = (*flags, "--max-model-len", str(tokens), "--rope", rope)
                found.setdefault((precision, tokens, rope), whole)
    return [(), *found.values(), *((*_CONTEXT, *flags) for flags in _BESIDE)]


def _starts() -> Iterator[Flags]:
    """Each profile, then each precision as vLLM's flags name it."""
    for profile in PROFILE_NAMES[1:]:  # `auto` takes from the others
        yield ("--profile", profile)
    for weights, kv_dtype in product(WEIGHTS_BITS, KV_DTYPES):
        yield _naming(Precision(weights, kv_dtype))


def _naming(precision: Precision) -> Flags:
    """vLLM's flags for it."""
    quantization = () if precision.weights == "bf16" else ("--quantization", precision.weights)
    return (*quantization, "--kv-cache-dtype", "auto" if precision.kv_dtype == "bf16" else precision.kv_dtype)


def _candidates(start: Flags, device: Device) -> list[Candidate]:
    profile = start[1] if start[0] == "--profile" else "auto"
    flags = EngineFlags.parse(() if start[0] == "--profile" else start, {})
    try:
        return plan_candidates(ServeConfig(profile=profile), flags, device, PHI_3_5_VISION.dimensions)
    except UsageError:  # no kernels for it: not offered
        return []


def _reaching_further(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Those that are taken at some context, because none before them has it."""
    reached = 0
    for candidate in candidates:
        if candidate.plan.longest_context > reached:
            reached = candidate.plan.longest_context
            yield candidate
