"""`python -m documentation` writes every generated part; with `--check` it only says what is out of date."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

from documentation import blocks, cpu_results, document_results, gpu_results, results, session
from documentation.results import ROOT

DOCUMENTS = (
    "README.md",
    "server/README.md",
    "server/phi_vision/README.md",
    "server/phi_vision/demo/MODEL_CARD.md",
    "benchmarks/README.md",
)
# <!-- generated: FUNCTION ARGUMENTS --> ... <!-- end -->
_BLOCK = re.compile(r"(<!-- generated: ([a-z]\w*)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled_in(text: str) -> str:
    """The Markdown `text` with each generated block made anew.

    Raises:
        AttributeError: there is no such block.
    """
    return _BLOCK.sub(lambda m: f"{m[1]}{_block(m[2])(*m[3].split())}\n{m[4]}", text)


def _block(name: str) -> Callable[..., str]:
    makers = (blocks, cpu_results, document_results, gpu_results, results)
    found: Callable[..., str] = getattr(next((m for m in makers if hasattr(m, name)), results), name)
    return found


def main() -> int:
    """Write or check; the exit code is 1 where a check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m documentation", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    texts = {ROOT / name: filled_in((ROOT / name).read_text()) for name in DOCUMENTS}
    texts[session.PICTURE] = session.drawn(session.RECORD.read_text())
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(texts[path])
        print(f"{path.relative_to(ROOT)} {'is out of date: run `make docs`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
