"""`phi-vision serve`: look around, say what will run, set the environment, then vLLM's own server.

vLLM is imported at the very end, when the environment that it reads at import is complete.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi_vision import plugin_names
from phi_vision.config import ServeConfig
from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning import planner, toolchain
from phi_vision.planning.checkpoint import Checkpoint, find_checkpoint
from phi_vision.planning.engine_flags import given
from phi_vision.planning.hardware import Device, find_device
from phi_vision.planning.planner import Option
from phi_vision.serving import descriptors, startup, startup_errors
from phi_vision.serving.private_folder import PrivateFolder
from phi_vision.serving.vllm_compat.start_cause import CAUSE_VARIABLE
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets

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
    startup.end_at_once_on_signals(startup.end_children)
    descriptors.raise_limit()
    device = find_device(config.device)
    if device.kind == "cuda":
        toolchain.check()
    opened = startup.listen(config.host, config.port)
    keys = api_keys(config)
    checkpoint = find_checkpoint(config.model, config.served_model_name)
    option = plan(config, device, checkpoint)
    config = replace(config, port=opened.getsockname()[1])
    if option is not None:
        config = replace(config, max_model_len=option.plan.max_model_len)
    os.environ.update(environment(device, option))
    folder = PrivateFolder()

    def clean_up() -> None:
        startup.end_children()
        folder.remove()

    startup.end_at_once_on_signals(clean_up)
    try:
        cause = folder.path / "cause"
        os.environ.update(folder.environment() | {CAUSE_VARIABLE: str(cause)})
        print(summary(config, device, checkpoint, option, keyed=bool(keys)), flush=True)
        args = vllm_parser().parse_args(vllm_arguments(config, device, checkpoint, option))
        join_settings(args, config)
        _run_vllm(args, keys, cause, opened, clean_up)
    finally:
        startup.ignore_signals()
        clean_up()


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


def plan(config: ServeConfig, device: Device, checkpoint: Checkpoint) -> Option | None:
    """The setting to serve with; None where memory is not planned (see `planner.unplanned`).

    Raises:
        UsageError: nothing that was asked for fits.
    """
    reason = planner.unplanned(config, device)
    if reason and config.profile != "auto":
        raise UsageError(f"--profile {config.profile} needs a memory plan, but {reason}")
    if reason:
        return None
    model = planner.dimensions_of(checkpoint.path)
    return planner.choose(planner.options(config, device, model), device)


def environment(device: Device, option: Option | None = None) -> dict[str, str]:
    """What vLLM and our plugins read from the environment, where the user has not set it."""
    installed = importlib.metadata.entry_points()
    names = [entry.name for group in _FILTERED_GROUPS for entry in installed.select(group=group)]
    chosen = os.environ.get("VLLM_PLUGINS")
    allowed = chosen.split(",") if chosen is not None else names
    ours = [plugin_names.GENERAL_PLUGIN, plugin_names.ENDPOINT_PLUGIN]
    wanted = {"VLLM_PLUGINS": ",".join(dict.fromkeys([*filter(None, allowed), *ours]))}
    wanted["VLLM_MEDIA_CONNECTOR"] = plugin_names.MEDIA_CONNECTOR
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MAX_N_SEQUENCES": str(_MAX_CHOICES),
    }
    if device.kind == "cpu":
        # vLLM keeps one core back, worth 1.1 to 1.4 times the requests where nothing else needs it.
        defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    if device.kind == "cuda" and not toolchain.flashinfer_can_sample():
        defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if option is not None:
        # Not through vLLM's --additional-config: a plan there would be part of the key of its compile cache.
        wanted[plugin_names.PLAN_VARIABLE] = json.dumps(option.to_json())
        wanted |= planner.engine_environment(option, device)
    return wanted | {key: value for key, value in defaults.items() if key not in os.environ}


def vllm_arguments(
    config: ServeConfig, device: Device, checkpoint: Checkpoint, option: Option | None = None
) -> list[str]:
    """The `vllm serve` command line. What the user gave of vLLM's own flags stands last and so wins."""
    policy = config.crop_policy
    arguments = [
        checkpoint.path,
        *("--host", config.host),
        *("--port", str(config.port)),
        *("--mm-processor-kwargs", json.dumps(vars(policy))),
        *("--limit-mm-per-prompt", json.dumps({"image": config.limits.max_images})),
        # Threads that tokenise: the text of a whole context takes seconds, in which others must not wait.
        *("--renderer-num-workers", "4"),
        "--interleave-mm-strings",  # pictures stay where they stand between texts
        *("--chat-template", str(PHI_3_5_VISION.chat_template)),
        *("--chat-template-content-format", "string"),
        *("--shutdown-timeout", str(config.shutdown_timeout)),
        *("--allowed-origins", json.dumps(config.origins)),
        *planner.engine_arguments(option, config, device),
    ]
    if device.kind == "cpu":
        arguments += ["--enforce-eager"]  # compiling takes minutes and gains little on a CPU
    arguments += ["--served-model-name", *served_names(checkpoint)]
    return arguments + list(config.vllm_args)


