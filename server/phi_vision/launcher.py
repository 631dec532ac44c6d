"""`phi-vision serve`: look around, say what will run, set the environment, then vLLM's own server.

vLLM is imported at the very end, when the environment that it reads at import is complete.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from phi_vision import plugins, tasks
from phi_vision.checkpoint import Checkpoint, find_checkpoint
from phi_vision.config import ServeConfig
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.hardware import Device, find_device

_CHAT_TEMPLATE = Path(__file__).parent / "model" / "chat_template.jinja"

_MAX_CHOICES = 16  # `n` of one request; each is a sequence of its own in the KV cache

# Groups of vLLM plugins that its `VLLM_PLUGINS` list filters. Ours must be named there, because
# endpoint plugins load only by name; so all others that are installed are named with them.
_FILTERED_GROUPS = (
    "vllm.general_plugins",
    "vllm.platform_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
)


def serve(config: ServeConfig) -> None:
    """Serve until told to stop.

    Raises:
        UsageError: the machine, the model or the settings do not allow it.
    """
    device = find_device(config.device)
    _check_port(config.host, config.port)
    keys = api_keys(config)
    checkpoint = find_checkpoint(config.model, config.served_model_name)
    os.environ.update(environment(device) | config.guard.to_environment())
    print(summary(config, device, checkpoint, bool(keys)), flush=True)
    _run_vllm(vllm_arguments(config, device, checkpoint), keys)


def api_keys(config: ServeConfig) -> list[str]:
    """The keys that clients may send; none: open to all.

    Raises:
        UsageError: a key was meant to be set, but is not there.
    """
    keys = [] if config.api_key is None else [config.api_key]
    if config.api_key_file is not None:
        try:
            lines = Path(config.api_key_file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {config.api_key_file} cannot be read: {error}") from error
        keys += [line.strip() for line in lines if line.strip()] or [""]
    elif config.api_key is None and "VLLM_API_KEY" in os.environ:
        keys = [os.environ["VLLM_API_KEY"]]
    if "" in keys:
        raise UsageError("the API key is empty: put one into --api-key-file, or give none at all")
    return keys


def environment(device: Device) -> dict[str, str]:
    """What vLLM reads from the environment, where the user has not set it."""
    installed = importlib.metadata.entry_points()
    names = [entry.name for group in _FILTERED_GROUPS for entry in installed.select(group=group)]
    given = os.environ.get("VLLM_PLUGINS")
    allowed = given.split(",") if given is not None else names
    ours = [plugins.GENERAL_PLUGIN, plugins.ENDPOINT_PLUGIN]
    wanted = {"VLLM_PLUGINS": ",".join(dict.fromkeys([*filter(None, allowed), *ours]))}
    wanted["VLLM_MEDIA_CONNECTOR"] = plugins.MEDIA_CONNECTOR
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MAX_N_SEQUENCES": str(_MAX_CHOICES),
    }
    if device.kind == "cpu":
        defaults["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
    return wanted | {key: value for key, value in defaults.items() if key not in os.environ}


def vllm_arguments(config: ServeConfig, device: Device, checkpoint: Checkpoint) -> list[str]:
    """The `vllm serve` command line. What the user gave of vLLM's own flags stands last and so wins."""
    policy = config.crop_policy
    arguments = [
        checkpoint.path,
        *("--host", config.host),
        *("--port", str(config.port)),
        *("--max-model-len", str(config.max_model_len)),
        *("--mm-processor-kwargs", json.dumps(vars(policy))),
        *("--limit-mm-per-prompt", json.dumps({"image": config.max_images})),
        "--interleave-mm-strings",  # pictures stay where they stand between texts
        *("--chat-template", str(_CHAT_TEMPLATE)),
        *("--chat-template-content-format", "string"),
        *("--shutdown-timeout", str(config.shutdown_timeout)),
        "--disable-sliding-window",  # wider than the context, but it would spoil prefix caching
    ]
    if device.kind == "cuda":
        arguments += ["--attention-backend", device.attention_backend]
        arguments += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    if device.kind == "cpu":
        arguments += ["--enforce-eager"]  # compiling takes minutes and gains little on a CPU
    arguments += ["--served-model-name", *served_names(checkpoint)]
    return arguments + list(config.vllm_args)


def served_names(checkpoint: Checkpoint) -> list[str]:
    """All names of the model; vLLM puts the first into every response."""
    return [name for base in (checkpoint.name, *checkpoint.aliases) for name in tasks.model_names(base)]


def summary(config: ServeConfig, device: Device, checkpoint: Checkpoint, keyed: bool = False) -> str:
    """What will run, as a short table."""
    long_rope = config.max_model_len > 4096
    crops = f"{config.num_crops} for one picture, {config.num_crops_multi} for each of several"
    rows = {
        "model": f"{checkpoint.name} ({checkpoint.path})",
        "device": f"{device.kind}: {device.name}, {device.memory_bytes / 2**30:.1f} GiB",
        "attention": _given(config.vllm_args, "--attention-backend") or device.attention_backend,
        "context": f"{config.max_model_len} tokens",
        "rope mode": "long factors for every request" if long_rope else "short factors, as the original's",
        "crops": f"{crops}, {config.crops}",
        "served as": ", ".join(served_names(checkpoint)),
        "listening": f"http://{config.host}:{config.port}/v1",
        "access": "with a key" if keyed else "open to all who reach it",
    }
    table = "\n".join(f"  {name:<10} {value}" for name, value in rows.items())
    return "\n".join(filter(None, ["phi-vision", table, checkpoint.banner]))


def _given(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a vLLM flag as the user gave it."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _check_port(host: str, port: int) -> None:
    """Fail now, not after a minute of loading."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


def _check_plugins() -> None:
    """Refuse to start without our plugins: vLLM itself logs a plugin that fails and goes on without."""
    from vllm import ModelRegistry
    from vllm.plugins import load_endpoint_plugins, load_general_plugins

    load_general_plugins()
    model = ModelRegistry.models.get("Phi3VForCausalLM")
    if getattr(model, "module_name", None) != "phi_vision.model.phi3v":
        raise PhiVisionError("the model plugin did not load; see the error above")
    if plugins.ENDPOINT_PLUGIN not in [plugin.name for plugin in load_endpoint_plugins(("generate",))]:
        raise PhiVisionError("the task plugin did not load; see the error above")


def _run_vllm(arguments: Sequence[str], keys: Sequence[str]) -> None:
    # vLLM's `vllm` command itself is not used: in the CPU wheel it fails on its own package's metadata.
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from phi_vision.plugins import lifecycle, start_faults

    args = make_arg_parser(FlexibleArgumentParser(prog="phi-vision serve")).parse_args(arguments)
    configure_logging_from_args(args)
    args.api_key = list(keys) or None  # never on a command line, where others could read it
    os.environ.pop("VLLM_API_KEY", None)  # nor in the environment of other processes
    with tempfile.TemporaryDirectory(prefix="phi-vision-") as folder:
        cause = Path(folder) / "cause"
        os.environ[start_faults.VARIABLE] = str(cause)
        try:
            _check_plugins()
            command = ServeSubcommand()
            command.validate(args)
            command.cmd(args)
        except PhiVisionError:
            raise
        except Exception as error:
            logging.getLogger("vllm").debug("the start failed", exc_info=error)
            raise start_faults.explained(error, cause) from error
    if not lifecycle.stop_was_requested():
        raise PhiVisionError("the engine's process died; its last words stand above. Start again")
