"""Have vLLM listen on the launcher's socket, and leave signals to the launcher until the server serves.

Symptom: a port that was free when the start began is taken by another program minutes later; SIGTERM during
the start leaves a server and an engine that stay for ever.
Cause: vLLM makes its socket only once it starts. On SIGTERM it raises KeyboardInterrupt, which its
`zmq_socket_ctx` swallows while it waits for the engine: the start goes on with an engine that was told to
stop.
Can go: when vLLM takes an open socket, and ends its own start on a signal.
"""

from __future__ import annotations

import socket
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from vllm.entrypoints.launchers import launcher
from vllm.entrypoints.launchers.api_server import entry

from phi_vision.serving.startup import end_at_once_on_signals


def install(args: Namespace, listening: socket.socket, clean_up: Callable[[], None]) -> None:
    """For the server that vLLM starts next in this process.

    Args:
        args: vLLM's parsed arguments.
        listening: closed here where vLLM listens elsewhere.
        clean_up: called when a signal ends the start.
    """
    if args.uds or args.grpc or args.headless or args.data_parallel_multi_port_external_lb:
        listening.close()  # these listen elsewhere, or in processes of their own
    vllm_setup_server = entry.setup_server

    def create_server_socket(address: tuple[str, int], *, reuse_port: bool) -> socket.socket:
        return listening

    def setup_server(args: Namespace, *, reuse_port: bool) -> Any:
        result = vllm_setup_server(args, reuse_port=reuse_port)
        end_at_once_on_signals(clean_up)  # `run_server` has just set its own handlers
        return result

    launcher.create_server_socket = create_server_socket
    entry.setup_server = setup_server
