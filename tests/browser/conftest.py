"""The web page of a server in a tab, and what a user does there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.support.browser import watched_page
from tests.support.web_page import WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class Visit(Protocol):
    """Opens the page of a server; `options` are those of `watched_page`."""

    def __call__(self, url: str, **options: Any) -> WebPage: ...


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page in tabs that are watched until the test ends."""
    with ExitStack() as tabs:

        def open_page(url: str, **options: Any) -> WebPage:
            page = tabs.enter_context(watched_page(browser, url, **options))
            page.goto(url)
            return WebPage(page)

        yield open_page
