"""A chat request with its task resolved: pure functions on the JSON body."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phi_vision.errors import RequestError
from phi_vision.tasks import media_parts
from phi_vision.tasks.media_parts import MediaPart
from phi_vision.tasks.presets import PRESETS, Preset, task_of
from phi_vision.tasks.router_fields import is_choice


@dataclass(frozen=True)
class TaskRequest:
    """A chat request with its task resolved: `body` is what the client sent plus the preset."""

    body: Mapping[str, Any]  # where a file part stood, there is an `image_url` part
    task: str | None
    media: tuple[MediaPart, ...] = field(default=())  # of the `image_url` parts of `body`, in order


def apply(body: Mapping[str, Any], served_names: Collection[str], *, max_model_len: int) -> TaskRequest:
    """Resolve the task of a chat request and fill in what its preset gives.

    Args:
        body: the request as it came. Not changed.
        served_names: all model names the server answers to, tasks included.
        max_model_len: the context in tokens, which bounds a preset's `max_tokens`.

    Raises:
        RequestError: unknown model or task, two different tasks, a task without a picture,
            vqa without a question, or a message whose shape is wrong.
    """
    task = resolve_task(body, served_names)
    media = tuple(_media_parts(body))
    own = {key: value for key, value in body.items() if key != "task"}
    if any(part.is_file for part in media):
        own["messages"] = [_with_file_parts_replaced(message) for message in own["messages"]]
    if task is None:
        return TaskRequest(own, None, media)
    if not media:
        raise RequestError(
            f"task '{task}' needs at least one picture (an `image_url` part) or document (a `file` part)",
            param="messages",
        )
    preset = PRESETS[task]
    fields = copy.deepcopy(dict(preset.fields))
    if "max_tokens" in fields:
        fields["max_tokens"] = min(fields["max_tokens"], max_model_len)
    set_by_client = {key: value for key, value in own.items() if key not in fields or is_choice(key, value)}
    filled = fields | set_by_client
    filled["messages"] = _with_prompts(own["messages"], task, preset)
    return TaskRequest(filled, task, media)


def resolve_task(body: Mapping[str, Any], served_names: Collection[str]) -> str | None:
    """The task that the model's name or the field `task` asks for.

    Raises:
        RequestError: unknown model or task, or two different tasks.
    """
    model = body.get("model")
    if model is not None and model not in served_names:
        known = ", ".join(sorted(served_names))
        raise RequestError(
            f"the model {model!r} does not exist; served here: {known}", param="model", status=404
        )
    by_name = None if model is None else task_of(model)
    by_field = body.get("task")
    if by_field is not None and (not isinstance(by_field, str) or by_field not in PRESETS):
        raise RequestError(f"unknown task {by_field!r}; one of: {', '.join(PRESETS)}", param="task")
    if by_name and by_field and by_name != by_field:
        raise RequestError(f"the model name says task {by_name!r}, the field says {by_field!r}", param="task")
    return by_field or by_name


def _media_parts(body: Mapping[str, Any]) -> Iterator[MediaPart]:
    """All pictures and documents of a request, in the order of the prompt."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list with at least one message", param="messages")
    for m, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError("a message must be an object with a role", param=f"messages[{m}]")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise RequestError("content must be text or a list of parts", param=f"messages[{m}].content")
        for p, part in enumerate(content):
            where = f"messages[{m}].content[{p}]"
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                continue
            if kind == "image_url":
                yield media_parts.read_image_url(part.get("image_url"), f"{where}.image_url")
            elif kind == "file":
                yield media_parts.read_file(part.get("file"), f"{where}.file")
            elif kind == "text":
                raise RequestError("a text part needs a string", param=f"{where}.text")
            else:
                raise RequestError(
                    f"content parts are 'text', 'image_url' or 'file', not {kind!r}", param=f"{where}.type"
                )


def _with_file_parts_replaced(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    picture = {"type": "image_url", "image_url": {"url": "file"}}
    return {**message, "content": [picture if part["type"] == "file" else part for part in content]}


def _with_prompts(messages: list[dict[str, Any]], task: str, preset: Preset) -> list[dict[str, Any]]:
    """The messages with the preset's system prompt and, where the last one is silent, its prompt."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        raise RequestError(f"task {task!r} needs a user message", param="messages")
    filled = list(messages)
    content = messages[last].get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
    if not any(part["type"] == "text" and part["text"].strip() for part in parts):
        if preset.prompt is None:
            raise RequestError(f"task {task!r} needs a question: add a text part", param="messages")
        pictures = [part for part in parts if part["type"] != "text"]
        filled[last] = {**messages[last], "content": [*pictures, {"type": "text", "text": preset.prompt}]}
    if preset.system and not any(m["role"] in ("system", "developer") for m in messages):
        filled.insert(0, {"role": "system", "content": preset.system})
    return filled
