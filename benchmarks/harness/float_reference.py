"""The image path of the published processor, step by step: what a server hands over without ours.

Resize, white padding, ToTensor, normalise, bicubic global view, crops, zero padding to `num_crops + 1`.
Source: `processing_phi3_v.py` of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageOps

_SIDE = 336
_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)


def process(image: Image.Image, num_crops: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """One picture as the published processor gives it.

    Returns:
        float32, (num_crops + 1, 3, 336, 336), global view first, zeros behind the last crop; and the
        canvas' (height, width) in pixels.
    """
    canvas = _hd_transform(image.convert("RGB"), num_crops)
    tensor = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous().float().div(255)
    tensor = (tensor - _MEAN) / _STD
    height, width = tensor.shape[1:]
    overview = torch.nn.functional.interpolate(tensor[None], size=(_SIDE, _SIDE), mode="bicubic")
    crops = (
        tensor.reshape(3, height // _SIDE, _SIDE, width // _SIDE, _SIDE)
        .permute(1, 3, 0, 2, 4)
        .reshape(-1, 3, _SIDE, _SIDE)
    )
    views = torch.cat([overview, crops])
    padding = torch.zeros(num_crops + 1 - len(views), 3, _SIDE, _SIDE)
    return torch.cat([views, padding]), (height, width)


def _hd_transform(image: Image.Image, num_crops: int) -> Image.Image:
    portrait = image.width < image.height
    if portrait:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    ratio = image.width / image.height
    scale = 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    width = (scale - 1) * _SIDE
    image = image.resize((width, int(width / ratio)), Image.Resampling.BILINEAR)
    padded_height = math.ceil(image.height / _SIDE) * _SIDE
    above = int((padded_height - image.height) / 2)
    image = ImageOps.expand(image, (0, above, 0, padded_height - image.height - above), "white")
    return image.transpose(Image.Transpose.TRANSPOSE) if portrait else image
