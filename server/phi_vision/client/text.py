"""Text of strangers made harmless for a terminal: answers, refusals, log lines, file names."""

from __future__ import annotations

import re

MAX_LINE_CHARS = 500

# Control characters but line feed and tab (escape sequences begin with one; C1 has them in one
# character), marks that turn the direction of a line, line separators, and halves of surrogate pairs,
# which no encoding takes.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with `\u001b` and the like in place of what a terminal would act on.

    JSON stays the same JSON: there these characters stand in strings only.
    """
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """The same, on one line, cut where it gets long."""
    line = " ".join(text[: 2 * MAX_LINE_CHARS].split())
    return visible(line if len(line) <= MAX_LINE_CHARS else line[:MAX_LINE_CHARS] + " ...")
