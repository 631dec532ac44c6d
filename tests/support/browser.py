"""A real browser for pages that people look at: the system's Chromium, driven through Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium without a window.

    Where it is missing, the test is skipped; with `REQUIRE_BROWSER` in the environment, it fails.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        absent = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        absent(f"no browser: none of {', '.join(PROGRAMS)} is installed (`apt-get install chromium`)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(browser: Browser, origin: str, expected: str = "", **options: Any) -> Iterator[Page]:
    """A tab of its own.

    Leaving `with` checks that the page has thrown nothing, logged no error and asked for nothing elsewhere.

    Args:
        browser: from `running_browser`.
        origin: what the address of each request begins with, for example `file://`.
        expected: pattern of errors that the browser logs because the test wants them, such as an HTTP status.
        options: of Playwright's `new_context`.
    """
    faults: list[str] = []
    allowed = (
        origin,
        f"blob:{origin}",
        "chrome://",
        "chrome-extension://",
    )  # the latter two: its viewer of PDF files
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()

    def note(kind: str, is_fault: bool, what: str) -> None:
        if is_fault:
            faults.append(f"{kind}: {what}")

    def is_fault(message: ConsoleMessage) -> bool:
        return message.type == "error" and not (expected and re.search(expected, message.text))

    page.on("pageerror", lambda error: note("thrown", True, str(error)))
    page.on("console", lambda message: note("logged", is_fault(message), message.text))
    page.on("request", lambda request: note("asked", not request.url.startswith(allowed), request.url))
    try:
        yield page
    finally:
        context.close()
    assert not faults, faults
