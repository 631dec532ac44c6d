"""What a server says of itself at `/readyz` while it starts."""

from __future__ import annotations

from typing import Any

import httpx

from phi_vision.client.exchange import Endpoint
from phi_vision.client.sending import whole_json
from phi_vision.client.text import one_line
from phi_vision.errors import PhiVisionError

STARTING = "starting"  # before it says more


def in_words(answer: Any) -> str:
    """An answer of `/readyz` in a few words, such as `downloading 43 %`."""
    match answer:
        case {"status": str() as status, "percent": int() as percent}:
            return one_line(f"{status} {percent} %")
        case {"status": str() as status}:
            return one_line(status)
    return STARTING


def start_of(endpoint: Endpoint, timeout_s: float) -> str | None:
    """What a server does that is still starting, in a few words; None for any other and for none."""
    try:
        url = httpx.URL(endpoint.base_url).join("/readyz")
        with httpx.stream(
            "GET", url, headers=endpoint.headers, timeout=timeout_s, trust_env=endpoint.named
        ) as response:
            said = whole_json(response)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, PhiVisionError):
        return None
    is_starting = response.status_code == 503 and said.get("status") in ("downloading", "loading")
    return in_words(said) if is_starting else None
