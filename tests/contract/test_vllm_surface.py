"""What phi-vision relies on in vLLM, checked in seconds and without an engine.

Run this first with a new version of vLLM: each failure names what has changed and which files need it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phi_vision
import pytest

from tests.contract.vllm_surface import ARGUMENTS, LOG_MESSAGES, NAMES, Name

PACKAGE = Path(phi_vision.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}


def used_by(word: str) -> str:
    """The files of phi-vision that use this name: as an attribute, else anywhere."""
    for pattern in (rf"(\.|def |\"){re.escape(word)}\b", rf"\b{re.escape(word)}\b"):
        if found := [file for file, text in SOURCES.items() if re.search(pattern, text)]:
            return ", ".join(sorted(found))
    return ""


def imports_of(text: str) -> Iterator[tuple[str, str]]:
    """Module and name of each import from vLLM in a source text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.partition(".")[0] == "vllm")


def find(name: Name) -> Any:
    """The object of this name; None for a field or an attribute that only instances have."""
    found: Any = importlib.import_module(name.module)
    where = name.module
    for part in name.attribute.split(".") if name.attribute else ():
        owner = found
        try:
            found = getattr(owner, part)
        except AttributeError:
            if inspect.ismodule(owner) and importlib.util.find_spec(f"{owner.__name__}.{part}"):
                found = importlib.import_module(f"{owner.__name__}.{part}")
            elif inspect.isclass(owner) and instances_have(owner, part):
                found = None
            else:
                raise AttributeError(f"vLLM's {where} has no {part}") from None
        where = f"{where}.{part}"
    return found


