"""Bodies in /openapi.json that FastAPI does not know of, as a dependency of their route reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_REF = "#/components/schemas/{model}"


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra`: its body is this model, which `define` describes."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def define(app: FastAPI, model: type[BaseModel], more: Mapping[str, Any] | None = None) -> None:
    """Describe a model in the app's document.

    Args:
        app: the application.
        model: under its own name.
        more: properties beside those of the model.
    """
    make_document = app.openapi

    def with_model() -> dict[str, Any]:
        document = make_document()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        described = model.model_json_schema(ref_template=_REF)
        for name, schema in described.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        described["properties"] |= more or {}
        schemas[model.__name__] = described
        return document

    app.openapi = with_model  # type: ignore[method-assign]  # as FastAPI's docs have it
