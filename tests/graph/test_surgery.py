"""Compaction: what it keeps, what it refuses, and that its result is a program like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from edgespa.errors import GraphError
from edgespa.graph.groups import Slot, find_groups
from edgespa.graph.proof import prove
from edgespa.graph.rewrites import REWRITES
from edgespa.graph.surgery import compact, head_tensors, masked, relative_indices, resize_output, slice_tensors
from edgespa.graph.trace import from_exported

NAMES = ["residual", "grouped_same_places", "attention_fused", "shuffle_by_view", "strided_slices", "class_token"]


# not the view into 3 x 4: narrower than 3, its units become the other dimension's
@pytest.mark.parametrize("name", sorted({*NAMES, "index_permutation"} - {"shuffle_by_view"}))
def test_twice_equals_once(zoo: Any, select: Any, name: str) -> None:
    case = zoo(name)
    first = select(case.groups, 1, 0.8)
    second = {key: mask & (np.arange(len(mask)) != np.flatnonzero(mask)[0]) for key, mask in first.items()}
    second = {key: mask if mask.any() else first[key] for key, mask in second.items()}
    once = compact(case.program, case.groups, second)
    half_way = compact(case.program, case.groups, first)
    groups = find_groups(half_way)
    assert {key: len(group) for key, group in groups.groups.items()} == {k: int(m.sum()) for k, m in first.items()}
    twice = compact(half_way, groups, {key: second[key][first[key]] for key in first})
    state = twice.state()
    for key, tensor in once.state().items():
        if not key.startswith("edgespa_index"):
            assert torch.equal(tensor, state[key]), key
    assert set(state) == set(once.state())  # an index of the first time is overwritten by the second
    with torch.no_grad():
        assert torch.equal(once(*case.inputs), twice(*case.inputs))
    for slot, index in relative_indices(case.groups, first, second).items():
        narrowed = half_way.state()[slot.tensor].index_select(slot.dim, index)
        assert narrowed.shape[slot.dim] == state[slot.tensor].shape[slot.dim]


@pytest.mark.parametrize("name", NAMES)
def test_exports_again_with_a_free_batch(zoo: Any, select: Any, name: str) -> None:
    case = zoo(name)
    small = compact(case.program, case.groups, select(case.groups, 2))
    exported = torch.export.export(small.module, case.inputs, dynamic_shapes=({0: Dim.AUTO},))
    again = from_exported(exported)
    assert again.dynamic_batch
    inputs = case.batch(5)
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs), small(*inputs))
    assert {key: tuple(t.shape) for key, t in again.state().items()} == {
        key: tuple(t.shape) for key, t in small.state().items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_trains(zoo: Any, select: Any, name: str) -> None:
    case = zoo(name)
    small = compact(case.program, case.groups, select(case.groups, 3))
    parameters = dict(small.module.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = small(*case.inputs).square().mean()
        loss.backward()
        losses.append(loss.item())
        assert all(parameter.grad is not None for parameter in parameters.values())
        optimizer.step()
    assert losses[2] < losses[0]


def test_slices_by_hand(zoo: Any) -> None:
    case = zoo("residual")
    kept = case.groups.all_kept()
    kept["a"][[1, 4]] = False
    small, old = compact(case.program, case.groups, kept).state(), case.program.state()
    index = [0, 2, 3, 5, 6, 7]
    assert torch.equal(small["a.weight"], old["a.weight"][index])
    assert torch.equal(small["b.weight"], old["b.weight"][:, index])
    assert torch.equal(small["c.weight"], old["c.weight"][index])
    assert torch.equal(small["n.running_var"], old["n.running_var"][index])
    assert torch.equal(small["fc.weight"], old["fc.weight"][:, index])
    assert torch.equal(small["fc.bias"], old["fc.bias"])
    assert case.groups.channel_density(kept) == pytest.approx((2 * 6 + 6) / (2 * 8 + 6))


@pytest.mark.parametrize("name", ["single_index_before_chunk", "roll_onto_itself", "grouped_whole_groups", "attention"])
def test_every_selection_of_a_small_group(zoo: Any, name: str) -> None:
    case = zoo(name)
    group = next(key for key, group in case.groups.groups.items() if len(group) in (3, 4))
    units = len(case.groups.groups[group])
    for number in range(1, 1 << units):
        kept = {group: np.array([bool(number >> unit & 1) for unit in range(units)])}
        small = compact(case.program, case.groups, kept)
        prove(case.program, case.groups, kept, small, case.inputs).require()


def test_masked_by_hand(zoo: Any) -> None:
    case = zoo("residual")
    kept = case.groups.all_kept()
    kept["a"][3] = False
    zeroed, old = masked(case.program, case.groups, kept).state(), case.program.state()
    for name, dim in (("a.weight", 0), ("b.weight", 1), ("c.weight", 0), ("n.running_var", 0), ("fc.weight", 1)):
        assert not zeroed[name].select(dim, 3).any()
        rest = torch.tensor([0, 1, 2, 4, 5, 6, 7])
        assert torch.equal(zeroed[name].index_select(dim, rest), old[name].index_select(dim, rest))
    assert torch.equal(zeroed["fc.bias"], old["fc.bias"])


def test_slices_tensors_of_the_same_names(zoo: Any) -> None:
    case = zoo("residual")
    kept = case.groups.all_kept()
    kept["b"][0] = False
    gradient = {"c.weight": torch.arange(6.0).expand(8, 6), "elsewhere": torch.zeros(3)}
    sliced = slice_tensors(gradient, case.groups, case.groups.alive(kept))
    assert set(sliced) == {"c.weight"}
    assert torch.equal(sliced["c.weight"], torch.arange(1.0, 6.0).expand(8, 5))


def test_refuses(zoo: Any) -> None:
    case = zoo("residual")
    with pytest.raises(GraphError, match="group a would lose all its units"):
        compact(case.program, case.groups, {"a": np.zeros(8, dtype=bool)})
    with pytest.raises(GraphError, match="no channel group nowhere"):
        compact(case.program, case.groups, {"nowhere": np.ones(8, dtype=bool)})
    with pytest.raises(GraphError, match="group a has 8 units, the mask has 7"):
        compact(case.program, case.groups, {"a": np.ones(7, dtype=bool)})


def test_missing_rewrite_is_an_error_and_changes_nothing(zoo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = zoo("split_sizes")
    kept = case.groups.all_kept()
    kept["a"][0] = False
    monkeypatch.delitem(REWRITES, "split_with_sizes")
    with pytest.raises(GraphError, match=r"not consistent|expected shape"):
        compact(case.program, case.groups, kept)
    with torch.no_grad():
        torch.testing.assert_close(case.program(*case.inputs), case.model(*case.inputs))


def test_resized_output(zoo: Any) -> None:
    case = zoo("residual")
    assert head_tensors(case.program) == ("fc.weight", "fc.bias")
    larger, names = resize_output(case.program, 7)
    assert names == ("fc.weight", "fc.bias")
    with torch.no_grad():
        output = larger(*case.inputs)
        expected = case.program(*case.inputs)
    assert output.shape == (2, 7)
    torch.testing.assert_close(output[:, :5], expected)
    assert tuple(case.program.state()["fc.weight"].shape) == (5, 8)
    assert Slot("fc.weight", 0) in {fixed.slot for fixed in find_groups(larger).fixed}


def test_output_without_a_head(zoo: Any) -> None:
    with pytest.raises(GraphError, match="not the output of one layer"):
        resize_output(zoo("matrix_products").program, 3)


def test_a_list_of_scores_beside_other_outputs_has_a_head(zoo: Any) -> None:
    program = zoo("several_outputs").program
    changed, names = resize_output(program, 3)
    assert names == ("fc.weight", "fc.bias")
    found = changed(*changed.example_inputs())
    assert found["logits"].shape[1] == 3
    assert found["parts"][0].shape == program(*program.example_inputs())["parts"][0].shape
