"""Structured outputs: each grammar is bounded and tried before the engine sees it."""
