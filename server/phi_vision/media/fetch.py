"""Fetch from a URL that a stranger gave, without becoming their way into the network behind the server.

The address is checked where a socket is made, so it is the one that is connected to: a name that
resolves to something else a moment later gains nothing, and each hop of a redirect is checked alike.

Not covered: a public host that relays to a private one (an open proxy, a port forward), private
services on public addresses, networks translated by a NAT64 prefix of one's own, and what a request
alone does to a public host: fetching is a GET to any port. A firewall for outgoing traffic is the
stronger wall; this one stands where there is none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 3
MAX_URL_CHARS = 8192
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 1 << 16

_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that is given out for public use
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address

# Refused beside what `ipaddress` calls not global, which differs between versions of Python.
# Sources: the IANA special-purpose address registries, RFC 6890.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT; metadata of one cloud
        "168.63.129.16/32",  # metadata of another, on an address that counts as public
        "192.0.0.0/24",  # protocol assignments; metadata of a third
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "2001::/23",  # protocol assignments, Teredo tunnels among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 tunnels to any IPv4 address
        "3fff::/20",  # documentation
    )
)


FetchReason = Literal[
    "url", "host", "address", "unreachable", "redirects", "answer", "too_large", "too_slow", "data", "file"
]
"""Why there is no file.

`url`: it is none that is fetched. `host`: it is not among those allowed. `address`: it is not public.
`unreachable`: no connection. `answer`: not a file. `data`: no valid base64. `file`: none below the directory.
"""


class FetchRefused(Exception):
    """The fetch was not made, or broken off.

    Args:
        message: why; it can be shown to the client.
        reason: the same in one word.
    """

    def __init__(self, message: str, reason: FetchReason) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class FetchLimits:
    """What one fetch may take, redirects included."""

    max_bytes: int
    timeout_s: float
    allowed_networks: tuple[Network, ...] = ()  # private ones that may be reached all the same
    allowed_hosts: Collection[str] = ()  # if any, no other host is asked
    trust_first_host: bool = False  # the URL is the operator's own: its host may be private, others not


def networks(text: str) -> tuple[Network, ...]:
    """Networks or single addresses from a list with commas.

    Raises:
        ValueError: one that is neither.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_reachable(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether a connection to this numeric address may be made: public, or in an allowed network."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if any(ip in network for network in allowed):
        return True
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_IPV6:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


def _unwrapped(ip: Address) -> Address:
    """The IPv4 address inside an IPv6-mapped or NAT64 one; that is where packets would go."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


async def fetch(url: str, limits: FetchLimits, resolver: AbstractResolver | None = None) -> bytes:
    """The body behind an http or https URL.

    Args:
        url: as the client wrote it.
        limits: bytes, seconds and networks.
        resolver: where names are looked up; the system's resolver by default.

    Raises:
        FetchRefused: an address or scheme that is not allowed, too many redirects, too large, too
            slow, or an answer other than 200.
    """
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await _follow(url, limits, resolver)
    except TimeoutError:
        raise FetchRefused(f"the host took longer than {limits.timeout_s:g} s", "too_slow") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchRefused(f"the host cannot be reached ({type(error).__name__})", "unreachable") from error


async def _follow(url: str, limits: FetchLimits, resolver: AbstractResolver | None) -> bytes:
    first = target = _checked(url, limits)

    def guarded_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        trusted = limits.trust_first_host and target.host == first.host
        if not trusted and not is_reachable(sockaddr[0], limits.allowed_networks):
            raise FetchRefused("its address is not public", "address")
        return socket.socket(family=family, type=kind, proto=protocol)

    connector = aiohttp.TCPConnector(
        resolver=resolver or ThreadedResolver(),
        socket_factory=guarded_socket,
        use_dns_cache=False,
        force_close=True,
        happy_eyeballs_delay=None,  # one address after the other; the first refused ends the fetch
    )
    async with aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        trust_env=False,  # a proxy would resolve and connect for us, unchecked
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # the deadline around all hops counts
        headers={"User-Agent": "phi-vision", "Accept": "image/*", "Accept-Encoding": "identity"},
    ) as session:
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(target, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await _body(response, limits.max_bytes)
                location = response.headers.get("Location")
            if location is None:
                raise FetchRefused("the host redirects to nowhere", "redirects")
            target = _checked(location, limits, base=target)
    raise FetchRefused(f"more than {MAX_REDIRECTS} redirects", "redirects")


def _checked(text: str, limits: FetchLimits, base: URL | None = None) -> URL:
    if len(text) > MAX_URL_CHARS:
        raise FetchRefused(f"the URL is longer than {MAX_URL_CHARS} characters", "url")
    try:
        url = URL(text) if base is None else base.join(URL(text))
        host = url.host
    except ValueError:
        raise FetchRefused("this is not a URL", "url") from None
    if url.scheme not in ("http", "https"):
        raise FetchRefused("only http, https and data URLs are fetched", "url")
    if not host:
        raise FetchRefused("the URL names no host", "url")
    if url.user is not None or url.password is not None:
        raise FetchRefused("a URL with a user or password is not fetched", "url")
    if limits.allowed_hosts and host not in limits.allowed_hosts:
        raise FetchRefused(f"only these hosts are asked: {', '.join(limits.allowed_hosts)}", "host")
    return url


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        raise FetchRefused(f"the host answered {response.status}", "answer")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchRefused("the host sends it compressed, which was not asked for", "answer")
    too_large = FetchRefused(f"it is larger than {max_bytes / 1e6:g} MB", "too_large")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
