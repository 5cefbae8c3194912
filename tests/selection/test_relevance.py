"""Gradients by activations, and layer-wise relevance propagation by hand and by its laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.errors import ConfigError
from edgespa.graph.groups import find_groups
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.objectives.table import Classes
from edgespa.selection.relevance import captured
from edgespa.selection.score import scales_of, score_units


class Net(nn.Module):
    """Without biases: convolutions with a residual stream, batch norm, pooling, a linear head."""

    def __init__(self, act: Callable[[Tensor], Tensor] = torch.relu, bias: bool = False) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=bias)
        self.head = nn.Linear(6, 3, bias=bias)
        self.act = act
        for tensor in (self.norm.weight, self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.norm(self.one(x)))
        second = first + self.act(self.two(first))
        return self.head(torch.max_pool2d(second, 2).mean((2, 3)))


def relevance_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: Classes().relevance(logits, labels)


def program_of(**options: Any) -> Program:
    torch.manual_seed(0)
    return trace(Net(**options), (torch.randn(2, 2, 6, 6),))


def node_of(program: Program, weight: str) -> str:
    node = next(n for n in program.graph.nodes if n.op == "get_attr" and n.target == weight)
    return str(next(iter(node.users)).name)


def test_gradients_by_activations_are_those_of_autograd() -> None:
    program = program_of(bias=True)
    inputs, labels = torch.randn(4, 2, 6, 6), torch.tensor([0, 2, 1, 0])
    node = node_of(program, "two.weight")

    def loss(logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    value, gradient = captured(program.module, {}, inputs, [node], loss)[node]
    assert gradient is not None
    # the derivative by a shift of channel 3 of the layer's output, which is one by the layer's bias
    bias = program.state()["two.bias"].double()
    module = program.module.double()
    step, sums = 1e-5, {}
    for sign in (1, -1):
        moved = bias.clone()
        moved[3] += sign * step
        sums[sign] = float(loss(torch.func.functional_call(module, {"two.bias": moved}, (inputs.double(),))))
    assert float(gradient.sum((0, 2, 3))[3]) == pytest.approx((sums[1] - sums[-1]) / (2 * step), rel=1e-3)
    assert value.shape == gradient.shape == (4, 6, 6, 6)


def test_z_plus_by_hand() -> None:
    """1 x 1 convolutions 2 -> 2 -> head: each relevance goes to positive contributions only, in proportion."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 1.0], [1.0, -1.0]]).reshape(2, 2, 1, 1))
        net[1].weight.copy_(torch.tensor([[1.0, 4.0]]).reshape(1, 2, 1, 1))
        net[3].weight.fill_(2.0)
        net[3].bias.zero_()
    program = trace(net, (torch.ones(2, 2, 1, 1),))
    inputs = torch.tensor([2.0, 1.0]).reshape(1, 2, 1, 1)  # z = (7, 1); second layer 7 + 4 = 11
    nodes = {weight: node_of(program, weight) for weight in ("0.weight", "1.weight")}
    source = next(node.name for node in program.graph.nodes if node.op == "placeholder")
    found = captured(
        program.module, {}, inputs, [source, *nodes.values()], relevance_of(torch.tensor([0])), relevance=True
    )
    relevance = {
        name: (value * gradient).flatten() for name, (value, gradient) in found.items() if gradient is not None
    }
    torch.testing.assert_close(relevance[nodes["1.weight"]], torch.tensor([1.0]))
    torch.testing.assert_close(relevance[nodes["0.weight"]], torch.tensor([7 / 11, 4 / 11]))
    # channel 0: contributions 6 and 1 of 7; channel 1: 2 and -1, of which only the first counts
    torch.testing.assert_close(relevance[source], torch.tensor([7 / 11 * 6 / 7 + 4 / 11, 7 / 11 * 1 / 7]))


