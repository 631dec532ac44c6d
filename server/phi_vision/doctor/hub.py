"""Whether the Hugging Face hub has a repository for this machine, and if not, why."""

from __future__ import annotations

import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass

from phi_vision.client.text import one_line
from phi_vision.planning.hub import ask as ask_hub

LIMIT_S = 12.0  # for the whole answer; the client's own limit is for each piece of it


@dataclass(frozen=True)
class HubFault:
    """Why a repository cannot be had.

    Args:
        summary: what is wrong.
        remedy: what to do about it.
        is_offline: nobody asked: the user wants no hub.
    """

    summary: str
    remedy: str
    is_offline: bool = False


def find_fault(repo_id: str, limit_s: float = LIMIT_S) -> HubFault | None:
    """Ask for a repository; None if the hub has it.

    Args:
        repo_id: of the repository.
        limit_s: how long to wait for an answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return HubFault(
            "not asked: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", "unset it", is_offline=True
        )
    caught: list[Exception] = []

    def ask() -> None:
        try:
            ask_hub(repo_id)
        except Exception as error:  # the hub's errors share no base
            caught.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # a thread that hangs is left behind
    asking.start()
    asking.join(limit_s)
    if asking.is_alive():
        return _explained(TimeoutError(), repo_id)
    return _explained(caught[0], repo_id) if caught else None


def address() -> str:
    """Whom `find_fault` asks, and through which proxy."""
    from huggingface_hub import constants

    url = urllib.parse.urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or urllib.request.proxy_bypass(url.hostname or ""):
        return constants.ENDPOINT
    return f"{constants.ENDPOINT} through the proxy {_without_password(proxy)}"


def _without_password(proxy: str) -> str:
    return proxy.rpartition("@")[2] if "@" in proxy else proxy


def _explained(error: Exception, repo_id: str) -> HubFault:
    """By the names of its classes: the hub's client has changed its HTTP library before."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    by_hand = "or copy the weights here and name their folder with --model"
    if "GatedRepoError" in kinds:
        return HubFault(f"{repo_id} is gated", "ask for access on its page and set HF_TOKEN")
    if status in (401, 403) or kinds & {"RepositoryNotFoundError", "HFValidationError"}:
        return HubFault(
            f"it shows no repository {repo_id}", "check the name, and HF_TOKEN where it is private"
        )
    if status is not None:
        return HubFault(f"it answers with HTTP status {status}", f"try again later, {by_hand}")
    if "ProxyError" in kinds:
        return HubFault(f"the proxy refuses: {one_line(str(error))}", "set HTTPS_PROXY to one that works")
    if kinds & {"TimeoutError", "TimeoutException", "Timeout"}:
        return HubFault("it does not answer in time", f"check HTTPS_PROXY and the firewall, {by_hand}")
    reason = one_line(str(error)) or type(error).__name__
    return HubFault(
        f"it cannot be reached: {reason}", f"check the network, HF_ENDPOINT and HTTPS_PROXY, {by_hand}"
    )
