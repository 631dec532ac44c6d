"""Refuses requests of other origins: a web page's, sent by the browser of a user who can reach this server.

A page can point its own host name at our address (DNS rebinding), so `Host` must be one of our names, unless
a key is needed, which the page does not have. A page can also send requests to our real address without
reading the answers (CSRF), so requests of another origin are refused, whatever their method and content type.
Other clients than browsers send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phi_vision.errors import RequestError
from phi_vision.serving.http import error_response

# Supervisors and load balancers use any host name for these, which tell no more than the server's health.
PROBES = ("/livez", "/readyz", "/health", "/ping")

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::\d*)?")  # an IPv6 address or another name, and a port


def allowed_hosts(configured: str | None, listening_on: str | None, *, keyed: bool) -> tuple[str, ...]:
    """Patterns of host names: the configured ones, by default all if there is a key; always our own."""
    default = "*" if keyed else ""
    own = ("localhost", "*.localhost", socket.gethostname(), listening_on or "")
    names = [*(default if configured is None else configured).split(","), *own]
    return tuple(name.strip().lower() for name in names if name.strip())


class OriginMiddleware:
    """Middleware that answers 403 to what a web page of another origin may have sent.

    Args:
        app: the next ASGI application.
        hosts: from `allowed_hosts`; `*.example.org` covers names below it, `*` every name.
        origins: such as `https://app.example.org`, or `*`.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or (error := self._check(scope)) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
        else:
            await error_response(error)(scope, receive, send)

    def _check(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        probe = scope["path"].removeprefix(scope.get("root_path", "")) in PROBES
        if not probe and not all(self._is_ours(host) for host in headers.getlist("host")):
            return RequestError(
                "this server does not go by the name in the Host header; --allowed-hosts adds names",
                status=403,
            )
        if self._is_foreign(scope, headers):
            return RequestError(
                "web pages of other origins may not use this server; --allowed-origins adds origins",
                status=403,
            )
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether the name is one of ours. An address always is: a page cannot rebind an address."""
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = (parts[1] or parts[2]).lower().removesuffix(".")
        if _is_address(name):
            return True
        return any(
            pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
            for pattern in self._hosts
        )

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        if "*" in self._origins:
            return False
        if (origin := headers.get("origin")) is not None:
            same = origin.lower().partition("://")[2] == headers.get("host", "").lower()
            return not same and origin.lower() not in self._origins
        # Browsers send no Origin with GET. The answer to a followed link is shown to the user only.
        followed = headers.get("sec-fetch-dest") == "document" and scope.get("method") == "GET"
        return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
