"""What is imported is declared, and the base install is enough for a client."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from tests.support.hostile_server import FakeServer, answer
from tests.support.pictures import encoded, reference_picture

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"phi_vision", "demo_training", "documentation", "benchmarks", "tests"} | {
    path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
}
INSTALLED = packages_distributions()
NOT_INSTALLED = {"pynvml": "nvidia-ml-py"}  # modules that are not named like their distribution


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements name."""
    found = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in requirements)
    return {normal(match[0]) for match in found if match}


BASE = names(PROJECT["dependencies"])
SERVER = BASE | names(EXTRAS["engine"] + EXTRAS["cpu"] + EXTRAS["cuda"] + EXTRAS["parquet"] + EXTRAS["ray"])
TESTS = SERVER | names(EXTRAS["dev"])
BENCHMARKS = TESTS.union(
    *(names(path.read_text().splitlines()) for path in (ROOT / "benchmarks").glob("requirements-*.txt"))
)


def imported(folder: str) -> dict[str, str]:
    """Each foreign module that the folder's files import -> one of the files."""
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for module in {module.partition(".")[0] for module in modules} - OWN:
                if module not in sys.stdlib_module_names:
                    found[module] = str(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("server/phi_vision", SERVER),
        ("tests", TESTS),
        ("client_examples", TESTS),
        (
            "server/demo_training",
            TESTS | names(["matplotlib"]),
        ),  # drawn in the benchmark's environment
        ("benchmarks", BENCHMARKS),
    ],
)
def test_every_import_is_declared(folder: str, declared: set[str]) -> None:
    undeclared = {
        module: file
        for module, file in imported(folder).items()
        if not declared & set(map(normal, INSTALLED.get(module, [NOT_INSTALLED.get(module, module)])))
    }
    assert not undeclared


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_what_is_declared_has_a_pinned_version(accelerator: str) -> None:
    pins = names((ROOT / "server" / "constraints" / f"{accelerator}.txt").read_text().splitlines())
    extras = ("engine", accelerator, "parquet", "ray", "dev")
    wanted = BASE | names(line for extra in extras for line in EXTRAS[extra])
    assert not wanted - pins - {"phi-vision"}


def closure(wanted: set[str]) -> set[str]:
    """These distributions and all that they require without extras."""
    seen: set[str] = set()
    while wanted - seen:
        name = (wanted - seen).pop()
        seen.add(name)
        try:
            wanted |= names(line for line in requires(name) or () if "extra ==" not in line)
        except PackageNotFoundError:
            continue  # for another system or version of Python
    return seen


WITHOUT_THE_ENGINE = """
import sys

class Hiding:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in absent
        return None if hidden else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

absent = set(sys.argv[1].split(","))
sys.meta_path[:] = map(Hiding, sys.meta_path)
from phi_vision.cli import main
sys.exit(main.main(sys.argv[2:]))
"""


def test_the_base_install_is_enough_for_a_client(tmp_path: Path) -> None:
    there = closure(set(BASE))
    absent = [m for m, of in INSTALLED.items() if not there & set(map(normal, of)) and m not in OWN]
    assert {"vllm", "torch", "transformers", "numpy"} <= set(absent) and not {"httpx", "PIL"} & set(absent)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encoded(reference_picture(40, 30, seed=0)))
    fake = FakeServer()
    fake.reply = answer("hello")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_THE_ENGINE, ",".join(absent), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("predict", "--image", str(picture), "--base-url", fake.base_url)
    fake.close()
    assert done.stdout == "hello\n" and not done.stderr, done.stderr
    planned = run("plan", "--gpu", "a10", "--json")
    assert planned.returncode == 0 and json.loads(planned.stdout), planned.stderr
