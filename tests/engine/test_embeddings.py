"""Our image embeddings against vLLM's stock class on the same random weights.

The tower is CLIP-L's in width, patches and heads, with fewer layers: all 24 take minutes on a CPU.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from phi_vision.model.canvas import resize_and_pad
from phi_vision.model.config import Phi3VConfig
from phi_vision.model.geometry import CROP_PX
from phi_vision.model.hd import tile_canvas
from phi_vision.model.phi3v import HDImageEmbedding
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import (
    cleanup_dist_env_and_memory,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.model_executor.models import phi3v

from tests.support.pictures import reference_picture

pytestmark = pytest.mark.slow

HIDDEN = 64  # of the language model: the projector's width
LAYERS = 4  # of the tower

# (width, height, num_crops): landscape, portrait, one crop, and a wide one.
PICTURES = [(800, 600, 4), (300, 700, 3), (336, 336, 1), (900, 250, 4)]


# As in the published config.json: the tower is named, not described.
PUBLISHED = {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144}


def test_the_published_config_means_clip_l_336() -> None:
    config = Phi3VConfig(img_processor=PUBLISHED)
    stock = phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG
    assert config.clip_config.to_dict() | {"dropout": 0.0} == stock.to_dict()
    assert config.clip_layers_used == 23
    assert config.image_token_id == phi3v._IMAGE_TOKEN_ID == 32044


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HDImageEmbedding, torch.nn.Module]]:
    """Both classes with equal weights, float32."""
    config = Phi3VConfig(
        hidden_size=HIDDEN,
        num_attention_heads=2,
        num_key_value_heads=2,
        img_processor=PUBLISHED | {"vision_config": {"num_hidden_layers": LAYERS}},
        embd_layer={
            "hd_transform_order": "sub_glb",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
    )
    rendezvous = tmp_path_factory.mktemp("dist") / "rendezvous"
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{rendezvous}", 0, backend="gloo")
        initialize_model_parallel(1)
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:  # the stock class reads its tower's size from a constant
            patch.setattr(phi3v, "CLIP_VIT_LARGE_PATCH14_336_CONFIG", config.clip_config)
            stock = phi3v.Phi3HDImageEmbedding(config, quant_config=None, prefix="stock").float()
        for name, weight in stock.named_parameters():
            torch.nn.init.normal_(weight, std=0.02 if weight.dim() > 1 else 0.1)
            if name.endswith("norm.weight") or "layer_norm" in name or "layrnorm" in name:
                weight.data += 1
        ours = HDImageEmbedding(config, quant_config=None, prefix="ours").float()
        ours.load_state_dict(stock.state_dict())
        for module in [*stock.modules(), *ours.modules()]:
            if hasattr(module, "quant_method"):  # chooses the kernels, as vLLM does after loading
                module.quant_method.process_weights_after_loading(module)
        with torch.inference_mode():
            yield ours, stock
    cleanup_dist_env_and_memory()


def stock_inputs(canvases: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the stock class wants: every picture padded with empty crops to the longest."""
    seen = [tile_canvas(canvas) for canvas in canvases]
    longest = max(map(len, seen))
    padded = [torch.cat([v, v.new_zeros(longest - len(v), 3, CROP_PX, CROP_PX)]) for v in seen]
    sizes = torch.tensor([canvas.shape[1:] for canvas in canvases])
    return torch.stack(padded), sizes


def canvas_of(index: int) -> torch.Tensor:
    width, height, num_crops = PICTURES[index]
    return torch.from_numpy(resize_and_pad(reference_picture(width, height, index), num_crops))


@pytest.mark.parametrize(
    "indexes",
    [[0], *(pytest.param(i, marks=pytest.mark.full) for i in ([1], [2], [3], [2, 1, 3]))],
    ids=str,
)
def test_equal_to_vllms_stock_class(
    towers: tuple[HDImageEmbedding, torch.nn.Module], indexes: list[int]
) -> None:
    ours, stock = towers
    canvases = [canvas_of(i) for i in indexes]
    got = ours(canvases)
    expected = stock(*stock_inputs(canvases))
    assert len(got) == len(expected) == len(indexes)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-4)
        assert mine.std() > 0.01  # not equal for being nothing


def test_the_normalisation_lies_beside_the_weights(towers: tuple[HDImageEmbedding, torch.nn.Module]) -> None:
    ours, _ = towers
    assert "mean_std" in dict(ours.named_buffers()) and "mean_std" not in ours.state_dict()
