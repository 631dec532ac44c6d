"""`/v1/files` with the real SDKs of OpenAI and Mistral, and with what no SDK sends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral

from tests.support.pdf import pdf, text_page
from tests.support.serving import PATIENCE_S, Server
from tests.support.stub_server import MINE, YOURS, StubServer

PDF = pdf(text_page("HELLO"), text_page("WORLD"))
VISION: Any = "vision"  # a purpose of OpenAI's alone


def client(server: Server, key: str = MINE) -> openai.OpenAI:
    return server.client(key)


def mistral(server: Server, key: str = MINE) -> Mistral:
    return Mistral(api_key=key, server_url=server.url, timeout_ms=PATIENCE_S * 1000)


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500 or answer.status_code == 503, answer.text
    return answer.json()["error"]


def post(server: Server, *, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
    keyed = {"Authorization": f"Bearer {MINE}", **(headers or {})}
    return httpx.post(f"{server.url}/v1/files", headers=keyed, **options)


def test_openais_sdk(keyed: StubServer) -> None:
    files = client(keyed).files
    file = files.create(file=("scan.pdf", PDF), purpose="user_data")
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "scan.pdf",
        len(PDF),
        "user_data",
        "processed",
    )
    assert file.expires_at == file.created_at + 24 * 3600
    assert files.retrieve(file.id) == file
    assert file in list(files.list(purpose="user_data", limit=1))
    assert file not in list(files.list(purpose="vision"))
    assert files.content(file.id).read() == PDF
    assert files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        files.retrieve(file.id)


def test_mistrals_sdk(keyed: StubServer) -> None:
    files = mistral(keyed).files
    file = files.upload(file={"file_name": "scan.pdf", "content": PDF}, purpose="ocr")
    assert (file.filename, file.size_bytes, file.purpose, file.source) == (
        "scan.pdf",
        len(PDF),
        "ocr",
        "upload",
    )
    assert files.retrieve(file_id=file.id).id == file.id
    listed = files.list(page_size=100)
    assert file.id in [each.id for each in listed.data] and listed.total == len(listed.data)
    assert files.download(file_id=file.id).read() == PDF
    signed = files.get_signed_url(file_id=file.id, expiry=1)
    assert httpx.get(signed.url).content == PDF  # without a key
    assert files.delete(file_id=file.id).deleted
    assert httpx.get(signed.url).status_code == 404


def test_lists_come_in_pages(stub: StubServer) -> None:
    files = client(stub).files
    sent = [files.create(file=(f"{n}.pdf", PDF), purpose="vision").id for n in range(5)]
    assert {file.id for file in files.list(purpose="vision", limit=2)} >= set(sent)  # follows `after`
    pages = [
        mistral(stub).files.list(search=".pdf", purpose=VISION, page=page, page_size=3) for page in (0, 1)
    ]
    assert {file.id for page in pages for file in page.data} == set(sent)
    assert [page.total for page in pages] == [5, 5]


def test_files_are_only_seen_with_their_key(keyed: StubServer) -> None:
    file = client(keyed).files.create(file=("a.pdf", PDF), purpose="user_data")
    other = client(keyed, YOURS).files
    assert file.id not in [each.id for each in other.list()]
    for act in (other.retrieve, other.content, other.delete):
        with pytest.raises(openai.NotFoundError):
            act(file.id)
    for path in ("", f"/{file.id}", f"/{file.id}/content", f"/{file.id}/url"):
        assert httpx.get(f"{keyed.url}/v1/files{path}").status_code == 401
    assert client(keyed).files.content(file.id).read() == PDF


@pytest.mark.full
def test_an_expired_file_is_not_there(stub: StubServer) -> None:
    file = client(stub).files.create(file=("a.pdf", PDF), purpose="user_data")
    (path,) = (stub.folder / "files").rglob(file.id)
    os.utime(path, (time.time(), time.time() - 1))
    with pytest.raises(openai.NotFoundError):
        client(stub).files.retrieve(file.id)


def test_the_time_to_keep_a_file_can_be_shorter(stub: StubServer) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 3600}
    file = client(stub).files.create(file=("a.pdf", PDF), purpose="user_data", expires_after=expires)
    assert file.expires_at == file.created_at + 3600
    kept = mistral(stub).files.upload(file={"file_name": "a.pdf", "content": PDF}, purpose="ocr", expiry=2)
    assert kept.expires_at == kept.created_at + 7200


NAMES = ["../../../etc/passwd", "a\u202eb.pdf", "\u00e4" * 300, ".", "CON", "a\\b", "x" * 1000]


@pytest.mark.parametrize("name", NAMES)
def test_a_filename_is_data(stub: StubServer, name: str) -> None:
    file = client(stub).files.create(file=(name, PDF), purpose="user_data")
    assert len(file.filename) <= 255
    assert client(stub).files.content(file.id).read() == PDF
    (stored,) = (stub.folder / "files").rglob(f"*{file.id}*")
    assert stored.name == file.id


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"purpose": "fine-tune"}}, "purpose"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"purpose": "x" * 900}}, "purpose"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"expiry": "25"}}, "expiry"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"expiry": "-1"}}, "expiry"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"expires_after[anchor]": "now"}}, "expires_after"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"made_up": "1"}}, "made_up"),
        ({"files": {"file": ("a.pdf", b"")}}, "file"),
        ({"files": {"other": ("a.pdf", PDF)}}, "other"),
        ({"files": [("file", ("a.pdf", PDF)), ("file", ("b.pdf", PDF))]}, "file"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {f"f{n}": "x" for n in range(50)}}, "file"),
        ({"files": {"file": ("a.pdf", PDF)}, "data": {"purpose": "x" * 5000}}, "file"),
        ({"json": {"file": "x"}}, "file"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "file"),
        ({"content": b"x" * 999, "headers": {"content-type": "multipart/form-data; boundary=a"}}, "file"),
    ],
)
def test_bad_uploads_name_their_field(stub: StubServer, options: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{stub.url}/v1/files", **options)
    assert refusal(answer)["param"] == param and answer.status_code == 400
    assert not list((stub.folder / "files").rglob("draft-*"))


@pytest.mark.parametrize("size", [550_000, 900_000, 3_000_000])
def test_a_file_that_is_too_large_is_a_413(keyed: StubServer, size: int) -> None:
    answer = post(keyed, files={"file": ("a.pdf", bytes(size))})
    assert refusal(answer)["param"] == "file" and answer.status_code == 413


def test_a_sender_without_an_end_is_cut_off(keyed: StubServer) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--a\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            yield bytes(100_000)

    try:
        answer = post(keyed, content=endless(), headers={"Content-Type": "multipart/form-data; boundary=a"})
        assert answer.status_code in (400, 413)
    except httpx.TransportError:
        pass  # it was cut off before it had read the answer
    assert not list((keyed.folder / "files").rglob("draft-*"))


def test_a_full_folder_is_a_503_that_says_so(keyed: StubServer) -> None:
    kept = []
    for _ in range(5):
        answer = post(keyed, files={"file": ("a.pdf", bytes(450_000))})
        if answer.status_code != 200:
            break
        kept.append(answer.json()["id"])
    assert "no room" in refusal(answer)["message"] and answer.status_code == 503
    for file_id in kept:
        client(keyed).files.delete(file_id)
    assert post(keyed, files={"file": ("a.pdf", bytes(450_000))}).status_code == 200


@pytest.mark.parametrize("query", ["page_size=0", "limit=x", "order=up", "made_up=1", "page=-1"])
def test_a_list_takes_no_other_wishes(stub: StubServer, query: str) -> None:
    refusal(httpx.get(f"{stub.url}/v1/files?{query}"))


@pytest.mark.parametrize("expiry", ["0", "169", "x"])
def test_a_signed_url_has_a_bounded_life(stub: StubServer, expiry: str) -> None:
    file = client(stub).files.create(file=("a.pdf", PDF), purpose="user_data")
    refusal(httpx.get(f"{stub.url}/v1/files/{file.id}/url?expiry={expiry}"))


@pytest.mark.parametrize(
    "path", ["/files/x", "/files/" + "a" * 5000, "/v1/files/..%2flock", "/v1/files/lock/content"]
)
def test_other_paths_are_no_files(stub: StubServer, path: str) -> None:
    assert httpx.get(stub.url + path).status_code == 404


def test_a_browser_shows_no_uploaded_page(stub: StubServer) -> None:
    file = client(stub).files.create(file=("a.html", b"<script>"), purpose="user_data")
    signed = mistral(stub).files.get_signed_url(file_id=file.id)
    for url in (signed.url, f"{stub.url}/v1/files/{file.id}/content"):
        headers = httpx.get(url).headers
        assert (
            headers["content-disposition"] == "attachment" and headers["x-content-type-options"] == "nosniff"
        )
        assert headers["content-type"] == "application/octet-stream"


def test_a_server_without_a_usable_folder_says_so_and_serves_the_rest(unusual: StubServer) -> None:
    answer = post(unusual, files={"file": ("a.pdf", PDF)})
    assert answer.status_code == 503 and "--files-folder" in refusal(answer)["message"]
    assert httpx.get(f"{unusual.url}/v1/files").status_code == 503
    assert httpx.get(f"{unusual.url}/readyz").status_code == 200
    assert "no files can be uploaded" in unusual.log
