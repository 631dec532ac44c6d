"""Web pages of other origins at the running server: no route serves them."""

from __future__ import annotations

import httpx
import pytest

from tests.support.stub_server import StubServer

CHAT = "/v1/chat/completions"


def test_a_websocket_of_a_stranger_is_refused(stub: StubServer) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Origin": "https://attacker.example"}
    assert httpx.get(f"{stub.url}/v1/realtime", headers=upgrade | key).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_no_route_is_left_out(stub: StubServer, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=stub.url, timeout=60) as http:
        schema = http.get("/openapi.json").json()["paths"]
        routes = [(method, path) for path, methods in schema.items() for method in methods]
        routes += [("get", "/metrics"), ("get", "/openapi.json"), ("get", "/docs"), ("get", "/nothing/here")]
        assert ("get", "/v1/models") in routes and ("post", CHAT) in routes
        probes = ("/livez", "/readyz", "/health", "/ping")
        for method, path in routes:
            answer = http.request(
                method, path, headers=headers | {"Content-Type": "text/plain"}, content="{}"
            )
            exempt = path in probes and "Host" in headers
            assert exempt or answer.status_code == 403, (method, path)


def test_a_preflight_of_a_stranger_is_not_allowed(stub: StubServer) -> None:
    asked = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(stub.url + CHAT, headers=asked)
    assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers
