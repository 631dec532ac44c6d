"""End every answer where the model ends it.

Symptom: answers of a plain chat go on after `<|end|>`.
Cause: vLLM takes the tokens that end an answer from the tokenizer, which names `<|endoftext|>` alone, and
from a generation_config.json, which a checkpoint need not have.
Can go: when vLLM takes these tokens from a flag. `stop_token_ids` of a request would not do: they also end
answers to requests with `ignore_eos`.
"""

from __future__ import annotations

from vllm.engine.protocol import EngineClient

from phi_vision.spec import PHI_3_5_VISION


def install(engine_client: EngineClient) -> None:
    """Add the model's stop tokens to those that this engine ends answers at, on all routes."""
    ids = engine_client.renderer.get_tokenizer().convert_tokens_to_ids(list(PHI_3_5_VISION.stop_tokens))
    fields = engine_client.input_processor.generation_config_fields
    configured = fields.get("eos_token_id") or []
    fields["eos_token_id"] = [*ids, *([configured] if isinstance(configured, int) else configured)]
