"""Training with levels: what is computed is what a file computes, and what is learned is for that."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.exporting import onnx_file
from edgespa.exporting.converter import Form
from edgespa.exporting.onnx_quant import OnnxQuantiser
from edgespa.exporting.parity import File
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.quantisation.fake import at_levels, coarse_weights, on_levels, with_levels
from edgespa.quantisation.ranges import find_ranges


class Blocks(nn.Module):
    """A residual stream with norms, a depthwise layer, ReLU6 and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depthwise, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.back, self.fc = nn.Conv2d(12, 12, 1), nn.Linear(12, 5)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.3, 2.0)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = x + self.back(nn.functional.relu6(self.bn2(self.depthwise(x))))
        return self.fc(x.mean((2, 3)))


class Met(torch.fx.Interpreter):
    """Notes the ranges of what gets levels."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.ranges: dict[str, tuple[float, float]] = {}

    def run_node(self, n: torch.fx.Node) -> object:
        if n.target is at_levels:
            (source,) = n.args
            assert isinstance(source, torch.fx.Node)
            value = self.env[source]
            self.ranges[source.name] = (min(0.0, float(value.min())), max(0.0, float(value.max())))
        return super().run_node(n)


@pytest.fixture(scope="module")
def program() -> Program:
    return trace(Blocks().eval(), (torch.randn(2, 3, 8, 8),))


def test_levels_of_weights_and_activations() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    coarse = on_levels(weight)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert (coarse - weight).abs().le(0.5001 * step).all()
    assert coarse.flatten(1).unique(dim=1).shape[0] == 6
    torch.testing.assert_close(coarse[3] / step[3], (coarse[3] / step[3]).round(), atol=1e-3, rtol=0)
    value = torch.tensor([-1.0, 0.0, 0.1, 3.0])
    found = at_levels(value)
    assert found[1] == 0
    assert (found - value).abs().max() <= 0.51 * 4 / 255
    assert torch.equal(at_levels(torch.zeros(3)), torch.zeros(3))
    assert at_levels(value.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("function", [on_levels, at_levels])
def test_gradients_pass_as_if_there_were_no_levels(function: object) -> None:
    value = torch.randn(4, 5, requires_grad=True)
    assert callable(function)
    (function(value) * torch.arange(20.0).view(4, 5)).sum().backward()
    torch.testing.assert_close(value.grad, torch.arange(20.0).view(4, 5))


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs edgespa[onnx]")
def test_it_computes_what_an_int8_file_computes(program: Program, tmp_path: Path) -> None:
    """The file's ranges are those that the program with levels meets, its weights at their nearest levels."""
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    coarse = with_levels(program)
    state = {name: on_levels(tensor) for name, tensor in program.state().items() if name in coarse_weights(program)}
    coarse = coarse.with_state(state)
    with torch.no_grad():
        plain, ours = program(images).numpy(), coarse(images).numpy()
    onnx_file.write_fp32(program, tmp_path / "plain.onnx", Form())
    quantiser = OnnxQuantiser(tmp_path / "plain.onnx")
    ranges = find_ranges(quantiser.observe([[images.numpy()]]), "minmax")
    met = Met(coarse.module)
    met.run(images)
    assert set(met.ranges) == {"x", "relu", "relu6", "conv2d_2", "mean"}
    ranges |= {"input" if name == "x" else name: own for name, own in met.ranges.items()}
    quantiser.write_static(tmp_path / "m.onnx", ranges)
    file = File(tmp_path / "m.onnx", "m", "onnx", *onnx_file.specs(program, [plain]), 1)
    (theirs,) = file([images.numpy()])
    lost, beside = np.abs(theirs - plain).mean(), np.abs(theirs - ours).mean()
    assert lost > 0
    assert beside < 0.1 * lost  # its biases have levels, too


def test_what_is_merged_into_a_layer_has_no_levels_of_its_own(program: Program) -> None:
    coarse = with_levels(program)
    readers = {
        str(node.args[0].target).split(".")[-2] if node.args[0].op == "call_function" else node.args[0].name
        for node in coarse.graph.nodes
        if node.target is at_levels
    }
    assert readers == {"x", "relu", "relu6", "conv2d", "mean"}
    assert set(coarse_weights(program)) == {"stem.weight", "depthwise.weight", "back.weight", "fc.weight"}
    assert not [node for node in program.graph.nodes if node.target is at_levels]


def test_training_with_levels_gives_back_what_they_took(program: Program) -> None:
    """A student whose weights have a few huge values, which leave the others few levels, learns to do with them."""
    from edgespa.adapters.adapted import AdaptedProgram

    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = program(images)
    weights = coarse_weights(program)
    spiky = program.state()["back.weight"].clone()
    spiky[:, 0] *= 30
    student = program.with_state({"back.weight": spiky})
    with torch.no_grad():
        wanted = student(images)
    model = AdaptedProgram(with_levels(student), {}, weights)
    model.coarse = weights

    def off() -> float:
        with torch.no_grad():
            return float((model(images) - wanted).square().mean())

    before = off()
    optimiser = torch.optim.Adam([tensor for name, tensor in model.program.tensors() if name in weights], lr=1e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (model(images) - wanted).square().mean()
        loss.backward()
        optimiser.step()
    assert off() < 0.3 * before
