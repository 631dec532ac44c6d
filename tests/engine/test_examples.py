"""Every client example, and every snippet of the README, runs as it stands."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import Server

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(p for p in (ROOT / "client_examples").iterdir() if p.suffix in (".py", ".sh"))
README = (ROOT / "README.md").read_text()


def run(command: list[str], server: Server, text: str | None = None) -> str:
    env = {**os.environ, "OPENAI_BASE_URL": server.base_url}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(server: Server, path: Path) -> None:
    command = ["bash", str(path)] if path.suffix == ".sh" else [sys.executable, str(path)]
    assert run(command, server).strip()


def blocks(language: str, word: str) -> list[str]:
    """The README's code blocks in which `word` stands."""
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", README, re.S) if word in block]
    assert found, f"no {language} with {word} in the README"
    return found


@pytest.mark.parametrize("code", blocks("python", "OpenAI"), ids=lambda code: code[:30])
def test_readme_python(server: Server, code: str) -> None:
    local = code.replace("http://127.0.0.1:8000/v1", server.base_url)
    assert local != code
    assert run([sys.executable, "-"], server, local).strip()


@pytest.mark.parametrize("code", blocks("bash", "curl"), ids=lambda code: code[:30])
def test_readme_curl(server: Server, code: str) -> None:
    local = code.replace("http://127.0.0.1:8000", server.url)
    assert local != code
    assert "choices" in run(["bash", "-euo", "pipefail", "-c", local], server)


@pytest.mark.parametrize("code", blocks("bash", "phi-vision predict"), ids=lambda code: code[:30])
def test_readme_predict(server: Server, code: str) -> None:
    local = code.replace(".venv/bin/phi-vision", f"{shlex.quote(sys.executable)} -m phi_vision")
    assert local != code
    assert json.loads(run(["bash", "-euo", "pipefail", "-c", local], server))
