"""What is refused of a structured-output spec before anything compiles it."""

from typing import Any

import pytest
from phi_vision.serving.grammars.bounds import (
    MAX_ALTERNATIVES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_REPEATS,
    MAX_RULES,
    Kind,
    SpecRefused,
    check,
)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


GRAMMAR = 'root ::= "yes" | [^"\\]]+ ("," root)* # "'
SCHEMA = {
    "type": "object",
    "properties": {"when": {"type": "string", "pattern": r"^\d{4}-\d{2}$"}, "next": {"$ref": "#/$defs/n"}},
    "$defs": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
}

TAKEN: dict[str, tuple[Kind, Any]] = {
    "schema": ("json", SCHEMA),
    "schema as text": ("json", '{"type": "string"}'),
    "no schema": ("json", True),
    "property named as a reference": ("json", {"properties": {"$ref": {"type": "string"}}}),
    "as deep as may be": ("json", nested(MAX_DEPTH - 1)),
    "regex": ("regex", r'(\(|\[|"[a-z|(]{2,3}){1,20}'),
    "regex of no text": ("regex", ""),
    "repeats side by side": ("regex", "a{1,60000}b{1,60000}"),
    "braces that count nothing": ("regex", r"\{123456789,\}[{]99999999}"),
    "unclosed class": ("regex", "[" * 1000),
    "grammar": ("grammar", GRAMMAR),
    "signs in quotes": ("grammar", 'root ::= "' + "(" * 100 + "{1,999999}" + '"'),
    "choice": ("choice", ["yes", "no", "(" * 100]),
    "object": ("json_object", True),
    "tag": ("structural_tag", '{"format": {"type": "regex", "pattern": "a+"}}'),
}

REFUSED: dict[str, tuple[Kind, Any, str]] = {
    "long regex": ("regex", "a" * 5_000_000, "bytes"),
    "long schema": ("json", {"description": "x" * MAX_BYTES}, "bytes"),
    "long letters": ("regex", "é" * (MAX_BYTES // 2 + 1), "bytes"),
    "long choices": ("choice", ["x" * MAX_BYTES, "y"], "bytes"),
    "many choices": ("choice", ["x"] * (MAX_ALTERNATIVES + 1), "choices"),
    "many alternatives": ("regex", "|" * MAX_ALTERNATIVES, "alternatives"),
    "many alternatives of a schema": ("json", {"enum": ["x"] * (MAX_ALTERNATIVES + 1)}, "alternatives"),
    "many rules": ("grammar", "\n".join(f'r{i} ::= "x"' for i in range(MAX_RULES + 1)), "rules"),
    "many rules in Lark": ("grammar", "\n".join(f'r{i}: "x"' for i in range(MAX_RULES + 1)), "rules"),
    "many subschemas": ("json", {f"p{i}": {} for i in range(MAX_RULES)}, "objects"),
    "deep schema": ("json", nested(MAX_DEPTH), "nested"),
    "deep text": ("json", "[" * 50_000 + "]" * 50_000, "nested"),
    "deep groups": ("regex", "(" * 65 + ")" * 65, "groups"),
    "repeat": ("regex", f"a{{{MAX_REPEATS + 1}}}", "repeats"),
    "repeat of many digits": ("regex", "a{1," + "9" * 5000 + "}", "repeats"),
    "repeats in repeats": ("regex", "(((a{1,1000}){1,1000}){1,1000})", "repeats"),
    "repeats of repeats": ("regex", "a{1,1000}{1,1000}", "repeats"),
    "pattern": ("json", {"properties": {"a": {"pattern": "(a{1,1000}){1,1000}"}}}, "repeats"),
    "pattern of names": ("json", {"patternProperties": {"(a{1,1000}){1,1000}": {}}}, "repeats"),
    "pattern in a tag": ("structural_tag", '{"format": {"pattern": "(a{1,1000}){1,1000}"}}', "repeats"),
    "grammar in a tag": ("structural_tag", '{"format": {"grammar": "root ::= (a{1000}){1000}"}}', "repeats"),
    "reference to a URL": ("json", {"items": {"$ref": "http://host/schema.json"}}, "leaves the schema"),
    "reference to a file": ("json", {"$dynamicRef": "other.json#/a"}, "leaves the schema"),
    "no JSON": ("json", "{", "not JSON"),
    "NUL": ("regex", "a\0", "NUL"),
    "no text": ("regex", 3, "text"),
    "no list": ("choice", "yes", "list"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_is_taken(name: str) -> None:
    check(*TAKEN[name])


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    kind, spec, why = REFUSED[name]
    with pytest.raises(SpecRefused, match=why):
        check(kind, spec)


@pytest.mark.parametrize("sign", ["[", '"', "(", "{", "\\", ":", "[\\"])
def test_what_is_never_closed_costs_one_pass(sign: str) -> None:
    """Quadratic, this would take hours."""
    try:
        check("grammar", sign * (MAX_BYTES // len(sign)))
    except SpecRefused as error:
        assert "at most" in str(error)
