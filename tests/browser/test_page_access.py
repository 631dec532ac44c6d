"""The web page for everyone: screen readers, keyboards, both themes, phones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import PHONE
from tests.support.pdf import pdf, text_page
from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import StubServer
from tests.support.web_page import PICTURE, File, WebPage

if TYPE_CHECKING:
    from tests.browser.conftest import Visit

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
}


def check(page: WebPage) -> None:
    """axe-core finds no fault that keeps somebody out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page.tab).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]


@pytest.mark.parametrize("look", LOOKS)
def test_nobody_is_kept_out(stub: StubServer, visit: Visit, look: str) -> None:
    page = visit(stub.url, expected="status of 4", **LOOKS[look]).wait_until_ready()
    check(page)
    page.drop(PICTURE, File("letter.pdf", pdf(text_page("One")), "application/pdf"))
    page.task("VQA")
    page.ask()
    page.shown("#text-fault", "Ask a question")
    page.tab.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
    check(page)
    page.tab.locator("#plan").evaluate("plan => { plan.open = false; }")
    with stub.answers(
        ScriptedAnswer("sure doubtful", logprob=[-0.01, -0.01, -0.4, -0.9, -3.0]), ScriptedAnswer("x")
    ):
        for _ in range(2):
            page.ask("What is it?")
            page.ended("Complete")
    page.tab.locator("#past button", has_text="doubtful").click()
    assert page.tab.locator("mark").count()
    page.tab.get_by_label("Mark words").fill("100")
    check(page)
    page.button("Key").click()
    page.tab.get_by_role("dialog").wait_for()
    check(page)


def test_the_theme_is_switched_and_remembered(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, color_scheme="dark")

    def brightness() -> int:
        colour = page.tab.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    assert brightness() < 150
    page.button("Theme: system").click()
    assert brightness() > 600
    page.tab.reload()
    assert brightness() > 600
    page.button("Theme: light").click()
    page.button("Theme: dark").click()
    assert brightness() < 150 and page.tab.evaluate("localStorage.length") == 0


def test_the_keyboard_is_enough(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    keyboard = page.tab.keyboard

    def tab_to(name: str) -> None:
        for _ in range(40):
            keyboard.press("Tab")
            if name in page.tab.evaluate(
                "(document.activeElement.ariaLabel ?? '') + document.activeElement.textContent"
            ):
                return
        raise AssertionError(f"{name} is not reached")

    tab_to("Shapes")
    keyboard.press("Enter")
    page.shown("#canvas-caption", "shapes.png")
    page.tab.wait_for_selector("#text-input:focus")
    keyboard.press("Control+Enter")
    page.ended("Complete")
    tab_to("Theme")
    keyboard.press("Tab")  # the file that is shown
    keyboard.press("Control+Enter")
    page.ended("Complete")
    with stub.hold():
        keyboard.press("Control+Enter")
        page.ended("Waiting")
        keyboard.press("Escape")
        page.ended("Stopped")


def test_a_phone_has_one_column_and_nothing_sticks_out(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, **PHONE).wait_until_ready()

    def sticks_out() -> bool:
        width = page.tab.evaluate("document.documentElement.scrollWidth")
        return bool(width > PHONE["viewport"]["width"])

    assert not sticks_out()
    page.tab.locator("#plan summary").tap()
    assert not sticks_out()
    page.tab.locator("#plan summary").tap()
    page.button("Sign").tap()
    page.shown("#stage")
    with stub.answers(ScriptedAnswer("WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW")):
        page.ask()
        page.ended("Complete")
    page.tab.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
    assert not sticks_out()
    places = [page.tab.locator(f"#{part}").bounding_box() for part in ("see", "form", "answer")]
    tops = [place["y"] for place in places if place]
    assert len(tops) == 3 and tops == sorted(tops)


def test_less_motion_where_it_is_wished(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, reduced_motion="reduce").wait_until_ready()
    page.drop(PICTURE)
    with stub.hold():
        page.ask()
        page.ended("Waiting")
        moves = "dot => getComputedStyle(dot, '::before').animationName"
        assert page.tab.locator("#ending").evaluate(moves) == "none"
    page.ended("Complete")
