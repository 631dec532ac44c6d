"""`make gpu-pack` on a made-up folder: pieces join again, faults are a line each, what is left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu_report.packing import __main__ as packing
from benchmarks.gpu_report.packing import contents, unpack
from benchmarks.gpu_report.packing.pieces import cut
from benchmarks.harness import machine
from benchmarks.harness.servers import ROOT

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = Path(".venv", "lib", f"python{PYTHON}", "site-packages")
PIECE_BYTES = 64 << 10
TORCH = """
__version__ = "2"
class cuda:
    is_available = staticmethod(lambda: False)
    get_device_name = staticmethod(lambda: "NVIDIA A10")
    get_device_capability = staticmethod(lambda: (8, 6))
"""


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_package(
    site: Path, name: str, code: str = "", *, version: str = "1", needs: tuple[str, ...] = ()
) -> None:
    """As pip installs one: a folder with code, and its metadata."""
    module, info = name.replace("-", "_"), site / f"{name.replace('-', '_')}-{version}.dist-info"
    write(site / module / "__init__.py", code)
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    write(info / "RECORD", f"{module}/__init__.py,,\n{info.name}/METADATA,,\n../../../bin/{name},,\n")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Pieces of a folder with the package `vllm`, and what does not compress."""
    folder = tmp_path / "assembled"
    write_package(folder / SITE, "vllm", "__version__ = '0'")
    write(folder / SITE / "vllm" / "_C_stable_libtorch.py", "")
    write_package(folder / SITE, "pillow", "ours = True")
    write(folder / "benchmarks" / "deep" / "random.bin", Random(0).randbytes(3 * PIECE_BYTES))
    write(folder / "gpu-report", "#!/bin/sh\n").chmod(0o755)
    out = tmp_path / "out"
    write(out / "gpu-report.tar.xz.9", "of an earlier run")
    shares: list[float] = []
    pieces = cut(folder, out, PIECE_BYTES, PYTHON, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert [piece.stat().st_size for piece in pieces[:-1]] == [PIECE_BYTES] * (len(pieces) - 1)
    assert len(pieces) > 3 and 0 < pieces[-1].stat().st_size <= PIECE_BYTES
    assert {path.name for path in out.iterdir()} == {"pieces.json", "unpack.py", *(p.name for p in pieces)}
    return out


@pytest.fixture
def gpu_machine(tmp_path: Path) -> Path:
    """Packages of a Python that has torch."""
    site = tmp_path / "machine"
    write_package(site, "torch", TORCH, needs=("cuda-toolkit[cublas]", 'optional; extra == "more"'))
    write_package(site, "torchvision", needs=("torch", "Pillow>=5"))
    write_package(site, "cuda-toolkit", needs=('nvidia-cublas; extra == "cublas"',))
    for name in ("nvidia-cublas", "optional", "pillow", "unrelated"):
        write_package(site, name, version="1" if name == "nvidia-cublas" else "2")
    return site


def run_unpack(packed: Path, folder: Path, site: Path) -> tuple[int, str, list[str]]:
    """Exit code, what it says, and its lines on stderr."""
    # -S: only the packages of `site`.
    command = [sys.executable, "-S", str(packed / "unpack.py"), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(site)})
    return ended.returncode, ended.stdout, ended.stderr.splitlines()


