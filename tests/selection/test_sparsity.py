"""The penalty on whole units, by hand and over networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.graph.groups import find_groups
from edgespa.graph.surgery import compact, masked
from edgespa.graph.trace import trace
from edgespa.selection.score import parameters_of
from edgespa.selection.sparsity import UnitPenalty, strengths


class Residual(nn.Module):
    """A stream that two layers write, whose weight has the stream in both dimensions; norms; grouped channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = torch.relu(self.norm(self.stem(x)))
        stream = stream + self.inner(self.depth(stream))
        return self.head(stream.flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    ),
    "residual": Residual,
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
}


def test_strengths_by_hand() -> None:
    assert strengths(torch.tensor([4.0, 0.0, 2.0])).tolist() == [1, 16, 4]
    assert strengths(torch.tensor([3.0, 3.0])).tolist() == [1, 1]
    assert strengths(torch.tensor([3.0])).tolist() == [1]


def test_the_penalty_by_hand() -> None:
    program = trace(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), (torch.zeros(2, 1),))
    groups = find_groups(program)
    tensors = {
        "0.weight": torch.tensor([[1.0], [2.0]]), "0.bias": torch.tensor([0.0, -1.0]),
        "2.weight": torch.tensor([[2.0, 2.0]]), "2.bias": torch.tensor([5.0]),
    }  # fmt: skip
    penalty = UnitPenalty(groups, groups.all_kept(), set(tensors))
    assert penalty.norms(tensors)[1:].tolist() == [5, 9]
    assert float(penalty(tensors)) == 16 * 5 + 9
    kept = {name: np.array([False, True]) for name in groups.groups}
    small = {
        "0.weight": tensors["0.weight"][1:],
        "0.bias": tensors["0.bias"][1:],
        "2.weight": tensors["2.weight"][:, 1:],
    }
    assert float(UnitPenalty(groups, kept, set(tensors))(small)) == 9  # alone: nothing holds less
    assert float(UnitPenalty(groups, groups.all_kept(), set())({})) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_counts_all_that_goes_with_it_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    shape = (2, 5, 8) if name == "attention" else (2, 2, 4, 4)
    program = trace(NETWORKS[name]().eval(), (torch.randn(shape),))
    groups = find_groups(program)
    own = parameters_of(program)
    state = {key: tensor.double().float() for key, tensor in program.tensors()}
    norms = UnitPenalty(groups, groups.all_kept(), own).norms(state)
    assert groups.groups
    for group_name, group in groups.groups.items():
        kept = groups.all_kept()
        kept[group_name][0] = False
        zeroed = masked(program, groups, kept).state()
        gone = sum(float((state[key].square() - zeroed[key].square()).sum()) for key in own)
        both = sum(  # weights that have the unit in two dimensions are zeroed once, and counted along each
            float(state[one.tensor].index_select(one.dim, index_of(group.slots[one][0])).index_select(
                other.dim, index_of(group.slots[other][0])).square().sum())
            for one in group.slots for other in group.slots
            if one.tensor == other.tensor and one.dim < other.dim
        )  # fmt: skip
        assert float(norms[group.ids[0]]) == pytest.approx(gone + both, rel=1e-5)


def index_of(indices: np.ndarray) -> Tensor:
    return torch.as_tensor(np.asarray(indices))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compacted_program_is_penalised_as_the_units_that_are_left(name: str) -> None:
    torch.manual_seed(0)
    shape = (2, 5, 8) if name == "attention" else (2, 2, 4, 4)
    program = trace(NETWORKS[name]().eval(), (torch.randn(shape),))
    groups = find_groups(program)
    kept = groups.all_kept()
    for mask in kept.values():
        mask[0] = len(mask) < 2
    own = parameters_of(program)
    small = dict(compact(program, groups, kept).tensors())
    zeroed = dict(masked(program, groups, kept).tensors())
    alone = UnitPenalty(groups, kept, own).norms(small)
    among = UnitPenalty(groups, groups.all_kept(), own).norms(zeroed)
    alive = torch.from_numpy(groups.alive(kept))
    alive[0] = False  # what is fixed is no unit
    torch.testing.assert_close(alone[alive], among[alive])


def test_descent_empties_what_holds_least_first() -> None:
    torch.manual_seed(0)
    program = trace(NETWORKS["chain"](), (torch.randn(2, 2, 4, 4),))
    groups = find_groups(program)
    own = sorted(parameters_of(program))
    tensors = {key: tensor.detach().clone().requires_grad_(True) for key, tensor in program.tensors() if key in own}
    penalty = UnitPenalty(groups, groups.all_kept(), own)
    before = penalty.norms(tensors).detach()
    optimizer = torch.optim.SGD(tensors.values(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        penalty(tensors).backward()
        optimizer.step()
    left = penalty.norms(tensors).detach() / before
    for group in groups.groups.values():
        order = before[group.ids].argsort()
        assert left[group.ids][order[0]] < 0.5 * left[group.ids][order[-1]]
        assert (left[group.ids] < 1).all()
