"""Structured-output specs in vLLM's terms: which constraint one sets, and what is compiled for it."""

from __future__ import annotations

import json
from typing import Any

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features
from vllm.v1.structured_output.utils import choice_as_grammar, grammar_is_likely_lark

from phi_vision.plugin_names import GRAMMAR_BACKEND
from phi_vision.serving.grammars import bounds
from phi_vision.serving.grammars.bounds import Kind, SpecRefused
from phi_vision.serving.grammars.trials import Syntax

_KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# Options of vLLM's other backends, or for the server as a whole, that xgrammar ignores in a request.
_OPTIONS_WITHOUT_EFFECT = ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties")


def kind_of(spec: StructuredOutputsParams) -> Kind:
    """The constraint that is set; vLLM's class makes sure that there is exactly one."""
    return next(kind for kind in _KINDS if getattr(spec, kind) is not None)


def check(spec: StructuredOutputsParams) -> None:
    """Check all that can be checked without compiling.

    Raises:
        SpecRefused: the spec is out of bounds, empty, or sets an option without effect.
    """
    kind = kind_of(spec)
    for option in _OPTIONS_WITHOUT_EFFECT:
        if getattr(spec, option):
            raise SpecRefused(f"it has no effect in a request: {GRAMMAR_BACKEND} ignores it", option=option)
    value = getattr(spec, kind)
    if kind == "json_object" and value is not True:
        raise SpecRefused("it must be true, or left out")
    if kind != "regex" and value in ("", []):
        raise SpecRefused("it is empty")
    bounds.check(kind, value)
    if kind == "json":
        schema = json.loads(value) if isinstance(value, str) else value
        if has_xgrammar_unsupported_json_features(schema):
            raise SpecRefused("the schema has keywords, or combines some, that xgrammar does not support")


def is_lark(spec: StructuredOutputsParams) -> bool:
    """Whether the spec is a grammar in Lark's notation."""
    return spec.grammar is not None and grammar_is_likely_lark(spec.grammar)


def as_compiled(spec: StructuredOutputsParams) -> tuple[Kind, Syntax, str]:
    """The constraint that goes to the engine, the syntax of its text, and the text the engine compiles."""
    kind = kind_of(spec)
    value: Any = getattr(spec, kind)
    match kind:
        case "json":
            return kind, "json", value if isinstance(value, str) else json.dumps(value)
        case "json_object":
            return kind, "json", '{"type": "object"}'
        case "choice":
            return "grammar", "ebnf", choice_as_grammar(value)
        case "grammar":
            return kind, "lark" if is_lark(spec) else "ebnf", value
        case "regex" | "structural_tag":
            return kind, kind, value
