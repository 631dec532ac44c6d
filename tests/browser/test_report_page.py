"""`report.html` in a browser, opened from a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from phi_vision.batch.report import write_report

from tests.support.batch_records import done, failed, many
from tests.support.browser import PHONE, watched_page
from tests.support.pdf import pdf, text_page
from tests.support.pictures import encoded, reference_picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MANY = 10_000
SUMMARY = {"seconds": 814.2, "pages_per_s": 12.28, "task": "ocr"}
HOSTILE = '<img src="x" onerror="document.title=1"><script>document.title = 2</script> & café 😀 end'
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 10,000 pages, of which two pictures are there."""
    folder = tmp_path_factory.mktemp("long")
    for name in ("box 11/letter-05000.png", "box 20/letter-09999.png"):
        picture(folder / "letters" / name)
    return write_report(folder, many(MANY, folder), SUMMARY)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An item of each kind of page and of ending."""
    folder = tmp_path_factory.mktemp("short")
    picture(folder / "in" / "a b.png")
    (folder / "in" / "book.pdf").write_bytes(pdf(*(text_page(f"Page {number}") for number in (1, 2, 3))))

    def source(name: str, page: int | None = None) -> dict[str, Any]:
        return {"source": name if ":" in name else str(folder / "in" / name), "page": page}

    words = [[word, share, HOSTILE.index(word)] for word, share in (("end", 0.3), ("😀", 0.6), ("&", 0.99))]
    first = {
        "request": source("a b.png"),
        "words": words,
        "confidence": 0.6,
        "rotation": 90,
        "attempts": [{"purpose": "read", "rotation": turned, "confidence": 0.5} for turned in (0, 90)],
    }
    records = [
        done(0, "a b.png", HOSTILE, **first),
        done(1, "book.pdf#3", "Third page", request=source("book.pdf", 3)),
        done(2, "fax.tif", "Fax", request=source("fax.tif")),
        done(3, "web", "From the web", request=source("https://example.org/a.png")),
        done(4, "line", "Of a batch file", request={}),
        failed(5, "<b>bad</b>.png", "unreadable", "it is <i>cut</i> off", 400),
    ]
    return write_report(folder / "out", records, {})


@pytest.fixture
def show(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a report in a tab that is watched until the test ends."""
    opened = []

    def open_report(report: Path, view: str = "", **options: Any) -> Page:
        tab = watched_page(browser, "file://", **options)
        opened.append(tab)
        page = tab.__enter__()
        page.goto(report.as_uri() + view)
        return page

    yield open_report
    for tab in opened:
        tab.__exit__(None, None, None)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(reference_picture(120, 80, seed=1)))


def text_of(page: Page, selector: str, pattern: str) -> None:
    """Wait until an element's text matches."""
    page.locator(selector).filter(has_text=re.compile(pattern)).wait_for()


def test_the_overview_counts_what_the_run_brought(long_run: Path, show: Open) -> None:
    page = show(long_run)
    records = list(many(MANY, long_run.parent))
    causes = Counter(record.error["cause"] for record in records if record.error)
    failures = sum(causes.values())
    text_of(page, ".tile", rf"Done\s*{MANY - failures:,}")
    text_of(page, ".tile.bad", rf"Failed\s*{failures}")
    text_of(page, ".tile", r"Pages a second\s*12\.3")
    text_of(page, ".tile", r"Wall time\s*13 min 34 s")
    slowest = max(records, key=lambda record: (record.result or {}).get("seconds", 0))
    assert page.locator(".slowest a").first.text_content() == slowest.item.key
    cause, count = causes.most_common(1)[0]
    page.get_by_role("button", name=re.compile(cause)).click()
    text_of(page, "#count", rf"^{count} of 10,000 items$")


