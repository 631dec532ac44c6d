"""Pages as people write them."""

from __future__ import annotations

import pytest
from phi_vision.errors import RequestError
from phi_vision.tasks import page_ranges


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        (None, [0, 1, 2, 3]),
        ("2", [1]),
        ("1-3", [0, 1, 2]),
        ("3-", [2, 3]),
        ("4, 1 - 2", [3, 0, 1]),
        ("2,2", [1, 1]),
    ],
)
def test_pages_are_selected_in_the_order_asked_for(text: str | None, pages: list[int]) -> None:
    assert [page for each in page_ranges.select(text, 4) for page in each] == pages


@pytest.mark.parametrize(
    ("asked", "pages"),
    [(None, [0, 1, 2, 3]), ("0", [0]), ("0-0", [0]), ("1-3", [1, 2, 3]), ("3-", [3]), ([3, 0, 3], [3, 0, 3])],
)
def test_the_first_page_may_be_0(asked: str | list[int] | None, pages: list[int]) -> None:
    assert [page for each in page_ranges.select(asked, 4, base=0) for page in each] == pages


@pytest.mark.parametrize(("asked", "missing"), [("4", 4), ("0-9", 4), ("7-", 7), ([-1], -1), ([2, 5], 5)])
def test_a_page_that_is_not_there_is_named_as_it_is_counted(asked: str | list[int], missing: int) -> None:
    with pytest.raises(RequestError, match=f"no page {missing}: the document has 4 pages, 0 to 3"):
        page_ranges.select(asked, 4, base=0)
    with pytest.raises(RequestError, match="no page 1: the document has 1 page, page 0"):
        page_ranges.select("1", 1, base=0)


def test_what_is_no_text_of_pages_says_where_they_begin() -> None:
    with pytest.raises(RequestError, match="'0-2,6'; the first page is 0"):
        page_ranges.parse("x", base=0)


@pytest.mark.parametrize(
    "text", ["", "0", "3-1", "-2", "a", "1,,2", "1;2", "1-2-3", "٣" * 10, "1," * 600 + "1"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="'1-3,7'") as caught:
        page_ranges.parse(text, "here")
    assert caught.value.param == "here"


@pytest.mark.parametrize(("text", "missing"), [("5", 5), ("2-9", 5), ("7-", 7), ("1-999999999", 5)])
def test_a_page_that_is_not_there_is_named(text: str, missing: int) -> None:
    with pytest.raises(RequestError, match=f"no page {missing}: the document has 4 pages"):
        page_ranges.select(text, 4)