def join_settings(args: argparse.Namespace, config: ServeConfig) -> None:
    """Put what settings decide into vLLM's parsed arguments, beside what the user gave of the same flags.

    Raises:
        UsageError: flags of vLLM's that take away what `--rope per-request` works with, or a limit of
            ours in vLLM's spelling.
    """
    config.limits.put_on(args)
    args.hf_overrides = {"longrope_per_request": config.chooses_rope, **args.hf_overrides}
    # As the model card has it, whatever the checkpoint's generation_config.json says.
    args.override_generation_config = {"temperature": 0.0, **args.override_generation_config}
    if config.chooses_rope:
        for name in ("scheduler_cls", "kv_transfer_config", "kv_offloading_size"):
            if getattr(args, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} does not go with --rope per-request: add --rope long")
        args.scheduler_cls = "phi_vision.model.rope_scheduler.scheduler"


def served_names(checkpoint: Checkpoint) -> list[str]:
    """All names of the model; vLLM puts the first into every response."""
    return [name for base in (checkpoint.name, *checkpoint.aliases) for name in presets.model_names(base)]


def summary(
    config: ServeConfig,
    device: Device,
    checkpoint: Checkpoint,
    option: Option | None = None,
    *,
    keyed: bool = False,
) -> str:
    """What will run, as a short table."""
    backend = planner.attention_backend(config, device, option.setting if option else None)
    free = f", {device.free_bytes / 2**30:.1f} free" if device.free_bytes is not None else ""
    crops = f"{config.num_crops} for one picture, {config.num_crops_multi} for each of several"
    rows = {
        "model": f"{checkpoint.name} ({checkpoint.path})",
        "device": f"{device.kind}: {device.name}, {device.memory_bytes / 2**30:.1f} GiB{free}",
        "attention": given(config.vllm_args, "--attention-backend") or backend,
        "context": f"{config.context} tokens",
        "memory": planner.chosen_line(option) if option else planner.unplanned(config, device),
        "rope mode": _rope_mode(config),
        "crops": f"{crops}, {config.crops}",
        "served as": ", ".join(served_names(checkpoint)),
        "listening": f"http://{config.host}:{config.port}/v1",
        "access": "with a key" if keyed else "open to all who reach it",
    }
    if device.kind == "cuda" and os.environ.get("VLLM_USE_FLASHINFER_SAMPLER") == "0":
        rows["sampler"] = f"vLLM's own; FlashInfer's needs {toolchain.FLASHINFER_NEEDS}"
    table = "\n".join(f"  {name:<10} {value}" for name, value in rows.items())
    return "\n".join(filter(None, ["phi-vision", table, checkpoint.banner]))


def _rope_mode(config: ServeConfig) -> str:
    if config.chooses_rope:
        window = PHI_3_5_VISION.short_window
        return f"per request: short factors up to {window} tokens, long beyond, as the original's"
    if config.context > PHI_3_5_VISION.short_window:
        return "long factors for every request"
    return "short factors for every request, as the original's"


def _check_plugins() -> None:
    """Refuse to start without our plugins: vLLM itself logs a plugin that fails and goes on without."""
    from vllm import ModelRegistry
    from vllm.plugins import load_endpoint_plugins, load_general_plugins

    load_general_plugins()
    model = ModelRegistry.models.get(PHI_3_5_VISION.architecture)
    if getattr(model, "module_name", None) != "phi_vision.model.phi3v":
        raise PhiVisionError("the model plugin did not load; see the error above")
    if plugin_names.ENDPOINT_PLUGIN not in [plugin.name for plugin in load_endpoint_plugins(("generate",))]:
        raise PhiVisionError("the task plugin did not load; see the error above")


def vllm_parser() -> argparse.ArgumentParser:
    """vLLM's own parser, which takes `--log-level` in capitals only; here in any case."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser(prog="phi-vision serve"))
    for action in parser._actions:
        if action.dest == "log_level":
            action.type = str.upper
    return parser


def pin_grammar_backend(structured_outputs: Any) -> None:
    """Have structured outputs compiled by the one backend that is guarded, see `serving.grammars`.

    Raises:
        UsageError: the user chose another.
    """
    if structured_outputs.backend not in ("auto", plugin_names.GRAMMAR_BACKEND):
        raise UsageError(
            f"--structured-outputs-config: the backend must be {plugin_names.GRAMMAR_BACKEND}, "
            f"not {structured_outputs.backend}"
        )
    structured_outputs.backend = plugin_names.GRAMMAR_BACKEND


def _run_vllm(
    args: argparse.Namespace,
    keys: Sequence[str],
    cause: Path,
    opened: socket.socket,
    clean_up: Callable[[], None],
) -> None:
    # vLLM's `vllm` command itself is not used: in the CPU wheel it fails on its own package's metadata.
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args

    from phi_vision.serving import lifecycle
    from phi_vision.serving.vllm_compat import server_start

    server_start.install(args, opened, clean_up)
    pin_grammar_backend(args.structured_outputs_config)
    configure_logging_from_args(args)
    args.api_key = list(keys) or None  # never on a command line, where others could read it
    os.environ.pop("VLLM_API_KEY", None)  # nor in the environment of other processes
    try:
        _check_plugins()
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
