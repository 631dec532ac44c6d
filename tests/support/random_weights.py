"""The demo's architecture with fewer layers and random weights: answers mean nothing, all numbers matter."""

import json
import shutil
from pathlib import Path

import torch
from phi_vision.planning.checkpoint import DEMO_FOLDER
from safetensors.torch import load_file, save_file

TEXT_LAYERS = 2  # the second sees what the first made of all that came before


def write_random_checkpoint(folder: Path) -> Path:
    """A checkpoint in `folder`, in which short and long rotary factors differ everywhere."""
    shutil.copytree(DEMO_FOLDER, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    layers = [f"model.layers.{i}." for i in range(TEXT_LAYERS, config["num_hidden_layers"])]
    config["num_hidden_layers"] = TEXT_LAYERS
    scaling = config["rope_scaling"]
    scaling["long_factor"] = [1.0 + i for i in range(len(scaling["long_factor"]))]
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(35)
    weights = {}
    for name, trained in load_file(folder / "model.safetensors").items():
        if name.startswith(tuple(layers)):
            continue
        if trained.ndim == 1:
            weights[name] = torch.full_like(trained, 0.0 if name.endswith("bias") else 1.0)
        else:
            std = 0.5 if "embed_tokens.weight" in name else trained.shape[-1] ** -0.5
            weights[name] = (torch.randn(trained.shape, generator=generator) * std).to(trained.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