def test_pieces_become_what_was_packed_beside_the_machines_torch(
    packed: Path, gpu_machine: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    code, said, faults = run_unpack(packed, folder, gpu_machine)
    assert (code, faults) == (0, [])
    assert "vLLM 0, torch 2, which sees no GPU" in said and str(folder / "gpu-report") in said
    for path in (tmp_path / "assembled").rglob("*"):
        if path.is_file():
            laid_down = folder / path.relative_to(tmp_path / "assembled")
            assert laid_down.read_bytes() == path.read_bytes()
            assert laid_down.stat().st_mode == path.stat().st_mode
    links = {path.name for path in (folder / SITE).iterdir() if path.is_symlink()}
    modules = {"torch", "torchvision", "cuda_toolkit", "nvidia_cublas"}
    assert links == modules | {f"{name}-1.dist-info" for name in modules}


def without_a_piece(packed: Path) -> None:
    (packed / "gpu-report.tar.xz.2").unlink()


def with_a_damaged_piece(packed: Path) -> None:
    piece = packed / "gpu-report.tar.xz.2"
    data = bytearray(piece.read_bytes())
    data[100] ^= 1
    piece.write_bytes(data)


def without_the_manifest(packed: Path) -> None:
    (packed / "pieces.json").unlink()


def for_another_python(packed: Path) -> None:
    manifest = json.loads((packed / "pieces.json").read_text())
    write(packed / "pieces.json", json.dumps({**manifest, "python": "3.99"}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_a_piece, r"1 of \d pieces not in .*: gpu-report.tar.xz.2$"),
        (with_a_damaged_piece, r"gpu-report.tar.xz.2 is not as it was packed: copy it again$"),
        (without_the_manifest, r"no pieces.json beside this file"),
        (for_another_python, rf"packed for Python 3.99, but this is {PYTHON}$"),
    ],
)
def test_what_is_wrong_with_the_pieces_is_one_line(
    packed: Path, gpu_machine: Path, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(packed)
    code, _, (line,) = run_unpack(packed, tmp_path / "unpacked", gpu_machine)
    assert code == 2 and re.match(told, line)
    assert not (tmp_path / "unpacked").exists()


def test_what_is_wrong_with_the_machine_is_one_line(packed: Path, gpu_machine: Path, tmp_path: Path) -> None:
    code, _, (line,) = run_unpack(packed, tmp_path / "unpacked", tmp_path / "nothing")
    assert code == 2 and "has no torch and no torchvision" in line
    write(tmp_path / "full" / "file", "here before")
    code, _, (line,) = run_unpack(packed, tmp_path / "full", gpu_machine)
    assert code == 2 and line.endswith("full is not empty: name a new folder")
    write(gpu_machine / "torch" / "__init__.py", "raise ImportError('no libcudart')")
    code, _, (line,) = run_unpack(packed, tmp_path / "without CUDA", gpu_machine)
    assert code == 2 and line.endswith("ImportError: no libcudart")


def test_a_gpu_that_needs_what_was_left_out_is_one_line(
    packed: Path, gpu_machine: Path, tmp_path: Path
) -> None:
    write(gpu_machine / "torch" / "__init__.py", TORCH.replace("False", "True"))
    code, _, (line,) = run_unpack(packed, tmp_path / "unpacked", gpu_machine)
    assert code == 2 and line.endswith("NVIDIA A10 needs FlashAttention 2: pack with --flash-attention-2")


@pytest.mark.parametrize("arguments", [("--python", "3"), ("--piece-mib", "0"), ("--piece-mib", "much")])
def test_wrong_options(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit, match="2"):
        packing.main()
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"make gpu-pack: error: argument {arguments[0]}")
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (subprocess.CalledProcessError(1, ["/bin/uv"]), "gpu-pack: uv failed, as it says above"),
        (OSError("no room"), "gpu-pack: no room"),
    ],
)
def test_what_keeps_it_from_packing_is_one_line(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(packing, "assemble", fail)
    monkeypatch.setattr(sys, "argv", [""])
    assert packing.main() == 2
    assert capsys.readouterr().err.splitlines() == [told]


def left_out() -> set[str]:
    return {
        name
        for line in contents.LEFT_OUT.read_text().splitlines()
        if (name := line.partition("#")[0].strip())
    }


def test_packages_left_out_are_vllms_and_not_our_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {
        Requirement(line).name
        for line in (*project["dependencies"], *project["optional-dependencies"]["engine"])
    }
    constraints = (ROOT / "server" / "constraints" / "cuda.txt").read_text()
    assert left_out() <= {line.partition("==")[0] for line in constraints.splitlines()}
    assert left_out() & ours == {"torch"}
    assert left_out() >= set(unpack.LINKED)


def test_packages_are_left_out_for_a_reason() -> None:
    for paragraph in contents.LEFT_OUT.read_text().split("\n\n"):
        assert paragraph.startswith("# ")


def test_files_are_left_out_by_patterns_that_still_match(tmp_path: Path) -> None:
    for name in ("_moe_C.so", "_C.so", "third_party/deep_gemm/one.py", "third_party/flashmla/two.py"):
        write(tmp_path / name, "")
    contents.remove(tmp_path, ["_moe_C*", "third_party/deep_gemm"])
    assert {path.name for path in tmp_path.rglob("*.*")} == {"_C.so", "two.py"}
    with pytest.raises(ValueError, match="is named _moe_C"):
        contents.remove(tmp_path, ["_moe_C*"])


def test_sources_go_along_as_they_are_now_without_results(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    wanted = (
        "benchmarks/gpu_report/steps.py",
        "tests/__init__.py",
        "tests/images/page.png",
        "tests/support/a.py",
    )
    for name in (*wanted, "benchmarks/results/old/report.json", "tests/unit/test_a.py", "server/a.py"):
        write(repository / name, "committed")
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    subprocess.run(["git", "-C", str(repository), "add", "."], check=True)
    write(repository / "benchmarks" / "untracked.py", "")
    write(repository / wanted[0], "changed")
    contents.copy_sources(repository, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == set(wanted)
    assert (tmp_path / "out" / wanted[0]).read_text() == "changed"


def test_a_report_names_the_commit_that_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"commit": "abc", "dirty": True}
    monkeypatch.setattr(machine, "_PACKED", write(tmp_path / "packed.json", json.dumps({"git": state})))
    assert machine.git_state() == state
