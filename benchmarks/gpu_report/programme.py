"""The steps of the GPU report, the most valuable first, and the servers that each of them asks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from phi_vision.config import PROFILE_NAMES, ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.hardware import GIB, Device
from phi_vision.planning.memory import BLOCK_TOKENS
from phi_vision.planning.planner import Candidate, choose, plan_candidates
from phi_vision.planning.profiles import PUBLISHED, Precision
from phi_vision.spec import PHI_3_5_VISION

from benchmarks.gpu_report.servers import Launch

_SMALL_GPU = "a10"  # in whose memory precisions and speed are tried
_SMALL_LIMITS = ("--max-num-seqs", "256", "--max-num-batched-tokens", "2048")  # vLLM's defaults there
_BOTH_FIT_BYTES = 40 * GIB  # of a GPU that holds ours and stock vLLM
_EXACT = (("TRITON_F32_DEFAULT", "ieee"),)  # Triton multiplies float32 in 19 bits otherwise
_ROPE_CACHE_TOKENS = 22_528  # less than the batches of the step want
_SPEED_CONTEXT = ("--max-model-len", "8192")


@dataclass(frozen=True)
class Step:
    """One line of the report."""

    name: str
    what: str
    ask: str  # a key of `steps.STEPS`
    limit_s: int  # 600 at most
    launches: tuple[Launch, ...] = ()


def steps(device: Device) -> list[Step]:
    """All steps on this device; without a GPU small ones."""
    if device.kind != "cuda":
        precisions = [_precision("bf16, bf16", ("--max-model-len", "4096"))]
        return [*_first(("--max-model-len", "8192"), device), *_speed("", (), both=True), *precisions, *_LAST]
    share = _small_share(device)
    first, *others = _precisions(device, share)
    if device.memory_bytes >= _BOTH_FIT_BYTES:  # each its half, and the same cache
        kv_bytes = round(0.45 * device.memory_bytes) - 10 * GIB
        halves = ("--gpu-memory-utilization", "0.45", "--kv-cache-memory-bytes", str(kv_bytes))
        small = (*_SMALL_LIMITS, "--gpu-memory-utilization", str(share))
        speed = [*_speed("", halves, both=True), first, *_speed(_SMALL_GPU, small, both=True)]
    else:
        speed = [first, *_speed("", _SMALL_LIMITS, both=False)]
    return [*_first((), device), *speed, *_profiles(device), *others, *_LAST]


_LAST = [Step("picture path", "the host's work on a picture, on one core", "picture_path", 60)]


def _first(flags: tuple[str, ...], device: Device) -> list[Step]:
    blocks = _ROPE_CACHE_TOKENS // BLOCK_TOKENS[device.kind]
    crowded: tuple[str, ...] = ("--max-model-len", "16384", "--max-num-batched-tokens", "2048")
    crowded += ("--num-gpu-blocks-override", str(blocks))
    if device.kind == "cuda":  # more than the blocks need; two such servers start at once
        crowded += ("--gpu-memory-utilization", "0.3", "--kv-cache-memory-bytes", str(GIB))
    exact = Launch("rope float32", (*crowded, "--dtype", "float32"), model="random demo", env=_EXACT)
    served = Launch("rope bf16", crowded, model="random demo")
    against = "LongRoPE per request against the float32 reference, in float32 and in bf16"
    return [
        Step("kernels", "kernels against the CPU's arithmetic", "kernels", 150),
        Step("default", "the server as it starts by default", "serving", 300, (Launch("default", flags),)),
        Step("rope", against, "rope", 240, (exact, served)),
    ]


def _speed(where: str, flags: tuple[str, ...], *, both: bool) -> list[Step]:
    """Ours beside stock vLLM in turns, or one step for each where they do not fit together."""
    place = f"{where} " if where else ""
    flags = (*_SPEED_CONTEXT, *flags)
    servers = (Launch(f"{place}ours", flags), Launch(f"{place}stock", flags, stock=True))
    what = "closed loops on ours and on stock vLLM" + (
        f", each in the memory of an {where.upper()}" if where else ""
    )
    if both:
        return [Step(f"{place}speed", what, "speed", 540, servers)]
    return [Step(f"speed, {server.label}", what, "speed", 360, (server,)) for server in servers]


def _profiles(device: Device) -> list[Step]:
    """Each profile in all of the GPU's memory, where it is not what the default took."""
    default = _chosen("auto", device)
    found = []
    for profile in PROFILE_NAMES[1:]:
        chosen = _chosen(profile, device)
        if chosen is None:
            continue
        same = default and (chosen.precision, chosen.plan.max_model_len) == (
            default.precision,
            default.plan.max_model_len,
        )
        if not same:
            launch = Launch(f"profile {profile}", ("--profile", profile))
            found.append(Step(launch.label, "in all of the GPU's memory", "long_request", 240, (launch,)))
    return found


def _chosen(profile: str, device: Device) -> Candidate | None:
    empty = replace(device, free_bytes=None)
    config = ServeConfig(profile=profile)
    try:
        return choose(plan_candidates(config, EngineFlags(), empty, PHI_3_5_VISION.dimensions), empty)
    except UsageError:  # nothing of it fits
        return None


def _precision(name: str, flags: tuple[str, ...]) -> Step:
    what = f"in the memory of an {_SMALL_GPU.upper()}"
    return Step(name, what, "long_request", 240, (Launch(name, flags),))


def _small_share(device: Device) -> float:
    """What an A10's default share of its memory is of this GPU's."""
    default_share = ServeConfig().gpu_memory_utilization
    share = default_share * named_gpu(_SMALL_GPU).memory_bytes / device.memory_bytes
    return min(default_share, round(share, 4))


def _precisions(device: Device, share: float) -> list[Step]:
    """Each way to hold weights and cache in this share, at 97 % of the context that is promised.

    The one that it takes by default comes first, in full and compiled; the others start faster without.
    """
    config = ServeConfig(gpu_memory_utilization=share)
    empty = replace(device, free_bytes=None)
    flags = EngineFlags.parse(_SMALL_LIMITS, {})
    candidates = plan_candidates(config, flags, empty, PHI_3_5_VISION.dimensions)
    default = choose(candidates, empty)
    front = [default.precision, PUBLISHED, Precision("bf16", "int8_per_token_head")]
    # `faithful` holds the same as the first of `balanced`.
    candidates = [candidate for candidate in candidates if candidate.profile != "faithful"]
    candidates.sort(key=lambda c: front.index(c.precision) if c.precision in front else len(front))
    found = []
    for candidate in candidates:
        precision, plan = candidate.precision, candidate.plan
        context = plan.max_model_len if plan.fits else plan.longest_context * 97 // 100
        serve = [*_SMALL_LIMITS, "--gpu-memory-utilization", str(share), "--max-model-len", str(context)]
        if precision.kv_dtype != "bf16":
            serve += ["--kv-cache-dtype", precision.kv_dtype]
        if precision.weights != "bf16":  # with the kernels that the small GPU has
            serve += ["--quantization", precision.weights, "--linear-backend", "marlin"]
        launch = _precision(f"{_SMALL_GPU} {precision.weights}, {precision.kv_dtype}", tuple(serve))
        eager = replace(launch, launches=tuple(server.as_eager for server in launch.launches))
        found.append(launch if candidate is default else eager)
    return found
