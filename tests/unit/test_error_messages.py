"""Messages of vLLM's errors are bounded, in every module that makes some."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
from phi_vision.serving.vllm_compat import error_messages
from phi_vision.serving.vllm_compat.error_messages import MAX_CHARS, bounded


def test_a_long_message_is_cut_before_it_is_sanitized() -> None:
    seen: list[str] = []

    def sanitize(message: str) -> str:
        seen.append(message)
        return message.upper()

    assert bounded(sanitize)("a" * MAX_CHARS) == "A" * MAX_CHARS
    assert bounded(sanitize)("a" * 5000) == "A" * MAX_CHARS + "... (5000 characters)"
    assert [len(message) for message in seen] == [MAX_CHARS, MAX_CHARS]


def test_modules_that_imported_it_earlier_or_later_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.entrypoints.serve.exception_handling import utils

    original = utils.sanitize_message
    earlier: Any = ModuleType("vllm.earlier")
    earlier.sanitize_message = original
    other: Any = ModuleType("vllm.other")
    other.sanitize_message = str.strip
    for module in (earlier, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, module in list(sys.modules.items()):  # put back afterwards
        if name.startswith("vllm.") and vars(module).get("sanitize_message") is original:
            monkeypatch.setattr(module, "sanitize_message", original)
    error_messages.install.__wrapped__()
    assert earlier.sanitize_message("a" * 5000).endswith("(5000 characters)")
    assert other.sanitize_message is str.strip
    later = importlib.import_module("vllm.entrypoints.serve.exception_handling.utils")
    assert later.sanitize_message is earlier.sanitize_message
