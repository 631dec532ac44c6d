"""The checks in the order in which they run, and what keeps one from stopping the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from phi_vision.client.text import one_line
from phi_vision.doctor import engine, gpu, memory, server, software, weights
from phi_vision.doctor.finding import Finding, fail, skipped
from phi_vision.doctor.setup import Setup
from phi_vision.errors import PhiVisionError


@dataclass(frozen=True)
class Check:
    """One point that is looked at.

    Args:
        name: for people and for `--json`; it does not change.
        look: what it does; None where the point does not arise on this machine.
        is_slow: takes more than a second or two.
    """

    name: str
    look: Callable[[Setup], Finding | None]
    is_slow: bool = False


CHECKS: Sequence[Check] = (
    Check("python", software.python),
    Check("packages", software.packages),
    Check("plugins", software.plugins),
    Check("driver", gpu.driver),
    Check("device", gpu.device),
    Check("gpu-memory", gpu.gpu_memory),
    Check("compiler", gpu.compiler),
    Check("hub", weights.hub),
    Check("weights", weights.files),
    Check("disk", weights.disk),
    Check("memory", memory.ram),
    Check("plan", memory.plan),
    Check("cores", memory.cores),
    Check("shared-memory", memory.shared_memory),
    Check("open-files", memory.open_files),
    Check("port", server.port),
    Check("decoders", server.decoders),
    Check("contents", weights.contents, is_slow=True),
    Check("engine", engine.loads, is_slow=True),
    Check("generation", engine.generation, is_slow=True),
)


def examine(
    setup: Setup,
    *,
    quick: bool = False,
    on_start: Callable[[str], None] = lambda _: None,
    checks: Sequence[Check] = CHECKS,
) -> Iterator[tuple[str, Finding]]:
    """Run the checks; each that arises here yields its name and what it found.

    Args:
        setup: what is to be served, and where.
        quick: leave the slow ones out.
        on_start: called with the name of each before it runs.
        checks: to run.
    """
    for check in checks:
        on_start(check.name)
        found = skipped("with --quick") if quick and check.is_slow else _guarded(check, setup)
        if found is not None:
            yield check.name, found


def _guarded(check: Check, setup: Setup) -> Finding | None:
    try:
        return check.look(setup)
    except PhiVisionError as error:  # its message says what to do
        return fail(one_line(str(error)))
    except Exception as error:  # one check that cannot be made is a finding, not the end of the others
        return fail(
            f"this could not be checked: {type(error).__name__}: {one_line(str(error))}",
            "please report it as a fault of phi-vision",
        )
