"""The demo model: Phi-3.5-vision's architecture in small, for machines without the weights.

Written on first use to the user's cache, in the layout of the published checkpoint, so that it is
loaded by the same code. Its weights are random and seeded: answers are well-formed and repeatable,
and mean nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from phi_vision.config import cache_dir

_VERSION = 2  # raise it when anything below changes: old copies in users' caches are then left alone
_SEED = 35

_LAYERS = 4
_HIDDEN = 192  # two heads of 96, as wide as the published model's
_HEADS = 2
_MLP = 512
_HEAD_PAIRS = 48  # rotary pairs of a head
_VISION = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 3}

# Phi-3's special tokens, in its order. The roles swallow the white space behind them.
_SPECIAL = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|image|>")
_ROLES = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def _tokenizer() -> PreTrainedTokenizerFast:
    """A Llama-style tokenizer without merges: one token a printable character, bytes for the rest."""
    pieces = ["<unk>", "<s>", "</s>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁"] + [chr(code) for code in range(0x21, 0x7F)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A <s> $B", [("<s>", vocab["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, rstrip=piece in _ROLES) for piece in _SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=131072,
        clean_up_tokenization_spaces=False,
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """config.json, key by key as published, with the sizes made small."""
    return {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image|>"),
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "hidden_act": "silu",
        "hidden_size": _HIDDEN,
        "img_processor": {
            "image_dim_out": _VISION["hidden_size"],
            "name": "clip_vision_model",
            "num_img_tokens": 144,
            "vision_config": _VISION,
        },
        "intermediate_size": _MLP,
        "max_position_embeddings": 131072,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "num_key_value_heads": _HEADS,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "short_factor": [1.0 + i / _HEAD_PAIRS for i in range(_HEAD_PAIRS)],
            "long_factor": [1.0 + i for i in range(_HEAD_PAIRS)],
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": -(-len(tokenizer) // 64) * 64,
    }


def _weights(vocab_size: int, sayable: list[int]) -> dict[str, torch.Tensor]:
    """Seeded random weights under the published names, bf16; only the tokens `sayable` can be answers."""
    generator = torch.Generator().manual_seed(_SEED)

    def matrix(*shape: int, std: float | None = None) -> torch.Tensor:
        scale = std if std is not None else shape[-1] ** -0.5
        return (torch.randn(*shape, generator=generator) * scale).bfloat16()

    def norm(name: str, dim: int, *, bias: bool = False) -> None:
        weights[f"{name}.weight"] = torch.ones(dim, dtype=torch.bfloat16)
        if bias:
            weights[f"{name}.bias"] = torch.zeros(dim, dtype=torch.bfloat16)

    def linear(name: str, out_dim: int, in_dim: int, *, bias: bool = False) -> None:
        weights[f"{name}.weight"] = matrix(out_dim, in_dim)
        if bias:
            weights[f"{name}.bias"] = torch.zeros(out_dim, dtype=torch.bfloat16)

    weights: dict[str, torch.Tensor] = {"model.embed_tokens.weight": matrix(vocab_size, _HIDDEN, std=0.5)}
    for i in range(_LAYERS):
        layer = f"model.layers.{i}"
        norm(f"{layer}.input_layernorm", _HIDDEN)
        linear(f"{layer}.self_attn.qkv_proj", 3 * _HIDDEN, _HIDDEN)
        linear(f"{layer}.self_attn.o_proj", _HIDDEN, _HIDDEN)
        norm(f"{layer}.post_attention_layernorm", _HIDDEN)
        linear(f"{layer}.mlp.gate_up_proj", 2 * _MLP, _HIDDEN)
        linear(f"{layer}.mlp.down_proj", _HIDDEN, _MLP)
    norm("model.norm", _HIDDEN)
    linear("lm_head", vocab_size, _HIDDEN)
    silent = torch.ones(vocab_size, dtype=torch.bool)
    silent[sayable] = False
    weights["lm_head.weight"][silent] = 0  # the best of many random scores is above this

    vision = "model.vision_embed_tokens"
    dim, mlp = _VISION["hidden_size"], _VISION["intermediate_size"]
    weights[f"{vision}.glb_GN"] = matrix(1, 1, 4 * dim, std=0.5)
    weights[f"{vision}.sub_GN"] = matrix(1, 1, 1, 4 * dim, std=0.5)
    linear(f"{vision}.img_projection.0", _HIDDEN, 4 * dim, bias=True)
    linear(f"{vision}.img_projection.2", _HIDDEN, _HIDDEN, bias=True)
    clip = f"{vision}.img_processor.vision_model"
    weights[f"{clip}.embeddings.class_embedding"] = matrix(dim, std=0.5)
    weights[f"{clip}.embeddings.patch_embedding.weight"] = matrix(dim, 3, 14, 14, std=0.1)
    weights[f"{clip}.embeddings.position_embedding.weight"] = matrix(577, dim, std=0.5)
    norm(f"{clip}.pre_layrnorm", dim, bias=True)
    for i in range(_VISION["num_hidden_layers"]):
        layer = f"{clip}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{part}", dim, dim, bias=True)
        norm(f"{layer}.layer_norm1", dim, bias=True)
        norm(f"{layer}.layer_norm2", dim, bias=True)
        linear(f"{layer}.mlp.fc1", mlp, dim, bias=True)
        linear(f"{layer}.mlp.fc2", dim, mlp, bias=True)
    norm(f"{clip}.post_layernorm", dim, bias=True)
    return weights


def write_checkpoint(directory: Path) -> None:
    """Write config, tokenizer and weights into `directory`, which must exist."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(directory)
    config = _config(tokenizer)
    ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>", "<|endoftext|>"])
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "generation_config.json").write_text(
        json.dumps({"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends})
    )
    # Letters and the like, and an end now and then: something to look at, unlike raw bytes.
    sayable = [
        *range(tokenizer.convert_tokens_to_ids("▁"), tokenizer.convert_tokens_to_ids("~") + 1),
        ends[0],
    ]
    weights = _weights(int(str(config["vocab_size"])), sayable)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def demo_checkpoint() -> Path:
    """The demo checkpoint in the user's cache, written there first if it is not yet.

    Raises:
        OSError: the cache cannot be written.
    """
    target = cache_dir() / f"demo-{_VERSION}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, also when two servers start at once.
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".demo-"))
        try:
            write_checkpoint(draft)
            draft.chmod(0o755)
            os.rename(draft, target)
        except (OSError, SafetensorError) as error:  # the latter on a full disk
            shutil.rmtree(draft, ignore_errors=True)
            if not target.exists():
                raise OSError(str(error)) from error
    return target
