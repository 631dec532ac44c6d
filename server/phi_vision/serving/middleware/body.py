"""Limits on the JSON body of a request, on every route, checked before vLLM or pydantic see it.

Values cost memory to parse; an object costs a kilobyte or more where pydantic lists the models that it does
not match; text costs time to tokenise.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from phi_vision.errors import RequestError
from phi_vision.serving.middleware.text_bound import TokenBound

MAX_JSON_VALUES = 500_000  # a full context of token ids is 131,072; each value costs up to 100 bytes
MAX_JSON_OBJECTS = 10_000
MAX_JSON_DEPTH = 64
MAX_MESSAGES = 1024  # or other objects in a list of the request
MAX_PARTS = 4096  # of all messages together
MAX_NAME_CHARS = 100  # of a field

MAX_TEXT_CHARS = 4_000_000  # of all prompts of a request together; a full context is half of that at most
MAX_OTHER_CHARS = 1_000_000  # of everything that is neither prompt nor picture
MAX_PROMPTS = 256  # or conversations of a batch; each is a request of its own to the engine
# By field, all its strings together.
MAX_CHARS = {"role": 100, "model": 1000, "request_id": 1000, "stop": 20_000, "bad_words": 20_000}
MAX_STOPS = 64

INTEGERS = (-(2**63), 2**64 - 1)  # what vLLM can hand to its engine
_MAX_DIGITS = 20
_BEYOND = 2**64  # stands for any integer of more digits, which would take long to parse

PROMPT_FIELDS = frozenset(
    {"messages", "prompt", "input", "instructions", "system", "document_annotation_prompt"}
)
_PICTURE_FIELDS = PROMPT_FIELDS | {"document"}
_TEXT_KEYS = PROMPT_FIELDS | {"content", "text", "output"}  # whose strings reach the prompt

_MAX_TOKENS_A_CHAR = 4  # its bytes


class _Path(NamedTuple):
    """The path of a value; turned into text only for an error."""

    parent: _Path | None
    step: str | int

    def __str__(self) -> str:
        before = "" if self.parent is None else str(self.parent)
        if isinstance(self.step, int):
            return f"{before}[{self.step}]"
        return f"{before}.{self.step[:MAX_NAME_CHARS]}".lstrip(".")


class _Text(NamedTuple):
    path: _Path
    text: str


class _Node(NamedTuple):
    """A list or object that is visited."""

    value: Any
    path: _Path | None
    field: str  # of the request's object that contains it
    key: str  # the nearest key above
    prompt: str  # which prompt its texts belong to: a request can hold several


@dataclass
class _Found:
    """Counts of one pass over a body."""

    objects: int = 0
    prompts: dict[str, list[_Text]] = field(default_factory=dict)
    other_chars: Counter[str] = field(default_factory=Counter)
    capped_chars: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class BodyLimits:
    """Parses the bodies of requests to a model with this tokenizer and context."""

    tokens: TokenBound
    max_model_len: int

    def parse(self, raw: bytes) -> dict[str, Any]:
        """The JSON object.

        Raises:
            RequestError: it is no JSON object or exceeds a limit, naming the field.
        """
        body = parse_object(raw)
        check_shape(body)
        found = _survey(body, surrogates=b"\\ud" in raw or b"\\uD" in raw)
        if (total := sum(found.other_chars.values())) > MAX_OTHER_CHARS:
            name = found.other_chars.most_common(1)[0][0]
            raise RequestError(
                f"{total} characters that are neither prompt nor picture; at most {MAX_OTHER_CHARS}",
                param=name,
            )
        self._check_texts(found.prompts)
        return body

    def _check_texts(self, prompts: dict[str, list[_Text]]) -> None:
        chars = {name: sum(len(text) for _, text in texts) for name, texts in prompts.items()}
        if (total := sum(chars.values())) > MAX_TEXT_CHARS:
            longest = max(prompts, key=chars.__getitem__)
            raise RequestError(
                f"{total} characters of text; at most {MAX_TEXT_CHARS} in one request",
                param=_longest(prompts[longest]),
            )
        for name, texts in prompts.items():
            if chars[name] * _MAX_TOKENS_A_CHAR <= self.max_model_len:
                continue
            if (tokens := sum(self.tokens.at_least(text) for _, text in texts)) > self.max_model_len:
                raise RequestError(
                    f"the text has at least {tokens} tokens; the context is {self.max_model_len}",
                    param=_longest(texts),
                )


def _longest(texts: Iterable[_Text]) -> str:
    return str(max(texts, key=lambda found: len(found.text)).path)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object, if it has few enough values that parsing it takes little memory.

    Raises:
        RequestError: it is none, or has too many values.
    """
    if sum(raw.count(sign) for sign in (b"[", b"{", b",")) > MAX_JSON_VALUES:
        raise RequestError(f"the JSON has more than {MAX_JSON_VALUES} values")
    try:
        body = json.loads(raw, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if long := [name for name in body if len(name) > MAX_NAME_CHARS]:
        raise RequestError(f"no field has a name of {len(long[0])} characters")
    return body


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else _BEYOND


def check_shape(body: dict[str, Any]) -> None:
    """Bound messages, their parts, and stop strings.

    Raises:
        RequestError: naming the field at fault.
    """
    for name, listed in body.items():
        if not isinstance(listed, list):
            continue
        objects = sum(isinstance(item, dict | list) for item in listed)
        if objects > MAX_MESSAGES:
            raise RequestError(f"{objects} entries; at most {MAX_MESSAGES}", param=name)
        prompts = sum(isinstance(item, list | str) for item in listed)
        if name in ("prompt", "messages") and prompts > MAX_PROMPTS:
            raise RequestError(f"{prompts} prompts; at most {MAX_PROMPTS} in one request", param=name)
        parts = sum(len(content) for content in _contents(listed))
        if parts > MAX_PARTS:
            raise RequestError(f"{parts} content parts; at most {MAX_PARTS} in one request", param=name)
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > MAX_STOPS:
        raise RequestError(f"{len(stop)} stop strings; at most {MAX_STOPS}", param="stop")


def _contents(messages: list[Any]) -> Iterator[list[Any]]:
    """The lists of content parts; a batch is a list of lists of messages."""
    for message in messages:
        if isinstance(message, list):
            yield from _contents(message)
        elif isinstance(message, dict) and isinstance(message.get("content"), list):
            yield message["content"]


def _survey(body: dict[str, Any], *, surrogates: bool) -> _Found:
    """Visit all values once, level by level."""
    found = _Found()
    level = [_Node(body, None, "", "", "")]
    for depth in range(MAX_JSON_DEPTH):
        level = [deeper for node in level for deeper in _visit(node, depth, found, surrogates)]
        if not level:
            return found
    raise RequestError(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")


def _visit(node: _Node, depth: int, found: _Found, surrogates: bool) -> Iterator[_Node]:
    """Check the values of a list or object, and yield the lists and objects among them."""
    named = isinstance(node.value, dict)
    if named:
        found.objects += 1
        if found.objects > MAX_JSON_OBJECTS:
            raise RequestError(f"the JSON has more than {MAX_JSON_OBJECTS} objects", param=node.field)
    pairs: Iterable[tuple[Any, Any]] = node.value.items() if named else enumerate(node.value)
    for step, value in pairs:
        field_name = node.field or str(step)
        if named:
            found.other_chars[field_name] += len(step)
        kind = type(value)
        if kind is int:
            if not INTEGERS[0] <= value <= INTEGERS[1]:
                where = str(_Path(node.path, step))
                raise RequestError(f"{where}: an integer must fit 64 bits", param=where)
            continue
        if kind is float:
            if not math.isfinite(value):
                where = str(_Path(node.path, step))
                raise RequestError(f"{where}: {value} is not a number of JSON", param=where)
            continue
        key = step if named else node.key
        if kind is str:
            path = _Path(node.path, step)
            if surrogates:
                _check_unicode(value, path)
            _count(value, path, field_name, key, node, found)
        elif kind is dict or kind is list:
            path = _Path(node.path, step)
            yield _Node(value, path, field_name, key, _prompt_of(node, path, depth, kind))


def _prompt_of(node: _Node, path: _Path, depth: int, kind: type) -> str:
    """Which prompt a value belongs to: `prompt` can be a list of prompts, and `messages` of conversations."""
    own = depth == 1 and (node.field == "prompt" or (node.field == "messages" and kind is list))
    return str(path) if own else node.prompt


def _count(text: str, path: _Path, field_name: str, key: str, node: _Node, found: _Found) -> None:
    if field_name in PROMPT_FIELDS and key in _TEXT_KEYS:
        name = node.prompt or (str(path) if field_name == "prompt" else field_name)
        found.prompts.setdefault(name, []).append(_Text(path, text))
        return
    if field_name in _PICTURE_FIELDS and _is_picture(key, node):
        return  # the decoders have limits of their own
    found.other_chars[field_name] += len(text)
    if key in MAX_CHARS and (key == "role" or key == field_name):
        counted = str(path) if key == "role" else key
        found.capped_chars[counted] += len(text)
        if found.capped_chars[counted] > MAX_CHARS[key]:
            raise RequestError(f"{counted}: more than {MAX_CHARS[key]} characters", param=counted)


def _is_picture(key: str, node: _Node) -> bool:
    """OpenAI's `image_url`, `image_url.url`, `file_data`; Anthropic's `source`; Mistral's `document_url`."""
    if not isinstance(node.value, dict):
        return False
    if key == "url":
        return node.key == "image_url" or node.value.get("type") == "url"
    return key in ("image_url", "file_data", "document_url") or (
        key == "data" and node.value.get("type") == "base64"
    )


def _check_unicode(text: str, path: _Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{path}: half a surrogate pair is no text", param=str(path)) from error
