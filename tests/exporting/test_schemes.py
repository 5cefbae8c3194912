"""Files that accelerators take: every operator in integers, and levels that are symmetric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.errors import ExportError
from edgespa.exporting import onnx_file, tflite_file
from edgespa.exporting.config import ExportConfig
from edgespa.exporting.converter import Form
from edgespa.exporting.corrections import Corrections
from edgespa.exporting.onnx_quant import OnnxQuantiser
from edgespa.exporting.parity import File
from edgespa.exporting.quantise import NotUseful, make
from edgespa.exporting.running import run_program, runs_of
from edgespa.exporting.samples import Samples
from edgespa.exporting.tflite_whole import WholeTfliteQuantiser
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.quantisation.ranges import find_ranges

pytestmark = pytest.mark.usefixtures("converters", "converted_once")


def inputs_of(program: Program, count: int = 16) -> torch.Tensor:
    (images,) = program.example_inputs(count, seed=5)
    return images


def opened(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    return interpreter


def test_every_operator_is_an_integer_one(network: tuple[str, Program], tmp_path: Path) -> None:
    name, program = network
    source, path = tmp_path / "plain.tflite", tmp_path / "whole.tflite"
    tflite_file.write_fp32(program, source, Form())
    images = inputs_of(program)
    quantiser = WholeTfliteQuantiser(source, "uint8")
    feeds = [[image[None].permute(0, 2, 3, 1).contiguous().numpy()] for image in images]
    ranges = find_ranges(quantiser.observe(feeds), "minmax")
    assert not quantiser.float_layers
    corrections = Corrections(program, runs_of(program, [images], 8)).of(quantiser.weights(), "minmax")
    if name == "Dense":
        with pytest.raises(ExportError, match="not all of it can be in int8: REDUCE_MAX stay in float"):
            quantiser.write_static(path, ranges, corrections=corrections)
        return
    quantiser.write_static(path, ranges, corrections=corrections)
    interpreter = opened(path)
    types = {str(each["dtype"].__name__) for each in interpreter.get_tensor_details()}
    assert types <= {"int8", "uint8", "int32", "int64"}
    specs = tflite_file.specs(path, Form())
    assert [each.dtype for each in (*specs[0], *specs[1])] == ["uint8", "uint8"]
    wanted = run_program(program, [images])
    # The runner takes and gives what the program does.
    (outputs,) = File(path, "tflite-int8", "tflite", *specs, 1)([images.numpy()])
    off = float(np.sqrt(np.square(outputs - wanted[0]).mean()) / wanted[0].std())
    assert off < {"Attention": 0.5, "Next": 0.5}.get(name, 0.25), off
    # And other programs find by the signature what the scales are: all of a byte is used.
    (detail,) = interpreter.get_input_details()
    scale, zero = detail["quantization"]
    assert (scale * 255) == pytest.approx(float(images.max() - images.min()), rel=0.02)
    assert zero == pytest.approx(-float(images.min()) / scale, abs=1)
    (key,) = interpreter.get_signature_list()
    assert len(interpreter.get_signature_runner(key).get_input_details()) == 1


def test_uint8_is_int8_128_levels_higher(program_of: Any, tmp_path: Path) -> None:
    program = program_of("Residual")
    source = tmp_path / "plain.tflite"
    tflite_file.write_fp32(program, source, Form())
    feed = inputs_of(program).permute(0, 2, 3, 1).contiguous().numpy()
    results = {}
    for numbers in ("int8", "uint8"):
        quantiser = WholeTfliteQuantiser(source, numbers)  # type: ignore[arg-type]
        path = tmp_path / f"{numbers}.tflite"
        quantiser.write_static(path, find_ranges(quantiser.observe([[each[None]] for each in feed]), "minmax"))
        interpreter = opened(path)
        (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert into["dtype"].__name__ == out["dtype"].__name__ == numbers
        low = np.iinfo(into["dtype"]).min
        pixels = np.arange(16 * 16 * 3).reshape(1, 16, 16, 3) % 256
        interpreter.set_tensor(into["index"], (pixels + low).astype(into["dtype"]))
        interpreter.invoke()
        results[numbers] = interpreter.get_tensor(out["index"]).astype(int)
    np.testing.assert_array_equal(results["int8"] + 128, results["uint8"])


class Sorting(torch.nn.Module):
    """What its quantiser does not know: it stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.conv(x)).mean((2, 3))


