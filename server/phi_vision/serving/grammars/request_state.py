"""What became of the structured-output spec of the HTTP request at hand."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from phi_vision.serving.grammars.bounds import Kind, SpecRefused
from phi_vision.serving.grammars.trials import TrialFailed


@dataclass
class GrammarState:
    """Written on the way to the engine, read by the middleware that answers the client.

    Args:
        reached_engine: a request has gone to the engine.
        error: why none has.
        kind: of the spec at fault.
    """

    reached_engine: bool = False
    error: SpecRefused | TrialFailed | None = None
    kind: Kind | None = None


grammar_state: ContextVar[GrammarState | None] = ContextVar("phi_vision_grammar_state", default=None)
