"""Presets through the real API process: what reaches the engine when a client, or a router, sends fields."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from phi_vision.tasks.presets import PRESETS
from phi_vision.tasks.router_fields import FOREIGN_DEFAULTS, SHARED_DEFAULTS

from tests.support.pictures import data_url, encoded, reference_picture, user
from tests.support.stub_server import StubServer

PHOTO = {"type": "image_url", "image_url": {"url": data_url(encoded(reference_picture(60, 40, seed=2)))}}


def post(stub: StubServer, **fields: Any) -> httpx.Response:
    body = {"model": "phi-3.5-vision:ocr", "messages": [user(PHOTO)], **fields}
    return httpx.post(f"{stub.url}/v1/chat/completions", json=body)


def sampling(stub: StubServer, **fields: Any) -> dict[str, Any]:
    response = post(stub, **fields)
    assert response.status_code == 200, response.text
    return stub.requests[-1]["sampling"]


@pytest.mark.parametrize("added", [{}, {**SHARED_DEFAULTS, **FOREIGN_DEFAULTS, "repetition_detection": None}])
def test_a_preset_applies_behind_a_router_too(stub: StubServer, added: dict[str, Any]) -> None:
    asked = sampling(stub, **added)
    fields = PRESETS["ocr"].fields
    assert (asked["temperature"], asked["max_tokens"]) == (fields["temperature"], fields["max_tokens"])
    assert asked["repetition_detection"] is None and asked["extra_args"] == {"phi_vision_ends_loops": True}


def test_a_foreign_field_that_asks_for_something_is_refused(stub: StubServer) -> None:
    response = post(stub, return_hidden_states=True)
    assert response.status_code == 400 and response.json()["error"]["param"] == "return_hidden_states"


def test_the_names_of_each_task_are_listed(stub: StubServer) -> None:
    tasks = httpx.get(f"{stub.url}/v1/tasks").json()["data"]
    served = {model["id"] for model in httpx.get(f"{stub.url}/v1/models").json()["data"]}
    assert {entry["id"] for entry in tasks} == set(PRESETS)
    for entry in tasks:
        assert entry["models"] and set(entry["models"]) <= served
        assert all(name.endswith(f":{entry['id']}") for name in entry["models"])
