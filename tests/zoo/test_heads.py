"""Narrower heads over published transformers: what they cost, and how wide layers become, is foretold."""

from __future__ import annotations

import sys
from typing import Any

import pytest

networks, measure = sys.modules["edgespa_zoo_networks"], sys.modules["edgespa_zoo_measure"]

NARROWER = (
    "timm:beit_base_patch16_224", "timm:cait_xxs24_224", "timm:coat_lite_tiny", "timm:convit_tiny",
    "timm:crossvit_tiny_240", "timm:davit_tiny", "timm:deit_tiny_distilled_patch16_224", "timm:edgenext_xx_small",
    "timm:efficientformer_l1", "timm:hiera_tiny_224", "timm:maxvit_tiny_rw_224", "timm:mobilevit_xxs",
    "timm:mvitv2_tiny", "timm:nest_tiny", "timm:pit_ti_224", "timm:pvt_v2_b0", "timm:samvit_base_patch16_224",
    "timm:swin_tiny_patch4_window7_224", "timm:swinv2_tiny_window8_256", "timm:tiny_vit_5m_224",
    "timm:twins_svt_small", "timm:visformer_tiny", "timm:vit_relpos_small_patch16_224", "timm:volo_d1_224",
    "timm:xcit_nano_12_p16_224", "timm:eva02_tiny_patch14_224", "timm:levit_128s", "timm:tnt_s_patch16_224",
    "torchvision:vit_b_16", "torchvision:swin_v2_t",
    "transformers:ViTForImageClassification", "transformers:SwinForImageClassification",
    "transformers:PvtForImageClassification", "transformers:SegformerForImageClassification",
    "transformers:CvtForImageClassification", "transformers:MobileViTForImageClassification",
    "transformers:Dinov2ForImageClassification", "transformers:CLIPVisionModelWithProjection",
    "transformers:YolosForObjectDetection", "transformers:LevitForImageClassification",
)  # fmt: skip


@pytest.mark.more
@pytest.mark.parametrize("name", NARROWER)
def test_what_narrower_heads_cost_is_foretold(name: str) -> None:
    if name not in networks.names(name.partition(":")[0]):
        pytest.skip("ZOO ABSENT: torchvision and timm are not installed; make zoo")
    row: dict[str, Any] = measure.apart(lambda: measure.measure_heads(networks.network(name)))
    assert "failure" not in row, row["failure"]
    if row["widths"]:
        assert row["macs"] < 1e-6
        assert row["parameters"] < 1e-6
        assert row["layers_off"] == 0
