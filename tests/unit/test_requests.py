"""A chat request with its task resolved and the preset's fields filled in, without an engine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from phi_vision.errors import RequestError
from phi_vision.tasks import presets, requests
from phi_vision.tasks.presets import PRESETS
from phi_vision.tasks.router_fields import SHARED_DEFAULTS

CONTEXT = 16_384
NAMES = presets.model_names("phi-3.5-vision")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def apply(body: dict[str, Any]) -> requests.TaskRequest:
    return requests.apply(body, NAMES, max_model_len=CONTEXT)


def text(value: str | None) -> dict[str, Any]:
    return {"type": "text", "text": value}


def request(*parts: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {"model": "phi-3.5-vision", "messages": [{"role": "user", "content": list(parts)}], **fields}


def last_text(applied: requests.TaskRequest) -> str:
    return applied.body["messages"][-1]["content"][-1]["text"]


@pytest.mark.parametrize("task", ["caption", "ocr"])
def test_by_name_and_by_field_are_the_same(task: str) -> None:
    by_name = apply(request(IMAGE) | {"model": f"phi-3.5-vision:{task}"})
    by_field = apply(request(IMAGE, task=task))
    assert by_name.task == by_field.task == task
    assert by_name.body["messages"] == by_field.body["messages"]
    assert last_text(by_name) == PRESETS[task].prompt
    assert "task" not in by_field.body


def test_both_and_equal_is_fine() -> None:
    assert apply(request(IMAGE, task="ocr") | {"model": "phi-3.5-vision:ocr"}).task == "ocr"


def test_a_chat_without_task_is_left_alone() -> None:
    body = request(text("hello"))
    applied = apply(body)
    assert applied.task is None and applied.body == body


def test_the_request_is_not_changed_in_place() -> None:
    body = request(IMAGE, task="ocr")
    before = copy.deepcopy(body)
    apply(body)
    assert body == before


@pytest.mark.parametrize("task", ["caption", "ocr", "vqa"])
def test_the_clients_text_wins(task: str) -> None:
    assert last_text(apply(request(IMAGE, text("What is the total?"), task=task))) == "What is the total?"


def test_blank_text_counts_as_none() -> None:
    applied = apply(request(text("  "), IMAGE, task="caption"))
    assert applied.body["messages"][-1]["content"] == [IMAGE, text(PRESETS["caption"].prompt)]


@pytest.mark.parametrize("task", PRESETS)
def test_a_preset_fills_in_what_is_not_set(task: str) -> None:
    body = apply(request(IMAGE, text("Why?"), task=task)).body
    assert {name: body[name] for name in PRESETS[task].fields} == PRESETS[task].fields


OWN = {"max_pattern_size": 3, "min_pattern_size": 1, "min_count": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_detection", OWN),
        ("repetition_detection", {"max_pattern_size": 0}),  # turned off
        ("max_tokens", 7),
        ("temperature", 0.7),
        ("response_format", {"type": "text"}),
    ],
)
def test_what_the_client_sets_wins(name: str, value: object) -> None:
    assert apply(request(IMAGE, task="ocr", **{name: value})).body[name] == value


def test_what_a_router_adds_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"skip_special_tokens": False, "logprobs": True, "max_tokens": 9}
    monkeypatch.setitem(PRESETS, "ocr", presets.Preset("", "Read.", fields))
    through_router = request(IMAGE, task="ocr", max_tokens=None, **SHARED_DEFAULTS)
    body = apply(through_router).body
    assert {name: body[name] for name in fields} == fields
    # Fields that the preset says nothing about go on as they came.
    assert body["ignore_eos"] is False and body["include_reasoning"] is True
    assert apply(request(IMAGE, task="ocr", logprobs=False, skip_special_tokens=False)).body["logprobs"]


def test_null_is_no_choice() -> None:
    through_router = request(IMAGE, task="ocr", repetition_detection=None, temperature=None, max_tokens=None)
    body = apply(through_router).body
    assert {name: body[name] for name in PRESETS["ocr"].fields} == PRESETS["ocr"].fields


def test_a_presets_answer_is_no_longer_than_the_context() -> None:
    applied = requests.apply(request(IMAGE, task="ocr"), NAMES, max_model_len=1024)
    assert applied.body["max_tokens"] == 1024
    asked = requests.apply(request(IMAGE, task="ocr", max_tokens=2000), NAMES, max_model_len=1024)
    assert asked.body["max_tokens"] == 2000  # which vLLM refuses, naming the field


def test_presets_are_not_changed_by_who_changes_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "ocr", presets.Preset("", "Read.", {"response_format": {"type": "text"}}))
    apply(request(IMAGE, task="ocr")).body["response_format"]["type"] = "json_object"
    assert PRESETS["ocr"].fields["response_format"] == {"type": "text"}


def test_system_prompt_only_where_the_client_has_none() -> None:
    body = request(IMAGE, text("Why?"), task="vqa")
    assert apply(body).body["messages"][0]["role"] == "system"
    body["messages"].insert(0, {"role": "system", "content": "Answer in rhymes."})
    roles = [m["role"] for m in apply(body).body["messages"]]
    assert roles == ["system", "user"]


def test_a_picture_of_an_earlier_turn_is_enough() -> None:
    body = request(IMAGE, text("Who?"), task="vqa")
    body["messages"] += [
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "What colour?"},
    ]
    assert apply(body).task == "vqa"


def test_pictures_are_found_where_they_stand() -> None:
    low = {"type": "image_url", "image_url": {"url": "http://x/", "detail": "low"}}
    applied = apply(request(text("a"), IMAGE, text("b"), low))
    assert [p.param for p in applied.media] == [
        "messages[0].content[1].image_url",
        "messages[0].content[3].image_url",
    ]
    assert [p.detail for p in applied.media] == [None, "low"]


def test_documents_are_found_where_they_stand() -> None:
    sent = {"type": "file", "file": {"file_id": "file-1", "filename": "a.pdf", "pages": "2-3"}}
    applied = apply(request(IMAGE, sent, task="ocr"))
    assert [p.param for p in applied.media] == [
        "messages[0].content[0].image_url",
        "messages[0].content[1].file",
    ]
    assert (applied.media[1].file_id, applied.media[1].pages) == ("file-1", "2-3")
    # vLLM's route sees a picture in the place of each.
    assert [part["type"] for part in applied.body["messages"][-1]["content"]] == ["image_url"] * 2 + ["text"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (request(IMAGE, task="translate"), 400, "task"),
        (request(IMAGE, task=3), 400, "task"),
        (request(IMAGE, task="ocr") | {"model": "phi-3.5-vision:vqa"}, 400, "task"),
        (request(IMAGE) | {"model": "phi-3.5-vision:translate"}, 404, "model"),
        (request(IMAGE) | {"model": "gpt-4o"}, 404, "model"),
        (request(IMAGE) | {"model": ["phi-3.5-vision"]}, 404, "model"),
        (request(text("read this"), task="ocr"), 400, "messages"),
        (request(IMAGE, task="vqa"), 400, "messages"),
        ({"model": "phi-3.5-vision"}, 400, "messages"),
        (request({"type": "file"}), 400, "messages[0].content[0].file"),
        (request({"type": "file", "file": {"file_id": 5}}), 400, "messages[0].content[0].file.file_id"),
        (request() | {"messages": []}, 400, "messages"),
        (request() | {"messages": "hello"}, 400, "messages"),
        (request() | {"messages": ["hello"]}, 400, "messages[0]"),
        (request() | {"messages": [{"content": "x"}]}, 400, "messages[0]"),
        (request() | {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        (request("hello"), 400, "messages[0].content[0].type"),  # type: ignore[arg-type]
        (request({"type": "video_url", "video_url": {"url": "x"}}), 400, "messages[0].content[0].type"),
        (request({"type": "image_embeds", "image_embeds": "x"}), 400, "messages[0].content[0].type"),
        (request({"image_url": "http://x/"}), 400, "messages[0].content[0].type"),
        (request({"type": "text"}), 400, "messages[0].content[0].text"),
        (request({"type": "image_url"}), 400, "messages[0].content[0].image_url"),
        (request({"type": "image_url", "image_url": {"url": ""}}), 400, "messages[0].content[0].image_url"),
        (
            request({"type": "image_url", "image_url": {"url": "http://x/", "detail": "ultra"}}),
            400,
            "messages[0].content[0].image_url.detail",
        ),
    ],
)
def test_mistakes_name_their_field(body: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        apply(body)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert caught.value.body()["error"]["message"]
