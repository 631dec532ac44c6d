"""`phi-vision serve`: look around, plan, print the plan, set the environment, then run vLLM's own server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from phi_vision.cli.download_progress import show_download
from phi_vision.config import ServeConfig
from phi_vision.cores import count_cores
from phi_vision.errors import UsageError
from phi_vision.planning import toolchain
from phi_vision.planning.checkpoint import find_checkpoint
from phi_vision.planning.download import fetch
from phi_vision.planning.engine_flags import EngineFlags
from phi_vision.planning.hardware import Device, find_device
from phi_vision.planning.installation import find_installation
from phi_vision.planning.launch_plan import LaunchPlan, make_launch_plan
from phi_vision.serving import descriptors, startup
from phi_vision.serving.launch import run_vllm
from phi_vision.serving.origin_rule import OriginRule, allowed_hosts
from phi_vision.serving.private_folder import PrivateFolder
from phi_vision.serving.startup_process import StartupProcess
from phi_vision.serving.vllm_compat.start_cause import CAUSE_VARIABLE

_SECRET_FLAGS = ("--api-k", "--hf-t")  # how flags with secrets begin, shortened ones too


def serve(config: ServeConfig) -> None:
    """Serve until told to stop.

    Raises:
        UsageError: the machine, the model or the settings do not allow it.
    """
    startup.end_at_once_on_signals(startup.end_children)
    descriptors.raise_limit()
    device = _device(config)
    opened = startup.listen(config.host, config.port)
    config = replace(config, port=opened.getsockname()[1])
    keys = api_keys(config)
    launch = _plan(config, device, keys)
    folder = PrivateFolder()

    def clean_up() -> None:
        startup.end_children()
        folder.remove()

    startup.end_at_once_on_signals(clean_up)
    try:
        cause = folder.path / "cause"
        os.environ.update({**launch.env, **folder.environment(), CAUSE_VARIABLE: str(cause)})
        print(launch.summary, flush=True)
        answering = None
        if launch.is_plain_http:
            hosts = allowed_hosts(config.limits.allowed_hosts, config.host, keyed=bool(keys))
            rule = OriginRule(hosts, tuple(config.origins))
            timeout_s, has_page = config.limits.client_timeout_s, not config.no_page
            answering = StartupProcess(opened, folder.path, rule, timeout_s, has_page=has_page)
        if launch.hub_id is not None:
            launch = _with_weights(launch, launch.hub_id, answering)
        run_vllm(
            launch.argv,
            limits=config.limits,
            page=not config.no_page,
            memory_plan=launch.memory.to_json() if launch.memory else None,
            front_end=launch.front_end.to_json() if launch.front_end else None,
            keys=keys,
            opened=opened,
            clean_up=clean_up,
            cause=cause,
        )
    finally:
        startup.ignore_signals()
        clean_up()


def show_launch(config: ServeConfig) -> None:
    """Print what `serve` would run, and start nothing.

    Raises:
        UsageError: as `serve`.
    """
    launch = _plan(config, _device(config), api_keys(config))
    print(f"{launch.summary}\n\n{launch_commands(launch)}")


def launch_commands(launch: LaunchPlan) -> str:
    """The environment and vLLM's command line as text for a shell, a flag a line, without secrets."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in launch.env.items()]
    flags = [shlex.join(flag) for flag in _one_flag_each(launch.argv)]
    comment = "# limits, API keys and the memory plan reach vLLM in its parsed arguments, not on this line"
    return f"{comment}\n" + " \\\n  ".join([*variables, f"vllm serve {flags[0]}", *flags[1:]])


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


def _device(config: ServeConfig) -> Device:
    device = find_device(config.device)
    if device.kind == "cuda":
        toolchain.check()
    return device


def _plan(config: ServeConfig, device: Device, keys: Sequence[str]) -> LaunchPlan:
    flags = EngineFlags.parse(config.vllm_args, os.environ)
    checkpoint = find_checkpoint(config.model, config.served_model_name, flags.revision)
    installation, cores = find_installation(), count_cores()
    return make_launch_plan(config, flags, device, checkpoint, installation, cores, keyed=bool(keys))


def _with_weights(launch: LaunchPlan, hub_id: str, answering: StartupProcess | None) -> LaunchPlan:
    """Download what is not in the cache yet; the launch from there."""
    show = show_download()
    told = -1

    def on_progress(done_bytes: int, total_bytes: int) -> None:
        nonlocal told
        show(done_bytes, total_bytes)
        percent = 100 * done_bytes // max(1, total_bytes)
        if answering is not None and percent != told:
            told = percent
            answering.say(status="downloading", percent=percent)

    folder = fetch(hub_id, launch.revision, on_progress)
    if answering is not None:
        answering.say(status="loading")
    return launch if folder is None else launch.with_weights(folder)


def _one_flag_each(argv: Sequence[str]) -> Iterator[list[str]]:
    """The model, then each flag with its values; secrets as `***`."""
    flag: list[str] = []
    for word in argv:
        if word.startswith("-") and flag:
            yield flag
            flag = []
        name, equals, _ = word.partition("=")
        if word.startswith(_SECRET_FLAGS) and equals:
            word = f"{name}=***"
        flag.append("***" if flag and flag[0].startswith(_SECRET_FLAGS) else word)
    yield flag
