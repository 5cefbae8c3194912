"""Narrower heads over published transformers: what they cost, and how wide layers become, is foretold."""

from __future__ import annotations

import sys
from typing import Any

import pytest

networks, measure = sys.modules["edgespa_zoo_networks"], sys.modules["edgespa_zoo_measure"]

NARROWER = (
    "torchvision:vit_b_16", "transformers:ViTForImageClassification", "transformers:SwinForImageClassification",
    "transformers:PvtForImageClassification", "transformers:SegformerForImageClassification",
    "transformers:Dinov2ForImageClassification", "transformers:CLIPVisionModelWithProjection",
    "transformers:YolosForObjectDetection", "transformers:MobileViTForImageClassification",
)  # fmt: skip
# Queries and keys go through convolutions and their norms, or are not linear in other ways.
AS_THEY_ARE = ("transformers:CvtForImageClassification", "transformers:LevitForImageClassification")


@pytest.mark.more
@pytest.mark.parametrize("name", [*NARROWER, *AS_THEY_ARE])
def test_what_narrower_heads_cost_is_foretold(name: str) -> None:
    if name not in networks.names(name.partition(":")[0]):
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    row: dict[str, Any] = measure.apart(lambda: measure.measure_heads(networks.network(name)))
    assert "failure" not in row, row["failure"]
    assert bool(row["widths"]) == (name in NARROWER)
    if row["widths"]:
        assert row["macs"] < 1e-6
        assert row["parameters"] < 1e-6
        assert row["layers_off"] == 0
