"""The published model out of Transformers' own parts, in eager mode.

Transformers has no class for this model without the published checkpoint's remote code. Its CLIP and Phi-3
classes are put together here as that code does it: all crops and their padding go through the whole tower,
attention is eager, decoding is greedy with a KV cache.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.geometry import CROP_PX, canvas_tokens
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModel, DynamicCache, Phi3ForCausalLM, PreTrainedTokenizerFast

from benchmarks.harness.float_reference import process


class EagerPhi3V(torch.nn.Module):
    """The published model out of Transformers' parts."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__()
        config = Phi3VConfig.from_pretrained(folder)
        self.image_token_id = config.image_token_id
        config._attn_implementation = "eager"
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)  # never the whole of it in float32 on the way
        self.tower = CLIPVisionModel(config.clip_config)
        self.text = Phi3ForCausalLM(config)
        dim, hidden = 4 * config.clip_config.hidden_size, config.hidden_size
        self.img_projection = torch.nn.Sequential(
            torch.nn.Linear(dim, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
        )
        self.glb_GN = torch.nn.Parameter(torch.empty(1, 1, dim))
        self.sub_GN = torch.nn.Parameter(torch.empty(1, 1, 1, dim))
        torch.set_default_dtype(default)
        self._load(folder)
        self.to(device).eval()
        self.layer = config.clip_layers_used

    def _load(self, folder: Path) -> None:
        """Published names to those of the parts; a name that is left over is an error."""
        wanted = self.state_dict()
        vision = "model.vision_embed_tokens."
        tower = "" if any(name.startswith("tower.embeddings") for name in wanted) else "vision_model."
        loaded: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            for name, tensor in load_file(path).items():
                if name.startswith(f"{vision}wte"):
                    continue
                new = name.replace(f"{vision}img_processor.vision_model.", f"tower.{tower}").replace(
                    vision, ""
                )
                loaded[new if name.startswith(vision) else f"text.{name}"] = tensor
        missing = set(wanted) - set(loaded)
        unknown = set(loaded) - set(wanted)
        if unknown or any("position_ids" not in name for name in missing):
            raise ValueError(
                f"weights do not fit: missing {sorted(missing)[:5]}, unknown {sorted(unknown)[:5]}"
            )
        self.load_state_dict(loaded, strict=False)

    def image_tokens(self, crops: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(num_crops + 1, 3, 336, 336), padding included as published -> (tokens, hidden)."""
        states = self.tower(crops, output_hidden_states=True).hidden_states[self.layer][:, 1:]
        parts = [
            self._grid(states[1 : 1 + rows * columns], rows, columns),
            self.glb_GN[0],
            self._grid(states[:1], 1, 1),
        ]
        return self.img_projection(torch.cat(parts))

    def _grid(self, states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        dim = states.shape[-1]
        grid = states.reshape(rows, columns, 12, 2, 12, 2, dim).permute(0, 2, 1, 4, 3, 5, 6)
        grid = grid.reshape(rows * 12, columns * 12, 4 * dim)
        return torch.cat([grid, self.sub_GN[0].expand(rows * 12, 1, 4 * dim)], dim=1).flatten(0, 1)

    def embed(
        self, body: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, num_crops: int
    ) -> torch.Tensor:
        """The prompt of a chat request, (1, tokens, hidden); text between pictures begins with `<s>`."""
        text, pictures = _prompt(body["messages"])
        device = self.glb_GN.device
        ids: list[int] = []
        images = []
        for i, chunk in enumerate(re.split(r"<\|image_\d+\|>", text)):
            ids += tokenizer(chunk).input_ids
            if i < len(pictures):
                crops, (height, width) = process(pictures[i], num_crops)
                rows, columns = height // CROP_PX, width // CROP_PX
                images.append(self.image_tokens(crops.to(device, torch.bfloat16), rows, columns))
                ids += [self.image_token_id] * canvas_tokens(rows, columns)
        prompt = torch.tensor([ids], device=device)
        embeddings = self.text.get_input_embeddings()(prompt)
        if images:
            embeddings[prompt == self.image_token_id] = torch.cat(images)
        return embeddings

    def generate(self, prompt: torch.Tensor, allowed: list[int] | None = None) -> Iterator[int]:
        """Tokens without end, as they are made: the likeliest, of `allowed` only where that is given."""
        cache = DynamicCache(config=self.text.config)
        step: dict[str, Any] = {"inputs_embeds": prompt}
        while True:
            out = self.text(**step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = out.logits[0, -1]
            token = int(logits.argmax()) if allowed is None else allowed[int(logits[allowed].argmax())]
            yield token
            step = {"input_ids": torch.tensor([[token]], device=prompt.device)}


def _prompt(messages: list[dict[str, Any]]) -> tuple[str, list[Image.Image]]:
    """The published chat template's text, with a tag for each picture; and the pictures."""
    pictures: list[Image.Image] = []
    text = ""
    for message in messages:
        text += f"<|{message['role']}|>\n"
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        for part in parts:
            if "image_url" in part:
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                pictures.append(Image.open(io.BytesIO(data)))
                text += f"<|image_{len(pictures)}|>\n"
            else:
                text += part["text"]
        text += "<|end|>\n"
    return text + "<|assistant|>\n", pictures
