"""Detectors and segmenters of transformers, opened by what a configuration says, without weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.models.interface import output_shapes
from edgespa.tasks.base import Base

networks: Any = sys.modules["edgespa_zoo_networks"]

STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
HEADS = STAGES | {"num_attention_heads": [1, 2, 3, 4]}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DETR = {
    "use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False, "d_model": 32, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "num_queries": 10, "num_labels": 4,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], tuple[tuple[int | None, ...], ...]]] = {
    "SegformerForSemanticSegmentation": (
        "Segformer", HEADS | {"decoder_hidden_size": 32, "num_labels": 5}, ((None, 5, 16, 16),),
    ),
    "YolosForObjectDetection": (
        "Yolos", LAYERS | {"image_size": [64, 64], "num_detection_tokens": 10, "num_labels": 4},
        ((None, 10, 5), (None, 10, 4)),
    ),
    "DetrForObjectDetection": ("Detr", DETR, ((None, 10, 5), (None, 10, 4))),
    "GLPNForDepthEstimation": ("GLPN", HEADS | {"decoder_hidden_size": 16}, ((None, 64, 64),)),
}  # fmt: skip
SOME = "YolosForObjectDetection"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == SOME else [pytest.mark.more]) for n in CASES])
def test_masked_is_compacted(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="ZOO ABSENT: make zoo")
    networks.import_torchvision()
    kind, settings, shapes = CASES[name]
    if kind == "Detr":
        backbone = transformers.ResNetConfig(embedding_size=8, **STAGES, layer_type="basic", out_features=["stage4"])
        settings = settings | {"backbone_config": backbone}
    config = getattr(transformers, f"{kind}Config")(**settings)
    config.architectures = [name]
    config.save_pretrained(tmp_path / "m")
    base = Base.open(f"hf:{tmp_path / 'm'}", (1, 3, 64, 64), "random")
    assert output_shapes(base.program) == shapes
    random, kept = np.random.default_rng(0), {}
    for group in base.groups.groups.values():
        mask = random.random(len(group)) < 0.6
        mask[0] = True
        kept[group.name] = mask
    small = compact(base.program, base.groups, kept)
    prove(base.program, base.groups, kept, small, base.program.example_inputs()).require()
    assert base.cost.cost(kept).macs < 0.9 * base.cost.cost().macs
