"""What one would otherwise run: Transformers in eager mode, one request at a time, no server.

Transformers has no class for this model without remote code, so its CLIP and Phi-3 classes are put
together here and decoded greedily with its KV cache; pictures go through the published processor's
steps (`float_reference`). Same weights, pictures and answer lengths as the server's runs.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.geometry import canvas_tokens
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModel, DynamicCache, Phi3ForCausalLM, PreTrainedTokenizerFast

from benchmarks.harness.float_reference import process
from benchmarks.harness.workloads import WORKLOADS, fixed_length, requests

NUM_CROPS = 16
WHAT = (
    "Transformers in eager mode: its CLIPVisionModel and Phi3ForCausalLM put together by the benchmark (it "
    "has no class for Phi-3.5-vision), greedy decoding with a KV cache, one request at a time, no HTTP."
)


class EagerPhi3V(torch.nn.Module):
    """The published model out of Transformers' parts."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__()
        config = Phi3VConfig.from_pretrained(folder)
        self.image_token_id = config.image_token_id
        config._attn_implementation = "eager"
        self.tower = CLIPVisionModel(config.clip_config)
        self.text = Phi3ForCausalLM(config)
        dim, hidden = 4 * config.clip_config.hidden_size, config.hidden_size
        self.img_projection = torch.nn.Sequential(
            torch.nn.Linear(dim, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
        )
        self.glb_GN = torch.nn.Parameter(torch.empty(1, 1, dim))
        self.sub_GN = torch.nn.Parameter(torch.empty(1, 1, 1, dim))
        self._load(folder)
        self.to(device, torch.bfloat16).eval()
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


def answer(
    model: EagerPhi3V, tokenizer: PreTrainedTokenizerFast, body: dict[str, Any], device: str
) -> tuple[list[float], list[int]]:
    """Seconds from the request to each token, and the tokens."""
    start = time.perf_counter()
    pictures, text = [], ""
    for message in body["messages"]:
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
    text += "<|assistant|>\n"
    ids: list[int] = []
    images = []
    chunks = re.split(r"<\|image_\d+\|>", text)
    for i, chunk in enumerate(chunks):
        ids += tokenizer(chunk).input_ids
        if i < len(pictures):
            crops, (height, width) = process(pictures[i], NUM_CROPS)
            rows, columns = height // 336, width // 336
            images.append(model.image_tokens(crops.to(device, torch.bfloat16), rows, columns))
            ids += [model.image_token_id] * canvas_tokens(rows, columns)
    prompt = torch.tensor([ids], device=device)
    embeddings = model.text.get_input_embeddings()(prompt)
    embeddings[prompt == model.image_token_id] = torch.cat(images)
    cache = DynamicCache(config=model.text.config)
    step: dict[str, Any] = {"inputs_embeds": embeddings}
    times, tokens = [], []
    for _ in range(body["max_tokens"]):
        logits = model.text(**step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1)
        tokens.append(int(token))  # waits for the device
        times.append(time.perf_counter() - start)
        step = {"input_ids": token[None]}
    return times, tokens


@torch.inference_mode()
def measure(folder: Path, workload: str, count: int, device: str) -> dict[str, Any]:
    """Medians of `count` requests after one that warms up."""
    model = EagerPhi3V(folder, device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = WORKLOADS[workload].output_tokens
    bodies = requests(workload, count + 1, "eager", "", fixed=fixed_length(tokens))
    start, all_times = 0.0, []
    for i, body in enumerate(bodies):
        times, _ = answer(model, tokenizer, body, device)
        if i:
            all_times.append(times)
            start += times[-1]
    return {
        "what": WHAT,
        "workload": workload,
        "requests": count,
        "device": device,
        "threads": torch.get_num_threads(),
        "ttft_p50_ms": 1000 * statistics.median(times[0] for times in all_times),
        "itl_p50_ms": 1000 * statistics.median((times[-1] - times[0]) / (tokens - 1) for times in all_times),
        "e2e_p50_ms": 1000 * statistics.median(times[-1] for times in all_times),
        "requests_per_s": count / start,
        "output_tokens_per_s": count * tokens / start,
    }


def main() -> None:
    """Measure; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a checkpoint's folder")
    parser.add_argument("--workload", choices=WORKLOADS, default="caption", help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write eager.json there")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = measure(options.model, options.workload, options.requests, device)
    if options.out:
        (options.out / "eager.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
