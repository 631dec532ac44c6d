"""`phi-vision predict` of documents: a request for each page, in order."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from phi_vision.cli import main
from phi_vision.limits import Limits

from tests.support.hostile_server import END, FakeServer, answer, piece, sse
from tests.support.pdf import Page, encrypted, pdf
from tests.support.pictures import encoded, reference_picture

PICTURE = reference_picture(40, 30, seed=0)
THREE_PAGES = pdf(*[Page()] * 3)
THREE_FRAMES = encoded(PICTURE, "TIFF", save_all=True, append_images=[PICTURE] * 2)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    server.headers |= {"x-phi-vision-num-crops": "16", "x-phi-vision-image-tokens": "1921"}
    yield server
    server.close()


@pytest.fixture
def predict(fake: FakeServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command on files with these contents: exit code, stdout, stderr."""

    def run(*files: bytes, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        names = []
        for number, data in enumerate(files):
            path = tmp_path / f"scan{number}.pdf"
            path.write_bytes(data)
            names += ["--image", str(path)]
        code = main.main(["predict", *names, "--base-url", fake.base_url, "--task", "ocr", *flags])
        return code, *capfd.readouterr()

    return run


def files_asked(fake: FakeServer) -> list[dict[str, Any]]:
    """The file part of each request, which holds no other."""
    parts = []
    for request in fake.asked:
        (part,) = request["messages"][0]["content"]
        assert part["type"] == "file"
        parts.append(part["file"])
    return parts


@pytest.mark.parametrize(("data", "mime"), [(THREE_PAGES, "application/pdf"), (THREE_FRAMES, "image/tiff")])
def test_each_page_is_a_request(
    predict: Any, fake: FakeServer, tmp_path: Path, data: bytes, mime: str
) -> None:
    code, out, err = predict(data)
    name = tmp_path / "scan0.pdf"
    assert code == 0, err
    assert out == "".join(f"--- {name}, page {n} of 3 ---\nhello\n" for n in (1, 2, 3))
    assert err == "".join(f"phi-vision: page {n}, {n} of 3\n" for n in (1, 2, 3))
    url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    assert files_asked(fake) == [
        {"filename": "scan0.pdf", "file_data": url, "pages": page} for page in ("1", "2", "3")
    ]


def test_pages_are_chosen(predict: Any, fake: FakeServer) -> None:
    code, out, _ = predict(THREE_PAGES, flags=("--pages", "3,1-2"))
    assert code == 0 and [line[-12:] for line in out.splitlines()[::2]] == [
        f"e {n} of 3 ---" for n in (3, 1, 2)
    ]
    assert [file["pages"] for file in files_asked(fake)] == ["3", "1", "2"]


def test_one_page_is_the_answer_alone(predict: Any) -> None:
    assert predict(THREE_PAGES, flags=("--pages", "2")) == (0, "hello\n", "")
    assert predict(pdf(Page())) == (0, "hello\n", "")


def test_json_is_a_line_a_page(predict: Any, tmp_path: Path) -> None:
    code, out, _ = predict(THREE_PAGES, flags=("--pages", "2-3", "--format", "json"))
    assert code == 0
    about = {"name": str(tmp_path / "scan0.pdf"), "pages": 3, "crops": 16, "tokens": 1921}
    pages = [json.loads(line) for line in out.splitlines()]
    assert [page["images"] for page in pages] == [[{**about, "page": n}] for n in (2, 3)]
    assert all(page["text"] == "hello" and page["seconds"] >= 0 for page in pages)


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_the_pages_before_one_that_fails_are_kept(
    predict: Any, fake: FakeServer, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answer"
    replies = iter([answer("alpha"), answer("omega")])
    monkeypatch.setattr(fake, "next_reply", lambda path: next(replies, b""))
    code, out, err = predict(THREE_PAGES, flags=("--output", str(output), "--format", kind))
    assert code == 3 and not out
    assert err.splitlines()[-2:] == [
        "phi-vision: page 3, 3 of 3",
        "phi-vision predict: the server broke off before the answer's end",
    ]
    kept = output.read_text()
    assert kept.count("alpha") == kept.count("omega") == 1


def page(text: str, **more: Any) -> dict[str, Any]:
    """An answer of `/v1/ocr`."""
    usage = {"prompt_tokens": 2000, "completion_tokens": 9}
    known = {"status": "complete", "rotation": 0, "tiles": 1, "attempts": [], "usage": usage}
    scores = {"average_page_confidence_score": 0.75, "minimum_page_confidence_score": 0.5}
    return {"model": "x", "pages": [{"markdown": text, **known, "confidence_scores": scores, **more}]}


def test_pages_are_read_where_the_server_does_that(predict: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.read_pages = [page("alpha"), page("", status="blank"), page("omega", status="truncated")]
    code, out, err = predict(THREE_PAGES)
    heading = f"--- {tmp_path / 'scan0.pdf'}, page {{}} of 3 ---\n".format
    assert (code, out) == (0, f"{heading(1)}alpha\n{heading(2)}\n{heading(3)}omega\n")
    assert err.splitlines() == [
        "phi-vision: page 1, 1 of 3",
        "phi-vision: page 2, 2 of 3",
        "phi-vision: page 2: blank",
        "phi-vision: page 3, 3 of 3",
        "phi-vision: page 3: truncated",
    ]
    url = f"data:application/pdf;base64,{base64.b64encode(THREE_PAGES).decode()}"
    assert [asked["pages"] for asked in fake.asked] == [[0], [1], [2]]
    for asked in fake.asked:
        assert asked["document"] == {"type": "document_url", "document_url": url}
        assert asked["model"] == "mine:ocr"


def test_what_is_said_of_a_page_is_in_its_json(predict: Any, fake: FakeServer) -> None:
    fake.read_pages = [page("alpha", rotation=90, attempts=[{"purpose": "read"}])]
    code, out, _ = predict(THREE_PAGES, flags=("--pages", "2", "--format", "json"))
    result = json.loads(out)
    assert code == 0 and (result["text"], result["status"]) == ("alpha", "complete")
    assert (result["rotation"], result["tiles"], result["confidence"]) == (90, 1, 0.75)
    assert result["attempts"] == [{"purpose": "read"}]
    assert result["usage"] == {"prompt_tokens": 2000, "completion_tokens": 9}


def test_a_picture_is_a_page(predict: Any, fake: FakeServer, tmp_path: Path) -> None:
    fake.read_pages = [page("alpha", status="repetition")]
    data = encoded(PICTURE)
    name = tmp_path / "scan0.pdf"
    assert predict(data) == (0, "alpha\n", f"phi-vision: {name}: repetition\n")
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert fake.asked[0]["document"] == {"type": "image_url", "image_url": url}
    assert "pages" not in fake.asked[0]


@pytest.mark.parametrize(("count", "flags"), [(2, ()), (1, ("--prompt", "Read it."))])
def test_what_is_no_page_is_asked_about(
    predict: Any, fake: FakeServer, count: int, flags: tuple[str, ...]
) -> None:
    fake.read_pages = [page("alpha")]
    fake.headers["x-phi-vision-num-crops"] = ",".join(["4"] * count)
    fake.headers["x-phi-vision-image-tokens"] = ",".join(["757"] * count)
    assert predict(*[encoded(PICTURE)] * count, flags=flags)[:2] == (0, "hello\n")
    assert "messages" in fake.asked[0]


def test_a_server_that_reads_no_pages_is_asked_once(predict: Any, fake: FakeServer) -> None:
    code, out, _ = predict(THREE_PAGES, flags=("--format", "json"))
    assert code == 0 and fake.num_not_found == 1 and len(files_asked(fake)) == 3
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["complete"] * 3


def test_a_404_that_names_a_field_is_a_refusal(predict: Any, fake: FakeServer) -> None:
    fake.read_pages, fake.status = [], "404 Not Found"
    fake.reply = json.dumps({"error": {"message": "no such model", "param": "model"}})
    assert predict(THREE_PAGES, flags=("--pages", "1")) == (
        2,
        "",
        "phi-vision predict: the server refused: no such model\n",
    )
    assert len(fake.asked) == 1


def test_a_chat_that_was_cut_says_so(predict: Any, fake: FakeServer) -> None:
    fake.reply = sse(piece("half"), piece("", "length")) + END
    assert predict(THREE_PAGES, flags=("--pages", "2")) == (0, "half\n", "phi-vision: page 2: truncated\n")


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ([THREE_PAGES], ("--pages", "4"), "there is no page 4: the document has 3 pages"),
        ([THREE_PAGES], ("--pages", "0"), "pages are given as '1-3,7'"),
        ([THREE_PAGES], ("--pages", "x"), "pages are given as '1-3,7'"),
        ([encoded(PICTURE)], ("--pages", "2"), "there is no page 2"),
        ([THREE_PAGES, encoded(PICTURE)], (), "read one by one; give one --image"),
        ([encoded(PICTURE)] * 2, ("--pages", "1"), "read one by one; give one --image"),
        ([encrypted(THREE_PAGES)], (), "the PDF is encrypted; remove its password"),
        ([THREE_PAGES[:100]], (), "the PDF is damaged"),
        ([pdf(*[Page()] * (Limits.max_pages + 1))], (), "has 65 pages; choose some, as in --pages 1-64"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    predict: Any, fake: FakeServer, files: list[bytes], flags: tuple[str, ...], message: str
) -> None:
    code, out, err = predict(*files, flags=flags)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err
    assert fake.asked == []


def test_a_picture_has_one_page(predict: Any, fake: FakeServer) -> None:
    assert predict(encoded(PICTURE), flags=("--pages", "1")) == (0, "hello\n", "")
    assert fake.asked[0]["messages"][0]["content"][0]["type"] == "image_url"
