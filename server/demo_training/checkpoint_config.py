"""config.json of the demo: key by key as published, with the sizes made small."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from demo_training.tower import DIRECTIONS, RADII

HIDDEN = 288  # three heads of 96, as wide as the published model's
HEAD_PAIRS = 48  # rotary pairs of a head
VISION = {
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_attention_heads": len(DIRECTIONS),
    "num_hidden_layers": len(RADII) + 1,  # the feature is the output of the last but one
}


def build(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The configuration for a tokenizer."""
    slow = [max(0.0, (i - HEAD_PAIRS / 2) / (HEAD_PAIRS / 2)) for i in range(HEAD_PAIRS)]
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
        "hidden_size": HIDDEN,
        "img_processor": {
            "image_dim_out": VISION["hidden_size"],
            "name": "clip_vision_model",
            "num_img_tokens": 144,
            "vision_config": VISION,
        },
        "intermediate_size": 512,
        "max_position_embeddings": 131072,
        "num_attention_heads": HIDDEN // (2 * HEAD_PAIRS),
        "num_hidden_layers": 4,
        "num_key_value_heads": HIDDEN // (2 * HEAD_PAIRS),
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        # As in the published model the long factors stretch the slow rotations most, here up to 32 times.
        "rope_scaling": {
            "short_factor": [1.0 + i / HEAD_PAIRS for i in range(HEAD_PAIRS)],
            "long_factor": [1.0 + i / HEAD_PAIRS + 30 * slow[i] ** 2 for i in range(HEAD_PAIRS)],
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": -(-len(tokenizer) // 64) * 64,
    }
