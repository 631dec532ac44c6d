"""Train the demo model from nothing: `python -m demo_training.train --out FOLDER`.

Every step's pictures are drawn from a seed made of stage and step, so a run that was stopped goes
on where it was, and two runs see the same pictures. A GPU is used if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from demo_training import checkpoint, checkpoint_config, questions, vocabulary
from demo_training.labels import CELLS, COLOR_CLASSES, GLYPH_CLASSES, IGNORED, KINDS
from demo_training.network import DemoNetwork
from demo_training.recipe import SMOKE, STAGES, Stage, draw_samples
from demo_training.samples import Batch, collate

_SEED = 35
_SAVE_EVERY_S = 120.0
_LOG_EVERY = 10  # steps
_WARM_UP = 40  # steps
_NEIGHBOR_WEIGHT = 0.2  # of naming the glyphs beside a cell
_PLACE_WEIGHT = 0.05  # of saying where in the view a cell lies
_LONG_ROPE_SHARE = 0.1  # of steps train LongRoPE's long factors


class Batches(Dataset[Batch]):
    """The batches of a stage, each made from its number alone."""

    def __init__(self, stage: Stage, tokenizer: PreTrainedTokenizerFast) -> None:
        self.stage, self.tokenizer = stage, tokenizer

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        rng = Random(f"{_SEED}-{self.stage.name}-{step}")
        samples, blanks = draw_samples(rng, self.stage)
        long_rope = rng.random() < _LONG_ROPE_SHARE
        return collate(rng, samples, self.tokenizer, blanks=blanks, long_rope=long_rope)


def losses(network: DemoNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
    """The losses of a batch, and what share of glyphs, marks, looks and answer tokens was right.

    Returns:
        scalars; `loss` is the one to minimise.
    """
    with torch.set_grad_enabled(stage.trained != "text" and torch.is_grad_enabled()):
        table = network.image_table(batch)
    seen: dict[str, Tensor] = {}
    if len(batch.patches) and stage.trained != "text":
        seen |= _naming(network, table, batch)
        seen["loss"] = stage.aux_weight * seen["naming_loss"]
    if stage.trained != "vision":
        asked = batch.targets != IGNORED
        states, looked = network.hidden(batch, table)
        logits = network.lm_head(states[asked]).float()
        seen["answer_loss"] = F.cross_entropy(logits, batch.targets[asked])
        seen["answers"] = (logits.argmax(-1) == batch.targets[asked]).float().mean()
        seen["loss"] = seen.get("loss", 0) + seen["answer_loss"]
        shown = batch.sources >= 0
        if shown.any():
            there, looks = batch.sources[shown], looked[shown]
            seen["looking_loss"] = -looks.gather(1, there[:, None]).float().clamp(min=1e-6).log().mean()
            seen["looks"] = (looks.argmax(-1) == there).float().mean()
            seen["loss"] = seen["loss"] + stage.looking_weight * seen["looking_loss"]
    return seen


def _naming(network: DemoNetwork, table: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Losses of the auxiliary heads, which say what each cell shows, and what share they get right."""
    glyphs, marks = batch.glyphs.flatten(0, 1), batch.marks.flatten(0, 1)  # (cells, slots), (cells, 2)
    cells = table[: len(glyphs)]
    said = network.aux["glyphs"](cells).float().view(*glyphs.shape, GLYPH_CLASSES)
    inside, beside = slice(0, -2), slice(-2, None)
    glyph_loss = F.cross_entropy(
        said[:, inside].flatten(0, 1), glyphs[:, inside].flatten(), _rare(GLYPH_CLASSES, said)
    )
    neighbor_loss = F.cross_entropy(said[:, beside].flatten(0, 1), glyphs[:, beside].flatten())
    filled = glyphs[:, inside] > 0
    right = (said[:, inside].argmax(-1) == glyphs[:, inside])[filled].float().mean()

    kind, color = network.aux["kind"](cells).float(), network.aux["color"](cells).float()
    mark_loss = F.cross_entropy(kind, marks[:, 0], _rare(len(KINDS), kind))
    mark_loss = mark_loss + F.cross_entropy(color, marks[:, 1], _rare(COLOR_CLASSES, color))
    marked = (marks[:, 0] > 0) & (marks[:, 1] > 0)
    both = (kind.argmax(-1) == marks[:, 0]) & (color.argmax(-1) == marks[:, 1])

    number = torch.arange(len(glyphs), device=glyphs.device) % CELLS**2
    placed = (glyphs[:, 0] > 0) | (marks[:, 0] > 0)
    place_loss = F.cross_entropy(network.aux["row"](cells[placed]).float(), number[placed] // CELLS)
    place_loss = place_loss + F.cross_entropy(
        network.aux["column"](cells[placed]).float(), number[placed] % CELLS
    )
    total = glyph_loss + _NEIGHBOR_WEIGHT * neighbor_loss + mark_loss + _PLACE_WEIGHT * place_loss
    return {
        "naming_loss": torch.nan_to_num(total),
        "glyph_loss": glyph_loss,
        "neighbor_loss": neighbor_loss,
        "mark_loss": mark_loss,
        "place_loss": place_loss,
        "glyphs": right,
        "marks": both[marked].float().mean(),
    }


def _rare(classes: int, like: Tensor) -> Tensor:
    """(classes,): weights of classes of which the first, nothing, is the usual one."""
    weight = torch.ones(classes, device=like.device)
    weight[0] = 0.25
    return weight


def optimizers(network: DemoNetwork, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for what is looked up, scaled or said."""
    inside = ("encoder.layers", "model.layers", "img_projection", "patch_embedding")

    def is_vision(name: str) -> bool:
        return "vision_embed_tokens" in name or name.startswith("aux.")

    chosen = {
        name: parameter
        for name, parameter in network.named_parameters()
        if stage.trained == "all" or is_vision(name) == (stage.trained == "vision")
    }
    matrices = [p for name, p in chosen.items() if p.ndim == 2 and any(part in name for part in inside)]
    others = [p for name, p in chosen.items() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(
            matrices, lr=stage.rate, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02),
    ]


def rate_share(step: int, stage: Stage) -> float:
    """Share of the learning rate at a step: a short warm-up, then half a cosine."""
    warm = min(1.0, (step + 1) / _WARM_UP)
    decay = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return warm * (stage.final_rate + (1 - stage.final_rate) * decay)


class Run:
    """A training run and its folder: state to resume from, log, checkpoint."""

    def __init__(self, folder: Path, stages: tuple[Stage, ...], device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(_SEED)
        self.folder, self.stages, self.device = folder, stages, device
        self.tokenizer = vocabulary.build(questions.vocabulary())
        self.config = checkpoint_config.build(self.tokenizer)
        self.network = DemoNetwork(self.config).to(device)
        self.stage, self.step, self.pictures = 0, 0, 0
        self.optimizers = optimizers(self.network, stages[0])
        if (folder / "state.pt").exists():
            self._load()

    def train(self) -> None:
        """Go through the stages, from where the run stands, and write the checkpoint."""
        while self.stage < len(self.stages):
            self._train_stage(self.stages[self.stage])
            self.stage, self.step = self.stage + 1, 0
            if self.stage < len(self.stages):
                self.optimizers = optimizers(self.network, self.stages[self.stage])
            self._save()
        checkpoint.write(self.folder / "checkpoint", self.tokenizer, self.config, self.network.published())

    def _train_stage(self, stage: Stage) -> None:
        order = range(self.step, stage.steps)
        workers = 1 if self.device.type == "cpu" else 12
        batches = DataLoader(
            Batches(stage, self.tokenizer),
            batch_size=None,
            sampler=order,
            num_workers=workers,
            prefetch_factor=4,
        )
        mean: dict[str, float] = {}
        saved = time.monotonic()
        bar = tqdm(
            batches, initial=self.step, total=len(order) + self.step, desc=stage.name, dynamic_ncols=True
        )
        for batch in bar:
            share = rate_share(self.step, stage)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = stage.rate * share
            for name, value in self._update(batch.to(self.device), stage).items():
                if math.isfinite(value):
                    mean[name] = 0.95 * mean.get(name, value) + 0.05 * value
            self.step += 1
            self.pictures += len(batch.tokens)
            if self.step % _LOG_EVERY == 0 or self.step == order.stop:
                bar.set_postfix({k: f"{v:.3f}" for k, v in mean.items() if not k.endswith("_loss")})
                self._log(stage, mean)
            if time.monotonic() - saved > _SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()

    def _update(self, batch: Batch, stage: Stage) -> dict[str, float]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_has_bfloat16(self.device)):
            seen = losses(self.network, batch, stage)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        seen["loss"].backward()
        nn.utils.clip_grad_norm_([p for p in self.network.parameters() if p.grad is not None], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.item() for name, value in seen.items()}

    def _log(self, stage: Stage, mean: dict[str, float]) -> None:
        row = {"stage": stage.name, "step": self.step, "pictures": self.pictures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row | {name: round(value, 4) for name, value in mean.items()}) + "\n")

    def _save(self) -> None:
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers] if self.step else None,
            "at": (self.stage, self.step, self.pictures),
        }
        torch.save(state, self.folder / "state.new")
        (self.folder / "state.new").replace(self.folder / "state.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.device)
        self.network.load_state_dict(state["network"])
        self.stage, self.step, self.pictures = state["at"]
        if self.stage < len(self.stages):
            self.optimizers = optimizers(self.network, self.stages[self.stage])
            for optimizer, saved in zip(self.optimizers, state["optimizers"] or (), strict=False):
                optimizer.load_state_dict(saved)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies in bfloat16. A CPU without AVX-512 takes many times as long as in float32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and checkpoint")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see the loss fall")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Run(args.out, SMOKE if args.smoke else STAGES, device).train()


if __name__ == "__main__":
    main()
