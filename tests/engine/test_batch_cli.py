"""`phi-vision batch` with the real server: a folder, a file that is broken at first, a second start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet
from demo_training.pictures import HELD_OUT_WORDS, PRINT_EM, draw_text
from rapidfuzz.distance import Levenshtein

from tests.support.pdf import pdf
from tests.support.pictures import encoded
from tests.support.serving import Server

PAGES = [
    draw_text(Random(f"batch-cli-{i}"), em=PRINT_EM, lines=(1, 2), max_chars=10, words=HELD_OUT_WORDS)
    for i in range(5)
]
TEXTS = ["\n".join(page.lines) for page in PAGES]


def batch(server: Server, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the line on stdout, and stderr."""
    command = [sys.executable, "-m", "phi_vision", "batch", "--output", "out", *arguments]
    env = {**os.environ, "OPENAI_BASE_URL": server.base_url}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_a_folder_is_read_and_gone_on_with(server: Server, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    (scans / "a.png").write_bytes(encoded(PAGES[0].image))
    (scans / "b.pdf").write_bytes(pdf(*[page.image for page in PAGES[1:4]]))
    (scans / "c.png").write_bytes(b"no picture yet")
    keys = ["scans/a.png", "scans/b.pdf#1", "scans/b.pdf#2", "scans/b.pdf#3", "scans/c.png"]

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]

    code, summary, err = batch(server, tmp_path, "scans", "--format", "jsonl,md,txt,parquet")
    assert code == 1, err
    assert "answered by the DEMO model" in err and "Traceback" not in err
    assert (summary["items"], summary["done"], summary["failed"], summary["waiting"]) == (5, 4, 1, 0)
    first = rows()
    assert [row["key"] for row in first] == keys
    *read, broken = first
    said = [row["text"] for row in read]
    # It is no perfect reader; see its model card.
    assert sum(map(Levenshtein.distance, said, TEXTS)) <= 0.1 * sum(map(len, TEXTS[:4])), said
    for row in read:
        assert row["status"] == "complete" and row["error"] is None and 0.5 < row["confidence"] <= 1
        assert [word for word, _, _ in row["words"]] == row["text"].split()
    assert (broken["status"], broken["error"]["cause"]) == ("failed", "unreadable")
    assert pyarrow.parquet.read_table(out / "results.parquet")["text"].to_pylist() == [*said, None]
    for name, heading in (("md", "## scans/b.pdf, page 2 of 3"), ("txt", "--- scans/b.pdf, page 2 of 3 ---")):
        text = (out / f"results.{name}").read_text()
        assert heading in text and all(each in text for each in said)

    (scans / "c.png").write_bytes(encoded(PAGES[4].image))
    code, summary, err = batch(server, tmp_path, "scans", "--retry-failed")
    assert code == 0, err
    assert (summary["done"], summary["failed"]) == (5, 0)
    again = rows()
    assert again[:4] == read and again[4]["key"] == keys[4] and again[4]["text"]
