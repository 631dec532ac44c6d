"""Presets and the function that applies one, without an engine."""

import copy

import pytest
from phi_vision.errors import RequestError
from phi_vision.tasks import presets, requests
from phi_vision.tasks.presets import PRESETS
from phi_vision.tasks.requests import apply

NAMES = presets.model_names("phi-3.5-vision")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def request(*parts: dict, **fields: object) -> dict:
    return {"model": "phi-3.5-vision", "messages": [{"role": "user", "content": list(parts)}], **fields}


def last_text(applied: requests.TaskRequest) -> str:
    return applied.body["messages"][-1]["content"][-1]["text"]


@pytest.mark.parametrize("task", ["caption", "ocr"])
def test_by_name_and_by_field_are_the_same(task: str) -> None:
    by_name = apply(request(IMAGE) | {"model": f"phi-3.5-vision:{task}"}, NAMES)
    by_field = apply(request(IMAGE, task=task), NAMES)
    assert by_name.task == by_field.task == task
    assert by_name.body["messages"] == by_field.body["messages"]
    assert last_text(by_name) == PRESETS[task].prompt
    assert "task" not in by_field.body


def test_both_and_equal_is_fine() -> None:
    assert apply(request(IMAGE, task="ocr") | {"model": "phi-3.5-vision:ocr"}, NAMES).task == "ocr"


def test_a_chat_without_task_is_left_alone() -> None:
    body = request(text("hello"))
    applied = apply(body, NAMES)
    assert applied.task is None and applied.body == body


def test_the_request_is_not_changed_in_place() -> None:
    body = request(IMAGE, task="ocr")
    before = copy.deepcopy(body)
    apply(body, NAMES)
    assert body == before


@pytest.mark.parametrize("task", ["caption", "ocr", "vqa"])
def test_the_clients_text_wins(task: str) -> None:
    assert (
        last_text(apply(request(IMAGE, text("What is the total?"), task=task), NAMES)) == "What is the total?"
    )


def test_blank_text_counts_as_none() -> None:
    applied = apply(request(text("  "), IMAGE, task="caption"), NAMES)
    assert applied.body["messages"][-1]["content"] == [IMAGE, text(PRESETS["caption"].prompt)]


def test_the_clients_settings_win() -> None:
    asked = {"max_pattern_size": 3, "min_pattern_size": 1, "min_count": 2}
    applied = apply(request(IMAGE, task="ocr", repetition_detection=asked), NAMES)
    assert applied.body["repetition_detection"] == asked
    assert apply(request(IMAGE, task="ocr"), NAMES).body["repetition_detection"]


def test_system_prompt_only_where_the_client_has_none() -> None:
    body = request(IMAGE, text("Why?"), task="vqa")
    assert apply(body, NAMES).body["messages"][0]["role"] == "system"
    body["messages"].insert(0, {"role": "system", "content": "Answer in rhymes."})
    roles = [m["role"] for m in apply(body, NAMES).body["messages"]]
    assert roles == ["system", "user"]


def test_a_picture_of_an_earlier_turn_is_enough() -> None:
    body = request(IMAGE, text("Who?"), task="vqa")
    body["messages"] += [
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "What colour?"},
    ]
    assert apply(body, NAMES).task == "vqa"


def test_pictures_are_found_where_they_stand() -> None:
    low = {"type": "image_url", "image_url": {"url": "http://x/", "detail": "low"}}
    applied = apply(request(text("a"), IMAGE, text("b"), low), NAMES)
    assert [p.param for p in applied.pictures] == [
        "messages[0].content[1].image_url",
        "messages[0].content[3].image_url",
    ]
    assert [p.detail for p in applied.pictures] == [None, "low"]


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
def test_mistakes_name_their_field(body: dict, status: int, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        apply(body, NAMES)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert caught.value.body()["error"]["message"]


def test_every_preset_describes_itself() -> None:
    listed = {entry["id"]: entry for entry in presets.describe()["data"]}
    assert set(listed) == {"caption", "ocr", "vqa"}
    assert all(entry["description"] and entry["max_tokens"] > 0 for entry in listed.values())
