"""A Hugging Face hub with one model, as far as it is asked by us, which can do everything wrong."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.hub_cache import COMMIT, HUB_ID, SHARDED, digest


@dataclass
class Fault:
    """What happens to one request for a file.

    Args:
        status: it is the answer.
        break_after: the connection ends after so many bytes.
        content: is sent instead.
        hold_after: so many bytes are sent, then `reached` is set and `let_go` awaited.
        ignore_range: the file is sent from its beginning.
        size: of the file is announced so; 0: not at all.
    """

    status: int | None = None
    break_after: int | None = None
    content: bytes | None = None
    hold_after: int | None = None
    ignore_range: bool = False
    size: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


class Hub:
    """What it has, what it does wrong, and what it was asked for.

    Attributes:
        faults: by file; the first is for the next request for it.
        stays: the last fault of each file is for all requests that follow.
        listing_error: the status and the hub's code of the answer about the repository.
        asked: file and range of each request for a content.
        authorizations: of these requests, by the host that they went to.
        cdn: whether contents are to be had at another host name.
    """

    def __init__(self, url: str, files: Mapping[str, bytes]) -> None:
        self.url = url
        self.files = files
        self.commit = COMMIT
        self.digests = {name: digest(name, content) for name, content in files.items()}
        self.sizes: dict[str, int | None] = {name: len(content) for name, content in files.items()}
        self.faults: dict[str, list[Fault]] = {}
        self.stays = False
        self.listing_error: tuple[int, str] | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.authorizations: list[tuple[str, str | None]] = []
        self.cdn = False

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to use it."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def fault_of(self, name: str) -> Fault:
        faults = self.faults.get(name, [])
        if self.stays and len(faults) == 1:
            return faults[0]
        return faults.pop(0) if faults else Fault()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        prefixes = (f"/api/models/{HUB_ID}", f"/{HUB_ID}/resolve/", "/cdn/")
        api, resolve, cdn = (
            path.partition(prefix)[2] if path.startswith(prefix) else None for prefix in prefixes
        )
        if api is not None and self.hub.listing_error is not None:
            status, code = self.hub.listing_error
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "many words"})
        elif api is not None:
            self._send_json(self._tree() if api.startswith("/tree/") else self._info())
        elif resolve is not None:
            self._resolve(resolve.partition("/")[2])
        elif cdn is not None:
            self._content(cdn)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _info(self) -> Any:
        siblings: list[dict[str, Any]] = []
        for name, of_file in self.hub.digests.items():
            size = self.hub.sizes[name]
            lfs = {"lfs": {"sha256": of_file, "size": size, "pointerSize": 134}} if _in_lfs(name) else {}
            siblings.append({"rfilename": name, "size": size, "blobId": "0" * 40 if lfs else of_file, **lfs})
        return {"id": HUB_ID, "sha": self.hub.commit, "siblings": siblings}

    def _tree(self) -> Any:
        entries: list[dict[str, Any]] = []
        for name, of_file in self.hub.digests.items():
            size = self.hub.sizes[name]
            lfs = {"lfs": {"oid": of_file, "size": size, "pointerSize": 134}} if _in_lfs(name) else {}
            oid = "0" * 40 if lfs else of_file
            entries.append({"type": "file", "path": name, "size": size, "oid": oid, **lfs})
        return entries

    def _resolve(self, name: str) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif self.command == "HEAD":
            about = {"ETag": f'"{self.hub.digests[name]}"', "X-Repo-Commit": self.hub.commit}
            self._send(200, b"", {**about, "Content-Length": str(self.hub.sizes[name])})
        elif self.hub.cdn:
            self.hub.authorizations.append((str(self.headers["Host"]), self.headers["Authorization"]))
            self._send(302, b"", {"Location": f"{self.hub.url}/cdn/{name}".replace("127.0.0.1", "localhost")})
        else:
            self._content(name)

    def _content(self, name: str) -> None:
        fault = self.hub.fault_of(name)
        self.hub.asked.append((name, self.headers["Range"]))
        self.hub.authorizations.append((str(self.headers["Host"]), self.headers["Authorization"]))
        if fault.status is not None:
            self._send(fault.status, b"no", {})
            return
        content = self.hub.files[name] if fault.content is None else fault.content
        start = 0
        if self.headers["Range"] and not fault.ignore_range:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        size = len(content) if fault.size is None else fault.size
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if size:
            self.send_header("Content-Length", str(size - start))
        self.send_header("Connection", "close")
        self.end_headers()
        rest = content[start:]
        if fault.hold_after is not None:
            self.wfile.write(rest[: fault.hold_after])
            fault.reached.set()
            fault.let_go.wait()
            rest = rest[fault.hold_after :]
        self.wfile.write(rest[: fault.break_after])
        self.close_connection = True

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        with suppress(OSError):  # the client went, as some tests want
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


def _in_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


@contextmanager
def running_hub(files: Mapping[str, bytes] = SHARDED) -> Iterator[Hub]:
    """A hub on a free port."""
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", files)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
