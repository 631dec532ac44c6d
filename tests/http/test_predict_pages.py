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

from tests.support.hostile_server import FakeServer, answer
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
    monkeypatch.setattr(fake, "next_reply", lambda: next(replies, b""))
    code, out, err = predict(THREE_PAGES, flags=("--output", str(output), "--format", kind))
    assert code == 3 and not out
    assert err.splitlines()[-2:] == [
        "phi-vision: page 3, 3 of 3",
        "phi-vision predict: the server broke off before the answer's end",
    ]
    kept = output.read_text()
    assert kept.count("alpha") == kept.count("omega") == 1


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
