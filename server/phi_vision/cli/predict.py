"""`phi-vision predict`: one task on pictures, through a server, or through an engine started for it.

What is printed is made harmless for a terminal (`client.text`), also where it goes into a pipe; `--output`
gets the text as it came, and JSON is exact in both.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phi_vision.cli.servers import find_servers
from phi_vision.cli.terminal import exit_on_signals, print_status
from phi_vision.client.chat import Answer, ask, served_tasks
from phi_vision.client.exchange import Endpoint, model_for
from phi_vision.client.images import Input, choose_pages, load
from phi_vision.client.ocr import read_page
from phi_vision.client.output import check_writable, write_whole
from phi_vision.client.sending import NoSuchRoute, Retry
from phi_vision.client.text import one_line, visible
from phi_vision.errors import UsageError
from phi_vision.planning.hardware import find_device
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks.presets import PRESETS


def predict(options: argparse.Namespace) -> None:
    """Run the command with parsed `options` (see `cli`).

    Raises:
        UsageError: anything that the user can mend, in one line.
        PhiVisionError: the server failed, or its answer is not understood.
    """
    with exit_on_signals():
        _predict(options)


def _predict(options: argparse.Namespace) -> None:
    if options.device != "auto":
        find_device(options.device)
    preset = PRESETS[options.task]
    if preset.prompt is None and not options.prompt:
        raise UsageError(f"--task {options.task} needs a question: add --prompt")
    output = Path(options.output) if options.output else None
    if output is not None:
        check_writable(output)
    requests = _requests([load(name) for name in options.image], options.pages)
    streams = output is None and options.format == "txt"
    started_s = time.perf_counter()
    texts: list[str] = []
    try:
        with find_servers([options.base_url] if options.base_url else [], options.device) as found:
            (endpoint,) = found.endpoints
            model = model_for(options.task, served_tasks(endpoint), endpoint)
            reads_pages = options.task == "ocr" and not options.prompt and len(requests[0]) == 1
            for number, inputs in enumerate(requests, 1):
                heading = _heading(inputs) if len(requests) > 1 else ""
                if heading:
                    print_status(f"page {inputs[0].page}, {number} of {len(requests)}")
                if streams:
                    _print(heading)
                answer = _read(endpoint, model, inputs[0], streams=streams) if reads_pages else None
                if answer is None:
                    reads_pages = False
                    answer = _ask(endpoint, model, options.prompt, inputs, streams=streams)
                if number == 1 and answer.model == PHI_3_5_VISION.demo_name:
                    print_status(
                        "answered by the DEMO model: it reads printed capitals and names plain shapes, "
                        "nothing else"
                    )
                if answer.status not in ("complete", None):
                    print_status(f"{_what(inputs)}: {answer.status}")
                if streams:
                    continue
                now_s = time.perf_counter()
                if options.format == "json":
                    text = _as_json(inputs, answer, options, now_s - started_s)
                else:
                    text = heading + answer.text + "\n"
                started_s = now_s
                texts.append(text)
                if output is None:
                    _print(text)
    finally:  # the pages before one that failed are kept
        if output is not None and texts:
            write_whole(output, "".join(texts))


def _requests(inputs: Sequence[Input], pages: str | None) -> Sequence[Sequence[Input]]:
    """What is asked together: all pictures, but each page of a document by itself, at full crops."""
    if pages is None and all(given.num_pages is None for given in inputs):
        return [inputs]
    if len(inputs) > 1:
        raise UsageError("the pages of a document are read one by one; give one --image")
    return [[page] for page in choose_pages(inputs[0], pages)]


def _heading(inputs: Sequence[Input]) -> str:
    """The line above the text of one of several pages."""
    page = inputs[0]
    return f"--- {one_line(page.name)}, page {page.page} of {page.num_pages} ---\n"


def _what(inputs: Sequence[Input]) -> str:
    """What an answer is about, in a few words."""
    if inputs[0].num_pages is not None:
        return f"page {inputs[0].page}"
    return one_line(inputs[0].name) if len(inputs) == 1 else "the answer"


def _as_json(inputs: Sequence[Input], answer: Answer, options: argparse.Namespace, seconds: float) -> str:
    """The answer with all that is known of it; that of a document's page is one line."""
    result = {
        "text": answer.text,
        "task": options.task,
        "prompt": options.prompt or PRESETS[options.task].prompt,
        "model": answer.model,
        "images": [
            _described(given, crops, tokens)
            for given, crops, tokens in zip(inputs, answer.num_crops, answer.image_tokens, strict=True)
        ],
        "usage": answer.usage,
        "finish_reason": answer.finish_reason,
        "status": answer.status,
        **(answer.reading or {}),
        "seconds": round(seconds, 3),
    }
    indent = None if inputs[0].num_pages else 2
    return visible(json.dumps(result, indent=indent, ensure_ascii=False)) + "\n"


def _described(given: Input, crops: int | None, tokens: int | None) -> dict[str, Any]:
    about: dict[str, Any] = {"name": given.name}
    if given.num_pages is not None:
        about |= {"page": given.page, "pages": given.num_pages}
    elif given.size is not None:
        about |= {"width": given.size[0], "height": given.size[1]}
    return {**about, "crops": crops, "tokens": tokens}


def _read(endpoint: Endpoint, model: str, given: Input, *, streams: bool) -> Answer | None:
    """Have a page read, and show its text if asked to; None where the server does not read pages."""
    try:
        answer = read_page(endpoint, model, given, _retry())
    except NoSuchRoute:
        return None
    if streams:
        _print(answer.text + "\n")
    return answer


def _ask(
    endpoint: Endpoint, model: str, prompt: str | None, inputs: Sequence[Input], *, streams: bool
) -> Answer:
    """Send the request; show the text as it comes if asked to."""
    content = [given.part for given in inputs]
    if prompt:
        content.append({"type": "text", "text": prompt})
    if not streams:
        return ask(endpoint, model, content, len(inputs), retry=_retry())
    shown = False

    def show(piece: str) -> None:
        nonlocal shown
        shown = shown or bool(piece)
        _print(piece)

    try:
        answer = ask(endpoint, model, content, len(inputs), show, _retry())
    except BaseException:
        if shown:
            _print("\n")
        raise
    _print("\n")
    return answer


def _retry() -> Retry:
    return Retry(on_wait=lambda message, wait_s: print_status(f"{message}; trying again in {wait_s:.0f} s"))


def _print(text: str) -> None:
    """To stdout, in whatever encoding it has."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(visible(text))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        if isinstance(error, BrokenPipeError):  # `| head`
            raise SystemExit(128 + signal.SIGPIPE) from error
        raise UsageError(f"cannot write the answer: {error.strerror}") from error
