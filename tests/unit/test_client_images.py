"""What `predict` takes as a picture: files of any kind under any name, and URLs of any host."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from phi_vision.client import images
from phi_vision.client.text import visible
from phi_vision.errors import UsageError
from phi_vision.media.decode import FORMATS, PictureLimits, decode, read_header
from PIL import Image, ImageFile

from tests.support.pictures import data_url, encoded, png, reference_picture, with_scans

PICTURE = reference_picture(40, 30, seed=0)


def refused(name: str, words: str) -> None:
    """One line of text that a terminal would not act on."""
    with pytest.raises(UsageError) as raised:
        images.load(name)
    message = str(raised.value)
    assert words in message and "\n" not in message and visible(message) == message


@pytest.mark.parametrize("kind", ["EPS", "ICO", "JPEG2000", "PPM"])
def test_other_formats_are_not_opened_whatever_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PICTURE, kind))
    refused(str(path), "is not a picture that can be read: it is none of")


def test_the_client_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slow"
    slow = (with_scans(200), png(100_000, 100_000))
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for data in slow:
        path.write_bytes(data)
        assert images.load(str(path)).url.startswith("data:image/")  # it is the server's to refuse


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8])
def test_the_header_tells_the_size_that_decoding_gives(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE, image_format, **({"exif": exif} if orientation else {}))
    size = decode(data, PictureLimits(10_000)).size
    assert read_header(data) == (image_format, *size)


def test_a_file_beyond_all_measure_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    refused("/dev/zero", "/dev/zero is larger than 0.001 MB")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.png", "a\x1b[2J.png", ".", "x" * 5000])
def test_odd_file_names_are_one_line(name: str) -> None:
    refused(name, "cannot read ")


FOUND = [b"HTTP/1.0 200 OK\r\n\r\n", encoded(PICTURE)]


def moved(location: str) -> list[bytes]:
    return [f"HTTP/1.0 302 Found\r\nLocation: {location}\r\n\r\n".encode()]


@pytest.fixture
def host() -> Iterator[Any]:
    """Answers each GET with the next of `replies`."""

    class Handler(BaseHTTPRequestHandler):
        replies: Iterator[Any]

        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(ConnectionError):
                self.wfile.writelines(next(Handler.replies))

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        Handler.url = f"http://127.0.0.1:{http.server_port}/a.png"  # type: ignore[attr-defined]
        yield Handler
        http.shutdown()


def test_a_url_of_the_users_may_be_private(host: Any) -> None:
    host.replies = iter([FOUND])
    picture = images.load(host.url)
    assert (picture.url, picture.size) == (data_url(encoded(PICTURE)), (40, 30))


@pytest.mark.parametrize("target", ["http://127.0.0.2/", "http://localhost/", "http://169.254.169.254/"])
def test_a_redirect_of_it_to_another_private_host_is_refused(host: Any, target: str) -> None:
    host.replies = iter([moved(target)])
    refused(host.url, "its address is not public")


def test_a_redirect_within_the_host_is_followed(host: Any) -> None:
    host.replies = iter([moved("/b"), FOUND])
    assert images.load(host.url).url == data_url(encoded(PICTURE))


def test_a_url_beyond_all_measure_is_not_read(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100_000)
    host.replies = iter([itertools.chain(FOUND, itertools.repeat(bytes(10_000)))])
    refused(host.url, "it is larger than 0.1 MB")
