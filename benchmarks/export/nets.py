"""Networks without trained weights, made so that their activations are those of trained ones in size.

Random weights alone say nothing about int8: the outputs of torchvision's EfficientNet-B0 are then some 1e-14 large and
the same for all images, and ConvNeXt's blocks add a millionth to what they are given.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from networks import import_torchvision
from torch import nn

from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data"))
IMAGES, SIDE = 64, 224
_LAYER_SCALE = 0.5


def images_of(side: int) -> Prepared:
    """The images of this benchmark, in the size of a network."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if side == 32 else ((0.5,) * 3, (0.5,) * 3)
    how = Preprocess(height=side, width=side, channels=3, mean=mean, std=std)
    return prepare(load_data(f"{DATA}/cifar10_jpeg.zip:test").limit(IMAGES, 0), how)


def efficientnet_b0() -> nn.Module:
    """Random weights; the statistics of each batch norm are those of the images."""
    model = import_torchvision().models.efficientnet_b0(weights=None, dropout=0.0, stochastic_depth_prob=0.0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    with torch.no_grad():
        model.train()(images_of(SIDE).tensor(list(range(IMAGES))))
    return model.eval()


def convnext_tiny() -> nn.Module:
    """Random weights; each block counts half of what it computes."""
    convnext = import_torchvision().models.convnext
    model = convnext.convnext_tiny(weights=None)
    for part in model.modules():
        if isinstance(part, convnext.CNBlock):
            nn.init.constant_(part.layer_scale, _LAYER_SCALE)
    return model.eval()
