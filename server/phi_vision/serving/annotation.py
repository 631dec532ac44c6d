"""A document's annotation: what its text says, as JSON of the schema that the client gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from phi_vision.documents.answers import status_of
from phi_vision.documents.pages import Ask
from phi_vision.errors import RequestError
from phi_vision.serving.grammars.bounds import SpecRefused
from phi_vision.serving.grammars.trials import TrialFailed
from phi_vision.serving.mistral_ocr import AnnotationFormat, FieldRefused
from phi_vision.serving.vllm_compat.structured_outputs import SpecTrials

MAX_TOKENS = 4096  # of an annotation
FIELD = "document_annotation_format"
_SCHEMA = f"{FIELD}.json_schema.schema"
_PROMPT = "Take the values from the document."


async def check_schema(wanted: AnnotationFormat, trials: SpecTrials) -> None:
    """Whether an answer can be held to the schema, before any page is read.

    Raises:
        FieldRefused: it cannot.
        RequestError: 503: it could not be tried.
    """
    try:
        await trials.try_schema(wanted.json_schema.schema_definition)
    except SpecRefused as error:
        raise FieldRefused(f"{_SCHEMA}: {error}", param=_SCHEMA) from error
    except TrialFailed as error:
        raise _not_now() from error


async def annotate(
    texts: Sequence[str], wanted: AnnotationFormat, prompt: str | None, ask: Ask, trials: SpecTrials
) -> str | None:
    """JSON that is valid by the schema; None for a document without text, of which nothing can be said.

    Args:
        texts: of the pages.
        wanted: the schema.
        prompt: the client's words about what to take from the document.
        ask: the engine.
        trials: where the answer is checked.

    Raises:
        RequestError: the text does not fit the context, or the answer does not match the schema.
    """
    document = "\n\n".join(text for text in texts if text)
    if not document:
        return None
    schema = wanted.json_schema.schema_definition
    described = f"Answer with JSON of this schema: {json.dumps(schema, ensure_ascii=False)}"
    try:
        answer = await ask(
            [],
            "\n\n".join([document, prompt or _PROMPT, described]),
            max_tokens=MAX_TOKENS,
            temperature=0.0,
            response_format=_chat_format(wanted),
        )
    except RequestError as error:
        error.param = error.param or FIELD
        raise
    if status_of(answer) != "complete":
        raise _failed(f"it did not end within {answer.completion_tokens} tokens")
    try:
        mismatch = await trials.mismatch(schema, answer.text)
    except TrialFailed as error:
        raise _not_now() from error
    if mismatch is not None:
        raise _failed(mismatch)
    return answer.text


def _chat_format(wanted: AnnotationFormat) -> dict[str, Any]:
    return wanted.model_dump(by_alias=True, exclude_none=True)


def _failed(reason: str) -> FieldRefused:
    return FieldRefused(
        f"the model did not produce an annotation that matches the schema: {reason}. Without {FIELD} the "
        "pages are answered",
        param=FIELD,
    )


def _not_now() -> RequestError:
    return RequestError("annotations cannot be checked just now", param=FIELD, status=503, retry_after_s=5)
