"""What torchvision and timm do to an image before their models see it is done here, to the last bit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgespa.config import Preprocess
from edgespa.models.recorded import Recorded, of_timm, of_torchvision
from edgespa.pixels.picture import model_pixels, upright_pixels
from edgespa.pixels.values import normalised

networks = sys.modules["edgespa_zoo_networks"]
SIZES = ((480, 640), (331, 500), (500, 331), (97, 83), (1200, 31), (224, 224))
TORCHVISION = (
    "resnet18", "mobilenet_v2", "efficientnet_b0", "efficientnet_b3", "vit_b_16", "swin_t", "swin_v2_t",
    "convnext_tiny", "inception_v3", "googlenet", "regnet_y_400mf", "mobilenet_v3_large",
)  # fmt: skip
TIMM = (
    "resnet18.a1_in1k", "mobilenetv3_small_100.lamb_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "convnext_tiny.fb_in1k", "efficientnet_b0.ra_in1k", "tf_efficientnetv2_b0.in1k",
    "beit_base_patch16_224.in22k_ft_in22k", "eva02_tiny_patch14_336.mim_in22k_ft_in1k", "mobilevit_s.cvnets_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "nextvit_small.bd_ssld_6m_in1k", "tf_mixnet_s.in1k",
)  # fmt: skip


@pytest.fixture(autouse=True)
def zoo() -> None:
    if not (networks.names("torchvision") and networks.names("timm")):
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    networks.import_torchvision()


def found(recorded: Recorded, image: Image.Image, side: int | None = None) -> Any:
    assert recorded.size is not None
    assert recorded.mean is not None
    assert recorded.std is not None
    channels, height, width = recorded.size if side is None else (3, side, side)
    said = recorded.for_input(channels, height, width)
    how = Preprocess(
        channels=channels, height=height, width=width, mean=recorded.mean, std=recorded.std, **said
    ).model_dump()
    return normalised(model_pixels(upright_pixels(image), how), how)


def photograph(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    import torchvision

    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for size in SIZES:
        wanted = transforms(photograph(size)).numpy()
        np.testing.assert_array_equal(found(of_torchvision(transforms), photograph(size)), wanted)


@pytest.mark.parametrize("side", [None, 160])
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str, side: int | None) -> None:
    """As it is, and for an input of another size."""
    import timm
    from timm.data import create_transform, resolve_data_config

    config = timm.get_pretrained_cfg(name).to_dict()
    values = resolve_data_config({}, pretrained_cfg=config)
    if side is not None:
        values["input_size"] = (3, side, side)
    for size in SIZES:
        wanted = create_transform(**values)(photograph(size)).numpy()
        np.testing.assert_array_equal(found(of_timm(config), photograph(size), side), wanted)
