"""The laws on the pretrained networks: norms and biases randomised for a part of the channels, random halves kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgespa.graph.cost import CostModel
from edgespa.graph.groups import Groups, find_groups
from edgespa.graph.program import Program
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace
from edgespa.models.load import load_model

# by hand: multiply-accumulates of all convolutions and the classifier; parameters as published
MACS = {"resnet20": 40_551_040, "resnet56": 125_485_696, "mobilenet_v2": 300_775_552}
PARAMETERS = {"resnet20": 269_722, "resnet56": 853_018}
GROUPS = {
    # one stream per stage (the padded shortcut of option A ties half of each later stage to the one before) and the
    # inner convolution of each block
    "resnet20": {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    | {f"layer{s}.{b}.conv1": 8 << s for s in (1, 2, 3) for b in range(3)},
    "resnet56": {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    | {f"layer{s}.{b}.conv1": 8 << s for s in (1, 2, 3) for b in range(9)},
}
NETWORKS = ["resnet20", pytest.param("resnet56", marks=pytest.mark.more), "mobilenet_v2"]


@pytest.fixture(scope="module")
def real(data_dir: Path) -> Callable[[str], tuple[Program, Groups]]:
    known: dict[str, tuple[Program, Groups]] = {}

    def load(name: str) -> tuple[Program, Groups]:
        if name not in known:
            model = load_model(f"{data_dir / 'models.py'}:{name}")
            _randomise_half(model)
            program = trace(model, (torch.zeros(1, 3, 32, 32) if "resnet" in name else torch.zeros(1, 3, 224, 224),))
            known[name] = program, find_groups(program)
        return known[name]

    return load


def _randomise_half(model: nn.Module) -> None:
    """Norms and biases of a random half of the channels far from trained values; the others stay as they are."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                noise = 0.3 * torch.randn(tensor.shape, generator=generator)
                noise = 0.5 + noise.abs() if name.endswith(("running_var", "weight")) else noise
                tensor.copy_(torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, noise, tensor))


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_compacted(real: Any, select: Any, name: str) -> None:
    program, groups = real(name)
    costs = CostModel(program, groups)
    for seed in range(3):
        kept = select(groups, seed)
        small = compact(program, groups, kept)
        inputs = program.example_inputs(batch=3 if "resnet" in name else 1, seed=seed)
        proof = prove(program, groups, kept, small, inputs)
        proof.require()
        assert proof.nodes > 60
        actual, predicted = CostModel(small, find_groups(small)).cost(), costs.cost(kept)
        assert actual == predicted
        assert actual.parameters < 0.6 * costs.cost().parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_as_published(real: Any, name: str) -> None:
    program, groups = real(name)
    costs = CostModel(program, groups)
    cost = costs.cost()
    assert cost.macs == MACS[name] == sum(costs.node_macs().values())
    assert cost.parameters == PARAMETERS.get(name, cost.parameters) == program.parameter_count()


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_groups_of_residual_stages(real: Any, name: str) -> None:
    _, groups = real(name)
    assert {key: len(group) for key, group in groups.groups.items()} == GROUPS[name]
    blocks = 3 if name == "resnet20" else 9
    # the stream of stage 1 lives on in the middle of stages 2 and 3: a writer in conv1 and in each conv2
    stream = groups.groups["conv1"]
    assert stream.channels == 1 + 3 * blocks
    assert [i.tolist() for i in stream.slots["layer2.0.conv2.weight", 0]] == [[i + 8] for i in range(16)]
    assert [i.tolist() for i in stream.slots["linear.weight", 1]] == [[i + 24] for i in range(16)]


def test_groups_of_inverted_residuals(real: Any) -> None:
    _, groups = real("mobilenet_v2")
    # stem, 16 expansions, 7 stages of projections, head; depthwise channels belong to what they read
    assert (
        sum(len(group) for group in groups.groups.values())
        == 32
        + (16 * 6 + 2 * 24 * 6 + 3 * 32 * 6 + 4 * 64 * 6 + 3 * 96 * 6 + 3 * 160 * 6)
        + (16 + 24 + 32 + 64 + 96 + 160 + 320)
        + 1280
    )
    assert len(groups.groups) == 1 + 16 + 7 + 1
