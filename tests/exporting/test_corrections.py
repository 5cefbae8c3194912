"""Rounded weights and moved biases: found for the layers of files, and in those files to the last level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgespa.exporting.conversion import CONVERTERS
from edgespa.exporting.converter import Form
from edgespa.exporting.corrections import Corrections, matched
from edgespa.exporting.onnx_quant import OnnxQuantiser
from edgespa.exporting.running import run_program, runs_of
from edgespa.exporting.tflite_quant import TfliteQuantiser
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.quantisation.ranges import find_ranges
from edgespa.quantisation.walk import Corrected

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
QUANTISERS: dict[str, Any] = {"onnx": OnnxQuantiser, "tflite": TfliteQuantiser}


def layers_in(path: Path) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    """Weights and biases of an int8 file's layers as numbers, output channels first, in its order."""
    return _in_onnx(path) if path.suffix == ".onnx" else _in_tflite(path)


def _in_onnx(path: Path) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    import onnx

    model = onnx.load(path)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in held:
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
            levels, scale = held[node.input[0]].astype(np.float64), held[node.input[1]]
            shape = [-1 if place == axis else 1 for place in range(levels.ndim)] if scale.ndim else []
            held[node.output[0]] = levels * scale.reshape(shape)
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in held:
            turned = node.op_type == "MatMul" or (
                node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute)
            )
            weight = held[node.input[1]]
            bias = held[node.input[2]] if len(node.input) > 2 else None
            found.append(((weight.T if turned else weight).reshape(weight.shape[-1 if turned else 0], -1), bias))
    return found


def _in_tflite(path: Path) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(str(path))
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    types = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}

    def numbers(place: int, axis: int) -> NDArray[Any] | None:
        tensor = graph.tensors[place]
        if place < 0 or tensor.type not in types or model.buffers[tensor.buffer].data is None:
            return None
        raw = np.frombuffer(bytes(model.buffers[tensor.buffer].data), types[tensor.type]).reshape(tensor.shape)
        scale = np.asarray(tensor.quantization.scale, np.float64)
        return raw * scale.reshape([-1 if each == axis else 1 for each in range(raw.ndim)])

    found = []
    for node in graph.operators:
        code = model.operatorCodes[node.opcodeIndex].builtinCode
        if code not in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED):
            continue
        axis = 3 if code == kinds.DEPTHWISE_CONV_2D else 0
        weight = numbers(node.inputs[1], axis)
        if weight is not None:
            bias = numbers(node.inputs[2], 0) if len(node.inputs) > 2 else None
            found.append((np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1), bias))
    return found


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_files_have_the_very_levels(network: tuple[str, Program], kind: str, tmp_path: Path) -> None:
    name, program = network
    source = tmp_path / f"plain.{kind}"
    CONVERTERS[kind].write_fp32(program, source, Form())
    quantiser = QUANTISERS[kind](source)
    (images,) = program.example_inputs(16, seed=5)
    turned = images.permute(0, 2, 3, 1) if kind == "tflite" else images
    observed = quantiser.observe([[each[None].numpy()] for each in turned])
    ranges = find_ranges(observed, "minmax")
    corrections = Corrections(program, runs_of(program, [images], 8)).of(quantiser.weights(), "minmax")
    # What is flattened behind an image is turned with it in TFLite; norms before layers are in their weights.
    missing = {("Plain", "tflite"): 1}.get((name, kind), 0)
    assert len(corrections) == len(quantiser.layers) - missing
    plain, corrected = tmp_path / f"nearest.{kind}", tmp_path / f"corrected.{kind}"
    quantiser.write_static(plain, ranges)
    quantiser.write_static(corrected, ranges, corrections=corrections)
    moved = 0
    for layer, (before, old), (after, new) in zip(
        quantiser.layers, layers_in(plain), layers_in(corrected), strict=True
    ):
        if layer not in corrections:
            np.testing.assert_array_equal(before, after)
            continue
        own = corrections[layer]
        level = np.abs(own.rows).max(axis=1, keepdims=True) / 127
        np.testing.assert_allclose(after, own.rows, atol=1e-4 * float(level.max()))
        moved += int((np.abs(after - before) > 0.5 * level).sum())
        if old is not None and new is not None:
            np.testing.assert_allclose(new - old, own.shift, atol=1e-3 * max(1e-3, float(np.abs(old).max())))
    assert moved  # else nothing was asked