def test_a_long_list_draws_what_is_seen_and_loads_no_text(long_run: Path, show: Open) -> None:
    page = show(long_run)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    text_of(page, "#count", "^10,000 items$")
    assert 10 < page.locator(".row").count() < 60
    page.locator("#list").focus()
    page.keyboard.press("End")
    last = page.locator("#current")
    last.wait_for()
    assert last.get_attribute("aria-posinset") == "10000" == last.get_attribute("aria-setsize")
    assert page.locator(".row").count() < 60
    text_of(page, "#text", "\\S")
    assert [Path(url).name for url in asked if url.endswith(".js")] == ["0050.js"]


def test_filters_show_one_kind_or_several(long_run: Path, show: Open) -> None:
    page = show(long_run)
    records = many(MANY, long_run.parent)
    statuses = Counter((record.result or {"status": "failed"})["status"] for record in records)
    expected = 0
    for name in ("failed", "truncated", "repetition", "blank"):
        chip = page.locator(f'[data-filter="{name}"]')
        assert chip.text_content() == f"{name.capitalize()} {statuses[name]}"
        chip.click()
        expected += statuses[name]
        text_of(page, "#count", rf"^{expected} of 10,000 items$")
    assert page.get_by_role("button", name="Failed", pressed=True).count() == 1
    page.get_by_label("Order").select_option("slowest first")
    pressed = page.locator('#filters [aria-pressed="true"]')
    while pressed.count():
        pressed.first.click()
    low = page.locator('[data-filter="low"]')
    low.click()
    page.get_by_label("Order").select_option("least sure first")
    assert low.text_content() == f"Low confidence {page.locator('.row').first.get_attribute('aria-setsize')}"
    percents = [int(text.removesuffix(" %")) for text in page.locator(".row .percent").all_text_contents()]
    assert percents == sorted(percents) and percents[-1] < 95


def test_a_search_reads_all_texts_and_marks_what_it_found(long_run: Path, show: Open) -> None:
    page = show(long_run)
    page.keyboard.press("/")
    page.keyboard.type("50003")
    text_of(page, "#searched", "^All 10,000 texts searched$")
    text_of(page, "#count", "^1 of 10,000 items$")
    text_of(page, ".row", "letter-05000.*50003")
    page.keyboard.press("Enter")
    page.keyboard.press("j")
    assert page.locator("#text .hit").text_content() == "50003"
    page.keyboard.press("/")
    page.keyboard.type("box 20/")
    text_of(page, "#count", "^500 of 10,000 items$")
    page.keyboard.press("Escape")
    text_of(page, "#count", "^10,000 items$")
    assert page.get_by_label("Search names and texts").input_value() == ""


def test_what_a_model_wrote_is_shown_as_text(short_run: Path, show: Open) -> None:
    page = show(short_run, "#1")
    text_of(page, "#text", "end$")
    assert page.locator("#text").text_content() == HOSTILE
    assert page.locator("#text :not(mark)").count() == 0
    page.keyboard.press("ArrowRight")
    page.goto(short_run.as_uri() + "#6")
    text_of(page, "#text", "it is <i>cut</i> off")
    assert page.locator("#item").text_content() == "<b>bad</b>.png"
    assert page.title() == "<b>bad</b>.png · out · batch report"
    assert page.locator("b, i", has_text=re.compile("^(bad|cut)$")).count() == 0


def test_words_below_the_bound_are_marked(short_run: Path, show: Open) -> None:
    page = show(short_run, "#1")
    text_of(page, "#text", "end$")
    slider = page.get_by_label("Marked below")
    assert slider.input_value() == "95"
    assert page.locator("#text mark").all_text_contents() == ["😀", "end"]
    assert page.locator("#text mark").first.get_attribute("title") == "60 %"
    text_of(page, "#marked", "^2 of 3 words$")
    slider.fill("50")
    text_of(page, "#marked", "^1 of 3 words$")
    assert page.locator("#text mark").all_text_contents() == ["end"]
    assert page.locator('[data-filter="low"]').text_content() == "Low confidence 0"
    page.get_by_text("2 attempts at this page").click()
    assert page.locator("#attempts tbody tr").count() == 2


