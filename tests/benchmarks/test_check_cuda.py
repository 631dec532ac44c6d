"""`make check-cuda` without vLLM's CUDA build: what it asks about each card, what it makes of answers."""

from __future__ import annotations

import pytest
from phi_vision.planning.gpus import named_gpu
from phi_vision.planning.memory import KV_DTYPES, WEIGHTS_BITS
from phi_vision.planning.profiles import PROFILES, Precision, precisions

from benchmarks.check_cuda import __main__ as main
from benchmarks.check_cuda.combinations import combinations
from benchmarks.check_cuda.resolve import launch_plan
from benchmarks.studies.cpu_memory import full_size_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(full_size_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.mark.parametrize("card", ["t4", "a10", "l4", "h100"])
def test_every_precision_and_rotary_mode_that_the_plan_offers_is_asked_about(
    card: str, checkpoint: str
) -> None:
    device = named_gpu(card)
    asked = set()
    for flags in combinations(device):
        if "--rope" not in flags:
            continue
        memory = launch_plan(flags, device, checkpoint).memory
        assert memory is not None
        asked.add((memory.precision, flags[flags.index("--rope") + 1]))
    every = [Precision(weights, kv_dtype) for weights in WEIGHTS_BITS for kv_dtype in KV_DTYPES]
    assert {precision for precision, _ in asked} == set(filter(lambda p: p.runs_on(device), every))
    of_profiles = {precision for name in PROFILES for _, precision in precisions(name, device)}
    modes = ("per-request", "short", "long")
    assert asked >= {(precision, rope) for precision in of_profiles for rope in modes}


def test_what_vllm_refuses_is_a_fault_in_its_own_words() -> None:
    row = {"flags": ["--profile", "long"], "error": "ValueError: no such kernel"}
    assert main._faults("t4", {"starts": [row]}) == [
        "t4: phi-vision serve --profile long\n    ValueError: no such kernel"
    ]
    assert main._faults("t4", {"starts": [{"flags": [], "not_offered": "too large"}]}) == []
    assert main._faults("t4", {"starts": []}) == ["t4: nothing was checked"]
    assert main._faults("t4", {"starts": [], "error": "exit code 1"}) == ["t4: exit code 1"]
