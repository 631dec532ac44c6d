"""A request of OpenAI's Responses API with its task resolved: pure functions on the JSON body."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phi_vision.errors import RequestError
from phi_vision.tasks import media_parts
from phi_vision.tasks.media_parts import MediaPart
from phi_vision.tasks.presets import PRESETS, Preset
from phi_vision.tasks.requests import resolve_task

# What the fields of a preset, which are the chat route's, are called here.
FIELDS = {"max_tokens": "max_output_tokens", "temperature": "temperature"}
_TEXTS = ("input_text", "text")
_BESIDE = frozenset({"type", "prompt_cache_breakpoint"})  # fields of an `input_file` that are not the file's


@dataclass(frozen=True)
class PlacedPart:
    """A picture or document, and its place: `input[item].content[part]`."""

    item: int
    part: int
    media: MediaPart


@dataclass(frozen=True)
class TaskResponse:
    """A request with its task resolved: `body` is what the client sent plus the preset."""

    body: Mapping[str, Any]
    task: str | None
    media: tuple[PlacedPart, ...]


def apply(body: Mapping[str, Any], served_names: Collection[str], *, max_model_len: int) -> TaskResponse:
    """Resolve the task of a request and fill in what its preset gives, as `requests.apply` does.

    Args:
        body: the request as it came. Not changed.
        served_names: all model names the server answers to, tasks included.
        max_model_len: the context in tokens, which bounds a preset's answer.

    Raises:
        RequestError: unknown model or task, a task without a picture, vqa without a question, or a picture
            or document whose fields are wrong.
    """
    task = resolve_task(body, served_names)
    media = tuple(_media_parts(body.get("input")))
    own = {key: value for key, value in body.items() if key != "task"}
    if task is None:
        return TaskResponse(own, None, media)
    if not media and not body.get("previous_response_id"):
        raise RequestError(
            f"task {task!r} needs at least one picture (`input_image`) or document (`input_file`)",
            param="input",
        )
    preset = PRESETS[task]
    filled = {FIELDS[name]: copy.deepcopy(value) for name, value in preset.fields.items()}
    if "max_output_tokens" in filled:
        filled["max_output_tokens"] = min(filled["max_output_tokens"], max_model_len)
    filled |= {name: value for name, value in own.items() if name not in filled or value is not None}
    filled["input"] = _with_prompt(own.get("input"), task, preset)
    systems = [item for item in _messages(filled["input"]) if item["role"] in ("system", "developer")]
    if preset.system and not systems and filled.get("instructions") is None:
        filled["instructions"] = preset.system
    return TaskResponse(filled, task, media)


def _messages(items: Any) -> Iterator[dict[str, Any]]:
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("role"), str):
            yield item


def _media_parts(items: Any) -> Iterator[PlacedPart]:
    for i, item in enumerate(items if isinstance(items, list) else ()):
        content = item.get("content") if isinstance(item, dict) else None
        for p, part in enumerate(content if isinstance(content, list) else ()):
            where = f"input[{i}].content[{p}]"
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "input_file":
                yield PlacedPart(i, p, media_parts.read_file(part, where, beside=_BESIDE))
            elif kind == "input_image" and part.get("file_id") is not None:
                file = {name: part[name] for name in ("file_id", "detail") if name in part}
                if part.get("image_url") is not None:
                    raise RequestError("a picture has an `image_url` or a `file_id`, not both", param=where)
                yield PlacedPart(i, p, media_parts.read_file(file, where))
            elif kind == "input_image":
                media = media_parts.read_image_url(part.get("image_url"), f"{where}.image_url")
                yield PlacedPart(i, p, media)


def _with_prompt(items: Any, task: str, preset: Preset) -> Any:
    """The input with the preset's prompt where the last message of the user is silent."""
    if not isinstance(items, list):
        return items  # text
    users = [i for i, item in enumerate(items) if isinstance(item, dict) and item.get("role") == "user"]
    if not users:
        raise RequestError(f"task {task!r} needs a user message", param="input")
    last = items[users[-1]]
    content = last.get("content")
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else list(content or [])
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in _TEXTS)
    if any(isinstance(text, str) and text.strip() for text in texts):
        return items
    if preset.prompt is None:
        raise RequestError(f"task {task!r} needs a question: add an `input_text` part", param="input")
    filled = list(items)
    filled[users[-1]] = {**last, "content": [*parts, {"type": "input_text", "text": preset.prompt}]}
    return filled
