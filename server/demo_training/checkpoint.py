"""Write the demo as a checkpoint in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast


def write(
    folder: Path, tokenizer: PreTrainedTokenizerFast, config: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Write tokenizer, configuration and weights into `folder`, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>", "<|endoftext|>"])
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
