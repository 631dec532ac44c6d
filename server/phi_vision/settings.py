"""Settings as frozen pydantic dataclasses: a field holds its default, bounds, unit and help text.

The command line, its help and the checks all read the fields, so a new setting is one new field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from phi_vision.errors import UsageError

CONFIG = ConfigDict(strict=True, extra="forbid", defer_build=True)


def setting(
    default: Any,
    help_text: str,
    *,
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A field that is a command-line flag.

    Args:
        default: its value if the flag is not given.
        help_text: for `--help` and the docs.
        unit: placeholder of the value in `--help`.
        ge: smallest value; needs `le`.
        le: largest value; needs `ge`.
        choices: the only values that the command line takes.
        parse: from the flag's text, where the field's type alone does not say how.
    """
    bounds = None if ge is None or le is None else (ge, le)
    extra: dict[str, Any] = {"unit": unit, "choices": choices, "parse": parse, "bounds": bounds}
    return Field(default, description=help_text, ge=ge, le=le, json_schema_extra=extra)


@dataclasses.dataclass(frozen=True)
class Flag:
    """A setting as the command line needs it."""

    field: str
    default: Any
    help_text: str
    unit: str
    choices: tuple[str, ...] | None
    bounds: tuple[float, float] | None
    parse: Callable[[str], Any]

    @property
    def name(self) -> str:
        """With dashes: `--max-images`."""
        return "--" + self.field.replace("_", "-")


@dataclass(frozen=True, config=CONFIG)
class Settings:
    """Base of settings.

    Raises:
        UsageError: a value out of its bounds or of another type, naming the flag.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_flag(cls, values: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(values)
        except ValidationError as error:
            detail = error.errors()[0]
            flag = next((flag for flag in flags(cls) if flag.field == detail["loc"][0]), None)
            if flag is None:
                raise
            if flag.bounds is None:
                raise UsageError(f"{flag.name}: {detail['msg']}") from error
            low, high = flag.bounds
            raise UsageError(f"{flag.name} must be from {low} to {high}, not {detail['input']}") from error


def flags(settings: type[Settings]) -> Iterator[Flag]:
    """The flags of a class of settings, in the order of its fields."""
    for name, field in settings.__pydantic_fields__.items():  # type: ignore[attr-defined]
        if isinstance(extra := field.json_schema_extra, dict):
            parse = extra["parse"] or _type_of(field.annotation)
            yield Flag(
                name,
                field.default,
                field.description,
                extra["unit"],
                extra["choices"],
                extra["bounds"],
                parse,
            )


def command_line(settings: Settings) -> list[str]:
    """The flags that say what differs from the defaults."""
    words = []
    for flag in flags(type(settings)):
        value = getattr(settings, flag.field)
        if value is True:
            words.append(flag.name)
        elif value != flag.default:
            words.append(f"{flag.name}={value}")
    return words


def _type_of(annotation: Any) -> Callable[[str], Any]:
    """What parses a value: `int` for `int | None`."""
    (kind,) = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return kind
