"""Which host names and which web pages are refused."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
from phi_vision.serving.middleware.origins import OriginMiddleware
from phi_vision.serving.origin_rule import OriginRule, allowed_hosts
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tests.support.asgi import URL as OURS
from tests.support.asgi import request

CHAT = "/v1/chat/completions"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("served")(scope, receive, send)


def ask(headers: dict[str, str], method: str = "POST", path: str = CHAT, **settings: Any) -> httpx.Response:
    hosts = settings.pop("hosts", allowed_hosts(None, "127.0.0.1", keyed=False))
    wrapped = OriginMiddleware(app, OriginRule(hosts, tuple(settings.pop("origins", ()))))
    return request(wrapped, method, path, headers=headers)


def served(headers: dict[str, str], *args: Any, **settings: Any) -> bool:
    answer = ask(headers, *args, **settings)
    assert answer.status_code in (200, 403)
    return answer.status_code == 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LocalHost.", "phi.localhost", "127.0.0.1", "127.0.0.1:8000",
     "10.2.3.4:8000", "[::1]:8000", "[::1]", "[fd00::17]:80", "0.0.0.0:8000", socket.gethostname()],
)  # fmt: skip
def test_own_names_and_addresses_are_served(host: str) -> None:
    assert served({"Host": host})


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "attacker.example:8000", "localhost.attacker.example", "127.0.0.1.attacker.example",
     "xlocalhost", "[::1].attacker.example", "[::1", "127.1", "0x7f000001", "2130706433", "user@localhost",
     "localhost:8000:1", "", " ", "*", "."],
)  # fmt: skip
def test_other_names_are_refused_in_openais_shape(host: str) -> None:
    answer = ask({"Host": host})
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["type"] == "permission_error" and "--allowed-hosts" in error["message"]


def test_names_can_be_added_and_a_key_frees_them() -> None:
    given = allowed_hosts("Phi.example.org, *.lab.example.org", "0.0.0.0", keyed=True)
    assert served({"Host": "phi.example.org:443"}, hosts=given)
    assert served({"Host": "a.b.LAB.example.org"}, hosts=given) and served({"Host": "localhost"}, hosts=given)
    for other in ("lab.example.org", "xphi.example.org", "attacker.example"):
        assert not served({"Host": other}, hosts=given)
    assert served({"Host": "any.example"}, hosts=allowed_hosts(None, None, keyed=True))
    assert served({"Host": "any.example"}, hosts=allowed_hosts("*", None, keyed=False))
    assert served({"Host": "box.example"}, hosts=allowed_hosts(None, "box.example", keyed=False))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_supervisors_may_use_any_name(path: str) -> None:
    assert served({"Host": "pool.internal"}, "GET", path)
    assert not served({"Host": "pool.internal"}, "GET", path + "/x")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "https://attacker.example", "Content-Type": "text/plain"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1"},  # another port
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_pages_of_other_origins_are_refused(method: str, headers: dict[str, str]) -> None:
    assert not served(headers, method)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OURS},
        {"Origin": "https://127.0.0.1:8000"},  # behind a proxy that adds TLS
        {"Origin": "http://localhost:8000", "Host": "LOCALHOST:8000"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"},  # a link was followed
    ],
)
def test_programs_and_own_pages_are_served(headers: dict[str, str]) -> None:
    assert served(headers, "GET")


def test_a_form_of_a_stranger_is_refused_though_it_navigates() -> None:
    form = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    assert not served(form, "POST")


def test_origins_can_be_added() -> None:
    origins = ["https://app.example.org", "http://localhost:3000"]
    headers = {"Origin": "https://app.example.org", "Sec-Fetch-Site": "cross-site"}
    assert served(headers, origins=origins)
    assert not served({"Origin": "https://app.example.org.attacker.example"}, origins=origins)
    assert not served({"Sec-Fetch-Site": "cross-site"}, "GET", origins=origins)  # it does not say which
    assert served({"Sec-Fetch-Site": "cross-site"}, "GET", origins=["*"])
