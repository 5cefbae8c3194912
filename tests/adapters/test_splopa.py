"""SPLoPA by hand: prototypes in blocks, masks, what is stored, and the units that go with masked blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.base import Place
from edgespa.adapters.blocks import block_magnitudes, block_masks, dead_indices, penalty, without_dead_units
from edgespa.adapters.kinds import options_of
from edgespa.adapters.splopa import SPLoPA
from edgespa.errors import AdapterError
from edgespa.graph.groups import find_groups
from edgespa.graph.trace import trace


def place(left: Tensor, right: Tensor) -> Place:
    return Place(shared={"left": nn.Parameter(left), "right": nn.Parameter(right)})


def random_adapter(shape: tuple[int, ...], **options: Any) -> SPLoPA:
    generator = torch.Generator().manual_seed(0)
    chosen = options_of("splopa", {"block": 2, "prototypes": 2, **options})
    shared = {n: nn.Parameter(t) for n, t in SPLoPA.shared(chosen, generator).items()}
    adapter = SPLoPA.for_weight(torch.zeros(shape), chosen, generator, Place(shared=shared))
    assert adapter is not None
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


def test_the_delta_is_the_sum_of_kronecker_products() -> None:
    adapter = random_adapter((6, 8))
    left, right = adapter._shared
    expected = sum(
        torch.kron(adapter.coefficients[i, :, :, 0], torch.outer(left[i], right[i])) for i in range(len(left))
    )
    torch.testing.assert_close(adapter.delta(), expected)
    assert adapter.size() == 2 * 3 * 4


def test_one_prototype_by_hand() -> None:
    shared = place(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 10.0]]))
    coefficients = torch.tensor([[[[1.0], [-1.0]]]])  # one block row, two block columns
    adapter = SPLoPA.from_tensors({"coefficients": coefficients}, {"kernel": "centre"}, (2, 4), shared)
    assert adapter.delta().tolist() == [[1, 10, -1, -10], [2, 20, -2, -20]]


def test_a_last_block_that_is_not_full() -> None:
    adapter = random_adapter((5, 7))
    whole = random_adapter((6, 8))
    with torch.no_grad():
        whole.coefficients.copy_(adapter.coefficients)
    assert torch.equal(adapter.delta(), whole.delta()[:5, :7])


def test_the_kernel() -> None:
    centre = random_adapter((6, 8, 3, 3)).delta()
    assert torch.equal(centre.sum((2, 3)), centre[:, :, 1, 1])
    full = random_adapter((6, 8, 3, 3), kernel="full")
    assert full.coefficients.shape == (2, 3, 4, 9)
    assert bool((full.delta() != 0).all())


def test_a_mask_takes_weight_and_change() -> None:
    adapter = random_adapter((4, 4), mask="magnitude")
    adapter.with_mask(torch.tensor([[True, False], [False, True]]))
    changed = adapter(torch.ones(4, 4))
    expected = torch.ones(4, 4) + adapter.delta()
    expected[:2, 2:] = 0
    expected[2:, :2] = 0
    assert torch.equal(changed, expected)
    assert dead_indices(adapter, 0).tolist() == [False] * 4
    adapter.with_mask(torch.tensor([[False, False], [False, True]]))
    assert dead_indices(adapter, 0).tolist() == [True, True, False, False]
    assert dead_indices(adapter, 1).tolist() == [True, True, False, False]


def test_scores_get_the_gradient_of_movement_pruning() -> None:
    """dL/dS of a block is the sum of dL/dW_task * (W + dW), masked or not (Sanh et al. 2020, eq. 4)."""
    adapter = random_adapter((4, 4), mask="movement")
    adapter.with_mask(torch.tensor([[True, False], [True, True]]))
    weight, slope = torch.randn(4, 4), torch.randn(4, 4)
    (adapter(weight) * slope).sum().backward()
    product = slope * (weight + adapter.delta().detach())
    expected = product.reshape(2, 2, 2, 2).sum((1, 3))
    assert adapter.scores is not None
    assert adapter.scores.grad is not None
    torch.testing.assert_close(adapter.scores.grad, expected)


def test_masked_blocks_are_not_stored() -> None:
    adapter = random_adapter((4, 6), mask="movement")
    adapter.with_mask(torch.tensor([[True, False, False], [True, True, False]]))
    settled = adapter.settled()
    stored = settled.tensors()
    assert set(stored) == {"coefficients", "mask"}
    assert stored["coefficients"].shape == (2, 3, 1)
    shared = Place(shared=dict(zip(("left", "right"), adapter._shared, strict=True)))
    again = SPLoPA.from_tensors(stored, {}, (4, 6), shared)
    assert torch.equal(again(torch.ones(4, 6)), adapter(torch.ones(4, 6)))
    assert again.size() == settled.size() == 2 * 3 + 6


def test_channels_that_are_cut_out_of_blocks() -> None:
    adapter = random_adapter((6, 8), mask="magnitude")
    rows, columns = torch.tensor([1, 4, 5]), torch.tensor([0, 1, 6])
    small = adapter.sliced(0, rows).sliced(1, columns)
    assert torch.equal(small.delta(), adapter.delta()[rows][:, columns])
    assert small.coefficients.shape == (2, 2, 2, 1)  # block row 1 and block columns 1, 2 are gone
    assert small.rows.tolist() == [1, 2, 3]
    assert small.columns.tolist() == [0, 1, 2]
    assert set(small.tensors()) == {"coefficients", "mask", "rows"}


def test_block_magnitudes_by_hand() -> None:
    adapter = random_adapter((4, 3), mask="magnitude")
    with torch.no_grad():
        adapter.coefficients.zero_()
    weight = torch.tensor([[1.0, 1, 4], [1, 1, 4], [0, 0, -2], [0, 0, -2]])
    mean = (4 * 1 + 2 * 4 + 0 + 2 * 2) / 12
    assert block_magnitudes(weight, adapter).tolist() == pytest.approx(
        [pytest.approx([1 / mean, 4 / mean]), pytest.approx([0, 2 / mean])]
    )


def masks(how: str, density: float, **options: Any) -> dict[str, list[list[bool]]]:
    adapters = {name: random_adapter((4, 4), mask=how) for name in "ab"}
    with torch.no_grad():
        for name, values in (("a", [[9.0, -9.0], [5.0, 1.0]]), ("b", [[0.5, 8.0], [-7.0, -3.0]])):
            scores = adapters[name].scores
            assert scores is not None
            scores.copy_(torch.tensor(values))
    made = block_masks(adapters, {}, {"mask": how, **options}, density)
    return {name: mask.tolist() for name, mask in made.items()}


def test_masks_by_movement_are_ranked_over_all_layers() -> None:
    assert masks("movement", 0.5) == {"a": [[True, False], [True, True]], "b": [[False, True], [False, False]]}
    assert masks("movement", 0.125) == {"a": [[True, False], [False, False]], "b": [[False, True], [False, False]]}


def test_masks_by_a_threshold_do_not_look_at_the_density() -> None:
    expected = {"a": [[True, False], [True, True]], "b": [[True, True], [False, False]]}
    assert masks("threshold", 0.1, threshold=0.6) == expected
    assert masks("threshold", 0.9, threshold=0.6) == expected


def test_the_penalty_is_the_mean_of_the_soft_masks() -> None:
    adapter = random_adapter((4, 4), mask="threshold")
    assert adapter.scores is not None
    value = penalty({"a": adapter})
    assert value is not None
    assert float(value.detach()) == pytest.approx(float(torch.sigmoid(adapter.scores.detach()).mean()))
    assert penalty({"a": random_adapter((4, 4), mask="magnitude")}) is None


def test_units_without_a_block_are_gone() -> None:
    """A unit goes if the layer that writes it, or the one that reads it, has no block of it left."""
    program = trace(
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.randn(2, 3),)
    )
    groups = find_groups(program)
    writer, reader = random_adapter((8, 3), mask="magnitude"), random_adapter((4, 8), mask="magnitude")
    writer.with_mask(torch.tensor([[False, False], [True, False], [True, True], [True, True]]))
    reader.with_mask(torch.tensor([[True, True, True, False], [True, True, False, False]]))
    adapters = {"0.weight": writer, "2.weight": reader}
    kept = without_dead_units(groups, groups.all_kept(), adapters, 1)
    assert kept["0"].tolist() == [False, False, True, True, True, True, False, False]
    assert kept["2"].all()
    # four of eight remain: multiples of eight are halved to four, so nothing changes
    assert kept["0"].sum() == without_dead_units(groups, groups.all_kept(), adapters, 8)["0"].sum()
    assert without_dead_units(groups, groups.all_kept(), {"0.weight": writer}, 2)["0"].sum() == 6
    assert without_dead_units(groups, groups.all_kept(), {"0.weight": writer}, 4)["0"].sum() == 8


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": torch.zeros(2, 3, 3, 1)},
        {"coefficients": torch.zeros(3, 3, 4, 1)},
        {"coefficients": None},
        {"rows": torch.arange(5, dtype=torch.int32)},
        {"rows": torch.arange(6, dtype=torch.int32) + 9},
        {"mask": torch.ones(2, 2, dtype=torch.uint8)},
        {"columns": -torch.ones(8, dtype=torch.int32)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Tensor | None]) -> None:
    adapter = random_adapter((6, 8))
    tensors = {**adapter.tensors(), **change}
    shared = Place(shared=dict(zip(("left", "right"), adapter._shared, strict=True)))
    with pytest.raises(AdapterError):
        SPLoPA.from_tensors({k: t for k, t in tensors.items() if t is not None}, {}, (6, 8), shared)
    with pytest.raises(AdapterError, match="shared"):
        SPLoPA.from_tensors(adapter.tensors(), {}, (6, 8))


def test_a_layer_that_is_too_small_gets_none(make: Callable[..., Any]) -> None:
    options = options_of("splopa", {"prototypes": 8})
    generator = torch.Generator()
    shared = {n: nn.Parameter(t) for n, t in SPLoPA.shared(options, generator).items()}
    assert SPLoPA.for_weight(torch.zeros(2, 4), options, generator, Place(shared=shared)) is None
    assert SPLoPA.for_weight(torch.zeros(24, 1, 3, 3), options, generator, Place(shared=shared)) is None
    case = make("splopa", "convolutions")
    assert {id(p) for a in case.plan.adapters.values() for p in a._shared} == {id(p) for p in case.plan.shared.values()}
    assert np.isfinite(float(case.plan.shared["left"].detach().sum()))
