"""mistral.rs behind an OpenAI-shaped route: its PyPI wheel is its engine without its server.

Runs in an environment of its own, `.peers-venv`. The engine batches requests by itself.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from mistralrs import ChatCompletionRequest, MultimodalArchitecture, Runner, Which

from benchmarks.peers.front_end import Usage, serve

_ALLOWED_BIAS = 1000.0  # added to the logits of the only tokens that may come


class MistralRs:
    """The engine with one checkpoint loaded."""

    def __init__(self, checkpoint: str) -> None:
        which = Which.MultimodalPlain(model_id=checkpoint, arch=MultimodalArchitecture.Phi3V)
        self._runner = Runner(which=which)
        self._sending = threading.Lock()  # the runner takes one request after the other

    def answer(self, body: Mapping[str, Any]) -> Iterator[str | Usage]:
        """Text as the engine makes it, then what it took."""
        allowed = body.get("allowed_token_ids")
        if body.get("ignore_eos") and not allowed:
            raise ValueError("ignore_eos: needs allowed_token_ids here, which leave out all ends")
        request = ChatCompletionRequest(
            model="default",
            messages=_tagged(body["messages"]),
            max_tokens=body["max_tokens"],
            logit_bias={token: _ALLOWED_BIAS for token in allowed} if allowed else None,
            top_k=1,  # greedy: `temperature: 0` in the others' requests
            stream=True,
        )
        with self._sending:
            chunks = self._runner.send_chat_completion_request(request)
        for chunk in chunks:
            for choice in chunk.choices:
                if choice.delta.content:
                    yield choice.delta.content
            if chunk.usage:
                yield Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


def _tagged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, with the pictures' tags in the text: the Python API leaves them to its callers."""
    tagged, pictures = [], 0
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            images = [part for part in content if part["type"] == "image_url"]
            text = "".join(part["text"] for part in content if part["type"] == "text")
            tags = "".join(f"<|image_{pictures + i + 1}|>\n" for i in range(len(images)))
            content = [*images, {"type": "text", "text": tags + text}]
            pictures += len(images)
        tagged.append({**message, "content": content})
    return tagged


def main() -> None:
    """Load, then serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint's folder")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    engine = MistralRs(options.model)
    serve({"id": "mistralrs", "object": "model", "root": options.model}, engine.answer, options.port)


if __name__ == "__main__":
    main()
