"""Inner values: that a cut network's stand beside the original's, unit by unit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.errors import GraphError
from edgespa.graph.blocks import find_blocks, without_blocks
from edgespa.graph.groups import Kept, find_groups
from edgespa.graph.inner import MOST, Cut, inner_values, picked, side_by_side, watched
from edgespa.graph.program import Program
from edgespa.graph.surgery import compact, masked
from edgespa.graph.trace import trace
from edgespa.models.interface import output_tensors


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"edgespa_inner_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ZOO = _load("zoo").ZOO
BLOCKS = _load("block_networks")


def some_of(groups: Any, seed: int) -> Kept:
    random = np.random.RandomState(seed)
    kept: Kept = {}
    for name, group in groups.groups.items():
        mask = random.rand(len(group)) < 0.6
        mask[random.randint(len(group))] = True
        kept[name] = mask
    return kept


def pairs(original: Program, cut: Program, beside: Any, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    theirs = watched(original, [each.theirs for each in beside], alone=True)(*inputs)
    ours = watched(cut, [each.ours for each in beside], alone=True)(*inputs)
    return [
        (picked(one, each.of_theirs), picked(other, each.of_ours))
        for one, other, each in zip(theirs, ours, beside, strict=True)
    ]


@pytest.mark.law(2)
@pytest.mark.parametrize("name", list(ZOO))
@torch.no_grad()
def test_a_cut_network_has_the_masked_ones_inner_values(name: str) -> None:
    """Masked = compacted, at the places and the units that are said to be the same."""
    torch.manual_seed(0)
    model, inputs = ZOO[name].build()
    program = trace(model.eval(), inputs)
    groups = find_groups(program)
    kept = some_of(groups, 1)
    cut = Cut(program, groups, kept)
    beside = side_by_side(Cut(program, groups, {}), cut)
    assert len(beside) == len(inner_values(program))
    for wanted, own in pairs(masked(program, groups, kept), compact(program, groups, kept), beside, inputs):
        assert own.shape == wanted.shape
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()) + 1e-7)


@torch.no_grad()
def test_two_cut_networks_are_compared_at_what_both_have() -> None:
    model, inputs = ZOO["residual"].build()
    program = trace(model.eval(), inputs)
    groups = find_groups(program)
    first = {"a": np.array([1, 1, 1, 1, 1, 1, 0, 0], bool), "b": np.array([1, 1, 1, 0, 0, 0], bool)}
    second = {"a": np.array([0, 1, 0, 1, 0, 1, 0, 1], bool), "b": np.array([0, 1, 1, 1, 0, 0], bool)}
    beside = side_by_side(Cut(program, groups, first), Cut(program, groups, second))
    by_name = {each.ours: each for each in beside}
    wide = next(each for each in beside if each.of_theirs and len(each.of_theirs[1]) == 3)
    assert wide.of_theirs[1].tolist() == [1, 3, 5]
    assert wide.of_ours[1].tolist() == [0, 1, 2]  # of units 1, 3, 5, 7
    assert len(by_name) == len(beside)
    theirs = [each.theirs for each in beside]
    shapes = [
        picked(value, each.of_theirs).shape
        for value, each in zip(
            watched(compact(program, groups, first), theirs, alone=True)(*inputs), beside, strict=True
        )
    ]
    own = watched(compact(program, groups, second), [each.ours for each in beside], alone=True)(*inputs)
    assert shapes == [picked(value, each.of_ours).shape for value, each in zip(own, beside, strict=True)]


@pytest.mark.law(4)
@pytest.mark.parametrize("name", [name for name, (_, _, gone) in BLOCKS.NETWORKS.items() if gone is None])
@torch.no_grad()
def test_where_a_block_is_gone_its_input_is_to_be_its_output(name: str) -> None:
    torch.manual_seed(0)
    program = trace(BLOCKS.NETWORKS[name][0]().eval(), BLOCKS.images())
    blocks = [block for block in find_blocks(program) if block.removable]
    if len(blocks) < 2:
        pytest.skip("nothing would be left")
    last = blocks[-1]
    cut = without_blocks(program, [last.name])
    groups = find_groups(cut)
    beside = side_by_side(Cut(program, find_groups(program), {}), Cut(cut, groups, {}))
    assert {each.theirs: each.ours for each in beside}[last.exit] == last.entry
    assert len({each.ours for each in beside}) == len(beside)
    for wanted, own in pairs(program, cut, beside, BLOCKS.images()):
        assert wanted.shape == own.shape


def test_of_a_residual_network_it_is_the_stream() -> None:
    build, _, _ = BLOCKS.NETWORKS[next(iter(BLOCKS.NETWORKS))]
    program = trace(build().eval(), BLOCKS.images())
    exits = [block.exit for block in find_blocks(program)]
    assert exits
    assert set(exits) <= set(inner_values(program))


def test_of_many_values_some_are_taken_evenly() -> None:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(MOST + 30)]
    program = trace(nn.Sequential(*layers).eval(), (torch.randn(2, 4),))
    found = inner_values(program)
    assert len(found) == MOST
    assert len(set(found)) == MOST


@torch.no_grad()
def test_a_watched_program_gives_its_outputs_first() -> None:
    model, inputs = ZOO["residual"].build()
    program = trace(model.eval(), inputs)
    names = inner_values(program)
    own, *inner = watched(program, names)(*inputs)
    assert torch.equal(own, output_tensors(program(*inputs))[0])
    assert len(inner) == len(names)
    with pytest.raises(GraphError, match="no node nothing"):
        watched(program, ["nothing"])
