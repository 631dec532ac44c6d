"""The web page where something is wrong: fields, keys, a full or lost server, and one that still starts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.pictures import user
from tests.support.relay import relay_to
from tests.support.serving import eventually
from tests.support.stub_engine import ANSWER, ScriptedAnswer
from tests.support.stub_server import MINE, QUEUE, StubServer
from tests.support.web_page import PICTURE, File

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

    from tests.browser.conftest import Visit

REFUSED = "status of (4..|503)"  # what the browser logs of each


def test_a_file_that_is_no_picture_is_named(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, expected=REFUSED).wait_until_ready()
    page.drop(PICTURE, File("broken.png", b"not a picture"))
    page.ask()
    page.shown("#files-fault", "^broken.png: .*none of BMP, GIF")
    assert page.tab.locator("#strip .bad .thumb").get_attribute("aria-label") == "broken.png, refused"
    page.button("Remove broken.png").click()
    assert page.tab.locator("#files-fault").is_hidden()
    page.ask()
    page.ended("Complete")


def test_no_question_is_asked_before_its_example_has_come(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, expected=REFUSED).wait_until_ready()
    held: list[Route] = []
    page.tab.route(lambda url: url.endswith("/examples/sign.png"), lambda route: held.append(route))
    page.button("Sign").click()
    assert page.button("Ask").is_disabled()
    page.tab.keyboard.press("Control+Enter")
    eventually(lambda: page.tab.evaluate("true") and held != [])
    held.pop().fulfill(status=503)
    page.shown("#files-fault", "could not be fetched")
    page.button("Sign").click()
    eventually(lambda: page.tab.evaluate("true") and held != [])
    held.pop().continue_()
    page.ask()
    page.ended("Complete")
    assert page.answer == ANSWER and page.tab.locator("#files-fault").is_hidden()


@pytest.mark.parametrize(
    ("label", "value", "field", "words"),
    [
        ("JSON schema", '{"type": "object"', "schema", "This is no JSON"),
        ("JSON schema", "[]", "schema", "is an object"),
        ("JSON schema", '{"type": "integer", "multipleOf": 3}', "schema", "does not support"),
        ("Tokens of the answer", "99999999", "max-tokens", "max_tokens"),
        ("Tokens of the answer", "0", "max-tokens", "max_tokens"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    stub: StubServer, visit: Visit, label: str, value: str, field: str, words: str
) -> None:
    page = visit(stub.url, expected=REFUSED).wait_until_ready()
    page.drop(PICTURE)
    page.option(label).fill(value)
    page.ask()
    page.shown(f"#{field}-fault", words)
    assert page.tab.get_by_label(label).get_attribute("aria-invalid") == "true"
    assert page.tab.locator("#answer").is_hidden()


def test_what_is_too_much_for_one_request_is_not_sent(stub: StubServer, visit: Visit) -> None:
    told = httpx.get(f"{stub.url}/v1/tasks").json()
    told["server"]["max_body_mb"] = 0.01
    page = visit(stub.url)
    page.tab.route("**/v1/tasks", lambda route: route.fulfill(json=told))
    page.tab.reload()
    page.wait_until_ready().drop(PICTURE)
    asked = len(stub.requests)
    page.ask()
    page.shown("#files-fault", "of 0.01 MB at most")
    assert len(stub.requests) == asked


def test_pages_that_a_document_does_not_have(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url, expected=REFUSED).wait_until_ready()
    page.drop(File("fax.pdf", b"%PDF-1.4 cut off", "application/pdf"))
    page.option("Pages of documents").fill("0-2")
    page.ask()
    page.shown("#pages-fault", "The first page is 1")
    page.option("Pages of documents").fill("")
    page.ask()
    page.shown("#files-fault", "PDF")


def test_the_key_is_asked_for_once_and_kept_where_told(keyed: StubServer, visit: Visit) -> None:
    page = visit(keyed.url, expected=REFUSED)
    dialog = page.tab.get_by_role("dialog")

    def give(key: str, keep: bool) -> None:
        page.tab.get_by_label("API key").fill(key)
        page.tab.get_by_label("Keep it in this browser").set_checked(keep)
        page.button("Use the key").click()

    dialog.wait_for()
    give("wrong", False)
    page.shown("#key-fault", "does not take this key")
    give("with a space", False)
    page.shown("#key-fault", "no spaces")
    give(MINE, False)
    page.wait_until_ready()
    assert page.tab.evaluate("Object.values(localStorage)") == []
    page.drop(PICTURE)
    page.ask()
    page.ended("Complete")
    assert "$OPENAI_API_KEY" in (page.tab.locator("#snippet").text_content() or "")
    page.tab.reload()
    dialog.wait_for()
    give(MINE, True)
    page.wait_until_ready()
    page.tab.reload()
    page.wait_until_ready()
    assert dialog.is_hidden()
    page.button("Key").click()
    page.button("Forget the key").click()
    page.shown("#send", "A key is needed")
    assert page.tab.evaluate("Object.values(localStorage)") == []
    page.button("Not now").click()
    page.tab.locator("#queue").wait_for(state="hidden")
    assert dialog.is_hidden()  # it does not come back by itself


@contextmanager
def full(server: StubServer) -> Iterator[None]:
    """All places of the queue are taken meanwhile."""
    already = len(server.requests)

    def fill() -> None:
        server.client(MINE).chat.completions.create(model="phi-3.5-vision", messages=[user("hello")])

    with ThreadPoolExecutor(QUEUE) as pool, server.hold("hello"):
        held = [pool.submit(fill) for _ in range(QUEUE)]
        eventually(lambda: len(server.requests) == already + QUEUE)
        yield
    assert all(each.result() is None for each in held)


def test_a_full_server_is_asked_again_when_it_says(keyed: StubServer, visit: Visit) -> None:
    page = visit(keyed.url, expected=REFUSED)
    page.tab.get_by_label("API key").fill(MINE)
    page.button("Use the key").click()
    page.wait_until_ready().drop(PICTURE)
    with full(keyed):
        page.ask()
        page.ended("The server is full")
        page.shown("#trouble-words", f"{QUEUE} requests are at work or waiting")
        page.shown("#countdown", r"Asking again in \d+ s")
        page.shown("#queue", f"{QUEUE} of {QUEUE} requests")
        page.button("Ask now").wait_for()
    page.ended("Complete")
    assert page.answer == ANSWER
    with full(keyed):
        page.ask()
        page.ended("The server is full")
        page.button("Stop").click()
        page.ended("Stopped")


def test_what_had_come_stays_when_the_connection_is_lost(stub: StubServer, visit: Visit) -> None:
    with relay_to(stub.port) as relay:
        page = visit(relay.url, expected="ERR_").wait_until_ready()
        page.drop(PICTURE)
        page.task("OCR")
        with stub.answers(ScriptedAnswer("GARDEN MARKET", held_from=2)), stub.hold():
            page.ask()
            page.shown("#text .words", r"\S")
            relay.cut()
            page.ended("The connection was lost")
        page.shown("#trouble", "connection was lost before the answer was complete")
        assert page.answer and "GARDEN MARKET".startswith(page.answer)
        page.button("Ask again").click()
        page.ended("Complete")
        assert page.answer == ANSWER
        relay.close()
        page.shown("#state", "No connection")


def test_a_start_is_told_and_the_page_comes_alive_by_itself(stub: StubServer, visit: Visit) -> None:
    states: list[dict[str, Any]] = [{"status": "downloading", "percent": 43}]

    def answer(route: Route) -> None:
        if not states:
            route.continue_()
        elif route.request.url.endswith("/readyz"):
            route.fulfill(status=503, json=states[0])
        else:
            route.fulfill(status=503, json={"error": {"message": "not yet"}})

    page = visit(stub.url, expected="status of 503")
    page.tab.route(lambda url: "/v1/" in url or url.endswith("/readyz"), answer)
    page.tab.reload()
    page.shown("#start", "Downloading the weights: 43 %")
    assert page.tab.get_by_role("progressbar").get_attribute("value") == "43"
    page.button("Shapes").click()
    page.shown("#stage")
    assert page.button("Waiting for the server").is_disabled()
    page.tab.keyboard.press("Control+Enter")
    states[0] = {"status": "loading"}
    page.shown("#start", "Loading the model")
    assert page.tab.get_by_role("progressbar").get_attribute("value") is None
    states.clear()
    page.wait_until_ready()
    assert page.tab.locator("#start").is_hidden()
    assert page.tab.get_by_label("Question", exact=True).input_value() == "What color is the circle?"
    page.ask()
    page.ended("Complete")


def test_the_policy_refuses_other_hosts_and_inline_scripts(stub: StubServer, browser: Browser) -> None:
    tab = browser.new_page()
    tab.goto(stub.url)
    refused = tab.evaluate(
        """() => new Promise((resolve) => {
          const found = [];
          addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 3) resolve(found.sort());
          });
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/a.png" }));
          fetch("http://127.0.0.1:9/").catch(() => {});
          const script = document.createElement("script");
          script.textContent = "document.title = 1";
          document.body.append(script);
        })"""
    )
    tab.close()
    assert refused == ["connect-src", "img-src", "script-src-elem"]


def test_the_page_stops_asking_while_nobody_looks(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    asked = page.tab.evaluate(
        """async () => {
          const seen = [];
          const send = fetch;
          window.fetch = (...request) => { seen.push(request[0]); return send(...request); };
          Object.defineProperty(document, "hidden", { value: true, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
          const hidden = seen.length;
          Object.defineProperty(document, "hidden", { value: false });
          document.dispatchEvent(new Event("visibilitychange"));
          return [hidden, seen];
        }"""
    )
    assert asked == [0, ["readyz"]]


def test_the_requests_that_the_page_counts_are_the_servers(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    plan = httpx.get(f"{stub.url}/v1/plan").json()["plan"]
    page.shown("#queue", "^0 of ")
    page.tab.locator("#plan summary").click()
    page.shown("#plan-words", f"Profile {plan['profile']}")
    parts = page.tab.locator("#plan-parts li").all_inner_texts()
    cache = next(part for part in parts if part.startswith("KV cache"))
    assert f"{plan['kv_available_bytes'] / 2**30:.0f} GiB" in cache
    assert page.tab.locator("#plan-bar i").count() == len(parts)
