"""Files behind data and file URLs; http ones are fetched, see `test_url_answers`."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from phi_vision.media.fetch import FetchLimits, FetchRefused
from phi_vision.media.sources import Sources

LIMITS = FetchLimits(max_bytes=100, timeout_s=300)
CONTENT = b"what the file holds"
BASE64 = base64.b64encode(CONTENT).decode()


def read(url: str, directory: Path | None = None) -> bytes:
    return asyncio.run(Sources(LIMITS, directory).read(url))


@pytest.mark.parametrize("head", ["data:image/png;base64", "DATA:;BASE64", "data:text/x;a=b;base64"])
def test_a_data_url_holds_its_file(head: str) -> None:
    assert read(f"{head},{BASE64}") == CONTENT


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"data:image/png,{BASE64}", "in base64"),
        ("data:image/png;base64", "in base64"),
        ("data:image/png;base64,****", "not valid base64"),
        (f"data:image/png;base64,{base64.b64encode(bytes(103)).decode()}", "larger than"),
        ("ftp://example.org/a.png", "only http, https and data"),
        ("", "only http, https and data"),
        ("/etc/passwd", "only http, https and data"),
        ("http://", "names no host"),
    ],
)
def test_other_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(FetchRefused, match=reason):
        read(url)


def test_file_urls_are_read_below_the_directory_alone(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a b.png").write_bytes(CONTENT)
    (served / "large").write_bytes(bytes(101))
    (tmp_path / "secret").write_bytes(CONTENT)
    (served / "link").symlink_to(tmp_path / "secret")
    assert read(f"file://{served}/a%20b.png", served) == CONTENT
    for url, reason in (
        (f"file://{tmp_path}/secret", "not in the directory"),
        (f"file://{served}/../secret", "not in the directory"),
        (f"file://{served}/link", "not in the directory"),
        (f"file://elsewhere{served}/a%20b.png", "not in the directory"),
        (f"file://{served}/large", "not a file of at most"),
        (f"file://{served}/none", "not a file of at most"),
        (f"file://{served}/%00", "cannot be read|not in the directory"),
    ):
        with pytest.raises(FetchRefused, match=reason):
            read(url, served)
    with pytest.raises(FetchRefused, match="only http"):
        read(f"file://{served}/a%20b.png")
