"""Networks of which int8 would make nothing, or no file: the layers that it cannot hold stay in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgespa.exporting import onnx_file, quantise, tflite_file
from edgespa.exporting.config import ExportConfig
from edgespa.exporting.converter import Form
from edgespa.exporting.onnx_quant import OnnxQuantiser
from edgespa.exporting.parity import File
from edgespa.exporting.quantise import Made, make
from edgespa.exporting.running import run_program
from edgespa.exporting.samples import Samples
from edgespa.exporting.tflite_quant import TfliteQuantiser
from edgespa.graph.trace import trace
from edgespa.quantisation.ranges import find_ranges

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
QUANTISERS: dict[str, Any] = {"onnx": OnnxQuantiser, "tflite": TfliteQuantiser}
CONVERTERS: dict[str, Any] = {"onnx": onnx_file, "tflite": tflite_file}


class Tail(nn.Module):
    """A convolution with ReLU, and whatever comes behind it."""

    def __init__(self, behind: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.behind = behind
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Any:
        return self.behind(torch.relu(self.stem(x)), **self.layers)


def one_output() -> nn.Module:
    return Tail(lambda x, fc: torch.sigmoid(3 * fc(x.mean((2, 3)))), fc=nn.Linear(16, 1))


def gate_of_one() -> nn.Module:
    return Tail(lambda x, fc, conv: conv(x * torch.sigmoid(2 * fc(x.mean((2, 3))))[..., None, None]).mean((2, 3)),
                fc=nn.Linear(16, 1), conv=nn.Conv2d(16, 4, 1))  # fmt: skip


def pooled() -> nn.Module:
    return Tail(lambda x, conv: conv(F.max_pool2d(x, 3, 2, 1)).mean((2, 3)), conv=nn.Conv2d(16, 4, 3, 1, 1))


def pooled_below_zero() -> nn.Module:
    return Tail(
        lambda x, a, b: b(F.max_pool2d(a(x), 3, 2, 1)).mean((2, 3)), a=nn.Conv2d(16, 8, 1), b=nn.Conv2d(8, 4, 1)
    )


def masked() -> nn.Module:
    def attend(x: Tensor, qkv: nn.Module, out: nn.Module) -> Any:
        q, k, v = qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        return out((scores.masked_fill(later, torch.finfo(torch.float32).min).softmax(-1) @ v).mean(1))

    return Tail(attend, qkv=nn.Linear(16, 48), out=nn.Linear(16, 4))


def never_on(bias: float = -50.0) -> nn.Module:
    net = Tail(
        lambda x, gate, back, fc: fc((x + back(gate(x).relu())).mean((2, 3))),
        **{"gate": nn.Conv2d(16, 4, 1), "back": nn.Conv2d(4, 16, 3, padding=1), "fc": nn.Linear(16, 4)},
    )
    nn.init.constant_(net.layers["gate"].bias, bias)  # type: ignore[arg-type]
    return net


def hardly_on() -> nn.Module:
    net = never_on(0.0)
    with torch.no_grad():
        net.layers["gate"].weight.mul_(1e-9)  # type: ignore[operator, union-attr]
    return net


def biases_alone() -> nn.Module:
    """Channels without weights, as weight decay leaves them behind a batch norm."""
    net = Tail(lambda x, fc: fc(x.mean((2, 3))), fc=nn.Linear(16, 4))
    with torch.no_grad():
        net.stem.weight[:5] = 0
        net.stem.bias[:5] = torch.tensor([1.0, 2.0, 3.0, -1.0, 0.5])
    return net


def boxes_and_scores() -> nn.Module:
    def joined(x: Tensor, box: nn.Module, score: nn.Module) -> Tensor:
        return torch.cat([box(x).flatten(2) * 300 + 320, torch.sigmoid(score(x)).flatten(2)], 1)

    return Tail(joined, box=nn.Conv2d(16, 4, 1), score=nn.Conv2d(16, 3, 1))


def pressure() -> nn.Module:
    net = Tail(lambda x, fc: fc(x.mean((2, 3))), fc=nn.Linear(16, 2))
    nn.init.constant_(net.layers["fc"].bias, 1013.0)  # type: ignore[arg-type]
    return net


def unlike_weights() -> nn.Module:
    """One output of tenths beside one of thousands: in int8 with one scale its weights are zeros."""
    net = pressure()
    with torch.no_grad():
        net.layers["fc"].weight[1] *= 1000  # type: ignore[index, operator]
    return net


def map_about_a_mean() -> nn.Module:
    net = Tail(lambda x, conv: F.interpolate(conv(x), scale_factor=2.0), conv=nn.Conv2d(16, 1, 1))
    nn.init.constant_(net.layers["conv"].bias, 500.0)  # type: ignore[arg-type]
    return net


NETWORKS = [
    *(one_output, gate_of_one, pooled, pooled_below_zero, masked, never_on, hardly_on, biases_alone),
    *(boxes_and_scores, pressure, unlike_weights, map_about_a_mean),
]

FEW = (gate_of_one, pooled_below_zero, boxes_and_scores, unlike_weights)
MARKED = [pytest.param(each, marks=() if each in FEW else (pytest.mark.more,)) for each in NETWORKS]


def int8_of(network: nn.Module, name: str, folder: Path) -> tuple[Made, np.ndarray, np.ndarray]:
    """How it was made, what it computes, what the program does."""
    program = trace(network.eval(), (torch.randn(2, 3, 16, 16),))
    random = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.randn(32, 3, 4, 4, generator=random), size=16, mode="bilinear")
    images += torch.randn(32, 3, 1, 1, generator=random)
    plain, path = folder / f"plain.{name}", folder / f"small.{name}"
    CONVERTERS[name].write_fp32(program, plain, Form())
    judge = Samples([images.numpy()], run_program(program, [images]), "images")

    def opened(file: Path) -> File:
        specs = onnx_file.specs(program, judge.outputs) if name == "onnx" else tflite_file.specs(file, Form())
        return File(file, "small", name, *specs, 1)

    feeds = [opened(plain).own_inputs([image[None].numpy()]) for image in images]
    quantiser = QUANTISERS[name](plain)
    made = make("int8", quantiser, plain, path, feeds, judge, opened, ExportConfig())
    (got,) = opened(path)(judge.inputs)
    return made, got, judge.outputs[0]


@pytest.mark.law(4)
@pytest.mark.parametrize("name", ["onnx", "tflite"])
@pytest.mark.parametrize("network", MARKED, ids=lambda each: each.__name__)
def test_each_component_follows_the_program(
    network: Callable[[], nn.Module], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr(quantise, "interleaved_ms", lambda *_: (1.0, 1.0))  # what can be joined, is
    _, got, wanted = int8_of(network(), name, tmp_path)
    rows = [np.moveaxis(each, 1, 0).reshape(each.shape[1], -1).astype(np.float64) for each in (got, wanted)]
    for ours, theirs in zip(*rows, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.95
        assert np.sqrt(np.square(ours - theirs).mean()) < 0.3 * theirs.std()


@pytest.mark.parametrize("network", [never_on, hardly_on, biases_alone], ids=lambda each: each.__name__)
def test_what_hardly_does_anything_needs_no_float(network: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(1)
    made, got, wanted = int8_of(network(), "tflite", tmp_path)
    assert made.float_layers == ()
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
    from ai_edge_litert.tools import flatbuffer_utils

    # Weights that grew take the place of the others, which would be carried along for nothing.
    model = flatbuffer_utils.read_model(str(tmp_path / "small.tflite"))
    held = {int(each.buffer) for each in (*model.subgraphs[0].tensors, *(model.metadata or ()))}
    assert [index for index, each in enumerate(model.buffers) if each.data is not None and index not in held] == []


def test_scores_are_not_joined_with_boxes_on_one_scale(tmp_path: Path) -> None:
    torch.manual_seed(1)
    program = trace(boxes_and_scores().eval(), (torch.randn(2, 3, 16, 16),))
    plain = tmp_path / "plain.tflite"
    tflite_file.write_fp32(program, plain, Form())
    quantiser = TfliteQuantiser(plain)
    feeds = [[np.random.default_rng(seed).normal(size=(1, 16, 16, 3)).astype(np.float32)] for seed in range(8)]
    ranges = find_ranges(quantiser.observe(feeds), "minmax")
    assert "CONCATENATION" not in quantiser.joins
    (name,) = [name for name in quantiser.unfit if name.startswith("concatenation")]
    assert "times as wide as another" in quantiser.unfit[name]
    quantiser.write_static(tmp_path / "small.tflite", ranges, joined=True)
    inputs, outputs = tflite_file.specs(tmp_path / "small.tflite", Form())
    images = program.example_inputs(8, seed=1)[0]
    (got,) = File(tmp_path / "small.tflite", "small", "tflite", inputs, outputs, 1)([images.numpy()])
    assert np.abs(got[:, 4:] - program(images).detach().numpy()[:, 4:]).max() < 0.03


@pytest.mark.parametrize("network", [one_output, pressure, map_about_a_mean], ids=lambda each: each.__name__)
def test_says_what_stays_in_float(network: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(1)
    made, _, _ = int8_of(network(), "tflite", tmp_path)
    (layer,) = made.float_layers
    assert layer.startswith("conv_2d" if network is map_about_a_mean else "fully_connected")


def test_a_network_of_unfit_layers_alone_has_no_int8(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    nn.init.constant_(net[1].bias, 1e4)  # type: ignore[arg-type]
    with pytest.raises(quantise.NotUseful, match="no layer can be in int8: a component of the output moves by"):
        int8_of(net, "tflite", tmp_path)
