"""What routers add to every chat request: defaults of a protocol, which nobody chose.

vllm-router parses a body into its own request type and writes all of it. Seen with version 0.1.17.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields that vLLM has too, with the same defaults.
SHARED_DEFAULTS: Mapping[str, bool] = {
    "continue_final_message": False,
    "ignore_eos": False,
    "include_reasoning": True,
    "logprobs": False,
    "skip_special_tokens": True,
    "stream": False,
}

# Fields that only routers and other engines know.
FOREIGN_DEFAULTS: Mapping[str, bool] = {
    "no_stop_trim": False,
    "return_hidden_states": False,
    "separate_reasoning": True,
    "stream_reasoning": True,
}


def is_choice(name: str, value: Any) -> bool:
    """Whether a field says more than its absence would; null never does."""
    return value is not None and value is not SHARED_DEFAULTS.get(name)


def without_foreign_defaults(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body without fields that vLLM does not have, where they ask for nothing."""
    return {name: value for name, value in body.items() if value is not FOREIGN_DEFAULTS.get(name, _ABSENT)}


_ABSENT = object()