def test_what_cannot_be_an_integer_is_said(tmp_path: Path) -> None:
    program = trace(Sorting().eval(), (torch.randn(2, 3, 16, 16),))
    source = tmp_path / "plain.tflite"
    tflite_file.write_fp32(program, source, Form())
    quantiser = WholeTfliteQuantiser(source, "int8")
    feeds = [[image[None].permute(0, 2, 3, 1).contiguous().numpy()] for image in inputs_of(program, 4)]
    ranges = find_ranges(quantiser.observe(feeds), "minmax")
    with pytest.raises(ExportError, match="not all of it can be in int8: SIN stay"):
        quantiser.write_static(tmp_path / "whole.tflite", ranges)


def test_a_whole_file_that_is_too_far_off_is_none(program_of: Any, tmp_path: Path) -> None:
    program = program_of("Residual")
    source = tmp_path / "plain.tflite"
    tflite_file.write_fp32(program, source, Form())
    images = inputs_of(program)
    judge = Samples([images.numpy()], run_program(program, [images]), "noise")
    feeds = [[image[None].permute(0, 2, 3, 1).contiguous().numpy()] for image in images]

    def of(path: Path) -> File:
        return File(path, "small", "tflite", *tflite_file.specs(path, Form()), 1)

    config = ExportConfig(formats=("tflite",), precisions=("int8",), int8_io="int8", int8_tolerance=1e-6)
    with pytest.raises(NotUseful, match="in int8 as a whole has no layer in float"):
        make("int8", WholeTfliteQuantiser(source, "int8"), source, tmp_path / "w.tflite", feeds, judge, of, config)


def test_symmetric_files_have_zero_in_the_middle_and_biases_in_float(
    network: tuple[str, Program], tmp_path: Path
) -> None:
    """What TensorRT asks for: no zero point, no int32 in front of a DequantizeLinear."""
    import onnx

    name, program = network
    source, path = tmp_path / "plain.onnx", tmp_path / "symmetric.onnx"
    onnx_file.write_fp32(program, source, Form())
    quantiser = OnnxQuantiser(source, symmetric=True)
    images = inputs_of(program)
    observed = quantiser.observe([[image[None].numpy()] for image in images])
    corrections = Corrections(program, runs_of(program, [images], 8))
    found = corrections.of(quantiser.weights(), "minmax", symmetric=True)
    quantiser.write_static(path, find_ranges(observed, "minmax"), corrections=found)
    model = onnx.load(path)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    seen = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = held[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.int8)
            assert zero.dtype == np.int8
            assert not zero.any()
            seen += 1
        if node.op_type == "Conv" and len(node.input) > 2:
            assert held[node.input[2]].dtype == np.float32
    assert seen > 3
    wanted = run_program(program, [images])
    specs = onnx_file.specs(program, wanted)
    (outputs,) = File(path, "onnx-int8", "onnx", *specs, 1)([images.numpy()])
    off = float(np.sqrt(np.square(outputs - wanted[0]).mean()) / wanted[0].std())
    assert off < 0.25, (name, off)


def test_a_jetson_gets_symmetric_files_and_a_pi_does_not() -> None:
    from edgespa.api.arguments import runtime_of

    assert runtime_of("jetson-orin-nano", {})["int8_scheme"] == "symmetric"
    assert "int8_scheme" not in runtime_of("jetson-orin-nano", {"int8_scheme": "asymmetric"})
    assert "int8_scheme" not in runtime_of("pi-4b", {})


def test_integers_and_float32_in_the_graph_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="int8_io makes all of a file integers"):
        ExportConfig(int8_io="uint8", preprocess="in-graph")
