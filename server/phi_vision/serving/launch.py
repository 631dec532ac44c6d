"""Run vLLM's own server in this process.

vLLM is imported only when it runs: it reads its environment at import, which must be complete by then.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from phi_vision import plugin_names
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.limits import Limits
from phi_vision.serving import startup_errors
from phi_vision.spec import PHI_3_5_VISION


def run_vllm(
    argv: Sequence[str],
    *,
    limits: Limits,
    page: bool,
    memory_plan: dict[str, Any] | None,
    front_end: dict[str, Any] | None,
    keys: Sequence[str],
    opened: socket.socket,
    clean_up: Callable[[], None],
    cause: Path,
) -> None:
    """Serve until told to stop.

    Args:
        argv: of `vllm serve`, the model first.
        limits: of requests; they, `page` and the two plans go on with vLLM's parsed arguments, which reach
            all of its API processes.
        page: whether the web page is served at `/`.
        memory_plan: for `GET /v1/plan`; None where memory was not planned.
        front_end: the same of the front end.
        keys: that clients may send; none: open to all.
        opened: the socket to serve on.
        clean_up: called when a signal ends the start.
        cause: where the engine's process leaves the cause of a failed start.

    Raises:
        UsageError: vLLM does not take a flag, or the start failed for a reason that the user can mend.
        PhiVisionError: it failed for another reason.
    """
    from phi_vision.serving.vllm_compat import flag_parser, server_start

    args = flag_parser.vllm_parser().parse_args(list(argv))
    limits.put_on(args)
    setattr(args, plugin_names.PAGE_ARGUMENT, page)
    setattr(args, plugin_names.PLAN_ARGUMENT, memory_plan)
    setattr(args, plugin_names.FRONT_END_ARGUMENT, front_end)
    pin_grammar_backend(args.structured_outputs_config)

    # vLLM's `vllm` command itself is not used: in the CPU wheel it fails on its own package's metadata.
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args

    from phi_vision.serving import lifecycle

    server_start.install(args, opened, clean_up)
    configure_logging_from_args(args)
    args.api_key = list(keys) or None  # never on a command line, where others could read it
    os.environ.pop("VLLM_API_KEY", None)  # nor in the environment of other processes
    try:
        check_plugins()
        command = ServeSubcommand()
        command.validate(args)
        command.cmd(args)
    except PhiVisionError:
        raise
    except Exception as error:
        logging.getLogger("vllm").debug("the start failed", exc_info=error)
        raise startup_errors.diagnose(error, cause) from error
    if not lifecycle.stop_was_requested():
        raise PhiVisionError("the engine's process died; its last words stand above. Start again")


def pin_grammar_backend(structured_outputs: Any) -> None:
    """Have structured outputs compiled by the one backend that can be tried, see `vllm_compat`.

    Raises:
        UsageError: the user chose another.
    """
    if structured_outputs.backend not in ("auto", plugin_names.GRAMMAR_BACKEND):
        raise UsageError(
            f"--structured-outputs-config: the backend must be {plugin_names.GRAMMAR_BACKEND}, "
            f"not {structured_outputs.backend}"
        )
    structured_outputs.backend = plugin_names.GRAMMAR_BACKEND


def check_plugins() -> None:
    """Refuse to start without our plugins: vLLM itself logs a plugin that fails and goes on without.

    Raises:
        PhiVisionError: one did not load.
    """
    from vllm import ModelRegistry
    from vllm.plugins import load_endpoint_plugins, load_general_plugins

    load_general_plugins()
    model = ModelRegistry.models.get(PHI_3_5_VISION.architecture)
    if getattr(model, "module_name", None) != "phi_vision.model.phi3v":
        raise PhiVisionError("the model plugin did not load; see the error above")
    if plugin_names.ENDPOINT_PLUGIN not in [plugin.name for plugin in load_endpoint_plugins(("generate",))]:
        raise PhiVisionError("the task plugin did not load; see the error above")