def test_a_page_is_shown_as_a_browser_can(short_run: Path, show: Open) -> None:
    page = show(short_run, "#1")
    image = page.get_by_role("img", name="Page of a b.png")
    image.wait_for()
    page.wait_for_function("document.querySelector('#page img').naturalWidth === 120")
    assert image.evaluate("image => getComputedStyle(image).rotate") == "90deg"
    page.get_by_role("button", name="Enlarge").click()
    assert page.locator(".frame").evaluate("frame => frame.scrollWidth > 2 * frame.clientWidth")
    links = {}
    for number in (2, 3, 4):
        page.keyboard.press("j")
        text_of(page, "#position", f"^{number} of 6$")
        links[number] = page.locator("#page a").get_attribute("href")
        assert page.locator("#page img").count() == 0
    assert links == {2: "../in/book.pdf#page=3", 3: "../in/fax.tif", 4: "https://example.org/a.png"}
    page.keyboard.press("j")
    text_of(page, "#text", "Of a batch file")
    assert not page.locator("#page").is_visible()


def test_a_pdf_opens_at_its_page_where_the_browser_shows_pdfs(short_run: Path, show: Open) -> None:
    page = show(short_run)
    has_viewer = page.evaluate("navigator.pdfViewerEnabled")
    page.goto(short_run.as_uri() + "#2")
    if has_viewer:
        frame = page.locator("#page iframe")
        frame.wait_for()
        assert str(frame.get_attribute("src")).startswith("../in/book.pdf#page=3&")
    else:
        text_of(page, "#page", "Browsers do not show files of this kind")


def test_keys_go_through_the_list(short_run: Path, show: Open) -> None:
    page = show(short_run)
    names = ["a b.png", "book.pdf#3", "fax.tif", "book.pdf#3"]
    for key, expected in zip(["j", "j", "ArrowDown", "k"], names, strict=True):
        page.keyboard.press(key)
        text_of(page, "#item", f"^{re.escape(expected)}$")
    text_of(page, "#position", "^2 of 6$")
    assert page.locator("#current").get_attribute("aria-posinset") == "2"
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="6 items").wait_for()
    page.go_back()
    text_of(page, "#item", "^book.pdf#3$")


def test_a_page_that_is_older_than_its_data_says_so(tmp_path: Path, show: Open) -> None:
    report = write_report(tmp_path, [done(0, "a", request={})], {})
    page = show(report)
    write_report(tmp_path, [done(0, "b", request={})], {})
    page.keyboard.press("j")
    text_of(page, "#text", "written anew .* reload")


def test_a_phone_shows_one_view_at_a_time(short_run: Path, show: Open) -> None:
    page = show(short_run, **PHONE)

    def is_alone(view: str) -> bool:
        page.locator(f'body[data-view="{view}"]').wait_for()
        views = {"overview": "#overview", "items": "#items", "item": "#viewer"}
        visible = [name for name, selector in views.items() if page.locator(selector).is_visible()]
        width = page.evaluate("document.documentElement.scrollWidth")
        return visible == [view] and width <= PHONE["viewport"]["width"]

    assert is_alone("overview")
    page.get_by_role("link", name="Items").tap()
    assert is_alone("items")
    page.locator(".row").first.tap()
    assert is_alone("item")
    for name in ("book.pdf#3", "fax.tif", "web", "line", "<b>bad</b>.png"):
        page.get_by_role("button", name="Next item").tap()
        text_of(page, "#item", f"^{re.escape(name)}$")
        assert is_alone("item")


def test_light_and_dark(short_run: Path, show: Open) -> None:
    def brightness(scheme: str) -> int:
        page = show(short_run, color_scheme=scheme)
        colour = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    assert brightness("dark") < 150 < 600 < brightness("light")


def test_the_policy_refuses_the_network(browser: Browser, short_run: Path) -> None:
    page = browser.new_page()
    page.goto(short_run.as_uri())
    refused = page.evaluate(
        """() => new Promise((resolve) => {
          addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/a.png" }));
        })"""
    )
    page.close()
    assert refused == "img-src"
