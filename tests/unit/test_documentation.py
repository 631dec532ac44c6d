"""The generated parts of the documentation. That they are up to date, `make lint` checks."""

import json
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from documentation import results
from documentation.__main__ import DOCUMENTS, filled_in
from documentation.blocks import options, tasks
from documentation.results import ROOT
from documentation.session import RECORD, drawn


def test_only_what_stands_between_the_markers_is_written() -> None:
    text = "before\n<!-- generated: tasks -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    assert filled_in(text) == (
        f"before\n<!-- generated: tasks -->\n{tasks()}\n<!-- end -->\nafter <!-- end -->\n"
    )
    assert filled_in(filled_in(text)) == filled_in(text)


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(AttributeError):
        filled_in("<!-- generated: nothing -->\n<!-- end -->\n")


def test_the_options_of_a_command_are_all_shown() -> None:
    shown = options("plan")
    assert "| `--gpu " in shown and "| `--json` |" in shown and "--help" not in shown


def test_pages_of_pdf_files_wait_for_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert results.pdf_pages() == "No committed result yet."
    row = {
        "workers": 2,
        "document": "scan, 200 dpi",
        "file_bytes": 1_250_000,
        "requests": 40,
        "pages_per_s": 9.87,
        "rounds_per_s": [9.5, 9.87],
        "page_cpu_ms": 101.25,
        "server_cpu_ms": 8.04,
        "share_of_ideal": 0.5,
    }
    measured = {"machine": {"cpu": "A CPU", "cores": 2, "load_average_1min": 0.3}, "speed": [row]}
    (tmp_path / "pdf_pages.json").write_text(json.dumps(measured))
    *_, cells, _, machine = results.pdf_pages().splitlines()
    assert cells == "| 2 | scan, 200 dpi | 1.25 | 101.2 | 8.0 | 9.9 | 50% |"
    assert machine == "A CPU, 2 cores, load average at the start 0.3."


def test_the_picture_shows_what_was_recorded() -> None:
    picture = ElementTree.fromstring(drawn('[{"command": "a < b", "output": ["<&>"]}]'))
    lines = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert lines == ["$ a < b", "<&>"]
    ElementTree.fromstring(drawn(RECORD.read_text()))


def test_the_version_is_that_of_the_latest_release() -> None:
    releases = re.findall(r"^## (.+)$", (ROOT / "server/CHANGELOG.md").read_text(), re.MULTILINE)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", release) for release in releases if release != "Unreleased")
    latest = next(release for release in releases if release != "Unreleased")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == latest


def _anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*DOCUMENTS, "server/CHANGELOG.md", "client_examples/README.md"])
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    document = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text()), link
