"""ONNX files as models: what they compute, what their parts are called, and what of them can be pruned."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgespa.errors import MissingExtraError, ModelError
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.models.from_onnx.opened import open_onnx
from edgespa.models.given import Given
from edgespa.tasks.base import Base

_SPEC = importlib.util.spec_from_file_location("onnx_files", Path(__file__).with_name("files.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
files: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["onnx_files"] = files
_SPEC.loader.exec_module(files)
node = helper.make_node


def units(base: Base) -> dict[str, int]:
    return {name: len(group) for name, group in base.groups.groups.items()}


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["Residual", "Attention"])
def test_what_can_go_is_what_can_go_of_the_original(kind: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = files.lively(getattr(files, kind)())
    base = Base.open(files.exported(model, tmp_path / "net.onnx", (1, 3, 16, 16), dynamo=dynamo), None)
    original = Base.open(Given(model), (1, 3, 16, 16))
    assert base.program.dynamic_batch
    assert units(base) == units(original)
    assert len(base.head_widths.widths) == len(original.head_widths.widths)
    x = torch.randn(3, 3, 16, 16)
    assert torch.allclose(base.program(x), original.program(x), atol=1e-4)
    kept = {name: np.arange(len(group)) % 2 == 0 for name, group in base.groups.groups.items()}
    small = compact(base.program, base.groups, kept)
    prove(base.program, base.groups, kept, small, base.program.example_inputs()).require()
    names = {name for name, _ in base.program.tensors()}
    assert "fc.weight" in names
    assert {"blocks.0.conv1.weight", "blocks.1.conv2.weight"} <= names or {"qkv.weight", "token"} <= names


def test_the_same_file_is_the_same_base(tmp_path: Path) -> None:
    path = files.exported(files.lively(files.Residual()), tmp_path / "net.onnx", (1, 3, 16, 16), dynamo=False)
    assert Base.open(path, None).digest == Base.open(path, None).digest


def test_a_file_for_one_sample_takes_any_batch_where_that_can_be_shown(tmp_path: Path) -> None:
    model = files.lively(files.Residual())
    path = files.exported(model, tmp_path / "net.onnx", (1, 3, 16, 16), dynamo=False, free=False)
    found = open_onnx(path, ())
    x = torch.randn(4, 3, 16, 16)
    assert found.free
    assert torch.allclose(found.module(x), model(x), atol=1e-4)


def test_a_file_for_one_sample_with_its_size_in_a_reshape(tmp_path: Path) -> None:
    flat = files.made(
        [node("Reshape", ["x", "to"], ["flat"]), node("MatMul", ["flat", "w"], ["y"])],
        {"to": np.array([1, 192]), "w": files.normal(192, 4)}, shape=(1, 3, 8, 8), out=[1, 4],
    )  # fmt: skip
    assert open_onnx(files.saved(flat, tmp_path), ()).module(torch.ones(5, 3, 8, 8)).shape == (5, 4)


def test_a_batch_that_is_fixed_stays(tmp_path: Path) -> None:
    mixed = files.made([node("Transpose", ["x"], ["y"], perm=[1, 0])], shape=(2, 5), out=[5, 2])
    found = open_onnx(files.saved(mixed, tmp_path), ())
    assert not found.free
    assert found.inputs[0].shape == (2, 5)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    weight = files.normal(4, 3, 3, 3).astype(np.float16)
    model = files.made([node("Conv", ["x", "w"], ["y"])], {"w": weight}, kind=TensorProto.FLOAT16)
    found = open_onnx(files.saved(model, tmp_path), ())
    assert found.proof.halves
    assert {each.dtype for each in found.module.parameters()} == {torch.float32}
    assert 0 < found.proof.difference < 1e-2


KERNEL, _UNEVEN = files.normal(4, 3, 3, 3), [0, 0, 1, 1]
_CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "uneven padding": ([node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")], {"w": KERNEL}),
    "lower padding": ([node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_LOWER")], {"w": KERNEL}),
    "dilated groups": ([node("Conv", ["x", "w"], ["y"], group=3, dilations=[2, 2])], {"w": files.normal(6, 1, 3, 3)}),
    "transposed": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        {"w": files.normal(3, 4, 3, 3)},
    ),
    "transposed unevenly": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")],
        {"w": files.normal(3, 4, 3, 3)},
    ),
    "uneven maximum": ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "uneven mean": ([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "uneven mean of all": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=_UNEVEN, count_include_pad=1)],
        {},
    ),
    "clip": ([node("Clip", ["x", "a", "b"], ["y"])], {"a": np.float32(-0.5), "b": np.float32(0.7)}),
    "numbers": (
        [node("Sub", ["one", "x"], ["a"]), node("Div", ["one", "a"], ["b"]), node("Pow", ["b", "two"], ["y"])],
        {"one": np.float32(1), "two": np.float32(2)},
    ),
    "gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array([2, 0, -1])}),
    "backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        {"s": np.array([-1]), "e": np.array([-(2**63) + 1]), "a": np.array([3]), "t": np.array([-2])},
    ),
    "split": (
        [node("Split", ["x", "n"], ["a", "b"], axis=2), node("Mul", ["a", "b"], ["y"])], {"n": np.array([4, 4])},
    ),
    "nearest": ([node("Resize", ["x", "", "f"], ["y"], mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")], {"f": np.array([1, 1, 2, 2], np.float32)}),  # noqa: E501
    "bilinear": ([node("Resize", ["x", "", "f"], ["y"], mode="linear")], {"f": np.array([1, 1, 2, 2], np.float32)}),
    "group norm": (
        [
            node("Reshape", ["x", "to"], ["r"]), node("InstanceNormalization", ["r", "s", "b"], ["n"]),
            node("Shape", ["x"], ["back"]), node("Reshape", ["n", "back"], ["y"]),
        ],
        {"to": np.array([0, 3, -1]), "s": files.normal(3), "b": files.normal(3, seed=1)},
    ),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=1)], {}),
    "padded": ([node("Pad", ["x", "p"], ["y"], mode="reflect")], {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "slopes": ([node("PRelu", ["x", "s"], ["y"])], {"s": files.normal(3, 1, 1)}),
    "blocks": ([node("SpaceToDepth", ["x"], ["y"], blocksize=2)], {}),
    "products": ([node("MatMul", ["x", "x"], ["y"])], {}),
    "norms": ([node("ReduceL2", ["x"], ["n"], axes=[1], keepdims=1), node("Div", ["x", "n"], ["y"])], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", _CASES)
def test_operators_compute_what_the_runtime_does(case: str, tmp_path: Path) -> None:
    nodes, tensors = _CASES[case]
    found = open_onnx(files.saved(files.made(nodes, tensors), tmp_path), ())
    assert found.free
    assert found.proof.difference < 1e-5


def test_softmax_of_old_takes_the_rest_as_one(tmp_path: Path) -> None:
    model = files.made([node("Softmax", ["x"], ["y"], axis=1)], opset=9)
    assert open_onnx(files.saved(model, tmp_path), ()).proof.difference < 1e-5


def test_weights_that_are_read_twice_are_one(tmp_path: Path) -> None:
    weight = {"w": files.normal(3, 3, 1, 1)}
    model = files.made(
        [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w"], ["y"])], weight
    )
    assert len(list(open_onnx(files.saved(model, tmp_path), ()).module.parameters())) == 1


def test_sizes_that_are_free_are_asked_for(tmp_path: Path) -> None:
    model = files.made([node("Relu", ["x"], ["y"])], shape=("batch", 3, "height", "width"))
    path = files.saved(model, tmp_path)
    with pytest.raises(ModelError, match=r"leaves sizes of its input 'x' free: \?,3,\?,\?") as caught:
        Base.open(path, None)
    assert "--input-shape" in str(caught.value.hint)
    assert Base.open(path, (1, 3, 10, 12)).input_shape == (1, 3, 10, 12)
    with pytest.raises(ModelError, match="takes inputs of shape"):
        Base.open(path, (1, 4, 10, 12))


def test_weights_beside_the_file_are_refused(tmp_path: Path) -> None:
    path = files.saved(files.made([node("Relu", ["x"], ["y"])]), tmp_path)
    with pytest.raises(ModelError, match="has its weights in it"):
        Base.open(path, None, str(tmp_path / "weights.pth"))


def test_a_mismatch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.models.from_onnx import assembling

    wrong = assembling._LOWERED["Sigmoid"]
    monkeypatch.setitem(assembling._LOWERED, "Sigmoid", assembling._LOWERED["Tanh"])
    path = files.saved(files.made([node("Sigmoid", ["x"], ["y"])]), tmp_path)
    with pytest.raises(ModelError, match="is not what ONNX Runtime"):
        open_onnx(path, ())
    monkeypatch.setitem(assembling._LOWERED, "Sigmoid", wrong)
    assert open_onnx(path, ()).proof.difference < 1e-5


@pytest.mark.parametrize(
    ("nodes", "words", "hint"),
    [
        (
            [node("If", ["x"], ["y"], name="choice", then_branch=helper.make_graph([], "a", [], []))],
            "'choice' (If)",
            "eval",
        ),
        (
            [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"])],
            "int8 (QDQ",
            "float file",
        ),
        ([node("QLinearMatMul", ["x"] * 8, ["y"])], "int8 (QLinear", "float file"),
        ([node("NonMaxSuppression", ["x", "x"], ["y"], name="boxes")], "'boxes' (NonMaxSuppression)", "raw outputs"),
        ([node("FusedConv", ["x", "s"], ["y"], domain="com.microsoft")], "com.microsoft", "optimiser"),
        ([node("RandomNormalLike", ["x"], ["y"])], "RandomNormalLike", "eval"),
        ([node("NonZero", ["x"], ["y"], name="where")], "'where' (NonZero)", "raw outputs"),
    ],
)
def test_what_cannot_be_taken_is_named(nodes: list[Any], words: str, hint: str, tmp_path: Path) -> None:
    path = files.saved(files.made(nodes, {"s": np.float32(0.1)}), tmp_path)
    with pytest.raises(ModelError) as caught:
        open_onnx(path, ())
    assert words in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("opset", [6, 40])
def test_opsets_that_are_not_read(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}; 7 to"):
        open_onnx(files.saved(files.made([node("Relu", ["x"], ["y"])], opset=opset), tmp_path), ())


def test_what_is_left_to_the_converter_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    path = files.saved(files.made([node("Atan", ["x"], ["y"])]), tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        open_onnx(path, ())
    assert "from-onnx" in str(caught.value.hint)


def test_constants_that_fill_the_memory_are_not_made(tmp_path: Path) -> None:
    model = files.made(
        [node("ConstantOfShape", ["n"], ["big"]), node("Add", ["x", "big"], ["y"])], {"n": np.array([1 << 14, 1 << 15])}
    )
    with pytest.raises(ModelError, match="makes a constant of"):
        open_onnx(files.saved(model, tmp_path), ())


def test_names_that_are_no_paths(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(files.normal(4, 3, 1, 1), "model/stem/../kernel:0")
    model = files.made([node("Conv", ["x", weight.name], ["y"], name="model/stem.0/Conv2D;__class__")])
    model.graph.initializer.append(weight)
    ((name, _),) = open_onnx(files.saved(model, tmp_path), ()).module.named_parameters()
    assert all(part.isidentifier() or part.isdigit() for part in name.split("."))
