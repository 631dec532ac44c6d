"""Several API processes and engines: what is refused, and what each has of a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from phi_vision.errors import UsageError
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import GIB, processor
from phi_vision.planning.processes import CORES_VARIABLE, Processes

from tests.support.launch import A10, CPU, PUBLISHED, launch, row_of, value_of

EIGHT = replace(CPU, cores=tuple(range(8)), memory_bytes=64 * GIB, free_bytes=60 * GIB)


def processes(*flags: str, **environ: str) -> Processes:
    return Processes.of(EngineFlags.parse(flags, environ))


@pytest.mark.parametrize(
    ("flags", "api", "engines", "workers"),
    [
        ((), 1, 1, 1),
        (("--api-server-count", "3"), 3, 1, 1),
        (("--data-parallel-size=2",), 2, 2, 2),  # vLLM then starts as many API processes
        (("-dp", "2", "-asc", "1", "-tp", "2"), 1, 2, 4),
        (("--data-parallel-size", "4", "--data-parallel-size-local", "2"), 4, 2, 2),
    ],
)
def test_what_vllm_starts(flags: tuple[str, ...], api: int, engines: int, workers: int) -> None:
    assert processes(*flags) == Processes(api, engines, workers)


@pytest.mark.parametrize(
    ("flags", "environ", "said"),
    [
        (("--data-parallel-external-lb",), {}, "--data-parallel-external-lb is not for this model"),
        (("-dpn", "1"), {}, "-dpn is not for this model"),
        (("--data_parallel_rank=1",), {}, "--data-parallel-rank is not for this model"),
        (("--api-server-count", "2"), {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, "--api-server-count 1"),
        (("--data-parallel-size", "2"), {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, "--api-server-count 1"),
        (("--api-server-count", "0"), {}, "must be a positive number"),
        ((), {"VLLM_USE_RUST_FRONTEND": "1"}, "VLLM_USE_RUST_FRONTEND"),
    ],
)
def test_what_cannot_be_right_is_refused(flags: tuple[str, ...], environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        processes(*flags, **environ)


def test_a_store_of_responses_needs_one_api_process() -> None:
    environ = {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}
    assert processes("-dp", "2", "-asc", "1", **environ).api == 1
    assert processes("-asc", "2", VLLM_ENABLE_RESPONSES_API_STORE="0").api == 2


def cores(*flags: str, **environ: str) -> str | None:
    return launch(EIGHT, *flags, environ=environ, max_model_len=4096).env.get(CORES_VARIABLE)


def test_engines_on_a_cpu_have_cores_of_their_own() -> None:
    assert cores() is None and cores("-asc", "2") is None  # vLLM's own choice
    assert cores("-dp", "2") == "0,1,2,3|4,5,6,7"
    assert cores("-dp", "3") == "0,1|2,3,4|5,6,7"
    assert cores("-dp", "2", VLLM_CPU_NUM_OF_RESERVED_CPU="2") == "0,1,2|3,4,5"
    assert CORES_VARIABLE not in launch(A10, "-dp", "2").env


def test_cores_that_the_user_names_stay_as_they_are() -> None:
    for given in ("0-3|4-7", "auto", "nobind"):
        assert cores("-dp", "2", **{CORES_VARIABLE: given}) is None  # the variable is there already
    with pytest.raises(UsageError, match="2 lists are needed"):
        cores("-dp", "2", **{CORES_VARIABLE: "0-7"})


@pytest.mark.parametrize(("flags", "environ"), [(("-dp", "9"), {}), (("-dp", "7"), {"RESERVED": "2"})])
def test_an_engine_needs_a_core(flags: tuple[str, ...], environ: dict[str, str]) -> None:
    environ = {f"VLLM_CPU_NUM_OF_{name}_CPU": value for name, value in environ.items()}
    with pytest.raises(UsageError, match="needs a core"):
        cores(*flags, **environ)


def plan(device: Any, *flags: str) -> Any:
    memory = launch(device, *flags, max_model_len=4096).memory
    assert memory is not None
    return memory.plan


def test_engines_on_a_cpu_share_its_memory() -> None:
    one, two = plan(EIGHT), plan(EIGHT, "-dp", "2")
    assert two.total_bytes == one.total_bytes // 2
    assert two.budget_bytes == pytest.approx(one.budget_bytes / 2, rel=0.01)
    small = replace(EIGHT, memory_bytes=24 * GIB, free_bytes=24 * GIB)
    assert plan(small).fits
    with pytest.raises(UsageError, match="with 2 engines"):
        plan(small, "-dp", "2")


def test_a_gpu_is_one_engines() -> None:
    assert plan(A10, "-dp", "2") == plan(A10)


def test_the_caches_of_pictures_are_shared_out() -> None:
    def cache(*flags: str) -> str:
        return value_of(launch(EIGHT, *flags, max_model_len=4096).argv, "--mm-processor-cache-gb")

    assert (cache(), cache("-asc", "4"), cache("-dp", "2")) == ("1", "0.25", "0.5")
    given = ("--mm-processor-cache-gb", "2")
    one, four = plan(EIGHT, *given), plan(EIGHT, *given, "-asc", "4")
    assert four.runtime_bytes - one.runtime_bytes >= 6 * GIB  # three caches more, and three processes


def test_the_summary_says_what_there_is() -> None:
    several = launch(EIGHT, "-dp", "2", "-asc", "1", max_model_len=4096)
    assert row_of(several, "engines").endswith("2, on cores 0,1,2,3|4,5,6,7")
    assert "engines" not in launch(EIGHT, checkpoint=PUBLISHED, max_model_len=4096).summary


def test_the_cores_of_this_machine_are_found() -> None:
    found = processor().cores
    assert found and len(set(found)) == len(found)
