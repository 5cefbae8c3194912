"""ONNX files of networks of others, by both of torch's exporters: the same units, and the law."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_detectors import torchvision_or_skip

import edgespa as es
from edgespa.models.from_onnx.opened import open_onnx

NAMES = (
    "torchvision:mobilenet_v3_small", "timm:convnextv2_atto", "torchvision:shufflenet_v2_x0_5", "timm:resnest14d",
    "torchvision:resnet18", "torchvision:densenet121", "segmentation:lraspp_mobilenet_v3_large",
    "timm:vit_tiny_patch16_224",
)  # fmt: skip
FIRST = [(NAMES[0], True), (NAMES[0], False), (NAMES[1], True)]
CASES = [
    pytest.param(name, newer, marks=() if (name, newer) in FIRST else pytest.mark.more)
    for name in NAMES
    for newer in (True, False)
]


@pytest.fixture(autouse=True)
def zoo() -> None:
    torchvision_or_skip()


@pytest.mark.filterwarnings("ignore")  # those of torch's older exporter
@pytest.mark.parametrize(("spec", "newer"), CASES)
def test_units_and_law(spec: str, newer: bool, tmp_path: Path) -> None:
    made = sys.modules["edgespa_zoo_networks"].network(spec)
    model = made.take().eval()
    sys.modules["edgespa_zoo_measure"].randomise(model)
    file = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, tuple(made.inputs), str(file), dynamo=newer, opset_version=18, verbose=False)
    read = es.inspect(file)
    own = es.inspect(model, input_shape=tuple(made.inputs[0].shape))
    assert sum(each["units"] for each in read.details["groups"]) == sum(each["units"] for each in own.details["groups"])
    task = es.prune(file, output=tmp_path / "cut.spa", density=0.5, method="l1")
    assert task.metrics["masked_compacted_error"] < 1e-4


def test_what_is_rare_is_left_to_the_library(tmp_path: Path) -> None:
    assert importlib.util.find_spec("onnx2torch") is not None
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("Atan", ["x"], ["y"])], "network",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 4, 4])],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)])
    model.ir_version = 8
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    found = open_onnx(str(tmp_path / "net.onnx"), ())
    x = torch.randn(2, 3, 4, 4)
    np.testing.assert_allclose(found.module(x), torch.atan(x), atol=1e-6)
