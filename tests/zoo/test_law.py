"""Masked = compacted, on inner activations too, over published architectures with random weights, norms and biases."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

networks, measure = sys.modules["edgespa_zoo_networks"], sys.modules["edgespa_zoo_measure"]

# What may keep a channel: a statistic over all channels, or what stands at a place that matters.
MATHEMATICS = (
    "layer_norm statistics", "rms_norm statistics", "group norm with one group", "group norm statistics",
    "amax over the channels", "softmax over the dimension", "var over the channels", "var_mean over the channels",
    "space that a convolution window slides over", "read at a fixed position",
    "shared by the parts (heads) of a split dimension",
)  # fmt: skip
# Tables of positions that are multiplied like weights: their rows are positions of the image and no channels.
POSITIONS = {
    "timm:halonet26t": {"merged with another dimension that can shrink"},
    "timm:botnet26t_256": {"merged with another dimension that can shrink"},
    "timm:csatv2": {"merged with another dimension that can shrink"},
}
NOT_CONVOLUTIONAL = ("vit_", "swin_", "maxvit", "convnext")


def test_masked_equals_compacted(network: str) -> None:
    gc.collect()
    row: dict[str, Any] = measure.measure(networks.network(network), seeds=3)
    assert row["error"] <= 1e-5
    assert row["activations"] > 10
    assert row["units"] > 0
    assert "cost" not in row
    explained = (*MATHEMATICS, *POSITIONS.get(network, ()))
    # what is tied to a tensor that cannot shrink has its reason there
    assert not [why for why in row["fixed_channels"] if not why.startswith(explained) and "cannot shrink" not in why]
    library, _, name = network.partition(":")
    if library in {"torchvision", "segmentation"} and not name.startswith(NOT_CONVOLUTIONAL):
        assert row["removable_channels"] >= 0.95 * row["channels"]


def test_zoo_is_whole() -> None:
    if not networks.names("timm"):
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    assert len(networks.names("torchvision")) == 80
    assert len(networks.names("timm")) >= 60
    assert len(networks.names("transformers")) >= 12
