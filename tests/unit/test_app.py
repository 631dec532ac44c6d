"""The order of the middleware: which of several reasons a request is refused for."""

from __future__ import annotations

import json
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving import openapi
from phi_vision.serving.app import TaskEndpoints, middleware
from phi_vision.serving.vllm_compat import error_messages, server_class

from tests.support.asgi import request

FULL = RequestError("full", status=429)
KEY = {"Authorization": "Bearer secret"}
FOREIGN = {"Origin": "https://attacker.example"}


def reject(*_: Any) -> None:
    raise RequestError("bad field", param="x")


def app(keys: list[str] | None, full: bool = False, check: Any = lambda path, body: None) -> FastAPI:
    args = Namespace(api_key=keys, host="127.0.0.1", allowed_origins=[])
    built = FastAPI(middleware=middleware(args, Limits(max_body_mb=0.01)))
    built.state.phi_vision_lifecycle = SimpleNamespace(
        admit=lambda: FULL if full else None, leave=lambda: None
    )
    built.state.phi_vision_body_limits = SimpleNamespace(parse=json.loads)
    built.state.phi_vision_field_rules = SimpleNamespace(check=check)

    @built.post("/echo")
    async def echo(raw: Request) -> Any:
        return await raw.json()

    return built


@pytest.mark.parametrize(
    ("headers", "full", "size", "status"),
    [
        (FOREIGN, True, 50_000, 403),  # a web page learns nothing more
        ({}, True, 50_000, 401),  # without a key nothing is said about the queue
        (KEY, True, 50_000, 429),  # before the body is read
        (KEY, False, 50_000, 413),
        (KEY, False, 10, 200),
    ],
)
def test_cheap_checks_come_first(headers: dict[str, str], full: bool, size: int, status: int) -> None:
    answer = request(app(["secret"], full), "POST", "/echo", headers=headers, json={"x": "x" * size})
    assert answer.status_code == status


def test_without_keys_none_is_needed() -> None:
    assert request(app(None), "POST", "/echo", json={"a": 1}).json() == {"a": 1}


def test_the_fields_are_checked_before_the_route() -> None:
    answer = request(app(None, check=reject), "POST", "/echo", json={"x": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}])
def test_every_method_that_is_not_safe_needs_the_key(method: str, headers: dict[str, str]) -> None:
    answer = request(app(["secret"]), method, "/anything", headers=headers)
    assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_pass_without_key_and_while_the_server_is_full(method: str) -> None:
    assert request(app(["secret"], full=True), method, "/anything").status_code == 404


def test_the_plugin_adds_them_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((server_class, "install"), (error_messages, "install"), (openapi, "define")):
        monkeypatch.setattr(module, name, lambda *_: None)  # these change vLLM's modules and routes
    attached, limits = FastAPI(), Limits(max_connections=2, max_images=3)
    attached.state.args = args = Namespace(api_key=["secret"], host="127.0.0.1", allowed_origins=[])
    limits.put_on(args)
    TaskEndpoints().attach_router(attached)
    assert [each.cls for each in attached.user_middleware] == [each.cls for each in middleware(args, limits)]
    assert attached.state.phi_vision_limits == limits
