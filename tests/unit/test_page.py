"""The files of the web page: all of them are found, small, and free of what the policy forbids."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import PurePosixPath

from phi_vision import page

MOST_BYTES = 120_000  # of all files together


def test_it_is_small() -> None:
    assert sum(len(file.content) for file in page.files().values()) <= MOST_BYTES


def test_every_file_that_is_named_is_there() -> None:
    found = page.files()
    text = {path: file.content.decode() for path, file in found.items() if "text/" in file.media_type}
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', text["/"]))
    for source in text.values():
        named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', source)}
        named |= {f"page/examples/{name}" for name in re.findall(r'file: "([^"]+)"', source)}
    assert {f"/{name}" for name in named} | {"/"} == set(found)


def test_media_types_and_tags_follow_the_content() -> None:
    for path, file in page.files().items():
        kinds = {".js": "text/javascript", ".css": "text/css", "": "text/html"}
        assert file.media_type.startswith(kinds.get(PurePosixPath(path).suffix, "image/")), path
    tags = [file.etag for file in page.files().values()]
    assert len(set(tags)) == len(tags)


def test_nothing_is_inline_and_no_text_is_read_as_html() -> None:
    files = page.files()
    html = files["/"].content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert all(tag.endswith("></script>") for tag in re.findall(r"<script.*", html))
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function")
    scripts = {path: file.content.decode() for path, file in files.items() if path.endswith(".js")}
    assert scripts and not [path for path, source in scripts.items() if forbidden.search(source)]


def test_no_other_host_is_named() -> None:
    for path, file in page.files().items():
        if "text/" in file.media_type:
            hosts = set(re.findall(rb"https?://([\w.-]+)", file.content))
            assert hosts <= {b"www.w3.org"}, path  # the name of SVG's elements


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys, phi_vision.page as page; page.files(); print(*sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in asked.stdout.split()}
    assert not loaded & {"pydantic", "httpx", "PIL", "vllm", "torch", "fastapi", "starlette"}
