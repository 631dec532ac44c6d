"""A request of the Responses API with its task resolved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from phi_vision.errors import RequestError
from phi_vision.tasks import presets, responses
from phi_vision.tasks.presets import PRESETS

NAMES = presets.model_names("m")
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}


def apply(*parts: Any, max_model_len: int = 16_384, **fields: Any) -> responses.TaskResponse:
    body = {"model": "m", "input": [{"role": "user", "content": list(parts)}], **fields}
    before = copy.deepcopy(body)
    applied = responses.apply(body, NAMES, max_model_len=max_model_len)
    assert body == before
    return applied


@pytest.mark.parametrize("task", PRESETS)
def test_each_field_of_each_preset_has_a_name_here(task: str) -> None:
    assert set(PRESETS[task].fields) <= set(responses.FIELDS)


def test_a_plain_request_is_left_alone() -> None:
    assert apply(IMAGE).body == {"model": "m", "input": [{"role": "user", "content": [IMAGE]}]}


def test_the_prompt_is_added_where_the_message_is_silent() -> None:
    (message,) = apply(IMAGE, task="ocr").body["input"]
    assert message["content"][-1] == {"type": "input_text", "text": PRESETS["ocr"].prompt}
    (asked,) = apply(IMAGE, {"type": "input_text", "text": "Why?"}, task="ocr").body["input"]
    assert asked["content"][-1]["text"] == "Why?"


def test_null_is_no_choice_and_a_system_message_is() -> None:
    question = {"type": "input_text", "text": "Why?"}
    body = apply(IMAGE, question, task="vqa", temperature=None, max_output_tokens=9, max_model_len=64).body
    assert (body["temperature"], body["max_output_tokens"]) == (0.0, 9)
    assert body["instructions"] == PRESETS["vqa"].system
    assert apply(IMAGE, task="ocr", max_model_len=64).body["max_output_tokens"] == 64
    items = [{"role": "developer", "content": "x"}, {"role": "user", "content": [IMAGE, question]}]
    assert "instructions" not in apply(task="vqa", input=items).body


def test_pictures_of_an_earlier_response_are_enough() -> None:
    assert apply(task="ocr", input="again", previous_response_id="resp_1").task == "ocr"


@pytest.mark.parametrize("sent", ["hello", None, 5, [], [5], [{"role": 5}], [{"role": "user", "content": 5}]])
def test_input_of_any_shape_is_refused_or_left_to_vllm(sent: Any) -> None:
    assert apply(input=sent).body["input"] == sent
    with pytest.raises(RequestError, match="at least one picture"):
        apply(input=sent, task="ocr")
