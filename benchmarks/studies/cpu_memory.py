"""What a server on a CPU holds in memory, beside its plan: the demo, or random weights of the real size.

    python -m benchmarks.studies.cpu_memory [--full-size] [--output FILE] [-- FLAGS]

Memory is the proportional set size (PSS) of the server's processes, the highest of one sample a second,
from the start over loading to the answer to a request with one 800x600 picture. Linux only.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
from phi_vision.client.process import ServerProcess, serve_command
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.planning.hardware import this_machine
from PIL import Image

from benchmarks.harness.vram import process_tree

GIB = 1 << 30
TERMS = (
    "text_weights_bytes",
    "vision_weights_bytes",
    "activations_bytes",
    "runtime_bytes",
    "kv_available_bytes",
)


def full_size_checkpoint(folder: Path) -> Path:
    """Phi-3.5-vision's sizes around the demo's files, whose weights `--load-format dummy` does not read."""
    for file in (*DEMO_FOLDER.glob("*.json"), *DEMO_FOLDER.glob("*.safetensors")):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 3072, "intermediate_size": 8192, "vocab_size": 32064}
    config |= {"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32}
    config["img_processor"] = {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it."""
    total = 0
    for process in process_tree(pid):
        with contextlib.suppress(psutil.Error):  # it has ended
            total += process.memory_full_info().pss
    return total


def ask_about_a_picture(base_url: str) -> None:
    """One request with noise of 800x600; 16 tokens of answer."""
    buffer = io.BytesIO()
    Image.effect_noise((800, 600), 60).convert("RGB").save(buffer, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    body = {
        "model": "phi-3.5-vision",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 16,
        "ignore_eos": True,
    }
    httpx.post(f"{base_url}/v1/chat/completions", json=body, timeout=900).raise_for_status()


def main() -> None:
    """Start, sample, ask, stop, write."""
    parser = argparse.ArgumentParser(description="Memory of a server on a CPU beside its plan.")
    parser.add_argument("--full-size", action="store_true", help="random weights of the real model's size")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    parser.add_argument("flags", nargs="*", help="for phi-vision serve, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = ["--model", "demo"]
        if options.full_size:
            model = ["--model", str(full_size_checkpoint(Path(folder))), "--load-format", "dummy"]
        result = measure(Path(folder, "log.txt"), *model, *options.flags)
    result["command"] = " ".join(["python -m benchmarks.studies.cpu_memory", *sys.argv[1:]])
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


def measure(log_path: Path, *flags: str) -> dict[str, Any]:
    """Run the server until it has answered; plan and peaks in bytes."""
    samples: list[int] = []
    done = threading.Event()
    with ServerProcess(serve_command("--port", "0", *flags), log_path) as server:

        def sample() -> None:
            while not done.wait(1):
                samples.append(pss_bytes(server.process.pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            server.wait_until_ready()
            loaded = pss_bytes(server.process.pid)
            ask_about_a_picture(server.url)
            body = httpx.get(f"{server.url}/v1/plan").json()
        finally:
            done.set()
            sampler.join()
    planned = {term: body["plan"][term] for term in TERMS}
    without_kv = sum(planned.values()) - planned["kv_available_bytes"]
    memory_gib = this_machine().memory_bytes / GIB
    return {
        "machine": f"{platform.machine()} CPU, {os.cpu_count()} cores, {memory_gib:.1f} GiB",
        "planned_bytes": planned,
        "planned_without_kv_bytes": without_kv,
        "pss_when_ready_bytes": loaded,
        "pss_peak_bytes": max(samples),  # of the KV cache only the blocks in use count
        "actual": body["actual"],
        "error_percent": body["error_percent"],
    }


if __name__ == "__main__":
    main()
