"""What vLLM's API process does with pictures: canvases in, the prompt's image tokens out.

The server hands in canvases, drawn where the pictures were decoded. Plain pictures, which vLLM's memory
profiling and its offline classes hand in, are put on canvases first, by the policy in the engine's
`mm_processor_kwargs`. The canvas is all that crosses to the engine; see `hd` for what happens there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.model_executor.models.phi3v import (
    Phi3VDummyInputsBuilder,
    Phi3VMultiModalProcessor,
    Phi3VProcessingInfo,
)
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import ProcessorInputs
from vllm.multimodal.processing.processor import (
    PromptReplacement,
    PromptUpdate,
    ResolvedPromptUpdate,
    cached_encode,
)

from phi_vision.model.canvas import Canvas, resize_and_pad
from phi_vision.model.crops import CropLimit, CropPolicy
from phi_vision.model.geometry import num_image_tokens


def image_tag(index: int) -> str:
    """The placeholder of the picture with this index, counted from 0, as it stands in a prompt."""
    return f"<|image_{index + 1}|>"


class CanvasParser(MultiModalDataParser):
    """Puts the pictures of one request on canvases, where they are not yet."""

    def __init__(self, policy: CropPolicy, **options: Any) -> None:
        super().__init__(**options)
        self._policy = policy

    def _parse_image_data(self, data: Any) -> ImageProcessorItems | None:
        if data is None:
            return None
        images = data if isinstance(data, list) else [data]
        limit = self._policy.limit(len(images))
        return ImageProcessorItems([_canvas(image, limit) for image in images])


def _canvas(image: Any, limit: CropLimit) -> Canvas:
    if isinstance(image, Canvas):
        return image
    if image is None:
        raise ValueError("a picture must be sent with each request; a uuid alone stands for none")
    if isinstance(image, MediaWithBytes):
        image = image.media
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"a picture is a file, not {type(image).__name__}")
    num_crops = limit.num_crops(image.width, image.height)
    pixels = resize_and_pad(image, num_crops)
    return Canvas(pixels, image.width, image.height, num_crops, hashlib.sha256(pixels.data).hexdigest())


class HDProcessingInfo(Phi3VProcessingInfo):
    """Sizes and limits, without the checkpoint's own (remote) processor."""

    def crop_policy(self) -> CropPolicy:
        """The policy that the engine was started with."""
        return CropPolicy(**self.ctx.get_merged_mm_kwargs({}))

    def get_data_parser(self) -> MultiModalDataParser:
        """What makes canvases of plain pictures."""
        return CanvasParser(self.crop_policy(), expected_hidden_size=self._get_expected_hidden_size())

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
    """Canvases to tensors, tags to image tokens.

    Inherited from vLLM: text between tags is tokenised piece by piece, each piece beginning with
    `<s>`, as the original processor does.
    """

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, Any]
    ) -> BatchFeature:
        # Empty where every picture of the request came from the cache.
        canvases = mm_items.get("image", ())
        return BatchFeature({"canvas": [torch.from_numpy(canvas.pixels) for canvas in canvases]})

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
        image_token_id = self.info.get_hf_config().image_token_id

        def image_tokens(item_idx: int) -> list[int]:
            return [image_token_id] * mm_items["image"][item_idx].num_image_tokens

        return [PromptReplacement(modality="image", target=self._tag_ids, replacement=image_tokens)]

    def _recompute_cached_prompt_update(
        self, cached_update: ResolvedPromptUpdate, new_item_idx: int
    ) -> ResolvedPromptUpdate:
        # A cached picture may stand at another place in this request: only its tag changes.
        return replace(cached_update, item_idx=new_item_idx, target=self._tag_ids(new_item_idx))

    def _tag_ids(self, item_idx: int) -> list[int]:
        return cached_encode(self.info.get_tokenizer(), image_tag(item_idx), add_special_tokens=False)

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> dict[str, list[str]]:
        """File and crops identify a canvas, wherever in a request it stands. A client's `uuid` does not."""
        items = inputs.mm_data_items.items()
        return {modality: [canvas.key for canvas in canvases] for modality, canvases in items}
