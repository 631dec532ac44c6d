"""The guard around fetching: what must never be connected to.

Every server here listens on loopback, and no test connects anywhere else: the event loop's own
connect is watched, and an address that is refused must not even reach it.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamWriter
from asyncio.selector_events import BaseSelectorEventLoop
from typing import Any

import pytest
from phi_vision.media.fetch import FetchLimits, FetchRefused, fetch, is_reachable, networks

from tests.support.scripted_hosts import (
    BODY,
    CLOSED,
    LOOPBACK,
    OK,
    OPEN,
    ScriptedResolver,
    get,
    redirect,
    served,
)

PRIVATE_ADDRESSES = [
    # loopback, unspecified, this network
    "127.0.0.1", "127.0.0.53", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::",
    # private
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.255",
    "fc00::1", "fd00::1", "fdff:ffff::1", "fec0::1",
    # link-local and the metadata services of clouds
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "fe80::1", "fe80::1%1", "fd00:ec2::254",
    "100.100.100.200", "168.63.129.16", "192.0.0.192",
    # carrier-grade NAT, benchmarks, documentation, protocol assignments, reserved, broadcast
    "100.64.0.1", "100.127.255.254", "198.18.0.1", "198.19.255.254", "192.0.2.1", "198.51.100.7",
    "203.0.113.9", "192.0.0.8", "192.88.99.1", "240.0.0.1", "254.1.2.3", "255.255.255.255",
    "2001:db8::1", "3fff::1", "100::1", "2001:10::1", "4000::1", "5f00::1",
    # multicast
    "224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1",
    # IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP on link-local
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::127.0.0.1",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254",
    "64:ff9b:1::10.0.0.1", "2002:7f00:1::1", "2002:a00:1::1", "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::5efe:10.0.0.1",
]  # fmt: skip

# The same host spelt so that a filter on text would miss it. libc reads the odd ones as numbers.
LOOPBACK_SPELLINGS = [
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://127.1/", "http://127.0.1/",
    "http://0x7f000001/", "http://2130706433/", "http://017700000001/", "http://0177.0.0.1/", "http://0/",
    "http://0x7f.0.0.1/", "http://127.0.0.1.:80/", "http://[::1]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:0:0:1]/", "http://127.0.0.1:22/", "http://①②⑦.⓪.⓪.①/",
    "HTTP://127.0.0.1/", "http:/\\127.0.0.1/", "http:\\\\127.0.0.1/",
]  # fmt: skip

NOT_FETCHED = [
    "", "/etc/passwd", "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:11211/_stats",
    "dict://127.0.0.1:11211/stat", "ws://127.0.0.1/", "unix:///var/run/docker.sock", "javascript:alert(1)",
    "jar:http://127.0.0.1!/x", "http://", "http:///x", "http://[::1", "http://127.0.0.1:99999/",
    "http://user@127.0.0.1/", "http://user:password@127.0.0.1/", "http://example.com@127.0.0.1/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "//127.0.0.1/x", "http://exa mple/",
    "http://127.0.0.1/" + "x" * 9000,
]  # fmt: skip


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is connected to; any but loopback fails the test at once."""
    made: list[Any] = []
    real = BaseSelectorEventLoop.sock_connect

    async def watched(loop: Any, sock: socket.socket, address: Any) -> None:
        assert address[0] == "::1" or address[0].startswith("127."), f"connected to {address}"
        made.append(address[0])
        await real(loop, sock, address)

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", watched)
    return made


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_private_addresses_are_never_connected_to(address: str, connections: list[Any]) -> None:
    assert not is_reachable(address)
    if "%" not in address:  # a scope is not allowed in a URL
        host = f"[{address}]" if ":" in address else address
        with pytest.raises(FetchRefused, match="not public"):
            asyncio.run(fetch(f"http://{host}/latest/meta-data/", CLOSED))
    # The same behind a name, alone and after a public address would have failed to be private.
    with pytest.raises(FetchRefused, match="not public"):
        asyncio.run(fetch("http://pictures.example/", CLOSED, ScriptedResolver(pictures_example=[[address]])))
    assert connections == []


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_reachable(address: str) -> None:
    assert is_reachable(address)


@pytest.mark.parametrize("url", LOOPBACK_SPELLINGS)
def test_other_spellings_of_loopback(url: str, connections: list[Any]) -> None:
    with pytest.raises(FetchRefused):
        asyncio.run(fetch(url, CLOSED))
    assert connections == []


