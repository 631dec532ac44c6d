"""vLLM's parser of engine flags, strict and with one-line errors.

Symptom: `--log-level debug` is refused; a mistake prints the whole usage; `--api-k KEY` is taken for vLLM's
`--api-key`, which the launcher replaces, and so would leave the server open to all.
Cause: vLLM takes log levels in capitals only, and its parser expands shortened names.
Can go: when `vllm serve` takes log levels in any case and has `allow_abbrev=False`.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from phi_vision.errors import UsageError


def vllm_parser() -> argparse.ArgumentParser:
    """The parser for `vllm serve`'s arguments; a mistake raises UsageError."""
    parser: argparse.ArgumentParser = make_arg_parser(_Parser(prog="phi-vision serve", allow_abbrev=False))
    for action in parser._actions:
        if action.dest == "log_level":
            action.type = str.upper
    return parser


class _Parser(FlexibleArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)