def instances_have(owner: type, member: str) -> bool:
    """Whether a class annotates this member, or assigns it to `self`."""
    for base in inspect.getmro(owner):
        if member in vars(base).get("__annotations__", {}):
            return True
        if base.__module__.startswith("vllm."):
            source = inspect.getsource(base)
            if re.search(rf"\bself\.{member}\b[^=\n]*(,|=(?!=))", source):
                return True
    return False


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_vllm_has(name: Name) -> None:
    word = name.attribute.rpartition(".")[2] or name.module
    needs = f"{used_by(word)}: {name.why}"
    try:
        found = find(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{error}. Needed by {needs}", pytrace=False)
    if name.parameters:
        taken = list(inspect.signature(found).parameters)
        missing = [parameter for parameter in name.parameters if parameter not in taken]
        if missing:
            pytest.fail(f"vLLM's {name} takes {taken}, not {missing}. Needed by {needs}", pytrace=False)
        in_order = sorted(name.parameters, key=taken.index)
        if list(name.parameters) != in_order:
            pytest.fail(f"vLLM's {name} takes its parameters in the order {in_order}. {needs}", pytrace=False)


def test_each_import_has_a_row_and_each_row_is_used() -> None:
    known = {(name.module, name.attribute.partition(".")[0]) for name in NAMES}
    known |= {(name.module, name.attribute) for name in NAMES}
    missing = {
        f"{file}: from {module} import {attribute}"
        for file, text in SOURCES.items()
        for module, attribute in imports_of(text)
        if (module, attribute) not in known
    }
    assert not missing, "add these to tests/contract/vllm_surface.py"
    unused = [str(name) for name in NAMES if not used_by(name.attribute.rpartition(".")[2] or name.module)]
    unused += [dest for dest in ARGUMENTS if not used_by(dest)]
    assert not unused, "delete these from tests/contract/vllm_surface.py"


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def our_classes() -> Iterator[type]:
    """Classes of phi-vision that inherit from vLLM's."""
    for room in ("model", "serving"):
        package = importlib.import_module(f"phi_vision.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and value.__module__ == module.name and vllm_bases(value):
                    yield value


def vllm_bases(kind: type) -> list[type]:
    return [base for base in inspect.getmro(kind)[1:] if base.__module__.startswith("vllm.")]


def test_overrides_take_what_vllm_passes() -> None:
    """A method of ours takes each parameter of vLLM's under its name and at its place."""
    checked = []
    for kind in our_classes():
        for method, ours in vars(kind).items():
            theirs = next((vars(base)[method] for base in vllm_bases(kind) if method in vars(base)), None)
            if method == "__init__" or not inspect.isfunction(ours) or not inspect.isfunction(theirs):
                continue
            checked.append(f"{kind.__name__}.{method}")
            parameters = inspect.signature(ours).parameters.values()
            takes_more = any(p.kind in VARIADIC for p in parameters)
            named = [p.name for p in parameters]
            passed = [p.name for p in inspect.signature(theirs).parameters.values() if p.kind not in VARIADIC]
            expected = [name for name in passed if name in named or not takes_more]
            assert [name for name in named if name in expected] == expected, (
                f"{kind.__module__}.{kind.__name__}.{method} takes {named}; vLLM passes {passed}"
            )
    assert {"LimitedServer._connect", "HDMultiModalProcessor._get_mm_hashes"} <= set(checked)


@pytest.mark.parametrize("dest", ARGUMENTS)
def test_vllm_parses(dest: str, arguments: Any) -> None:
    assert hasattr(arguments, dest), f"vLLM's arguments have no {dest}. Needed by {used_by(dest)}"


@pytest.fixture(scope="module")
def arguments() -> Any:
    from phi_vision.serving.vllm_compat.flag_parser import vllm_parser

    return vllm_parser().parse_args(["a-model"])


def test_each_patch_says_why_it_is_there() -> None:
    from phi_vision.serving import vllm_compat

    modules = [module.name for module in pkgutil.iter_modules(vllm_compat.__path__)]
    listed = re.findall(r"^\| `(\w+)` \|", inspect.getdoc(vllm_compat) or "", re.MULTILINE)
    assert listed == sorted(modules)
    for name in modules:
        text = inspect.getdoc(importlib.import_module(f"{vllm_compat.__name__}.{name}")) or ""
        for part in ("Symptom: ", "Cause: ", "Can go: "):
            assert f"\n{part}" in text, f"{name} has no {part!r}"


VARIABLES = sorted({name for text in SOURCES.values() for name in re.findall(r"\bVLLM_[A-Z_]+\b", text)})


@pytest.mark.parametrize("variable", VARIABLES)
def test_vllm_reads_the_variable(variable: str) -> None:
    from vllm import envs

    assert variable in envs.environment_variables, f"Needed by {used_by(variable)}"


@pytest.mark.parametrize(("module", "message"), LOG_MESSAGES)
def test_vllm_logs(module: str, message: str) -> None:
    from phi_vision.serving.vllm_compat import start_cause

    assert module in start_cause.LOGGERS and message in start_cause.MESSAGES
    source = inspect.getsource(importlib.import_module(module))
    assert f'logger.exception("{message}' in source and "logger = init_logger(__name__)" in source


def test_vllms_log_factory_keeps_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging

    made: list[Any] = []
    monkeypatch.setattr(logging, "setLogRecordFactory", made.append)
    monkeypatch.setattr(logging, "getLogRecordFactory", lambda: logging.LogRecord)
    configure_logging(LoggingConfig())
    assert [factory._factory for factory in made] == [logging.LogRecord]


def test_signals_are_taken_over_once_the_server_is_known() -> None:
    """`Lifecycle` waits for `state.server`, and then sets handlers over those that vLLM has just set."""
    from vllm.entrypoints.launchers import launcher

    source = inspect.getsource(launcher.serve_http)
    assert "app.state.server = server" in source and "add_signal_handler(" in source
    between = source.partition("app.state.server = server")[2].partition("add_signal_handler(")[0]
    assert "await" not in between


def test_the_handler_that_stops_several_api_processes_is_set_before_the_server_is() -> None:
    """`server_start` keeps the handler that it finds, and calls it at the first signal."""
    from vllm.entrypoints.cli import serve

    source = inspect.getsource(serve.run_multi_api_server)
    assert source.index("signal.signal(signal.SIGTERM") < source.index("setup_server(")
    assert source.index("setup_server(") < source.index("wait_for_completion_or_failure(")


def test_what_a_router_adds_changes_nothing() -> None:
    from phi_vision.tasks.router_fields import FOREIGN_DEFAULTS, SHARED_DEFAULTS
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    fields = ChatCompletionRequest.model_fields
    assert set(SHARED_DEFAULTS) <= set(fields) and not set(FOREIGN_DEFAULTS) & set(fields)
    plain = ChatCompletionRequest(messages=[])
    through_router = ChatCompletionRequest(messages=[], **SHARED_DEFAULTS)
    assert plain.to_sampling_params(9, {}) == through_router.to_sampling_params(9, {})
    for name in ("stream", "include_reasoning", "continue_final_message"):
        assert getattr(plain, name) == getattr(through_router, name)


def test_presets_set_fields_of_the_chat_request() -> None:
    from phi_vision.tasks.presets import PRESETS
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    for preset in PRESETS.values():
        assert set(preset.fields) <= set(ChatCompletionRequest.model_fields)
        request = ChatCompletionRequest(messages=[], **preset.fields)
        params = request.to_sampling_params(preset.fields["max_tokens"], {})
        assert params.temperature == preset.fields["temperature"]


def test_every_user_of_sanitize_message_imports_it_by_name() -> None:
    """`error_messages` replaces the name in each module that has it."""
    import vllm.entrypoints

    users = [
        path
        for path in Path(vllm.entrypoints.__path__[0]).rglob("*.py")
        if re.search(r"\bsanitize_message\(", path.read_text())
    ]
    assert users
    for path in users:
        assert re.search(
            r"^(from .* import sanitize_message|def sanitize_message)", path.read_text(), re.M
        ), path