class Wide(nn.Module):
    """Layers enough for int8 to cost something, of inputs that say much the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.mix = nn.Conv2d(32, 48, 1)
        self.last = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = nn.functional.relu6(self.depthwise(x))
        return self.last(torch.relu(self.mix(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_outputs_come_nearer(kind: str, tmp_path: Path) -> None:
    from edgespa.bundle import TensorSpec
    from edgespa.exporting import onnx_file, tflite_file
    from edgespa.exporting.parity import File

    program = trace(Wide().eval(), (torch.randn(2, 3, 16, 16),))
    source = tmp_path / f"plain.{kind}"
    CONVERTERS[kind].write_fp32(program, source, Form())
    quantiser = QUANTISERS[kind](source)
    smooth = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4), size=16, mode="bilinear")
    images, judged = smooth[:32], smooth[32:]
    turned = images.permute(0, 2, 3, 1) if kind == "tflite" else images
    ranges = find_ranges(quantiser.observe([[each[None].numpy()] for each in turned]), "minmax")
    corrections = Corrections(program, runs_of(program, [images], 8)).of(quantiser.weights(), "minmax")
    wanted = run_program(program, [judged])

    def off(corrections: Any) -> float:
        path = tmp_path / f"small.{kind}"
        quantiser.write_static(path, ranges, corrections=corrections)
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] = (
            onnx_file.specs(program, wanted) if kind == "onnx" else tflite_file.specs(path, Form())
        )
        (own,) = File(path, "small", kind, *specs, 1)([judged.numpy()])
        return float(np.square(own - wanted[0]).mean())

    plain = off({})
    assert off({name: each.without_shift() for name, each in corrections.items()}) < 0.8 * plain
    assert off(corrections) < 0.5 * plain


def test_layers_are_found_by_their_weights_alone() -> None:
    torch.manual_seed(0)
    conv, twin, dense = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.randn(5, 6)
    known = [
        Corrected(conv, conv + 1, torch.arange(4.0)),
        Corrected(twin, twin + 1, torch.zeros(4)),
        Corrected(twin.clone(), twin + 2, torch.zeros(4)),
        Corrected(dense, dense + 1, torch.zeros(5)),
    ]
    layers = {
        "first": (conv * (1 + 1e-6)).flatten(1).numpy(),
        "last": conv.permute(0, 2, 3, 1).flatten(1).numpy(),
        "of two": twin.flatten(1).numpy(),
        "another": (dense + 0.01).numpy(),
        "dense": dense.numpy(),
    }
    found = matched(layers, known)
    assert sorted(found) == ["dense", "first", "last"]
    np.testing.assert_array_equal(found["last"].rows, (conv + 1).permute(0, 2, 3, 1).flatten(1).numpy())
    np.testing.assert_array_equal(found["first"].shift, np.arange(4.0))
    assert not found["first"].without_shift().shift.any()


def test_what_a_manifest_says_of_it() -> None:
    from edgespa.bundle import Variant

    parity = {"inputs": "noise", "count": 1, "max_abs_error": 0.0, "relative_error": 0.0, "cosine": 1.0}
    parity |= {"component_error": 0.1, "bound": {"component_error": 0.3}}  # type: ignore[dict-item]
    spec = {"name": "x", "shape": [1, 4], "dtype": "float32"}
    made: dict[str, Any] = {
        "name": "onnx-int8", "file": "model.int8.onnx", "format": "onnx", "precision": "int8", "inputs": [spec],
        "outputs": [spec], "runtime": "onnxruntime 1", "size_bytes": 1, "parity": parity, "calibration": "mse",
    }  # fmt: skip

    def gained(**errors: float) -> Any:
        return Variant.model_validate({**made, "errors": {key.replace("_", " "): errors[key] for key in errors}}).gained

    assert gained() is None
    assert gained(minmax=0.5, mse=0.4) is None
    assert gained(mse=0.4, rounded_weights=0.41, moved_biases=0.5) is None
    assert gained(mse=0.4, rounded_weights=0.2, moved_biases=0.3) == (("rounded weights",), 0.2, 0.4)
    assert gained(mse=0.4, rounded_weights=0.5, moved_biases=0.3) == (("rounded weights", "moved biases"), 0.3, 0.4)
