"""The web page with the demo model at work: what a first visitor does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.browser import watched_page
from tests.support.serving import Server
from tests.support.web_page import WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_the_demo_reads_the_first_example_and_names_a_colour(server: Server, browser: Browser) -> None:
    with watched_page(browser, server.url) as tab:
        tab.goto(server.url)
        page = WebPage(tab).wait_until_ready()
        page.shown("#demo-note", "This is the demo model")
        page.button("Sign").click()
        page.ask()
        page.ended("Complete")
        assert page.answer.splitlines() == ["GARDEN MARKET", "COFFEE $3.50", "OPEN 10:00"]
        page.button("Start over").click()
        page.button("Shapes").click()
        page.ask()
        page.ended("Complete")
        assert page.answer.startswith("Red")
