"""Masked = compacted over the zoo, the groups of every network of it as they are by hand, and its shapes and batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from edgespa.exporting.onward.layers import ordinary
from edgespa.exporting.onward.source import source_of
from edgespa.graph.cost import CostModel
from edgespa.graph.groups import Slot, find_groups
from edgespa.graph.program import concrete, refresh
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact, masked


@pytest.mark.law(25)
def test_program_equals_model(traced: Any) -> None:
    inputs = traced.batch(5)
    with torch.no_grad():
        # a copy: some networks of the zoo write to their own activations, none to its weights
        expected, actual = tree_leaves(traced.model(*inputs)), tree_leaves(traced.program(*inputs))
    assert len(expected) == len(actual)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(one, other, atol=traced.case.limit, rtol=traced.case.limit)


def test_the_batch_stays_free(traced: Any) -> None:
    fixed = traced.case.name in {"static_batch", "causal_over_channels"}
    assert traced.program.dynamic_batch != fixed


@pytest.mark.law(50)
def test_groups_by_hand(traced: Any) -> None:
    groups, case = traced.groups, traced.case
    assert {name: len(group) for name, group in groups.groups.items()} == case.groups
    for (group, tensor, dim, unit), indices in case.slots.items():
        assert sorted(groups.groups[group].slots[Slot(tensor, dim)][unit].tolist()) == indices, (group, tensor, dim)


def test_fixed_by_hand(traced: Any) -> None:
    for (tensor, dim), reason in traced.case.fixed.items():
        entries = [fixed for fixed in traced.groups.fixed if fixed.slot == Slot(tensor, dim)]
        assert any(reason in entry.reason for entry in entries), [entry.reason for entry in entries]
        if reason:
            assert not traced.groups.units[Slot(tensor, dim)].any()


@pytest.mark.law(40)
def test_layers_and_source_compute_what_the_program_computes(traced: Any, select: Callable[..., Any]) -> None:
    program = compact(traced.program, traced.groups, select(traced.groups, 1, 0.5))
    module = ordinary(program)
    source: dict[str, Any] = {"__name__": "network", "__file__": "network.py"}
    exec(compile(source_of(module, "w.safetensors"), "network.py", "exec"), source)
    network = source[re.search(r"net = (\w+)\(\)", source_of(module, "w.safetensors"))[1]]()  # type: ignore[index]
    network.load_state_dict(module.state_dict(), assign=True)
    for size in (2, 5) if program.dynamic_batch else (2,):
        inputs = traced.batch(size)
        with torch.no_grad():
            wanted = tree_leaves(program(*inputs))
            for one in (module, network.eval()):
                found = tree_leaves(one(*inputs))
                assert len(found) == len(wanted)
                for a, b in zip(found, wanted, strict=True):
                    torch.testing.assert_close(a, b, atol=traced.case.limit, rtol=traced.case.limit)


@pytest.mark.law(160)
@pytest.mark.parametrize("choice", ["half", "one"])
def test_masked_equals_compacted(traced: Any, select: Callable[..., Any], choice: str) -> None:
    program, groups = traced.program, traced.groups
    density, seed = {"half": (0.5, 1), "one": (0.0, 3)}[choice]
    kept = select(groups, seed, density)
    before = {name: tensor.clone() for name, tensor in program.state().items()}
    small = compact(program, groups, kept)
    for size in (2, 5):
        inputs = traced.batch(size)
        proof = prove(program, groups, kept, small, inputs)
        proof.require(traced.case.limit)
        assert proof.nodes >= sum(node.op == "call_function" for node in small.graph.nodes) - 12
        with torch.no_grad():
            expected = tree_leaves(masked(program, groups, kept)(*inputs))
            for one, other in zip(expected, tree_leaves(small(*inputs)), strict=True):
                torch.testing.assert_close(one, other, atol=10 * traced.case.limit, rtol=10 * traced.case.limit)
    state = program.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    for name, tensor in small.state().items():
        if not name.startswith("edgespa_index"):
            assert tensor.dtype == state[name].dtype
            assert isinstance(dict(small.tensors())[name], torch.nn.Parameter) == isinstance(
                dict(program.tensors())[name], torch.nn.Parameter
            )
    assert small.inputs == program.inputs


@pytest.mark.law(50)
def test_predicted_cost_is_the_cost(traced: Any, select: Callable[..., Any]) -> None:
    kept = select(traced.groups, 4)
    small = compact(traced.program, traced.groups, kept)
    predicted = CostModel(traced.program, traced.groups).cost(kept)
    again = find_groups(small)
    actual = CostModel(small, again).cost()
    assert (predicted.macs, predicted.parameters) == (actual.macs, actual.parameters)
    index_bytes = sum(t.numel() * 8 for name, t in small.tensors() if name.startswith("edgespa_index"))
    assert predicted.size_bytes + index_bytes == actual.size_bytes
    assert actual.parameters == small.parameter_count()
    # labelled again, the small program has the groups that are left: a unit stays a unit
    expected = sum(int(mask.sum()) * traced.groups.groups[name].channels for name, mask in kept.items())
    if all(mask.sum() > 1 for mask in kept.values()):  # a dimension of size 1 has no labels
        if "whole_groups" in traced.case.name:  # fewer groups may find more units: the same place of every group
            assert again.total_channels >= expected
        else:
            assert again.total_channels == expected


def test_everything_kept_changes_nothing(traced: Any) -> None:
    same = compact(traced.program, traced.groups, traced.groups.all_kept())
    inputs = traced.batch(2)
    with torch.no_grad():
        pairs = zip(tree_leaves(traced.program(*inputs)), tree_leaves(same(*inputs)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert np.isclose(traced.groups.channel_density(traced.groups.all_kept()), 1.0)


def described(module: torch.fx.GraphModule) -> dict[str, list[Any]]:
    found = {}
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]
        found[node.name] = [
            (tuple(concrete(s) for s in v.shape), [isinstance(s, torch.SymInt) for s in v.shape], v.dtype, v.device)
            for v in values
        ]
    return found


@pytest.mark.law(40)
def test_shapes_are_those_of_symbolic_inference(traced: Any, select: Callable[..., Any]) -> None:
    """Those that compaction writes to the nodes, the batch's symbol included."""
    small = compact(traced.program, traced.groups, select(traced.groups, 6))
    quick = described(small.module)
    refresh(small.module)
    assert quick == described(small.module)
