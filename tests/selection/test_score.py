"""Scores of a program's units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.errors import AdapterError, ConfigError
from edgespa.graph.groups import Groups, find_groups
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.selection.score import Loss, score_units
from edgespa.tasks.base import Base


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(norm: bool) -> tuple[Program, Groups]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()]
    model = nn.Sequential(*(layer for layer in layers if norm or not isinstance(layer, nn.BatchNorm2d)))
    program = trace(model, (torch.randn(2, 2, 5, 5),))
    return program, find_groups(program)


def test_a_channel_of_magnitude_k_plus_one_has_that_score() -> None:
    program, groups = chain(norm=False)
    weights = program.state()
    weights["0.weight"] = torch.arange(1.0, 7.0).reshape(6, 1, 1, 1).expand(6, 2, 3, 3)
    (name,) = groups.groups
    scores = score_units(groups, groups.all_kept(), weights, "l1", "none", generator())[name]
    assert scores.tolist() == [18 * (k + 1) for k in range(6)]
    scores = score_units(groups, groups.all_kept(), weights, "l2", "mean", generator())[name]
    assert scores.tolist() == pytest.approx([(k + 1) / 3.5 for k in range(6)])


def test_scores_of_a_compacted_program_belong_to_the_units_that_are_left() -> None:
    _, groups = chain(norm=False)
    (name,) = groups.groups
    kept = {name: np.array([True, False, True, False, False, True])}
    weights = {"0.weight": torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)}
    scores = score_units(groups, kept, weights, "l1", "none", generator())[name]
    np.testing.assert_array_equal(scores, [1, np.nan, 2, np.nan, np.nan, 3])


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_taylor_is_the_first_order_change_of_the_loss_by_a_gate(norm: bool) -> None:
    program, groups = chain(norm)
    module = program.module.double()
    reader = "2.weight" if not norm else "3.weight"
    weights = {name: tensor.double() for name, tensor in program.state().items()}
    inputs, labels = torch.randn(5, 2, 5, 5, generator=generator(), dtype=torch.float64), torch.arange(5)

    def loss(tensors: Mapping[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(module, dict(tensors), (images,)), targets)

    (name,) = groups.groups
    scores = score_units(
        groups, groups.all_kept(), weights, "taylor", "none", generator(), loss=loss, batches=[(inputs, labels)]
    )[name]
    step = 1e-5
    for channel in range(6):
        gated = {}
        for sign in (1, -1):
            gate = torch.ones(6, dtype=torch.float64)
            gate[channel] += sign * step
            gated[sign] = float(loss({**weights, reader: weights[reader] * gate.reshape(1, 6, 1, 1)}, inputs, labels))
        assert scores[channel] == pytest.approx(abs(gated[1] - gated[-1]) / (2 * step), rel=1e-5, abs=1e-10)


def test_taylor_averages_the_absolute_values_of_the_batches() -> None:
    program, groups = chain(norm=False)
    (name,) = groups.groups

    def loss(tensors: Mapping[str, Tensor], images: Tensor, _: Tensor) -> Tensor:
        return (images.mean() * tensors["2.weight"]).sum()

    def score(*signs: float) -> np.ndarray:
        batches = [(torch.full((1,), sign), torch.zeros(1)) for sign in signs]
        return score_units(
            groups, groups.all_kept(), program.state(), "taylor", "none", generator(), loss=loss, batches=batches
        )[name]

    np.testing.assert_allclose(score(1.0), np.abs(program.state()["2.weight"].double().sum((0, 2, 3)).numpy()))
    np.testing.assert_allclose(score(1.0, -3.0), 2 * score(1.0))


def cross_entropy_of(program: Program) -> Loss:
    module = program.module.double()

    def loss(tensors: Mapping[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(module, dict(tensors), (images,)), targets)

    return loss


def batch_of(size: int, seed: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 2, 5, 5, generator=generator(seed), dtype=torch.float64)
    return images, torch.randint(0, 36, (size,), generator=generator(seed))


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_jacobian_is_the_square_of_the_change_by_a_factor_on_all_of_a_units_parameters(norm: bool) -> None:
    program, groups = chain(norm)
    loss = cross_entropy_of(program)
    weights = {name: tensor.double() for name, tensor in program.state().items()}
    if norm:  # statistics have a derivative, and are no parameters
        weights["1.running_mean"], weights["1.running_var"] = (
            torch.full((6,), 0.3).double(),
            torch.full((6,), 2.0).double(),
        )
        weights["1.bias"] = torch.linspace(0.1, 0.6, 6).double()
    reader = "3.weight" if norm else "2.weight"
    own = {"0.weight", "0.bias", reader, *(["1.weight", "1.bias"] if norm else [])}
    batches = [batch_of(5, 0), batch_of(5, 1)]
    (name,) = groups.groups
    scores = score_units(
        groups, groups.all_kept(), weights, "jacobian", "none", generator(), program=program, loss=loss, batches=batches
    )[name]
    step = 1e-7
    for channel in range(6):
        squares = []
        for inputs, labels in batches:
            losses = {}
            for sign in (1, -1):
                moved = {each: weights[each].clone() for each in own}
                for each, tensor in moved.items():
                    (tensor[:, channel] if each == reader else tensor[channel]).mul_(1 + sign * step)
                losses[sign] = float(loss({**weights, **moved}, inputs, labels))
            squares.append(((losses[1] - losses[-1]) / (2 * step)) ** 2)
        assert scores[channel] == pytest.approx(np.mean(squares), rel=1e-4, abs=1e-12)
    assert (scores > 1e-9).any()


def test_jacobian_adds_inside_a_unit_before_it_squares_and_over_batches_after() -> None:
    program, groups = chain(norm=False)
    (name,) = groups.groups
    weights = program.state()
    weights["0.weight"], weights["0.bias"] = torch.ones_like(weights["0.weight"]), torch.zeros(6)
    weights["2.weight"] = torch.ones_like(weights["2.weight"])

    def loss(tensors: Mapping[str, Tensor], images: Tensor, _: Tensor) -> Tensor:
        return images.sum() * (tensors["0.weight"][:, 0, 0, 0] - 3 * tensors["2.weight"][0, :, 0, 0]).sum()

    def score(*sizes: float, **joined: Any) -> list[float]:
        batches = [(torch.full((1,), size), torch.zeros(1)) for size in sizes]
        return score_units(
            groups, groups.all_kept(), weights, "jacobian", "none", generator(), program=program, loss=loss,
            batches=batches, **joined,
        )[name].tolist()  # fmt: skip

    assert score(1.0) == [4.0] * 6  # (1 - 3)^2
    assert score(1.0, -2.0) == [10.0] * 6  # (4 + 16) / 2
    assert score(1.0, -2.0, joined=2) == [1.0] * 6  # ((1 - 2) / 2 * -2)^2
    assert score(1.0, -2.0, 4.0, joined=2) == [(1 + 64) / 2] * 6


def test_batches_that_are_joined_are_one_by_what_their_losses_are_the_mean_of() -> None:
    program, groups = chain(norm=True)
    loss = cross_entropy_of(program)
    weights = {name: tensor.double() for name, tensor in program.state().items()}
    whole = [batch_of(8, seed) for seed in range(2)]
    cut = [tuple(each[part] for each in batch) for batch in whole for part in (slice(0, 3), slice(3, 8))]

    def score(criterion: str, batches: Any, **more: Any) -> dict[str, np.ndarray]:
        return score_units(
            groups, groups.all_kept(), weights, criterion, "mean", generator(), program=program, loss=loss,
            batches=batches, **more,
        )  # fmt: skip

    (name,) = groups.groups
    expected = score("jacobian", whole)[name]
    np.testing.assert_allclose(score("jacobian", cut, joined=2, mass=len)[name], expected, rtol=1e-10)
    assert not np.allclose(score("jacobian", cut, joined=2)[name], expected, rtol=1e-3)
    assert not np.allclose(score("jacobian", cut, mass=len)[name], expected, rtol=1e-3)
    np.testing.assert_array_equal(score("taylor", cut, joined=2, mass=len)[name], score("taylor", cut)[name])


def test_random_depends_on_nothing_but_its_seed(toy_base: Base) -> None:
    def scores(seed: int) -> dict[str, np.ndarray]:
        weights = toy_base.program.state()
        return score_units(toy_base.groups, toy_base.groups.all_kept(), weights, "random", "mean", generator(seed))

    one, same, other = scores(1), scores(1), scores(2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_a_criterion_that_needs_data_is_not_satisfied_with_none() -> None:
    program, groups = chain(norm=False)
    with pytest.raises(ConfigError, match="taylor needs labelled data"):
        score_units(groups, groups.all_kept(), program.state(), "taylor", "mean", generator())
    with pytest.raises(ConfigError, match="at least one batch"):
        score_units(
            groups, groups.all_kept(), program.state(), "taylor", "mean", generator(), loss=lambda *_: torch.zeros(())
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_and_not_ranked(value: float) -> None:
    program, groups = chain(norm=False)
    weights = program.state()
    weights["0.weight"] = weights["0.weight"].clone()
    weights["0.weight"][3, 0, 0, 0] = value
    with pytest.raises(AdapterError, match="group 0: its l1 scores are not finite"):
        score_units(groups, groups.all_kept(), weights, "l1", "mean", generator())
