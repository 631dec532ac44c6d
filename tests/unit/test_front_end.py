"""The front end beside the GPU: rates by arithmetic, and how many processes follow from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phi_vision import cores
from phi_vision.limits import Limits
from phi_vision.planning.front_end import FrontEnd
from phi_vision.planning.gpus import GPU_NAMES, named_gpu, rates_of
from phi_vision.planning.hardware import Device
from phi_vision.planning.picture_costs import KINDS
from phi_vision.planning.roofline import Work, limit, requests_per_s

from tests.support.launch import A10, CPU, H100, launch, row_of, value_of


def close(value: float) -> Any:
    return pytest.approx(value, rel=0.05)


def test_ideal_times_of_known_gpus() -> None:
    a10, h100 = (rates_of(gpu.name) for gpu in (A10, H100))
    assert a10 and h100
    # By hand: tower 0.365 TFLOP a crop, 3.72 G weights of text, 16.6 GFLOP and 7.4 GB for a token.
    slow, fast = limit(a10, 13, 1939), limit(h100, 13, 1939)
    assert (slow.vision_ms, slow.prefill_ms, slow.decode_ms_per_token) == (close(74), close(228), close(13.7))
    assert (fast.vision_ms, fast.prefill_ms, fast.decode_ms_per_token) == (close(6), close(18.5), close(2.5))


def test_requests_share_the_steps_of_decoding() -> None:
    rates = rates_of("NVIDIA H100 80GB HBM3")
    assert rates
    alone, together = limit(rates, 13, 1939), limit(rates, 13, 1939, sequences=70)
    # A step of 70 reads 7.4 GB of weights once, and 0.76 GB of keys and values for each: 18 ms.
    assert together.decode_ms_per_token == close(18)
    assert requests_per_s(alone, 16, 1) == close(1000 / (6 + 18.5 + 16 * 2.5))
    assert requests_per_s(together, 16, 70) == close(1000 / (6 + 18.5 + 16 * 18 / 70))
    quantized = Work(weights_bytes=1.9e9, kv_bytes_per_token=104 * 1024)
    assert limit(rates, 13, 1939, 70, quantized).decode_ms_per_token < together.decode_ms_per_token / 3


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_rates_by_the_name_that_the_driver_tells(told: str, named: str) -> None:
    assert rates_of(told) == rates_of(named_gpu(named).name) is not None


@pytest.mark.parametrize(
    "told",
    [
        None,
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "a GPU of 24 GiB",
    ],
)
def test_other_gpus_are_not_taken_for_these(told: str | None) -> None:
    assert rates_of(told) is None


def front_end(device: Device = H100, *flags: str, count: int = 16, **settings: Any) -> FrontEnd:
    planned = launch(device, *flags, cores=count, **settings).front_end
    assert planned is not None
    return planned


@pytest.mark.parametrize("name", GPU_NAMES)
def test_one_api_process_is_enough_for_any_gpu_at_full_crops(name: str) -> None:
    settings: dict[str, Any] = {"max_model_len": 4096} if name == "t4" else {}
    plan = launch(named_gpu(name), cores=64, **settings)
    assert plan.front_end and (plan.front_end.api_processes, plan.front_end.media_workers) == (1, 64)
    assert "--api-server-count" not in plan.argv
    assert {rate.bottleneck for rate in plan.front_end.rates} == {"the GPU"}
    assert "1 API process, 64 picture workers; " in row_of(plan, "front end")
    assert "limited by the GPU" in row_of(plan, "front end")


def test_more_api_processes_where_one_would_be_the_limit() -> None:
    """An H100 takes small pictures faster than one API process receives them."""
    plan = launch(H100, cores=64, num_crops=1, num_crops_multi=1)
    planned = plan.front_end
    assert planned and planned.api_processes > 1
    assert value_of(plan.argv, "--api-server-count") == str(planned.api_processes)
    assert planned.media_workers == 64 // planned.api_processes
    assert f"{planned.media_workers} picture workers each" in planned.line
    for rate in planned.rates:
        assert rate.api_processes > min(rate.gpu or 0, rate.cores)


def test_few_cores_are_not_spent_on_api_processes() -> None:
    """They draw so few pictures that one process receives them all; what they are short of is said."""
    planned = front_end(count=2, num_crops=1, num_crops_multi=1)
    assert planned.api_processes == 1 and "limited by the cores" in planned.line
    wanted = max(rate.cores_wanted or 0 for rate in planned.rates)
    assert wanted > 2
    enough = front_end(count=wanted, num_crops=1, num_crops_multi=1)
    assert "the cores" not in {rate.bottleneck for rate in enough.rates}


def test_each_kind_has_its_own_limit() -> None:
    planned = front_end(count=4)
    limits = {rate.picture: rate.bottleneck for rate in planned.rates}
    assert limits["800x600 JPEG"] == "the GPU" and limits["4000x3000 JPEG"] == "the cores"
    assert "limited by the GPU (800x600 JPEG" in planned.line
    assert "the cores (4000x3000 JPEG)" in planned.line


def test_rates_follow_from_seconds_and_cores() -> None:
    (kind, *_), (rate, *_) = KINDS, front_end(count=9).rates
    assert rate.cores == close(8000 / (kind.draw_ms + kind.receive_ms))  # one is the engine's
    assert rate.api_processes == close(1000 / kind.receive_ms)
    assert rate.gpu == front_end(count=90).rates[0].gpu


def test_what_the_user_chose_stands_and_its_consequence_is_shown() -> None:
    plan = launch(H100, "--api-server-count", "3", cores=16)
    assert plan.front_end and (plan.front_end.api_processes, plan.front_end.media_workers) == (3, 5)
    assert plan.argv.count("--api-server-count") == 1
    assert front_end(H100, "-asc=3") == plan.front_end
    planned = front_end(H100, limits=Limits(media_workers=1))
    assert planned.media_workers == 1 and "picture workers (" in planned.line
    assert planned.rates[0].media_workers == close(1000 / KINDS[0].draw_ms)


def test_a_processor_computes_itself() -> None:
    planned = front_end(CPU, max_model_len=4096)
    assert (planned.api_processes, planned.media_workers, planned.rates) == (1, 16, ())
    assert planned.line == "1 API process, 16 picture workers; the model computes on the same cores"
    assert planned.table() == []


def test_of_an_unknown_gpu_only_the_host_is_known() -> None:
    planned = front_end(replace(A10, name="NVIDIA A10G"))
    assert planned.api_processes == 1 and "what this GPU takes is not known" in planned.line
    assert "not known" in planned.table()[1]
    spread = front_end(H100, "--tensor-parallel-size", "2")
    assert {rate.gpu for rate in spread.rates} == {None}


def test_responses_that_one_process_keeps_need_one() -> None:
    plan = launch(
        H100, environ={"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, cores=64, num_crops=1, num_crops_multi=1
    )
    assert plan.front_end and plan.front_end.api_processes == 1 and "--api-server-count" not in plan.argv
    assert "API processes" in plan.front_end.line


def test_each_engine_of_several_is_fed() -> None:
    """vLLM starts an API process for each engine, which is enough."""
    plan = launch(H100, "--data-parallel-size", "4", cores=128)
    one = front_end(H100, count=128)
    assert plan.front_end and plan.front_end.api_processes == 4
    assert "--api-server-count" not in plan.argv
    assert plan.front_end.rates[0].gpu == close(4 * (one.rates[0].gpu or 0))


@pytest.mark.parametrize("flags", [("--headless",), ("--data-parallel-size-local", "1")])
def test_front_ends_elsewhere_are_not_planned(flags: tuple[str, ...]) -> None:
    plan = launch(H100, *flags)
    assert plan.front_end is None and "front end" not in plan.summary


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "350000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"quota": "200000", "period": "100000"}, 2),
        ({"quota": "-1", "period": "100000"}, 8),
    ],
)
def test_a_containers_quota_bounds_the_cores(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(cores, "_QUOTA_V2", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(cores, "_QUOTA_V1", (str(tmp_path / "quota"), str(tmp_path / "period")))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.count_cores() == expected
