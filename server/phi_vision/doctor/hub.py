"""Whether the Hugging Face hub has a repository for this machine, and if not, why."""

from __future__ import annotations

import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass

from phi_vision.planning.hub import HubRefusal, HubUnavailable, Listing, list_files

LIMIT_S = 12.0  # for the whole answer; the client's own limit is for each piece of it


@dataclass(frozen=True)
class HubFault:
    """Why a repository cannot be had.

    Args:
        summary: what is wrong.
        remedy: what to do about it; None where the summary says it.
    """

    summary: str
    remedy: str | None = None


def ask(hub_id: str, limit_s: float = LIMIT_S) -> Listing | HubFault:
    """The files of a repository, or why they cannot be had.

    Args:
        hub_id: as `owner/name`.
        limit_s: how long to wait for an answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return HubFault("not asked: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", "unset it")
    answers: list[Listing | HubFault] = []

    def wait_for_answer() -> None:
        try:
            answers.append(list_files(hub_id))
        except HubRefusal as error:
            answers.append(HubFault(str(error)))
        except HubUnavailable as error:
            answers.append(_unavailable(str(error)))

    asking = threading.Thread(target=wait_for_answer, daemon=True)  # one that hangs is left behind
    asking.start()
    asking.join(limit_s)
    return answers[0] if answers else _unavailable(f"no answer of {constants.ENDPOINT} within {limit_s:g} s")


def address() -> str:
    """Whom `ask` asks, and through which proxy."""
    from huggingface_hub import constants

    url = urllib.parse.urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or urllib.request.proxy_bypass(url.hostname or ""):
        return constants.ENDPOINT
    return f"{constants.ENDPOINT} through the proxy {proxy.rpartition('@')[2]}"  # without its password


def _unavailable(summary: str) -> HubFault:
    return HubFault(
        summary,
        f"check the network, HTTPS_PROXY and HF_ENDPOINT, now {address()}; or copy the weights here and name "
        "their folder with --model",
    )
