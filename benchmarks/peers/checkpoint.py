"""A checkpoint that all of them load: the published layout and widths, seeded random weights.

`python -m benchmarks.peers.checkpoint FOLDER`. It has fewer text layers, so that a CPU answers in seconds.
The vision tower is whole: others write its sizes into their code. The tokenizer is the demo's, padded to the
published vocabulary; text takes more tokens than with the published one. Answers mean nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from phi_vision.model.dimensions import read_config_json
from phi_vision.spec import PHI_3_5_VISION, Dimensions
from safetensors.torch import save_file

from benchmarks.studies.cpu_memory import full_size_checkpoint

_BOS = "{{- bos_token -}}\n"  # of our template: the published one leaves `<s>` to the tokenizer
_VISION = "model.vision_embed_tokens"
_TOWER = f"{_VISION}.img_processor.vision_model"


def write(folder: Path, layers: int, num_crops: int, seed: int) -> Path:
    """Write the checkpoint.

    Args:
        folder: made if need be.
        layers: of the text model.
        num_crops: the default of servers that take it from the checkpoint.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full_size_checkpoint(folder)
    _update_json(folder / "config.json", num_hidden_layers=layers)
    template = PHI_3_5_VISION.chat_template.read_text().replace(_BOS, "")
    _update_json(folder / "tokenizer_config.json", chat_template=template)
    processor = {"image_processor_type": "Phi3VImageProcessor", "num_crops": num_crops}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"num_img_tokens": 144}))
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _draw(name, shape, generator) for name, shape in shapes(read_config_json(folder))}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def shapes(of: Dimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Published name and shape of each tensor; the tower has its unused last layer too."""
    attention = of.kv_heads * of.head_dim
    yield "model.embed_tokens.weight", (of.vocab, of.hidden)
    for i in range(of.layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (of.hidden,)
        yield f"{layer}.self_attn.qkv_proj.weight", (3 * attention, of.hidden)
        yield f"{layer}.self_attn.o_proj.weight", (of.hidden, attention)
        yield f"{layer}.post_attention_layernorm.weight", (of.hidden,)
        yield f"{layer}.mlp.gate_up_proj.weight", (2 * of.mlp, of.hidden)
        yield f"{layer}.mlp.down_proj.weight", (of.hidden, of.mlp)
    yield "model.norm.weight", (of.hidden,)
    yield "lm_head.weight", (of.vocab, of.hidden)
    width, mlp, patch = of.vision_hidden, of.vision_mlp, of.vision_patch_px
    yield f"{_VISION}.glb_GN", (1, 1, 4 * width)
    yield f"{_VISION}.sub_GN", (1, 1, 1, 4 * width)
    yield from _linear(f"{_VISION}.img_projection.0", 4 * width, of.hidden)
    yield from _linear(f"{_VISION}.img_projection.2", of.hidden, of.hidden)
    yield f"{_TOWER}.embeddings.class_embedding", (width,)
    yield f"{_TOWER}.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield f"{_TOWER}.embeddings.position_embedding.weight", (of.vision_positions, width)
    yield from _norm(f"{_TOWER}.pre_layrnorm", width)
    for i in range(of.vision_layers + 1):
        layer = f"{_TOWER}.encoder.layers.{i}"
        yield from _norm(f"{layer}.layer_norm1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.mlp.fc1", width, mlp)
        yield from _linear(f"{layer}.mlp.fc2", mlp, width)
    yield from _norm(f"{_TOWER}.post_layernorm", width)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """bfloat16 weights that keep the scale of what passes through them."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1 and "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    inputs = torch.Size(shape[1:]).numel()
    std = 1.0 if "embed_tokens.weight" in name else inputs**-0.5
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=std, generator=generator)


def _update_json(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys, indent=2) + "\n")


def main() -> None:
    """Write one, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4, help="of the text model (default: %(default)s)")
    parser.add_argument(
        "--num-crops", type=int, default=PHI_3_5_VISION.num_crops, help="of a picture (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=35, help="(default: %(default)s)")
    options = parser.parse_args()
    folder = write(options.folder, options.layers, options.num_crops, options.seed)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
