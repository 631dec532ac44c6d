"""Have vLLM listen on the launcher's socket, and leave signals to the launcher until the server serves.

Symptom: a port that was free when the start began is taken by another program minutes later; SIGTERM during
the start leaves a server and an engine that stay for ever; with several API processes a second signal does
not end the wait for running requests.
Cause: vLLM makes its socket only once it starts. On SIGTERM it raises KeyboardInterrupt, which its
`zmq_socket_ctx` swallows while it waits for the engine: the start goes on with an engine that was told to
stop. The process that waits for several API processes ignores all signals but the first.
Can go: when vLLM takes an open socket, ends its own start on a signal, and a stop on the second.
"""

from __future__ import annotations

import os
import signal
import socket
from argparse import Namespace
from collections.abc import Callable
from types import FrameType
from typing import Any

from vllm.entrypoints.cli import serve
from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.api_server import entry

from phi_vision.serving.startup import end_at_once_on_signals

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def install(args: Namespace, listening: socket.socket, clean_up: Callable[[], None]) -> None:
    """For the server that vLLM starts next in this process.

    Args:
        args: vLLM's parsed arguments.
        listening: closed here where vLLM listens elsewhere.
        clean_up: called when a signal ends the start, or cuts the stop short.
    """
    if args.uds or args.grpc or args.headless:
        listening.close()  # these listen elsewhere, or not at all
    vllm_setup_server = entry.setup_server
    vllm_wait = serve.wait_for_completion_or_failure
    stop: Any = None  # vLLM's handler, which begins to stop several API processes

    def create_server_socket(address: tuple[str, int], *, reuse_port: bool) -> socket.socket:
        return listening

    def setup_server(args: Namespace, *, reuse_port: bool) -> Any:
        nonlocal stop
        result = vllm_setup_server(args, reuse_port=reuse_port)
        stop = signal.getsignal(signal.SIGTERM)  # vLLM has just set its own handlers
        end_at_once_on_signals(clean_up)
        return result

    def wait_for_completion_or_failure(**processes: Any) -> None:
        for number in _SIGNALS:
            signal.signal(number, _stop_then_end(stop, clean_up))
        vllm_wait(**processes)

    launcher.create_server_socket = create_server_socket
    entry.setup_server = serve.setup_server = setup_server
    serve.wait_for_completion_or_failure = wait_for_completion_or_failure


def _stop_then_end(
    stop: Callable[[int, FrameType | None], Any], clean_up: Callable[[], None]
) -> Callable[[int, FrameType | None], None]:
    """A handler that begins to stop at the first signal, and ends this process at the second."""
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            stop(number, frame)
        else:
            try:
                clean_up()
            finally:
                os._exit(0)

    return handle
