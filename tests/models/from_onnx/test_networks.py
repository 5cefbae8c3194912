"""Networks that go to ONNX and come back: they compute the same, have the same units, and hold the law."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgespa as es
from edgespa.errors import EdgespaError, MissingExtraError, ModelError
from edgespa.models.from_onnx.opened import open_onnx
from edgespa.models.inputs import InputSize

SIZE = (1, 3, 16, 16)


class Residual(nn.Module):
    """A stem, a residual block with squeeze and excitation, a depthwise layer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.one, self.norm = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.two = nn.Conv2d(24, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.act = nn.Hardswish()
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.norm(self.one(x)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.two(y)
        x = F.max_pool2d(self.act(self.deep(x)), 2)
        found: Tensor = self.last(x.mean((2, 3)))
        return found


class Attention(nn.Module):
    """Patches, an attention with heads, a layer norm, a block of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, stride=4)
        self.place = nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.narrow, self.last = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        y = self.before(x)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(-1, 16, 32))
        x = x + self.narrow(F.gelu(self.wide(self.after(x))))
        found: Tensor = self.last(x.mean(1))
        return found


class Up(nn.Module):
    """A network of masks: down, up by a transpose and by interpolation, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.Conv2d(12, 20, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(20, 12, 2, stride=2)
        self.side, self.last = nn.Conv2d(24, 14, 3, padding=1), nn.Conv2d(14, 3, 1)
        self.slope = nn.PReLU(12)

    def forward(self, x: Tensor) -> Tensor:
        one = self.slope(self.down(x))
        two = F.leaky_relu(self.deep(one), 0.2)
        both = torch.cat([one, self.up(two)], 1)
        found: Tensor = F.interpolate(self.last(F.elu(self.side(both))), scale_factor=2, mode="bilinear")
        return found


NETWORKS = {"residual": Residual, "attention": Attention, "up": Up}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for each in model.modules():  # untrained norms hide a wrong channel
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(each.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(each.weight, 1, 0.2)
            nn.init.normal_(each.bias, 0, 0.2)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def exported(name: str, folder: Path, *, free: bool = True) -> Path:
    """By torch's own exporter; once."""
    path = folder / f"{name}-{free}.onnx"
    if not path.exists():
        model, x = made(name), torch.randn(2 if free else 1, *SIZE[1:])
        axes = ({0: torch.export.Dim("batch")},) if free else None
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=axes, verbose=False)
        assert program is not None
        program.save(path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("free", [True, False])
def test_it_computes_the_same_and_says_how_nearly(folder: Path, name: str, free: bool) -> None:
    path = exported(name, folder, free=free)
    found = open_onnx(str(path), ())
    x = torch.randn(1, *SIZE[1:])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        given = found.module(x)
    np.testing.assert_allclose(given.numpy(), wanted, atol=2e-5 * float(np.abs(wanted).max()), rtol=0)
    assert found.proof.difference < 1e-5
    assert found.free, "nothing in it depends on the batch, also where the file has it fixed"
    with torch.no_grad():
        assert found.module(torch.randn(5, *SIZE[1:])).shape[0] == 5


@pytest.mark.parametrize("name", NETWORKS)
def test_it_has_the_units_that_the_network_has(folder: Path, name: str) -> None:
    own = es.inspect(made(name), input_shape=SIZE)
    read = es.inspect(exported(name, folder))
    assert sorted(each["units"] for each in read.details["groups"]) == sorted(
        each["units"] for each in own.details["groups"]
    )
    assert read.macs == pytest.approx(own.macs, rel=0.01)
    assert {each["name"].split(".")[0] for each in read.details["groups"]} == {
        each["name"].split(".")[0] for each in own.details["groups"]
    }, "layers keep the names that they had"


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_pruned_exactly_and_exported(folder: Path, name: str, tmp_path: Path) -> None:
    task = es.prune(exported(name, folder), output=tmp_path / "cut.spa", density=0.6, method="l1")
    assert task.metrics["masked_compacted_error"] < 1e-5
    bundle = es.export(task, output=tmp_path / "bundle", formats=["onnx"])
    assert [each.status for each in es.verify(bundle).variants] == ["passed"]


def graph(nodes: list[onnx.NodeProto], *tensors: tuple[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    make = onnx.helper
    model = make.make_model(
        make.make_graph(
            nodes,
            "network",
            [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
            [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(value, name) for name, value in tensors],
        ),
        opset_imports=[make.make_opsetid("", opset)],
    )
    model.ir_version = 8
    return model


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


UNARY = [
    *((name, {}) for name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Abs", "Ceil", "Cos")),
    *((name, {}) for name in ("Erf", "Exp", "Floor", "Neg", "Round", "Sign", "Sin", "LeakyRelu", "Elu", "Celu")),
    ("Selu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}), ("Celu", {"alpha": 2.0}),
    ("ThresholdedRelu", {}),
    ("ThresholdedRelu", {"alpha": 0.4}), ("Selu", {"alpha": 1.5, "gamma": 0.8}), ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 1 / 6}), ("LRN", {"size": 3}),
    ("LRN", {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes"), UNARY, ids=lambda value: str(value))
def test_layers_without_weights_mean_what_they_mean_there(
    name: str, attributes: dict[str, float], tmp_path: Path
) -> None:
    """On other inputs than those that `open_onnx` compares with."""
    model = graph([onnx.helper.make_node(name, ["x"], ["y"], **attributes)])
    found = open_onnx(str(saved(model, tmp_path)), ())
    x = np.random.default_rng(0).normal(0, 1.5, (2, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found.module(torch.from_numpy(x)).numpy(), wanted, atol=2e-6, rtol=2e-6)


KERNEL = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 0, 2, 1], [1, 1, 1, 1]])
def test_uneven_padding(pads: list[int], tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=[2, 1])], ("w", KERNEL))
    assert open_onnx(str(saved(model, tmp_path)), ()).proof.difference < 1e-5


def test_half_precision_is_widened_and_told(tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], ("w", KERNEL.astype(np.float16)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    found = open_onnx(str(saved(model, tmp_path)), ())
    assert found.proof.halves
    assert found.module(torch.randn(2, 3, 8, 8)).dtype == torch.float32


def test_what_is_odd_is_named_by_its_node(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Foo", ["x"], ["y"], name="the-odd-one", domain="com.example")
    with pytest.raises(EdgespaError, match=r"the-odd-one.*Foo|Foo.*the-odd-one|com\.example"):
        open_onnx(str(saved(graph([node]), tmp_path)), ())


def test_what_is_rare_names_the_extra_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as where it is not installed
    with pytest.raises(MissingExtraError) as caught:
        open_onnx(str(saved(graph([onnx.helper.make_node("Atan", ["x"], ["y"])]), tmp_path)), ())
    assert "from-onnx" in str(caught.value.hint)


def test_a_branch_is_refused_by_name(tmp_path: Path) -> None:
    body = graph([onnx.helper.make_node("Relu", ["x"], ["y"])]).graph
    del body.input[:]
    node = onnx.helper.make_node("If", ["c"], ["y"], name="branch", then_branch=body, else_branch=body)
    with pytest.raises(ModelError, match="branch"):
        open_onnx(str(saved(graph([node], ("c", np.array(True))), tmp_path)), ())


def test_an_int8_file_is_told_apart(tmp_path: Path) -> None:
    scale, zero = ("s", np.float32(0.1).reshape(())), ("z", np.int8(0).reshape(()))
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"(?i)int8|quanti") as caught:
        open_onnx(str(saved(graph(nodes, scale, zero), tmp_path)), ())
    assert "float" in (caught.value.hint or "")


def test_sizes_that_are_free_have_to_be_said(tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Relu", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = str(saved(model, tmp_path))
    with pytest.raises(ModelError, match="free"):
        open_onnx(path, ())
    assert open_onnx(path, (InputSize((1, 3, 12, 8)),)).inputs[0].shape == (1, 3, 12, 8)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link"])
def test_weights_elsewhere_are_not_read(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(KERNEL.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], ("w", KERNEL))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(KERNEL.nbytes))):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(ModelError):
        open_onnx(str(saved(model, folder)), ())


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], ("w", KERNEL))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").exists()
    assert open_onnx(str(tmp_path / "net.onnx"), ()).proof.difference < 1e-5


@pytest.mark.parametrize("dims", [[1 << 40, 3, 3, 3], [-4, 3, 3, 3], [4, 3, 3]])
def test_sizes_that_lie_are_refused(dims: list[int], tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], ("w", KERNEL))
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(ModelError):
        open_onnx(str(saved(model, tmp_path)), ())


@pytest.mark.parametrize(("side", "words"), [(1 << 20, "of sizes"), (1 << 15, "makes a constant of")])
def test_a_constant_that_would_fill_the_memory_is_not_made(side: int, words: str, tmp_path: Path) -> None:
    shape = np.array([side, side], np.int64)
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["s"], ["big"]),
        onnx.helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        onnx.helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    with pytest.raises(ModelError, match=words):
        open_onnx(str(saved(graph(nodes, ("s", shape)), tmp_path)), ())


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x08" + bytes(1000), bytes(range(256)) * 40])
def test_what_is_no_onnx_file_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        open_onnx(str(tmp_path / "net.onnx"), ())


def test_a_cycle_ends_in_an_error(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Add", ["x", "b"], ["a"]), onnx.helper.make_node("Add", ["a", "x"], ["b"])]
    nodes.append(onnx.helper.make_node("Relu", ["b"], ["y"]))
    with pytest.raises(ModelError):
        open_onnx(str(saved(graph(nodes), tmp_path)), ())


@pytest.mark.parametrize(("weights", "blind"), [(KERNEL, False), (np.zeros_like(KERNEL), True)])
def test_a_proof_that_proves_little_says_so(weights: np.ndarray, blind: bool, tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], ("w", weights))
    proof = open_onnx(str(saved(model, tmp_path)), ()).proof
    assert proof.blind == blind
    assert ("proves little" in str(proof)) == blind


def test_a_small_output_beside_a_large_one_is_proved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score beside boxes in pixels: what is wrong with the one is small beside the other."""
    from edgespa.models.from_onnx import assembling
    from edgespa.models.from_onnx.lowering.activations import layer

    make = onnx.helper.make_node
    nodes = [
        make("Sigmoid", ["x"], ["score"]), make("Mul", ["x", "many"], ["box"]),
        make("Concat", ["box", "score"], ["y"], axis=1),
    ]  # fmt: skip
    path = str(saved(graph(nodes, ("many", np.float32(1e4).reshape(()))), tmp_path))
    assert open_onnx(path, ()).proof.difference < 1e-5
    monkeypatch.setitem(assembling._LOWERED, "Sigmoid", layer(nn.Hardsigmoid))
    with pytest.raises(ModelError, match="is not what"):
        open_onnx(path, ())


@pytest.mark.parametrize("wrong", [nn.LeakyReLU, nn.ReLU6], ids=lambda kind: kind.__name__)
def test_a_wrong_conversion_is_refused(wrong: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proved is the module beside the file: another function of the same sizes does not pass."""
    from edgespa.models.from_onnx import assembling
    from edgespa.models.from_onnx.lowering.activations import layer

    path = str(saved(graph([onnx.helper.make_node("Relu", ["x"], ["y"])]), tmp_path))
    monkeypatch.setitem(assembling._LOWERED, "Relu", layer(wrong))
    with pytest.raises(ModelError):
        open_onnx(path, ())
