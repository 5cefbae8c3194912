"""Forward selection with old weights, sensitivities, and draws in proportion to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgespa.errors import ConfigError
from edgespa.selection.reconstruct.baselines import forward_selection, sampled_order, sensitivity


def test_forward_selection_against_all_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(12).view(6, 2)
    readers = []
    for _ in range(2):
        inputs = torch.randn(30, 12, generator=generator, dtype=torch.float64)
        weight = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        readers.append((inputs, weight))
    order = forward_selection([[(inputs.T @ inputs, weight, columns) for inputs, weight in readers]])
    chosen: list[int] = []
    for unit in order:
        trials = {}
        for other in set(range(6)) - set(chosen):
            mask = torch.zeros(12, 1, dtype=torch.float64)
            mask[columns[[*chosen, other]].flatten()] = 1
            trials[other] = sum(float((b @ w - b @ (w * mask)).square().sum()) for b, w in readers)
        assert min(trials, key=trials.__getitem__) == unit
        chosen.append(int(unit))


def test_each_step_has_its_own_batch() -> None:
    first, second = torch.diag(torch.tensor([9.0, 1.0, 4.0])), torch.diag(torch.tensor([1.0, 9.0, 16.0]))
    weight, columns = torch.ones(3, 1, dtype=torch.float64), torch.arange(3)[:, None]
    one = [(first.double(), weight, columns)]
    two = [(second.double(), weight, columns)]
    assert forward_selection([one]).tolist() == [0, 2, 1]
    assert forward_selection([two]).tolist() == [2, 1, 0]
    assert forward_selection([one, two]).tolist() == [0, 2, 1]
    assert forward_selection([two, one]).tolist() == [2, 0, 1]


def test_forward_selection_with_short_units_and_other_columns() -> None:
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.tensor([[5.0], [0.1], [0.2], [3.0], [50.0]], dtype=torch.float64)
    columns = torch.tensor([[1, 2], [3, -1], [0, -1]])  # the last column is of no unit
    assert forward_selection([[(inputs.T @ inputs, weight, columns)]]).tolist() == [2, 1, 0]
    with pytest.raises(ConfigError, match="at least one"):
        forward_selection([])


def test_sensitivity_by_hand() -> None:
    # one row a = (1, 1, -2); one output w = (3, 1, 1): of the positive products 3 and 1, the negative one alone
    rows = torch.tensor([[1.0], [1.0], [-2.0]])
    weight = torch.tensor([[3.0], [1.0], [1.0]])
    found = sensitivity(rows, weight, torch.tensor([[0], [1], [2]]))
    assert found.tolist() == pytest.approx([0.75, 0.25, 1.0])
    assert sensitivity(rows, weight, torch.tensor([[0, 1], [2, -1]])).tolist() == pytest.approx([0.75, 1.0])
    assert sensitivity(rows * 0, weight, torch.tensor([[0], [1], [2]])).tolist() == [0, 0, 0]


def test_draws_follow_the_chances() -> None:
    generator = torch.Generator().manual_seed(0)
    chance = torch.tensor([0.5, 0.3, 0.2, 0.0])
    first = np.bincount([sampled_order(chance, generator)[0] for _ in range(4000)], minlength=4) / 4000
    assert first == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.03)
    order = sampled_order(torch.tensor([0.0, 1.0, 0.0]), generator)
    assert order.tolist() == [1, 0, 2]
