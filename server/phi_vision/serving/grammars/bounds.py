"""Limits on the size of a structured-output spec, checked before anything compiles it.

The checks take time linear in the text. Specs that are small but costly to compile are found by `trials`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

Kind = Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]

MAX_BYTES = 131_072  # of the whole spec
MAX_DEPTH = 64  # of objects, arrays and groups
MAX_RULES = 5_000  # of a grammar; objects and arrays of a schema
MAX_ALTERNATIVES = 5_000  # of a pattern, a grammar or all lists of a schema; choices
MAX_REPEATS = 100_000  # {n,m}, multiplied where they are nested

_PATTERN_KEYS = ("pattern", "grammar", "regex")  # of a schema or a structural tag, with a text to scan

# The tokens of a regex that matter here; escapes and classes are skipped. Possessive quantifiers, so that an
# unclosed class or quote costs one pass and not one for each of its characters.
_SIGNS = r"\\.|\[(?:[^\]\\]|\\.)*+\]?|(?P<sign>[()|])|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\}"
_REGEX = re.compile(_SIGNS, re.DOTALL)
_GRAMMAR = re.compile(_SIGNS + r'|"(?:[^"\\\n]|\\.)*+"?|(?P<rule>::?=?)', re.DOTALL)  # EBNF or Lark


class SpecRefused(ValueError):
    """A spec that is refused.

    Args:
        reason: why, for the client.
        option: the field at fault, where it is not the constraint itself.
    """

    def __init__(self, reason: str, *, option: str | None = None) -> None:
        super().__init__(reason)
        self.option = option


def check(kind: Kind, spec: Any) -> None:
    """Check the size of a spec.

    Args:
        kind: which of vLLM's constraints it is.
        spec: as the client sent it; a schema may be JSON text.

    Raises:
        SpecRefused: it is too large, too deep, or refers to something outside itself.
    """
    match kind:
        case "json_object":
            return
        case "choice":
            if not isinstance(spec, list):
                raise SpecRefused("it must be a list")
            _at_most(len(spec), MAX_ALTERNATIVES, "choices")
            _at_most(sum(_size(choice) for choice in spec), MAX_BYTES, "bytes")
        case "regex" | "grammar":
            _at_most(_size(spec), MAX_BYTES, "bytes")
            if "\0" in spec:
                raise SpecRefused("it holds a NUL character")
            _check_text(spec, is_grammar=kind == "grammar")
        case "json" | "structural_tag":
            _check_schema(_parsed(spec))


def _parsed(spec: Any) -> Any:
    try:
        text = spec if isinstance(spec, str) else json.dumps(spec)
        _at_most(_size(text), MAX_BYTES, "bytes")
        return json.loads(text) if isinstance(spec, str) else spec
    except RecursionError as error:
        raise SpecRefused(f"it is nested deeper than {MAX_DEPTH}") from error
    except SpecRefused:
        raise
    except ValueError as error:
        raise SpecRefused(f"it is not JSON: {error}") from error


def _check_schema(schema: Any) -> None:
    level, containers, alternatives = [schema], 0, 0
    for _ in range(MAX_DEPTH + 1):
        level = [value for value in level if isinstance(value, dict | list)]
        containers += len(level)
        alternatives += sum(len(value) for value in level if isinstance(value, list))
        for value in level:
            if isinstance(value, dict):
                _check_object(value)
        if not level:
            break
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    else:
        raise SpecRefused(f"it is nested deeper than {MAX_DEPTH}")
    _at_most(containers, MAX_RULES, "objects and lists")
    _at_most(alternatives, MAX_ALTERNATIVES, "alternatives")


def _check_object(value: dict[str, Any]) -> None:
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        reference = value.get(key)
        if isinstance(reference, str) and not reference.startswith("#"):
            raise SpecRefused(f"{key} {reference[:80]!r} leaves the schema; only '#...' is followed")
    texts = [value[key] for key in _PATTERN_KEYS if isinstance(value.get(key), str)]
    by_pattern = value.get("patternProperties")
    for text in [*texts, *(by_pattern if isinstance(by_pattern, dict) else ())]:
        _check_text(text, is_grammar=text is value.get("grammar"))


def _check_text(text: str, *, is_grammar: bool) -> None:
    """Bound groups, alternatives, rules and counted repeats of a regex or a grammar."""
    alternatives, rules = 1, 0
    groups = [1]  # for each open group: the largest product of nested repeats in it
    atom, atom_end = 1, -1  # the same for the last closed group, and where it ended
    for token in (_GRAMMAR if is_grammar else _REGEX).finditer(text):
        sign = token["sign"]
        if sign == "|":
            alternatives += 1
        elif sign == "(":
            groups.append(1)
            _at_most(len(groups) - 1, MAX_DEPTH, "groups within each other")
        elif sign == ")" and len(groups) > 1:
            atom, atom_end = groups.pop(), token.end()
            groups[-1] = max(groups[-1], atom)
        elif token["comma"] is not None and (token["low"] or token["high"]):
            count = max(_number(token["low"]), _number(token["high"]), 1)
            total = count * (atom if atom_end == token.start() else 1)
            _at_most(total, MAX_REPEATS, "repeats")
            groups[-1] = max(groups[-1], total)
            atom, atom_end = total, token.end()
        elif is_grammar and token["rule"]:
            rules += 1
    _at_most(alternatives, MAX_ALTERNATIVES, "alternatives")
    _at_most(rules, MAX_RULES, "rules")


def _number(digits: str) -> int:
    return int(digits or 0) if len(digits) < 10 else MAX_REPEATS + 1


def _size(text: Any) -> int:
    """Bytes of a text as UTF-8; a lone surrogate counts too."""
    if not isinstance(text, str):
        raise SpecRefused("it must be a text")
    return len(text.encode(errors="surrogatepass"))


def _at_most(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise SpecRefused(f"it has {number:,} {what}; at most {limit:,} are compiled")
