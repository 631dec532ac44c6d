"""`phi-vision serve` up to the point where vLLM would run, and `--dry-run`, which ends there."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from phi_vision.cli import serve
from phi_vision.config import ServeConfig
from phi_vision.errors import UsageError
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.planning.hardware import Device, this_machine
from phi_vision.serving import startup

from tests.support.hub import Fault, running_hub
from tests.support.hub_cache import FIRST, HUB_ID, SECOND, SHARDED
from tests.support.launch import A10, launch


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "phi_vision", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def commands_of(output: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the words of the command line that a shell would read from it."""
    text = output.partition("\n# ")[2].partition("\n")[2]
    words = shlex.split(text.replace("\\\n", ""))
    start = words.index("vllm")
    return dict(word.split("=", 1) for word in words[:start]), words[start:]


def test_a_dry_run_prints_all_and_starts_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--dry-run", "--model", "demo", "--device", "cpu", "--port", port, "--num-crops", "4")
    assert done.returncode == 0 and not done.stderr
    assert "DEMO MODEL" in done.stdout and "served as" in done.stdout
    environment, words = commands_of(done.stdout)
    assert environment["VLLM_MEDIA_CONNECTOR"] == "phi_vision"
    assert words[:3] == ["vllm", "serve", str(DEMO_FOLDER)]
    assert words[words.index("--port") + 1] == port
    assert json.loads(words[words.index("--mm-processor-kwargs") + 1])["single"] == 4


def test_the_command_line_is_the_one_that_runs() -> None:
    plan = launch(A10, "--lora-modules", "a b=c'd")
    environment, words = commands_of(f"\n{serve.launch_commands(plan)}")
    assert (environment, words) == (plan.env, ["vllm", "serve", *plan.argv])


def test_a_dry_run_imports_nothing_heavy() -> None:
    program = (
        "import sys; from phi_vision.cli.main import main;"
        "main(['serve', '--dry-run', '--model', 'demo']);"
        "print(sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_dry_run_shows_no_secrets(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame-in-a-file\n")
    ours = ("--api_key", "sesame-flag", "--api-key-file", str(keys))
    vllms = ("--hf-token", "sesame-hub", "--hf-tok=sesame", "--api-ke", "sesame-short")
    done = run("--dry-run", "--model", "demo", *ours, *vllms, VLLM_API_KEY="sesame-variable")
    assert done.returncode == 0 and "sesame" not in done.stdout + done.stderr
    assert "with a key" in done.stdout and "--hf-token '***'" in done.stdout


@pytest.mark.parametrize(
    ("listing_error", "fault", "said"),
    [
        ((404, "RepoNotFound"), None, "no such model"),
        ((403, "GatedRepo"), None, "accept its terms"),
        (None, Fault(content=SHARDED[SECOND]), "is not the file that it lists"),
        (None, Fault(status=404), "does not give it (404)"),
    ],
    ids=["unknown", "gated", "wrong file", "missing file"],
)
def test_weights_that_are_not_to_be_had_are_one_line(
    listing_error: tuple[int, str] | None, fault: Fault | None, said: str, tmp_path: Path
) -> None:
    with running_hub() as hub:
        hub.listing_error, hub.stays = listing_error, True
        hub.faults = {} if fault is None else {FIRST: [fault]}
        done = run("--model", HUB_ID, "--port", "0", **hub.environment, HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("phi-vision: downloading")]
    assert line.startswith("phi-vision serve: ") and HUB_ID in line and said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./no-such-folder"], "no config.json"),
        (["--model", "demo", "--device", "mps"], "Apple silicon"),
        (["--model", "demo", "--max-num-seqs", "x"], "--max-num-seqs"),
        (["--model", "demo", "--api-key", ""], "the API key is empty"),
        (["demo"], "name a model with --model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_dry_run_refuses_what_serve_refuses(arguments: list[str], said: str) -> None:
    done = run("--dry-run", *arguments)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("phi-vision serve: ") and said in line


def test_a_dry_run_for_a_gpu_that_is_not_here_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from phi_vision.planning import hardware

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cuda")
    with pytest.raises(UsageError, match="no NVIDIA driver answers here"):
        serve.show_launch(ServeConfig(device="cuda"))
    monkeypatch.setattr(hardware, "installed_engine", lambda: "cpu")
    with pytest.raises(UsageError, match="make install ACCEL=cuda"):
        serve.show_launch(ServeConfig(device="cuda"))


def test_what_cannot_be_planned_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for file in DEMO_FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((tmp_path / "config.json").read_text()), "num_hidden_layers": 40000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("--model", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "does not fit" in done.stderr
    assert "longest context" in done.stderr
    assert ("fp8_e4m3" in done.stderr) is this_machine().has_avx512
    assert not done.stdout


def test_compilers_are_looked_for_before_anything_is_loaded_and_only_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class NextStepError(Exception):
        pass

    def next_step(*_: object) -> None:
        raise NextStepError

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(startup, "end_at_once_on_signals", lambda *_: None)
    monkeypatch.setattr(startup, "listen", next_step)
    monkeypatch.setattr(serve, "find_device", lambda _: A10)
    with pytest.raises(UsageError, match="a C compiler is not here"):
        serve.serve(ServeConfig())
    monkeypatch.setattr(serve, "find_device", lambda _: Device("cpu", "x86_64", 24 << 30))
    with pytest.raises(NextStepError):
        serve.serve(ServeConfig())


def test_where_keys_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert serve.api_keys(ServeConfig()) == []
    assert serve.api_keys(ServeConfig(api_key="flag")) == ["flag"]
    assert serve.api_keys(ServeConfig(api_key_file=str(file))) == ["one", "two"]
    assert serve.api_keys(ServeConfig(api_key="flag", api_key_file=str(file))) == ["flag", "one", "two"]
    monkeypatch.setenv("VLLM_API_KEY", "environment")
    assert serve.api_keys(ServeConfig()) == ["environment"]
    assert serve.api_keys(ServeConfig(api_key="flag")) == ["flag"]
    for empty in ("", None):
        monkeypatch.setenv("VLLM_API_KEY", "")
        with pytest.raises(UsageError, match="empty"):  # a key was meant to be there: never open to all
            serve.api_keys(ServeConfig(api_key=empty))
