"""The code that the page shows does what the page did."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.pdf import pdf, text_page
from tests.support.stub_engine import ScriptedAnswer
from tests.support.stub_server import StubServer
from tests.support.web_page import PICTURE, File, WebPage

if TYPE_CHECKING:
    from tests.browser.conftest import Visit

QUESTION = """What's `this`, \\n "costing" $HOME or $(date)? 😀
JSON"""
NAME = 'it\'s a $5 "photo".png'
LANGUAGES = {
    "curl": ["bash", "-c"],
    "Python": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "-e"],
}


def run_shown_code(page: WebPage, language: str, folder: Path) -> str:
    """What it prints."""
    page.tab.locator("#code summary").click()
    page.button(language).click()
    code = page.tab.locator("#snippet").text_content() or ""
    run = subprocess.run([*LANGUAGES[language], code], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each whose program is here. Nothing else of the project needs node."""
    program = LANGUAGES[request.param][0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return request.param


def test_it_asks_the_same(stub: StubServer, visit: Visit, tmp_path: Path, language: str) -> None:
    page = visit(stub.url).wait_until_ready()
    files = [
        File(NAME, PICTURE.content),
        File("a.pdf", pdf(text_page("One"), text_page("Two")), "application/pdf"),
    ]
    for file in files:
        (tmp_path / file.name).write_bytes(file.content)
    page.drop(*files)
    page.task("VQA")
    page.option("Pages of documents").fill("2")
    page.option("JSON schema").fill('{"type": "object", "properties": {"a": {"type": "null"}}}')
    page.option("Tokens of the answer").fill("55")
    page.tab.get_by_label("Crops at most").fill("3")
    asked = len(stub.requests)
    with stub.answers(ScriptedAnswer('{"a": null}', times=None)):
        page.ask(QUESTION)
        page.ended("Complete")
        printed = run_shown_code(page, language, tmp_path)
    assert '{"a": null}' in printed.replace('\\"', '"')
    by_page, by_code = stub.requests[asked:]
    assert by_code["prompt_token_ids"] == by_page["prompt_token_ids"]
    for field in ("max_tokens", "temperature", "structured_outputs"):
        assert by_code["sampling"][field] == by_page["sampling"][field]


@pytest.mark.full
def test_it_reads_a_document(stub: StubServer, visit: Visit, tmp_path: Path, language: str) -> None:
    page = visit(stub.url).wait_until_ready()
    file = File("a.pdf", pdf(text_page("One"), text_page("Two")), "application/pdf")
    (tmp_path / file.name).write_bytes(file.content)
    page.drop(file)
    page.task("OCR")
    page.option("Pages of documents").fill("2")
    with stub.answers(ScriptedAnswer("The second page", times=None)):
        page.ask()
        page.ended("Complete")
        printed = run_shown_code(page, language, tmp_path)
    assert printed.count("The second page") == 1
