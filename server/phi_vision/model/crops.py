"""How many crops a picture gets: one policy, asked by every route and by the processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phi_vision.model.geometry import native_num_crops
from phi_vision.spec import PHI_3_5_VISION

Detail = Literal["low", "high", "auto"]  # OpenAI's `image_url.detail`


@dataclass(frozen=True)
class CropPolicy:
    """The model card's advice: many crops for one picture, few for each of several."""

    single: int = PHI_3_5_VISION.num_crops  # num_crops for the only picture of a request
    multi: int = PHI_3_5_VISION.num_crops_multi  # num_crops for each of several pictures
    adaptive: bool = False  # never more crops than the picture's own pixels fill

    def num_crops(self, sizes: Sequence[tuple[int, int]], details: Sequence[Detail | None]) -> list[int]:
        """`num_crops` for each picture of one request.

        Args:
            sizes: (width, height) in pixels, one a picture.
            details: what the client asked for; None stands for `auto`.
        """
        policy = self.single if len(sizes) == 1 else self.multi
        chosen = []
        for (width, height), detail in zip(sizes, details, strict=True):
            limit = {"low": 1, "high": max(self.single, self.multi)}.get(detail or "auto", policy)
            chosen.append(native_num_crops(width, height, limit) if self.adaptive else limit)
        return chosen
