"""Masked = compacted, on inner activations too, over published architectures with random weights, norms and biases."""

from __future__ import annotations

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
# Two dimensions that could shrink and are merged: the one that more hangs on does. The other is positions of a table
# that is multiplied like a weight, or the channels of the one value of a multi-query attention, whose heads can go.
_MERGED = {"merged with another dimension that can shrink"}
# A mean over the states of a state-space layer: what a removed state gives there is not zero.
_MEAN = {"summed without weights, where removed channels are not zero (mean)"}
EXPLAINED = {
    "timm:halonet26t": _MERGED,
    "timm:botnet26t_256": _MERGED,
    "timm:csatv2": _MERGED,
    "timm:mobilenetv4_hybrid_medium": _MERGED,
    "timm:mobilenetv5_base": _MERGED,
    "timm:efficientvim_m1": _MEAN,
    "transformers:ViTMAEModel": {"indexed by data"},  # a random choice among normalised tokens
}
# Its gates multiply channels with normalised ones, and the rest is the normalised residual stream.
NOTHING_CAN_GO = {"timm:gmlp_ti16_224"}
NOT_CONVOLUTIONAL = ("vit_", "swin_", "maxvit", "convnext")


def test_masked_equals_compacted(network: str) -> None:
    row: dict[str, Any] = measure.apart(lambda: measure.measure(networks.network(network), seeds=3))
    assert "failure" not in row, row["failure"]
    assert row["error"] <= 1e-5
    assert row["activations"] > 10
    assert bool(row["units"]) == (network not in NOTHING_CAN_GO)
    assert "cost" not in row
    explained = (*MATHEMATICS, *EXPLAINED.get(network, ()))
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
