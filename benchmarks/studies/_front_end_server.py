"""The front end that `front_end` measures, with the stub in place of the engine; a program of its own.

    python _front_end_server.py VARIANT API_PROCESSES WORKERS FOLDER PORT

It may run the code of an older checkout, so it imports what is ours by path, and only where it is used. vLLM
starts further API processes by this file too, as `__mp_main__`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

NUM_CROPS = 16
MODEL = "front-end"

_FOLDER = "PHI_VISION_STUB_FOLDER"  # for the further API processes


def serve(variant: str, api_processes: int, workers: int, folder: Path, port: int) -> int:
    """Run a front end with the stub in place of the engine; called in a process of its own."""
    os.environ[_FOLDER] = str(folder)
    put_stub_in_place(folder)
    if variant == "stock":
        return _serve_stock(port)
    from phi_vision.cli.main import main

    flags = ["--model", "demo", "--device", "cpu", "--port", str(port), "--served-model-name", MODEL]
    flags += ["--max-num-queued-reqs", "500", "--decode-timeout-s", "600", "--max-model-len", "16384"]
    flags += ["--media-workers", str(api_processes * workers), "--api-server-count", str(api_processes)]
    return int(main(["serve", *flags]))


def put_stub_in_place(folder: Path) -> None:
    """Have vLLM's API process talk to the stub, and start no engine for several of them."""
    spec = importlib.util.spec_from_file_location(
        "stub_engine", ROOT / "tests" / "support" / "stub_engine.py"
    )
    assert spec is not None and spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = stub  # where its dataclasses look for their module
    spec.loader.exec_module(stub)
    from vllm.entrypoints.cli import serve as vllm_serve
    from vllm.v1.engine import core_client

    class QuickStub(stub.StubEngineCore):  # type: ignore[name-defined]
        """Each request gets the same answer: no prompt is decoded, nothing is looked at or written."""

        async def add_request_async(self, request: Any) -> None:
            self._encoder.encode(request)  # as for the engine's process
            answer = self._answer(request, stub.ScriptedAnswer(stub.ANSWER), "")
            self._at_work[request.request_id] = asyncio.create_task(answer)

    def make_stub(vllm_config: Any, *_: Any, renderer: Any = None, **__: Any) -> QuickStub:
        return QuickStub(vllm_config, renderer.tokenizer, folder)

    @contextlib.contextmanager
    def no_engines(vllm_config: Any, executor_class: Any, log_stats: bool, addresses: Any) -> Iterator[Any]:
        yield SimpleNamespace(engine_manager=None, coordinator=None, addresses=addresses, tensor_queue=None)

    core_client.EngineCoreClient.make_async_mp_client = staticmethod(make_stub)
    vllm_serve.launch_core_engines = no_engines


def _serve_stock(port: int) -> int:
    import phi_vision

    package = Path(phi_vision.__file__).parent
    sys.argv = [
        *("vllm", "--model", str(package / "demo"), "--served-model-name", MODEL, "--host", "127.0.0.1"),
        *("--port", str(port), "--mm-processor-kwargs", json.dumps({"num_crops": NUM_CROPS})),
        *("--chat-template", str(package / "model" / "chat_template.jinja")),
        *("--chat-template-content-format", "string", "--interleave-mm-strings", "--max-model-len", "16384"),
        *("--disable-sliding-window", "--enforce-eager"),
    ]
    import runpy

    runpy.run_module("vllm.entrypoints.launchers.api_server.entry", run_name="__main__")
    return 0


if __name__ == "__mp_main__":
    put_stub_in_place(Path(os.environ[_FOLDER]))
elif __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])))
