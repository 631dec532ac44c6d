"""Transformers behind an OpenAI-shaped route: one request at a time, as in a script without an engine."""

from __future__ import annotations

import argparse
import itertools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.peers.eager_phi3v import EagerPhi3V
from benchmarks.peers.front_end import Usage, serve


class OneAtATime:
    """A checkpoint in eager mode; other requests wait."""

    def __init__(self, folder: Path, num_crops: int) -> None:
        self._num_crops = num_crops
        self._model = EagerPhi3V(folder, "cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._turn = threading.Lock()

    def answer(self, body: Mapping[str, Any]) -> Iterator[str | Usage]:
        """As many tokens as `max_tokens` says, then what they took."""
        if not body.get("ignore_eos"):
            raise ValueError("ignore_eos: must be true, answers have no other end here than `max_tokens`")
        with self._turn, torch.inference_mode():
            prompt = self._model.embed(body, self._tokenizer, self._num_crops)
            tokens = self._model.generate(prompt, body.get("allowed_token_ids"))
            for token in itertools.islice(tokens, body["max_tokens"]):
                yield self._tokenizer.decode([token])
        yield Usage(prompt.shape[1], body["max_tokens"])


def main() -> None:
    """Load, then serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a checkpoint's folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--num-crops", type=int, required=True, help="of a picture")
    options = parser.parse_args()
    engine = OneAtATime(options.model, options.num_crops)
    serve({"id": "transformers", "object": "model", "root": str(options.model)}, engine.answer, options.port)


if __name__ == "__main__":
    main()
