"""A start that fails: one line with a remedy, exit code 2 (3 when it is not the user's), no traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning.checkpoint import DEMO_FOLDER, check_weights
from phi_vision.serving.startup_errors import diagnose
from safetensors.torch import load_file, save_file

GPU_FAULTS = json.loads((Path(__file__).parents[1] / "data" / "start_faults.json").read_text())


def run_serve(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", "serve", *flags]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "model"))


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run_serve("--model", "demo", "--port", str(port))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"phi-vision serve: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port"
    ]


def test_weights_cut_short_are_one_line(weights: Path) -> None:
    file = weights / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size // 2)
    result = run_serve("--model", str(weights), "--port", "0")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"incomplete: {size // 2} of {size} bytes" in line and "download it again" in line


def test_whole_weights_pass(weights: Path) -> None:
    check_weights(weights)


@pytest.mark.parametrize("damage", ["index", "header", "empty"])
def test_damaged_weights_are_found_before_the_start(weights: Path, damage: str) -> None:
    file = weights / "model.safetensors"
    if damage == "index":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (weights / "model.safetensors.index.json").write_text(json.dumps(index))
    elif damage == "header":
        file.write_bytes(b"\xff" * 100)
    else:
        file.write_bytes(b"")
    with pytest.raises(UsageError, match="download"):
        check_weights(weights)


def test_a_key_file_that_is_missing_or_empty_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n \n")
    for path, reason in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "cannot be read"),
        (empty, "is empty"),
    ):
        result = run_serve("--model", "demo", "--port", "0", "--api-key-file", str(path))
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
        assert reason in result.stderr


@pytest.mark.parametrize(
    ("cause", "remedy", "exit_code"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "lower --max-model-len", 2),
        ("ValueError: No available memory for the cache blocks.", "lower --max-model-len", 2),
        ("OSError: [Errno 28] No space left on device", "the disk is full", 2),
        ("SafetensorError: Error while deserializing header", "download them again", 2),
        ("ValueError: Following weights were not initialized from checkpoint: {'x'}", "download them", 2),
        ("FileNotFoundError: No such file or directory: 'a/model-00001-of-00002.safetensors'", "download", 2),
        ("ValueError: the weights of this layer cannot be quantized to mxfp4", "--log-level debug", 3),
        ("ModuleNotFoundError: No module named 'safetensors'", "--log-level debug tells more", 3),
        (
            "ValueError: Free memory on device cuda:0 (12.3/22.1 GiB) on startup is less than",
            "free memory",
            2,
        ),
        ("KeyError: 'a bug of ours\nin two lines'", "--log-level debug tells more", 3),
    ],
)
def test_causes_get_their_remedy(cause: str, remedy: str, exit_code: int, tmp_path: Path) -> None:
    path = tmp_path / "cause"
    path.write_text(cause)
    error = diagnose(RuntimeError("Engine core initialization failed. See root cause above."), path)
    assert remedy in str(error) and "\n" not in str(error)
    assert isinstance(error, PhiVisionError) and error.exit_code == exit_code


@pytest.mark.parametrize("case", GPU_FAULTS, ids=lambda case: case["fault"])
def test_faults_of_a_gpu_machine_get_their_remedy(case: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "cause"
    path.write_text(case["cause"])
    error = diagnose(RuntimeError("Engine core initialization failed. Failed core proc(s): {}"), path)
    assert str(error).startswith("the engine did not start: ") and error.exit_code == 2
    assert case["remedy"] in str(error).partition(f" ({case['cause'][:20]}")[0]
    assert "--device cpu" not in str(error)  # an installation for CUDA has no CPU


@pytest.mark.full
def test_a_forked_engine_leaves_its_cause(tmp_path: Path) -> None:
    """As on a GPU: plugins load before the launcher asks, and the child only sets up vLLM's logging anew."""
    program = """
import logging, os, sys
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging
from phi_vision.serving.vllm_compat import start_cause
start_cause.install()
os.environ[start_cause.CAUSE_VARIABLE] = sys.argv[1]
if os.fork():
    os.wait()
    sys.exit()
configure_logging(LoggingConfig())
for logger, said in (("vllm.v1.executor.multiproc_executor", "WorkerProc failed to start."),
                     ("vllm.v1.engine.core", "EngineCore failed to start.")):
    try:
        raise RuntimeError(f"the cause, for {said}")
    except RuntimeError:
        logging.getLogger(logger).exception(said)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "cause")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "cause").read_text() == "RuntimeError: the cause, for WorkerProc failed to start."
    assert "Traceback" not in done.stdout + done.stderr


def test_an_engine_that_the_system_killed_is_out_of_memory(tmp_path: Path) -> None:
    error = diagnose(RuntimeError("Failed core proc(s): {'EngineCore': -9}"), tmp_path / "none")
    assert "not enough memory" in str(error) and error.exit_code == 2


@pytest.mark.parametrize(
    ("vllm_says", "said"),
    [
        ("Process ApiServer_1 (PID: 7) died with exit code -9", "ApiServer_1 died with exit code -9;"),
        ("Engine core process EngineCore_DP0 died unexpectedly.", "EngineCore_DP0 died unexpectedly;"),
    ],
)
def test_one_of_several_processes_that_dies_later_is_no_mistake_of_the_user(
    vllm_says: str, said: str, tmp_path: Path
) -> None:
    error = diagnose(RuntimeError(vllm_says), tmp_path / "none")
    assert said in str(error) and error.exit_code == 3


def test_the_hub_may_be_gone_after_the_first_start(tmp_path: Path) -> None:
    """A repository that is whole in the cache is served from there when no hub answers."""
    repository = tmp_path / "hub" / "models--somebody--some-model"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(DEMO_FOLDER, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    program = (
        "from phi_vision.planning.checkpoint import find_checkpoint;"
        "print(find_checkpoint('somebody/some-model', None).path);"
        "find_checkpoint('somebody/another', None)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:1"}
    env.pop("HF_HUB_OFFLINE", None)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert result.stdout.split() == [str(snapshot)]
    assert "UsageError: --model somebody/another: no config.json" in result.stderr
    assert "Retrying" not in result.stderr  # the hub's client would go on for 23 seconds


@pytest.mark.slow
@pytest.mark.full
def test_an_engine_that_fails_is_one_line_with_its_cause(weights: Path) -> None:
    """The real engine, with a tensor missing from a sound file: it fails in a process of its own."""
    file = weights / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, {"format": "pt"})
    result = run_serve("--model", str(weights), "--port", "0", "--max-model-len", "4096")
    assert result.returncode == 2, result.stderr[-3000:]
    assert "Traceback" not in result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("phi-vision serve:")]
    assert "the engine did not start: the weights are incomplete or damaged" in line
    assert "norm.weight" in line
