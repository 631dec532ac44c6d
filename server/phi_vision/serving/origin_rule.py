"""Which requests a web page of another origin may have sent, by their heads alone.

A page can point its own host name at our address (DNS rebinding), so `Host` must be one of our names, unless
a key is needed, which the page does not have. A page can also send requests to our real address without
reading the answers (CSRF), so requests of another origin are refused, whatever their method and content type.
Other clients than browsers send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from phi_vision.errors import RequestError

# Supervisors and load balancers use any host name for these, which tell no more than the server's health.
PROBES = ("/livez", "/readyz", "/health", "/ping")

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::\d*)?")  # an IPv6 address or another name, and a port


def allowed_hosts(configured: str | None, listening_on: str | None, *, keyed: bool) -> tuple[str, ...]:
    """Patterns of host names: the configured ones, by default all if there is a key; always our own."""
    default = "*" if keyed else ""
    own = ("localhost", "*.localhost", socket.gethostname(), listening_on or "")
    names = [*(default if configured is None else configured).split(","), *own]
    return tuple(name.strip().lower() for name in names if name.strip())


@dataclass(frozen=True)
class OriginRule:
    """What is refused.

    Args:
        hosts: from `allowed_hosts`; `*.example.org` covers names below it, `*` every name.
        origins: such as `https://app.example.org`, or `*`.
    """

    hosts: tuple[str, ...]
    origins: tuple[str, ...]

    def refusal(
        self, method: str | None, path: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> RequestError | None:
        """A 403 for what may come from a web page of another origin.

        Args:
            method: None for a websocket.
            path: without the part of it that a proxy adds.
            headers: as ASGI has them, names in lower case.
        """
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        if path not in PROBES and not all(self._is_ours(host) for host in values.get("host", [])):
            return RequestError(
                "this server does not go by the name in the Host header; --allowed-hosts adds names",
                status=403,
            )
        if self._is_foreign(method, {name: first for name, (first, *_) in values.items()}):
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
            for pattern in self.hosts
        )

    def _is_foreign(self, method: str | None, headers: dict[str, str]) -> bool:
        if "*" in self.origins:
            return False
        if (origin := headers.get("origin")) is not None:
            same = origin.lower().partition("://")[2] == headers.get("host", "").lower()
            return not same and origin.lower() not in self.origins
        # Browsers send no Origin with GET. The answer to a followed link is shown to the user only.
        followed = headers.get("sec-fetch-dest") == "document" and method == "GET"
        return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