@pytest.mark.parametrize("url", NOT_FETCHED)
def test_urls_that_are_not_fetched(url: str, connections: list[Any]) -> None:
    with pytest.raises(FetchRefused):
        asyncio.run(fetch(url, OPEN))
    assert connections == []


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/", "http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "//192.168.1.1/x",
        "http://[::ffff:169.254.169.254]/", "https://10.0.0.1/", "http://0xa9fea9fe/", "http://inside.example/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused(
    location: str, status: int, connections: list[Any]
) -> None:
    cloud_metadata: dict[str, Any] = {"0xa9fea9fe": [["169.254.169.254"]]}
    with pytest.raises(FetchRefused, match="not public"):
        get(
            redirect(location, status),
            url="http://outside.example:{port}/",
            outside_example=[["127.0.0.1"]],
            inside_example=[["10.0.0.7"]],
            **cloud_metadata,
        )
    assert connections == ["127.0.0.1"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "data:image/png;base64,AA"]
)
def test_a_redirect_to_another_scheme_is_refused(location: str) -> None:
    with pytest.raises(FetchRefused, match="only http"):
        get(redirect(location))


def test_a_redirect_to_nowhere_is_refused() -> None:
    with pytest.raises(FetchRefused, match="nowhere"):
        get(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")


def test_three_redirects_are_followed_and_four_are_not(connections: list[Any]) -> None:
    async def use(hops: int) -> bytes:
        left = hops

        async def reply(writer: StreamWriter) -> None:
            nonlocal left
            writer.write(OK if left == 0 else redirect(f"/{left}"))
            left -= 1
            await writer.drain()

        return await served(reply, lambda port: fetch(f"http://127.0.0.1:{port}/", OPEN))

    assert asyncio.run(use(3)) == BODY
    with pytest.raises(FetchRefused, match="more than 3 redirects"):
        asyncio.run(use(4))
    assert len(connections) == 8  # each hop is a connection of its own, checked by itself


def test_a_name_that_changes_between_hops_gains_nothing(connections: list[Any]) -> None:
    """Rebinding: allowed when first asked, private when asked again for the redirect."""
    with pytest.raises(FetchRefused, match="not public"):
        get(
            redirect("http://rebind.example/again"),
            url="http://rebind.example:{port}/",
            rebind_example=[["127.0.0.1"], ["10.0.0.1"]],
        )
    assert connections == ["127.0.0.1"]


def test_the_address_that_was_checked_is_the_one_connected_to(connections: list[Any]) -> None:
    """Rebinding: the name is asked once, so there is no second answer to connect to."""
    resolver = ScriptedResolver(rebind_example=[["10.0.0.1"], ["127.0.0.1"]])
    with pytest.raises(FetchRefused, match="not public"):
        asyncio.run(fetch("http://rebind.example/", OPEN, resolver))
    assert resolver.asked == ["rebind.example"] and connections == []


def test_one_private_address_among_several_ends_the_fetch(connections: list[Any]) -> None:
    unused = socket.socket()
    unused.bind(("127.0.0.1", 0))  # bound, not listening: the first address fails to connect
    port = unused.getsockname()[1]
    resolver = ScriptedResolver(mixed_example=[["127.0.0.1", "10.0.0.1", "127.0.0.2"]])
    with pytest.raises(FetchRefused, match="not public"):
        asyncio.run(fetch(f"http://mixed.example:{port}/", OPEN, resolver))
    assert connections == ["127.0.0.1"]


def test_a_private_network_is_reached_only_when_named(connections: list[Any]) -> None:
    assert get(OK) == BODY
    with pytest.raises(FetchRefused, match="not public"):
        get(OK, CLOSED)
    assert is_reachable("10.1.2.3", networks("10.1.0.0/16")) and not is_reachable(
        "10.2.0.1", networks("10.1.0.0/16")
    )
    assert is_reachable("::ffff:10.1.2.3", networks("10.1.0.0/16"))
    assert connections == ["127.0.0.1"]


def test_only_allowed_hosts_are_asked() -> None:
    limits = FetchLimits(100_000, 5, LOOPBACK, allowed_hosts=["good.example"])
    assert get(OK, limits, "http://good.example:{port}/", good_example=[["127.0.0.1"]]) == BODY
    with pytest.raises(FetchRefused, match="only these hosts"):
        get(OK, limits, "http://bad.example:{port}/", bad_example=[["127.0.0.1"]])
    with pytest.raises(FetchRefused, match="only these hosts"):
        get(
            redirect("http://bad.example/"),
            limits,
            "http://good.example:{port}/",
            good_example=[["127.0.0.1"]],
        )


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(OK) == BODY
