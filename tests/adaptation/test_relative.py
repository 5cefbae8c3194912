"""Learning rates that are relative to the size of each filter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgespa.adaptation.moments import LEAST_SIZE, averages_of, fresh_optimizer, sizes, steps_of


def stepped(*tensors: torch.Tensor, relative: bool, lr: float = 0.01) -> list[torch.Tensor]:
    """Parameters after one step along gradients of all signs and sizes, without weight decay."""
    parameters = [nn.Parameter(tensor.clone()) for tensor in tensors]
    named = {f"tensor/{index}": parameter for index, parameter in enumerate(parameters)}
    optimizer = fresh_optimizer(named, lr, 0.0, relative=relative)
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    assert steps_of(optimizer) == 1
    assert averages_of(optimizer, named)["exp_avg"].flat().keys() == named.keys()
    return [parameter.detach() for parameter in parameters]


def test_a_step_moves_each_filter_by_that_share_of_its_size() -> None:
    weight = torch.stack([torch.full((2, 3), 100.0), torch.full((2, 3), 0.1)])
    bias = torch.tensor([3.0, -4.0])
    pairs = zip(stepped(weight, bias, relative=True), (weight, bias), strict=True)
    moved = [(after - before).abs() for after, before in pairs]
    assert torch.allclose(moved[0][0], torch.full((2, 3), 1.0), rtol=1e-2)
    assert torch.allclose(moved[0][1], torch.full((2, 3), 0.001), rtol=1e-2)
    assert torch.allclose(moved[1], torch.full((2,), 0.01 * 12.5**0.5), rtol=1e-2)
    # AdamW itself moves all by the same.
    pairs = zip(stepped(weight, bias, relative=False), (weight, bias), strict=True)
    plain = [(after - before).abs() for after, before in pairs]
    assert all(torch.allclose(each, torch.full_like(each, 0.01), rtol=1e-2) for each in plain)


def test_what_is_zero_moves_a_little() -> None:
    (after,) = stepped(torch.zeros(4, 3), relative=True)
    assert torch.allclose(after.abs(), torch.full((4, 3), 0.01 * LEAST_SIZE), rtol=1e-2)


def test_what_has_no_gradient_stays() -> None:
    kept, moved = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = fresh_optimizer({"tensor/a": kept, "tensor/b": moved}, 0.1, 1e-4, relative=True)
    moved.grad = torch.ones(3, 2)
    optimizer.step()
    assert torch.equal(kept, torch.ones(3, 2))
    assert not torch.equal(moved, torch.ones(3, 2))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (4,)])
def test_sizes_are_root_mean_squares(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = sizes(tensor)
    if len(shape) == 1:
        assert found == pytest.approx(float(tensor.norm()) / 2)
    else:
        assert found.shape == (4, *[1] * (len(shape) - 1))
        assert torch.allclose(found.flatten(), tensor.flatten(1).norm(dim=1) / tensor[0].numel() ** 0.5)
