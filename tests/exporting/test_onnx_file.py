"""ONNX files: small, folded, for the runtime that was named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.errors import ExportError
from edgespa.exporting import onnx_file
from edgespa.exporting.converter import Form
from edgespa.exporting.onnx_opset import step_down
from edgespa.exporting.versions import target_of
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

pytestmark = pytest.mark.usefixtures("converters")
Make = Callable[[str], Program]
TRAINING = {"Dropout", "BatchNormalization"}


def error_of(path: Path, program: Program, batch: int = 3) -> float:
    (image,) = program.example_inputs(batch, seed=1)
    with torch.no_grad():
        expected = program(image).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": image.numpy()})
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.law(2)
@pytest.mark.parametrize("runtime", ["1.10", pytest.param("1.12", marks=pytest.mark.more), "1.19"])
def test_each_runtime_gets_its_opset_and_ir(network: tuple[str, Program], runtime: str, tmp_path: Path) -> None:
    name, program = network
    target, path = target_of(runtime), tmp_path / "m.onnx"
    onnx_file.write_fp32(program, path, Form(target=target))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == target.ir
    assert {each.domain: each.version for each in model.opset_import}[""] == target.opset
    assert error_of(path, program) < 1e-5
    kinds = {node.op_type for node in model.graph.node}
    assert "Dropout" not in kinds
    assert ("BatchNormalization" in kinds) == (name == "Dense")  # there they stand before convolutions
    assert not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    weights = sum(tensor.numel() * 4 for tensor in program.state().values())
    assert path.stat().st_size < weights * 1.02 + 40_000  # nothing was folded that is larger than its parts


def test_simplifying_again_changes_nothing(program_of: Make, tmp_path: Path) -> None:
    onnx_file.write_fp32(program_of("Attention"), tmp_path / "m.onnx", Form())
    once = onnx.load(tmp_path / "m.onnx")
    again = onnx_file.simplify(once)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in once.graph.node]


def test_a_large_constant_is_not_folded(tmp_path: Path) -> None:
    class Wide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(300).reshape(1, 1, 1, 300).expand(1, 3, 300, 300)

    program = trace(Wide(), (torch.randn(2, 3, 300, 300),))
    onnx_file.write_fp32(program, tmp_path / "m.onnx", Form())
    assert (tmp_path / "m.onnx").stat().st_size < 20_000
    assert error_of(tmp_path / "m.onnx", program) < 1e-6


def test_a_fixed_batch_and_pixels(program_of: Make, tmp_path: Path) -> None:
    how = Preprocess(height=16, width=16, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    program = program_of("Residual")
    onnx_file.write_fp32(program, tmp_path / "m.onnx", Form(batch=4, pixels=how))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (spec,) = session.get_inputs()
    assert (spec.type, spec.shape) == ("tensor(uint8)", [4, 16, 16, 3])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    images = ((pixels.astype(np.float64) / 255 - how.mean) / how.std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        expected = program(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(None, {"input": pixels})[0], expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_older_form_is_refused_with_its_reason() -> None:
    helper = onnx.helper
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy"]
    axes = onnx.numpy_helper.from_array(np.array([0]), "axes")
    pads = onnx.numpy_helper.from_array(np.array([0, 0]), "pads")
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"])
    graph = helper.make_graph([node], "g", info[:1], info[1:], [axes, pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(ExportError, match="named axes"):
        step_down(model, 15)
    assert model.graph.node[0].input[3] == "axes"  # not changed
