"""The front end that `front_end` measures, with the stub in place of the engine; a program of its own.

    python _front_end_server.py VARIANT WORKERS FOLDER PORT

It may run the code of an older checkout, so it imports what is ours by path, and only where it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

NUM_CROPS = 16
MODEL = "front-end"


def serve(variant: str, workers: int, folder: Path, port: int) -> int:
    """Run a front end with the stub in place of the engine; called in a process of its own."""
    os.cpu_count = lambda: workers
    spec = importlib.util.spec_from_file_location(
        "stub_engine", ROOT / "tests" / "support" / "stub_engine.py"
    )
    assert spec is not None and spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = stub  # where its dataclasses look for their module
    spec.loader.exec_module(stub)
    from vllm.v1.engine import core_client

    class SilentStub(stub.StubEngineCore):  # type: ignore[name-defined]
        def _record(self, request: Any) -> None:
            """The file is for tests."""

        def _papers_of(self, feature: Any) -> set[int]:
            """So are answers by the colour of a page, and finding it costs milliseconds a picture."""
            return set()

    def make_stub(vllm_config: Any, *_: Any, renderer: Any = None, **__: Any) -> SilentStub:
        return SilentStub(vllm_config, renderer.tokenizer, folder)

    core_client.EngineCoreClient.make_async_mp_client = staticmethod(make_stub)
    if variant == "stock":
        return _serve_stock(port)
    flags = ["--model", "demo", "--device", "cpu", "--port", str(port), "--served-model-name", MODEL]
    flags += ["--max-num-queued-reqs", "500", "--decode-timeout-s", "600", "--max-model-len", "16384"]
    if variant == "ours":
        flags += ["--media-workers", str(workers)]
    cli = importlib.import_module("phi_vision.cli")
    main = (
        cli.main
        if callable(cli.__dict__.get("main"))
        else importlib.import_module("phi_vision.cli.main").main
    )
    return int(main(["serve", *flags]))


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


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
