"""How many crops a picture gets: one policy for every route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phi_vision.model.geometry import native_num_crops
from phi_vision.spec import PHI_3_5_VISION

Detail = Literal["low", "high", "auto"]  # OpenAI's `image_url.detail`


@dataclass(frozen=True)
class CropLimit:
    """The most crops that one picture may get; how many it gets follows from its size."""

    most: int
    adaptive: bool = False  # never more than the picture's own pixels fill

    def num_crops(self, width: int, height: int) -> int:
        """`num_crops` of a picture of this size in pixels."""
        return native_num_crops(width, height, self.most) if self.adaptive else self.most


@dataclass(frozen=True)
class CropPolicy:
    """The model card's advice: many crops for one picture, few for each of several."""

    single: int = PHI_3_5_VISION.num_crops  # num_crops for the only picture of a request
    multi: int = PHI_3_5_VISION.num_crops_multi  # num_crops for each of several pictures
    adaptive: bool = False  # never more crops than the picture's own pixels fill

    def limit(self, num_pictures: int, detail: Detail | None = None) -> CropLimit:
        """What each of `num_pictures` in one request may have.

        Args:
            num_pictures: of the whole request.
            detail: what the client asked for; None stands for `auto`.
        """
        usual = self.single if num_pictures == 1 else self.multi
        most = {"low": 1, "high": max(self.single, self.multi)}.get(detail or "auto", usual)
        return CropLimit(most, self.adaptive)

    def num_crops(self, sizes: Sequence[tuple[int, int]], details: Sequence[Detail | None]) -> list[int]:
        """`num_crops` for each picture of one request.

        Args:
            sizes: (width, height) in pixels, one a picture.
            details: what the client asked for; None stands for `auto`.
        """
        pairs = zip(sizes, details, strict=True)
        return [self.limit(len(sizes), detail).num_crops(*size) for size, detail in pairs]
