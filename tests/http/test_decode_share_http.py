"""Whose pictures are whose: the share of the decoders follows a request through vLLM's code."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from phi_vision.serving import media_connector
from phi_vision.serving.middleware.admission import AdmissionControl
from vllm.multimodal.media.image import ImageMediaIO

from tests.support.pictures import data_url, encoded, image_part, reference_picture, user, with_scans
from tests.support.stub_server import StubServer

PICTURE = reference_picture(40, 30, seed=0)


def test_the_pictures_of_a_request_have_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[Any] = []

    async def decode(data: bytes, share: Any) -> Any:
        shares.append(share)
        return PICTURE.copy()

    monkeypatch.setattr(media_connector._decoder().pool, "decode", decode)
    url = data_url(encoded(PICTURE))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connector = media_connector.GuardedMediaConnector()
        loading = (connector.load_from_url_async(url, ImageMediaIO()) for _ in range(2))
        await asyncio.gather(*loading)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    lifecycle = SimpleNamespace(admission_error=lambda: None, count_request=contextlib.nullcontext)
    state = SimpleNamespace(phi_vision_lifecycle=lifecycle)
    scope = {"type": "http", "method": "POST", "headers": [], "app": SimpleNamespace(state=state)}

    async def two_requests() -> None:
        admission: Any = AdmissionControl(app)
        await asyncio.gather(*(admission(scope, receive, None) for _ in range(2)))

    asyncio.run(two_requests())
    assert None not in shares and len(shares) == 4 and len(set(shares)) == 2


def test_a_jpeg_of_many_scans_is_a_400_that_names_the_part(stub: StubServer) -> None:
    slow = image_part(with_scans(200))
    body = {"model": "phi-3.5-vision:caption", "messages": [user(image_part(PICTURE), slow)]}
    answer = httpx.post(f"{stub.base_url}/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "messages[0].content[1].image_url"
    assert "a JPEG of more than 32 scans" in answer.json()["error"]["message"]