@pytest.mark.parametrize("act", [torch.relu, nn.functional.silu, nn.functional.gelu], ids=["relu", "silu", "gelu"])
def test_relevance_is_conserved(act: Callable[[Tensor], Tensor]) -> None:
    """Without biases the relevance of every layer sums to one per sample, and the values are those of the program."""
    program = program_of(act=act)
    with torch.no_grad():
        program.module.norm.bias.zero_()
        program.module.norm.running_mean.zero_()
    inputs, labels = torch.randn(5, 2, 6, 6), torch.tensor([0, 2, 1, 0, 1])
    seen: list[Tensor] = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.detach())
        return relevance_of(labels)(logits)

    source = next(node.name for node in program.graph.nodes if node.op == "placeholder")
    found = captured(program.module, {}, inputs, [source, node_of(program, "one.weight")], objective, relevance=True)
    with torch.no_grad():
        torch.testing.assert_close(seen[0], program(inputs), rtol=1e-4, atol=1e-5)
    for value, gradient in found.values():
        assert gradient is not None
        torch.testing.assert_close((value * gradient).flatten(1).sum(1), torch.ones(5), rtol=1e-3, atol=1e-3)


def test_a_product_of_two_activations_counts_once() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.gate = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.one(x) * torch.sigmoid(self.gate(x)))

    torch.manual_seed(0)
    program = trace(Gated(), (torch.randn(2, 4),))
    inputs = torch.randn(3, 4)
    nodes = [node_of(program, "one.weight"), node_of(program, "gate.weight")]
    found = captured(program.module, {}, inputs, nodes, relevance_of(torch.tensor([0, 1, 0])), relevance=True)
    halves = [(value * gradient).sum(1) for value, gradient in found.values() if gradient is not None]
    torch.testing.assert_close(halves[0], torch.full((3,), 0.5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(halves[1], torch.full((3,), 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", ["gradient", "taylor-activation", "lrp", "bn-scale", "geometric-median"])
def test_scores_of_a_compacted_program_are_at_the_units_that_are_left(criterion: str) -> None:
    from edgespa.graph.surgery import compact

    program = program_of(bias=True)
    groups = find_groups(program)
    generator = torch.Generator()
    kept = groups.all_kept()
    for mask in kept.values():
        mask[0] = False
    small = compact(program, groups, kept)
    batches = [(torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0]))]
    scores = score_units(
        groups, kept, dict(small.tensors()), criterion, "l1", generator, program=small,
        output_loss=nn.functional.cross_entropy, batches=batches,
    )  # fmt: skip
    for name, values in scores.items():
        assert torch.isnan(torch.tensor(values[~kept[name]])).all()
        assert values[kept[name]].sum() == pytest.approx(1)
        assert (values[kept[name]] >= 0).all()


def test_activation_scores_by_gates() -> None:
    """taylor-activation is |dL/dg| by a gate g on the layer's output, before the norm."""
    program = program_of(bias=True)
    groups = find_groups(program)
    inputs, labels = torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    module = program.module.double()
    weights = {name: tensor.double() for name, tensor in program.state().items()}
    scores = score_units(
        groups, groups.all_kept(), weights, "taylor-activation", "none", torch.Generator(), program=program,
        output_loss=nn.functional.cross_entropy, batches=[(inputs, labels)],
    )  # fmt: skip
    (name,) = [name for name, group in groups.groups.items() if any(s.tensor == "one.weight" for s in group.writers)]
    group = groups.groups[name]
    own = []
    for writer in group.writers:
        layer = writer.tensor.removesuffix(".weight")
        step, losses = 1e-6, {}
        for sign in (1, -1):
            moved = {f"{layer}.{part}": weights[f"{layer}.{part}"].clone() for part in ("weight", "bias")}
            for tensor in moved.values():
                tensor[group.slots[writer][2]] *= 1 + sign * step
            logits = torch.func.functional_call(module, {**weights, **moved}, (inputs,))
            losses[sign] = float(nn.functional.cross_entropy(logits, labels))
        own.append(abs(losses[1] - losses[-1]) / (2 * step))
    assert scores[name][2] == pytest.approx(sum(own) / len(own), rel=1e-4, abs=1e-9)


def test_what_a_criterion_needs_is_asked_for() -> None:
    program = program_of()
    groups = find_groups(program)
    weights, generator = program.state(), torch.Generator()
    with pytest.raises(ConfigError, match="needs the program"):
        score_units(groups, groups.all_kept(), weights, "bn-scale", "mean", generator)
    with pytest.raises(ConfigError, match="labelled data"):
        score_units(groups, groups.all_kept(), weights, "lrp", "mean", generator, program=program)
    with pytest.raises(ConfigError, match="at least one batch"):
        score_units(
            groups, groups.all_kept(), weights, "lrp", "mean", generator, program=program,
            output_loss=nn.functional.cross_entropy,
        )  # fmt: skip
    assert scales_of(program) == {"norm.weight"}
