"""The JSON body of a request, as routes of ours take it in place of vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from vllm.entrypoints.serve.exception_handling.handlers.validation import clean_loc_for_param

from phi_vision.errors import RequestError
from phi_vision.serving.middleware.body_reader import PARSED_BODY

_Model = TypeVar("_Model", bound=BaseModel)


async def json_body(raw_request: Request) -> dict[str, Any]:
    """The request's JSON object, as the limits have read it.

    Raises:
        RequestError: there is none.
    """
    body: dict[str, Any] | None = raw_request.scope.get(PARSED_BODY)
    if body is None:
        raise RequestError("the body must be a JSON object")
    return body


def validated(model: type[_Model], body: Mapping[str, Any]) -> _Model:
    """The body as vLLM's model of it.

    Raises:
        RequestError: naming the first field at fault.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = clean_loc_for_param(first["loc"]) if first["loc"] else None
        cause = first.get("ctx", {}).get("error")
        param = getattr(cause, "parameter", None) or param
        raise RequestError(f"{param or 'the request'}: {first['msg']}", param=param) from error
