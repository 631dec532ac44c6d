"""The web page: pictures in, answers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from phi_vision.model.geometry import crop_grid, native_num_crops
from PIL import Image

from tests.support.browser import PHONE
from tests.support.pdf import Page as PdfPage
from tests.support.pdf import pdf, text_page
from tests.support.pictures import encoded, reference_picture
from tests.support.serving import eventually
from tests.support.stub_engine import ANSWER, ScriptedAnswer
from tests.support.stub_server import StubServer
from tests.support.web_page import PICTURE, File

if TYPE_CHECKING:
    from tests.browser.conftest import Visit

HOSTILE = '<img src="x" onerror="document.title=1"><script>document.title = 2</script> & <b>bold</b>'


def test_a_dropped_picture_is_read_while_the_answer_streams(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    page.task("OCR")
    words = ScriptedAnswer("GARDEN MARKET", logprob=[-0.01, -0.01, -3.0], held_from=2)
    with stub.answers(words):
        with stub.hold():
            page.ask()
            page.ended("Answering")
            page.shown("#text .words", r"\S")
            begun = page.answer
            assert "GARDEN MARKET".startswith(begun) and begun != "GARDEN MARKET"
            assert page.button("Stop").is_visible()
        page.ended("Complete")
    assert page.answer == "GARDEN MARKET"
    marks = page.tab.locator("mark")
    assert marks.last.evaluate("mark => mark.title").endswith("% sure")
    said = marks.last.text_content() or ""  # also to those who do not see the colour
    assert "MARKET (" in said and "% sure)" in said
    facts = page.tab.locator("#facts").inner_text()
    assert all(name in facts for name in ("Tokens", "First token", "Rope", "phi-3.5-vision-demo"))
    page.tab.get_by_label("Mark words of which it was less sure than").fill("1")
    assert marks.count() == 0


def test_the_cost_is_shown_before_and_is_what_the_server_counts(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    page.shown("#cost", "1,921 tokens of 16,384")
    page.shown("#canvas-caption", "4 . 3 crops and the whole picture, 1,921 tokens")
    page.tab.get_by_label("Crops at most").fill("4")
    page.shown("#cost", "757 tokens")
    assert page.tab.locator("#canvas path.over").get_attribute("d") == "M1 0V2M0 1H2"
    with page.tab.expect_response("**/v1/chat/completions") as answer:
        page.ask()
    headers = answer.value.headers
    assert (headers["x-phi-vision-num-crops"], headers["x-phi-vision-image-tokens"]) == ("4", "757")
    page.drop(PICTURE)
    page.shown("#cost", "1,514 tokens")


def test_the_arithmetic_of_crops_is_the_models(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url)
    sizes = [(1, 1), (5000, 1), (1, 4000), (336, 336), (337, 336), (1240, 1754), (7, 5), (4032, 3024)]
    sizes += [(int(37 * 1.31**i) + 1, int(4000 / 1.17**i) + 1) for i in range(24)]
    asked = [[*size, crops] for size in sizes for crops in range(1, 17)]
    found = page.tab.evaluate(
        """async (asked) => {
          const { cropGrid, nativeNumCrops } = await import("/page/geometry.js");
          return asked.map((each) => {
            const grid = cropGrid(...each);
            return [grid.rows, grid.columns, grid.resizedWidth, grid.resizedHeight, grid.left, grid.top,
              grid.tokens, nativeNumCrops(...each)];
          });
        }""",
        asked,
    )
    for each, numbers in zip(asked, found, strict=True):
        grid = crop_grid(*each)
        size = (grid.rows, grid.columns, grid.resized_width, grid.resized_height, grid.left, grid.top)
        assert tuple(numbers) == (*size, grid.num_image_tokens, native_num_crops(*each)), each


def test_a_picture_lies_as_its_camera_was_held(stub: StubServer, visit: Visit) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    photo = encoded(reference_picture(400, 200, seed=2), "JPEG", exif=turned)
    page = visit(stub.url).wait_until_ready()
    page.drop(File("photo.jpg", photo, "image/jpeg"))
    grid = crop_grid(200, 400, 16)
    page.shown("#canvas-caption", f"200 . 400 pixels: {grid.columns} . {grid.rows} crops")
    with page.tab.expect_response("**/v1/chat/completions") as answer:
        page.ask()
    assert answer.value.headers["x-phi-vision-image-tokens"] == str(grid.num_image_tokens)


def test_files_come_in_every_way(stub: StubServer, visit: Visit, tmp_path: Path) -> None:
    page = visit(stub.url, **PHONE).wait_until_ready()
    page.button("Shapes").tap()
    page.shown("#canvas-caption", "^shapes.png")
    assert page.tab.get_by_label("Question", exact=True).input_value() == "What color is the circle?"
    page.paste(PICTURE)
    page.shown("#canvas-caption", "^waves.png")
    for name, button in (("chosen.png", "Add"), ("photo.png", "Photo")):
        (tmp_path / name).write_bytes(PICTURE.content)
        with page.tab.expect_file_chooser() as chooser:
            page.button(button).tap()
        chooser.value.set_files(tmp_path / name)
        page.shown("#canvas-caption", f"^{name}")
    assert page.tab.locator("#camera-input").get_attribute("capture") == "environment"
    page.button("Remove waves.png").tap()
    asked = len(stub.requests)
    page.button("Ask").tap()
    page.ended("Complete")
    assert stub.requests[asked]["modalities"].count("image") == 3
    page.button("Start over").tap()
    assert page.button("Choose files").is_visible()


def test_a_question_is_asked(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    page.task("VQA")
    page.ask()
    page.shown("#text-fault", "Ask a question")
    question = page.tab.get_by_label("Question", exact=True)
    assert question.get_attribute("aria-invalid") == "true"
    with stub.answers(ScriptedAnswer(HOSTILE, prompt="heron", finish="length")):
        page.ask("Is the heron grey?")
        page.ended("Cut off: it reached its limit of tokens")
    assert question.get_attribute("aria-invalid") is None
    assert page.answer == HOSTILE  # text, which nothing reads as HTML
    assert page.tab.title() == "phi-vision" and page.tab.locator("#text :is(img, script, b)").count() == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ScriptedAnswer("a a a a", finish="repetition"), "Cut off: it began to repeat itself"),
        (ScriptedAnswer(""), "Blank: nothing was read"),
    ],
)
def test_endings_are_said_in_words(
    stub: StubServer, visit: Visit, answer: ScriptedAnswer, words: str
) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    page.task("OCR")
    with stub.answers(answer):
        page.ask()
        page.ended(words)


def test_an_answer_follows_a_schema(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    schema = {"type": "object", "properties": {"total": {"type": "string"}}, "required": ["total"]}
    page.option("JSON schema that the answer follows").fill(json.dumps(schema))
    page.option("Tokens of the answer at most").fill("77")
    asked = len(stub.requests)
    page.ask()
    page.ended("Complete")
    sampling = stub.requests[asked]["sampling"]
    assert sampling["max_tokens"] == 77 and "total" in str(sampling["structured_outputs"])


def test_a_document_is_read_page_by_page(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    pages = (text_page("One"), PdfPage(), text_page("Three"), text_page("Four"))
    page.drop(File("letter.pdf", pdf(*pages), "application/pdf"))
    page.task("OCR")
    assert page.option("Page by page").is_checked()
    page.option("Pages of documents").fill("1-3")
    page.shown("#cost", "Each page: up to 2,")
    text = "😀 FIRST second"
    with stub.answers(ScriptedAnswer(text, logprob=-0.01, times=1), ScriptedAnswer("LAST", times=None)):
        page.ask()
        page.ended("Complete")
    heads = page.tab.locator("#text h3").all_inner_texts()
    assert [head.split("\n")[0][:6] for head in heads] == ["Page 1", "Page 2", "Page 3"]
    assert "Blank" in heads[1] and "99 % sure" in heads[0]
    assert sorted(page.answer.split("\n---\n")) == sorted([text, "", "LAST"])


def test_an_answer_can_be_taken_along(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.button("Sign").click()
    page.ask()
    page.ended("Complete")

    def saved(kind: str) -> str:
        with page.tab.expect_download() as download:
            page.button(f".{kind}").click()
        assert download.value.suggested_filename == f"sign.{kind}"
        return Path(download.value.path()).read_text()

    assert saved("txt") == saved("md") == ANSWER
    record: dict[str, Any] = json.loads(saved("json"))
    assert (record["task"], record["status"], record["answer"][0]["text"]) == ("ocr", "complete", ANSWER)
    assert [word["text"] for word in record["answer"][0]["words"]] == ANSWER.split()


def test_earlier_answers_of_the_visit_are_kept(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    with stub.answers(ScriptedAnswer("the first"), ScriptedAnswer("the second")):
        page.button("Sign").click()
        page.ask()
        page.ended("Complete")
        page.button("Start over").click()
        page.button("Shapes").click()
        page.ask()
        page.shown("#past button", "the second")
    page.tab.locator("#past button", has_text="the first").click()
    page.shown("#canvas-caption", "^sign.png")
    assert page.answer == "the first" and page.tab.get_by_role("radio", name="OCR").is_checked()


def test_stop_ends_the_work_of_the_engine_too(stub: StubServer, visit: Visit) -> None:
    page = visit(stub.url).wait_until_ready()
    page.drop(PICTURE)
    with stub.answers(ScriptedAnswer("GARDEN MARKET", held_from=2)), stub.hold():
        asked = len(stub.requests)
        page.ask()
        page.shown("#text .words", r"\S")
        page.button("Stop").click()
        page.ended("Stopped")
        eventually(lambda: {"aborted": stub.requests[asked]["request_id"]} in stub.requests)
    assert "GARDEN MARKET".startswith(page.answer) and page.answer
    assert page.button("Ask").is_enabled()
