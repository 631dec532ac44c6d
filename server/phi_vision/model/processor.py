"""What vLLM's API process does with pictures: a uint8 canvas each, and the prompt's image tokens.

The canvas is all that crosses to the engine; see `hd` for the split. How many crops a picture gets
comes with the request (`num_crops`, one number a picture) or, on routes that do not say, from the
policy in the engine's `mm_processor_kwargs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import BatchFeature
from vllm.model_executor.models.phi3v import (
    Phi3VDummyInputsBuilder,
    Phi3VMultiModalProcessor,
    Phi3VProcessingInfo,
)
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing import ProcessorInputs
from vllm.multimodal.processing.processor import (
    MultiModalIsCached,
    PromptReplacement,
    PromptUpdate,
    ResolvedPromptUpdate,
    cached_encode,
)

from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import CROP_PX, canvas_tokens, num_image_tokens
from phi_vision.model.hd import resize_and_pad


def image_tag(index: int) -> str:
    """The placeholder of the picture with this index, counted from 0, as it stands in a prompt."""
    return f"<|image_{index + 1}|>"


class HDProcessingInfo(Phi3VProcessingInfo):
    """Sizes and limits, without the checkpoint's own (remote) processor."""

    def crop_policy(self) -> CropPolicy:
        """The policy that the engine was started with."""
        return CropPolicy(**self.ctx.get_merged_mm_kwargs({}))

    def num_crops(self, items: MultiModalDataItems, kwargs: Mapping[str, Any]) -> list[int]:
        """`num_crops` of each picture: the request's own list, else the policy's choice."""
        images = items.get_items("image", ImageProcessorItems)
        if "num_crops" in kwargs:
            chosen = list(kwargs["num_crops"])
            if len(chosen) != len(images):
                raise ValueError(f"num_crops has {len(chosen)} entries for {len(images)} pictures")
            return chosen
        sizes = [images.get_image_size(i) for i in range(len(images))]
        return self.crop_policy().num_crops([(s.width, s.height) for s in sizes], [None] * len(sizes))

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Tokens of the worst picture: a column of crops has the most separators."""
        worst = self.get_image_size_with_most_features()
        policy = self.crop_policy()
        return {"image": num_image_tokens(worst.width, worst.height, max(policy.single, policy.multi))}


class HDDummyInputsBuilder(Phi3VDummyInputsBuilder):
    """Worst-case pictures for vLLM's memory profiling."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The tags of that many pictures."""
        return "".join(map(image_tag, range(mm_counts.get("image", 0))))


class HDMultiModalProcessor(Phi3VMultiModalProcessor):
    """Pictures to canvases, tags to image tokens.

    Inherited from vLLM: text between tags is tokenised piece by piece, each piece beginning with
    `<s>`, as the original processor does.
    """

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, Any]
    ) -> BatchFeature:
        # Empty where every picture of the request came from the cache.
        if not mm_items.get_all_counts().get("image"):
            return BatchFeature()
        images = mm_items.get_items("image", ImageProcessorItems)
        chosen = self.info.num_crops(mm_items, hf_kwargs)
        return BatchFeature(
            {"canvas": [resize_and_pad(images.get(i), n) for i, n in enumerate(chosen)]}  # (3, H, W) each
        )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"canvas": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        def image_tokens(item_idx: int) -> list[int]:
            _, height, width = out_mm_kwargs["image"][item_idx]["canvas"].data.shape
            image_token_id = self.info.get_hf_config().image_token_id
            return [image_token_id] * canvas_tokens(height // CROP_PX, width // CROP_PX)

        return [PromptReplacement(modality="image", target=self._tag_ids, replacement=image_tokens)]

    def _recompute_cached_prompt_update(
        self, cached_update: ResolvedPromptUpdate, new_item_idx: int
    ) -> ResolvedPromptUpdate:
        # A cached picture may stand at another place in this request: only its tag changes.
        return replace(cached_update, item_idx=new_item_idx, target=self._tag_ids(new_item_idx))

    def _tag_ids(self, item_idx: int) -> list[int]:
        return cached_encode(self.info.get_tokenizer(), image_tag(item_idx), add_special_tokens=False)

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        """Picture and crops identify a canvas, wherever in a request the picture stands."""
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs={}))
        chosen = self.info.num_crops(inputs.mm_data_items, inputs.hf_processor_mm_kwargs)
        return {"image": [f"{key}-{n}" for key, n in zip(hashes["image"], chosen, strict=True)]}

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: MultiModalIsCached
    ) -> Mapping[str, object]:
        # Decided on the whole request: the policy must not see only the missing pictures.
        chosen = self.info.num_crops(inputs.mm_data_items, inputs.hf_processor_mm_kwargs)
        missing = [n for n, cached in zip(chosen, mm_is_cached["image"], strict=True) if not cached]
        return {"num_crops": missing}
