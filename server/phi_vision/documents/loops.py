"""Loops: answers that repeat themselves for ever, as small vision models do on dense or empty pages.

A text loops when it ends in at least `MIN_REPEATS` copies of one pattern, and the copies after the first are
longer than real documents have them. How long that is depends on the pattern:

| pattern | repeats | repeats that count |
|---|---|---|
| prose: words, phrases, lines, blocks of lines | 2 lines' worth | 10 |
| column: lines of at most `COLUMN_CHARS` characters ("0.00", "N/A") | 5 | 10 |
| layout: leaders, rules, rows of tables, lines of forms, lines of figures | 20 | 45 |

A line's worth is `LINE_CHARS` characters. Repeats that count differ in their numbers alone, and each number
stays as it was or grows by one ("1. foo", "2. foo"); there a number is one character, whatever its length.
So a table of contents, a ruled table, a page of blank lines, a price list or a numbered form passes whole,
and endless ones are cut still. All that is longer in a real page than these bounds is cut: nothing in the
text tells it from a loop.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

LINE_CHARS = 80
MIN_REPEATS = 4
COLUMN_CHARS = 12
WINDOW_CHARS = 6000  # how far back the detector looks: patterns of up to a quarter of it
CHECK_CHARS = 40  # how often the detector looks for repeats
COUNTING_CHECK_CHARS = 240  # and for those that count, which takes longer

_PROBE_CHARS = 2 * LINE_CHARS  # what every loop repeats at least
_DIGITS = "0123456789"
_ZEROS = str.maketrans(dict.fromkeys(_DIGITS, "0"))
_NUMBER = re.compile("[0-9]+")
_MAX_COUNTER_DIGITS = 9
_LETTER = re.compile(r"[^\W\d_]")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
# Cells, or a leader: four of a kind, perhaps with spaces between. (An ellipsis has three dots.)
_LAYOUT = re.compile(r"[|\t]|<td|([^\w\n]|_)(?: ?\1){3}")


def find_loop(text: str) -> int | None:
    """Where the loop that `text` ends in begins to repeat; None: it does not end in a loop.

    `text[:n]` is the text before the loop and the looping pattern once.
    """
    found = _find_repeats(text)
    return _find_counting_repeats(text) if found is None else found


class LoopDetector:
    """Finds a loop while a text grows, looking every `CHECK_CHARS` at the last `WINDOW_CHARS`.

    That takes a few microseconds a token, whatever the length of the text. How the text is split when it is
    fed makes no difference.
    """

    def __init__(self) -> None:
        self.num_fed = 0
        self.num_chars = 0  # looked at; once there is a loop, where it was certain
        self._window = ""  # ends at `num_chars`
        self._waiting = ""  # fed after that, less than `CHECK_CHARS`
        self._found = False

    def feed(self, text: str) -> bool:
        """Take what has been added to the text; whether there is a loop, which then stays so.

        `find_loop` of the first `num_chars` characters says where it begins.
        """
        self.num_fed += len(text)
        self._waiting += text
        while not self._found and len(self._waiting) >= CHECK_CHARS:
            self._window = (self._window + self._waiting[:CHECK_CHARS])[-WINDOW_CHARS:]
            self._waiting = self._waiting[CHECK_CHARS:]
            self.num_chars += CHECK_CHARS
            self._found = _find_repeats(self._window) is not None or (
                self.num_chars % COUNTING_CHECK_CHARS == 0
                and _find_counting_repeats(self._window) is not None
            )
        return self._found


def _find_repeats(text: str) -> int | None:
    for period, run in _runs(text):
        pattern = text[-period:]
        if run > _real_lines(pattern) * LINE_CHARS:
            return _end_of_line(text, len(text) - run, pattern)
    return None


def _find_counting_repeats(text: str) -> int | None:
    text = text.rstrip(_DIGITS)  # a last number may have digits to come
    bare = _with_short_numbers(text)
    if "0" not in bare[-_PROBE_CHARS:]:
        return None
    for period, run in _runs(bare):
        pattern = bare[-period:]
        least = max(_real_lines(pattern, counting=True) * LINE_CHARS, (MIN_REPEATS - 1) * period)
        if run > least and (counted := _counting_run(text, bare, period, run)) > least:
            return _end_of_line(text, _offset_in(text, len(bare) - counted), pattern)
    return None


def _end_of_line(text: str, cut: int, pattern: str) -> int:
    """A pattern of lines may be found to begin within one, of which the end is kept."""
    return text.index("\n", cut) if "\n" in pattern else cut


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Each period with which the text may end in `MIN_REPEATS`, and how many characters it goes on for."""
    probe, at = text[-_PROBE_CHARS:], len(text) - _PROBE_CHARS
    while at > 0 and (at := text.rfind(probe, 0, at + _PROBE_CHARS - 1)) >= 0:
        period = len(text) - _PROBE_CHARS - at
        run = _run(text, period)
        if run >= (MIN_REPEATS - 1) * period:
            yield period, run
        at = len(text) - run - period  # nearer than this all periods are multiples of this one


def _run(text: str, period: int) -> int:
    """How many characters at the end equal those `period` before them."""

    def differ(run: int) -> bool:
        return text[len(text) - run :] != text[len(text) - run - period : len(text) - period]

    return bisect_left(range(len(text) - period + 1), True, key=differ) - 1


def _counting_run(text: str, bare: str, period: int, run: int) -> int:
    """How much of a run counts: each number is that of the repeat before, or one more. 0: none grows."""
    numbers_in_period = bare.count("0", len(bare) - period)
    grows = False
    later: deque[str] = deque()  # the numbers of one period, the last first
    place = len(bare)
    for backwards in _NUMBER.finditer(text[::-1]):
        number = backwards[0][::-1]
        place = bare.rfind("0", 0, place)
        if place < len(bare) - run - period:
            break
        if len(later) == numbers_in_period:
            after = later.popleft()
            if not _follows(number, after):
                run = len(bare) - place - 1 - period
                break
            grows = grows or after != number
        later.append(number)
    return run if grows else 0


def _follows(number: str, after: str) -> bool:
    return after == number or (len(after) <= _MAX_COUNTER_DIGITS and int(after) == int(number) + 1)


def _real_lines(pattern: str, *, counting: bool = False) -> int:
    """How many lines' worth of repeats a real document may have."""
    twice = pattern + pattern  # it may begin anywhere in its line
    if not _LETTER_OR_DIGIT.search(pattern) or _LAYOUT.search(twice):
        return 45 if counting else 20
    if "\n" in pattern and max(map(len, twice.split("\n"))) <= COLUMN_CHARS:
        return 10 if counting else 5
    if "\n" in pattern and not _LETTER.search(pattern):
        return 45 if counting else 20
    return 10 if counting else 2


def _with_short_numbers(text: str) -> str:
    """The text with one 0 for each number. Regular expressions would take most of a check's time."""
    text = text.translate(_ZEROS)
    while "00" in text:
        text = text.replace("00", "0")
    return text


def _offset_in(text: str, bare_offset: int) -> int:
    """The place in `text` of a place in the text with numbers as one character each."""
    end = bare_offset
    for number in _NUMBER.finditer(text):
        if number.start() >= end:
            break
        end += len(number[0]) - 1
    return end
