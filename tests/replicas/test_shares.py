"""A machine divided among servers, and what each is started with."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from phi_vision.cli.main import parser
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.limits import Limits
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import visible_gpus
from phi_vision.replicas.run import server_command
from phi_vision.replicas.settings import ReplicaSettings
from phi_vision.replicas.shares import check, divide
from phi_vision.settings import command_line

DEMO = ServeConfig(model="demo")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_API_KEY",
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(variable, raising=False)


def test_a_gpu_and_its_part_of_the_cores_for_each() -> None:
    shares = divide(DEMO, "cuda", None, gpus=["2", "0"], cores=range(16))
    assert [share.env["CUDA_VISIBLE_DEVICES"] for share in shares] == ["2", "0"]
    assert {share.env["CUDA_DEVICE_ORDER"] for share in shares} == {"PCI_BUS_ID"}  # as nvidia-smi counts
    assert [sorted(share.cores) for share in shares] == [list(range(8)), list(range(8, 16))]
    assert [(share.text, share.flags) for share in shares] == [
        ("GPU 2, cores 0-7", ()),
        ("GPU 0, cores 8-15", ()),
    ]


def test_part_of_a_processor_for_each() -> None:
    shares = divide(DEMO, "cpu", 3, gpus=[], cores=[0, 1, 2, 3, 4, 6, 7, 9])
    assert [sorted(share.cores) for share in shares] == [[0, 1], [2, 3, 4], [6, 7, 9]]
    assert [share.text for share in shares] == ["cores 0-1", "cores 2-4", "cores 6-7,9"]
    assert {share.flags for share in shares} == {("--gpu-memory-utilization", "0.307")}


@pytest.mark.parametrize(
    ("kind", "replicas", "message"),
    [
        ("cuda", 3, "--replicas 3: each takes a GPU, and there are 2"),
        ("cpu", 5, "--replicas 5: each takes a core, and there are 4"),
        ("cpu", None, "say how many: --replicas N, each with its part of the cores"),
        ("mps", 2, "replicas need NVIDIA GPUs or a CPU"),
    ],
)
def test_a_machine_that_is_too_small(kind: str, replicas: int | None, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        divide(DEMO, kind, replicas, gpus=["0", "1"], cores=range(4))
    assert str(raised.value) == message


def test_so_little_memory_that_no_server_starts() -> None:
    with pytest.raises(UsageError, match=r"--gpu-memory-utilization 0\.1 is too little for 4 servers"):
        divide(replace(DEMO, gpu_memory_utilization=0.1), "cpu", 4, gpus=[], cores=range(4))


def test_cores_that_are_bound_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    with pytest.raises(UsageError, match="unset it"):
        divide(DEMO, "cpu", 2, gpus=[], cores=range(4))


@pytest.mark.parametrize("flag", ["--uds=x", "-tp=2", "--data_parallel_size=2", "--ssl-certfile=x"])
def test_flags_that_only_one_server_could_have(flag: str) -> None:
    with pytest.raises(UsageError, match="does not go with replicas"):
        check(EngineFlags.parse([flag], {}), {})


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("true", True), ("0", False), ("False", False)])
def test_what_only_one_server_would_know(value: str, refused: bool) -> None:
    environ = {"VLLM_ENABLE_RESPONSES_API_STORE": value}
    if not refused:
        check(EngineFlags(), environ)
        return
    with pytest.raises(UsageError, match="a stored response is known to one server only"):
        check(EngineFlags(), environ)


def test_the_gpus_that_cuda_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 3, GPU-1 ,")
    assert visible_gpus() == ["3", "GPU-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_each_server_is_asked_for_what_was_asked_for() -> None:
    words = "--host 0.0.0.0 --port 9000 --model demo --max-model-len 8192 --crops adaptive --no-page"
    words += " --max-images 3 --max-body-mb 1.5 --allowed-hosts a.example --max-num-seqs 4"
    parsed = _parsed(f"replicas {words}")
    flags, env = server_command(parsed, EngineFlags.parse(parsed.vllm_args, {}))
    again = _parsed(f"serve {' '.join(flags)}")
    limits = replace(parsed.limits, stop_notice_s=3.0)  # the balancer is told before any request is refused
    assert again == replace(parsed, host=ServeConfig.host, port=ServeConfig.port, limits=limits)
    assert env == {}


def _parsed(line: str) -> ServeConfig:
    options, rest = parser().parse_known_args(line.split())
    return ServeConfig.from_flags(options, rest)


@pytest.mark.parametrize(
    ("config", "hosts"),
    [
        (replace(DEMO, host="phi.example.org"), "phi.example.org"),
        (replace(DEMO, host="phi.example.org", limits=Limits(allowed_hosts="x")), "x,phi.example.org"),
        (replace(DEMO, host="phi.example.org", api_key="k"), None),  # any name, with a key
        (replace(DEMO, host="0.0.0.0"), None),  # addresses always are
    ],
)
def test_the_name_that_clients_use_is_allowed(config: ServeConfig, hosts: str | None) -> None:
    flags, _ = server_command(config, EngineFlags())
    assert [flag for flag in flags if "allowed-hosts" in flag] == (
        [f"--allowed-hosts={hosts}"] if hosts else []
    )


def test_a_key_stands_on_no_command_line(tmp_path: Path) -> None:
    flags, env = server_command(replace(DEMO, api_key="secret"), EngineFlags())
    assert (env, [flag for flag in flags if "secret" in flag]) == ({"VLLM_API_KEY": "secret"}, [])
    flags, env = server_command(replace(DEMO, api_key_file=str(tmp_path)), EngineFlags())
    assert (env, f"--api-key-file={tmp_path}" in flags) == ({}, True)
    with pytest.raises(UsageError, match="not both"):
        server_command(replace(DEMO, api_key="secret", api_key_file="x"), EngineFlags())


def test_flags_say_what_differs_from_the_defaults() -> None:
    assert command_line(Limits()) == command_line(ReplicaSettings()) == []
    assert command_line(ReplicaSettings(replicas=2)) == ["--replicas=2"]
    assert command_line(ServeConfig(no_page=True, max_model_len=64)) == ["--max-model-len=64", "--no-page"]


def test_settings_from_the_command_line() -> None:
    options: argparse.Namespace = parser().parse_args(
        ["replicas", "--replicas", "2", "--hang-timeout-s", "5"]
    )
    assert ReplicaSettings.from_flags(options) == ReplicaSettings(replicas=2, hang_timeout_s=5.0)
    with pytest.raises(UsageError, match="--replicas must be from 1 to 64, not 0"):
        ReplicaSettings(replicas=0)
