"""A second engine: a published-looking checkpoint with remote code, other crops, keys, a name, fp8 KV."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.planning.hardware import this_machine

from tests.support.serving import Server, running_server

KEY = "a-key-that-no-log-may-hold"
KEY_IN_FILE = "a-key-in-a-file"
KV_DTYPE = "fp8_e4m3" if this_machine().has_avx512 else "bf16"


def write_trap(folder: Path) -> Path:
    """The demo checkpoint with the published one's `auto_map`, to code that tells when it is run."""
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "trap.py").write_text(
        f"open({str(folder / 'WAS_RUN')!r}, 'w'); raise SystemExit('remote code ran')"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"auto_map": {"AutoProcessor": "trap.P", "AutoImageProcessor": "trap.I"}, "num_crops": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["trap.T", "trap.T"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def running_other(folder: Path, checkpoint: Path) -> AbstractContextManager[Server]:
    """Also loopback allowed for pictures, and all that vLLM can log."""
    (folder / "keys").write_text(f"{KEY_IN_FILE}\n")
    return running_server(
        folder / "log.txt",
        *("--model", str(checkpoint), "--served-model-name", "eyes"),
        *("--api-key", KEY, "--api-key-file", str(folder / "keys")),
        "--no-page",
        *("--crops", "adaptive", "--num-crops", "9", "--num-crops-multi", "2"),
        *("--max-logprobs", "3", "--kv-cache-dtype", "auto" if KV_DTYPE == "bf16" else KV_DTYPE),
        *("--allow-private-media", "127.0.0.0/8", "--media-timeout-s", "600"),
        *("--enable-log-requests", "--enable-log-outputs", "--log-level", "debug"),
        env={"VLLM_CPU_KVCACHE_SPACE": "2"},
    )
