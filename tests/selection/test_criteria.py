"""Criteria by hand."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from edgespa.errors import ConfigError
from edgespa.graph.groups import Group, Slot
from edgespa.selection import criteria
from edgespa.selection.criteria import (
    CRITERIA,
    Criterion,
    activation_sum,
    activation_taylor,
    criterion_named,
    criterion_names,
    geometric_median,
    magnitude,
    normalise,
    slots_of,
    taylor,
    unit_scores,
)

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 1.0], [-2.0, -2.0]])


def group_of(units: list[list[int]], writers: tuple[Slot, ...] = (), readers: tuple[Slot, ...] = ()) -> Group:
    indices = [np.array(own) for own in units]
    slots = {slot: indices for slot in (*writers, *readers)}
    return Group("g", np.arange(1, len(units) + 1), slots, writers, readers)


def test_magnitudes_by_hand() -> None:
    assert magnitude(WEIGHT, 0, 1).tolist() == [7, 1, 4]
    assert magnitude(WEIGHT, 1, 1).tolist() == [5, 7]
    assert magnitude(WEIGHT, 0, 2).tolist() == pytest.approx([5, 1, 8**0.5])
    assert magnitude(torch.tensor([-2.0, 3.0]), 0, 1).tolist() == [2, 3]
    assert magnitude(torch.tensor([-2.0, 3.0]), 0, 2).tolist() == [2, 3]


def test_magnitude_of_half_precision_does_not_overflow() -> None:
    assert magnitude(torch.full((1, 100_000), 10.0, dtype=torch.float16), 0, 1).tolist() == [1e6]
    assert magnitude(torch.full((1, 4), 6e4, dtype=torch.float16), 0, 2).tolist() == pytest.approx([12e4], rel=1e-3)


def test_taylor_keeps_the_sign() -> None:
    gradient = torch.tensor([[1.0, 1.0], [5.0, 2.0], [0.5, -0.5]])
    assert taylor(WEIGHT, gradient, 0).tolist() == [-1, 2, 0]
    assert taylor(WEIGHT, gradient, 1).tolist() == [2, -1]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("l1", [0.3, 0.4, 0.3]),
        ("l2", [3 / 34**0.5, 4 / 34**0.5, 3 / 34**0.5]),
        ("mean", [0.9, 1.2, 0.9]),
        ("none", [3, 4, 3]),
    ],
)
def test_normalisations(how: str, expected: list[float]) -> None:
    assert normalise(np.array([3.0, 4.0, 3.0]), how).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("how", ["l1", "l2", "mean", "none"])
def test_a_layer_of_zeros_and_an_empty_one_stay_so(how: str) -> None:
    assert normalise(np.zeros(3), how).tolist() == [0, 0, 0]
    assert normalise(np.zeros(0), how).tolist() == []


def test_scores_of_a_units_indices_are_added_and_its_slots_averaged() -> None:
    one, other = Slot("a", 0), Slot("b", 0)
    group = group_of([[0, 2], [1, 3]], writers=(one, other))
    index_scores = {one: np.array([1.0, 2.0, 3.0, 4.0]), other: np.array([8.0, 0.0, 8.0, 0.0])}
    # mean over slots of [4, 6] and [16, 0], each divided by its mean (5 and 8)
    assert unit_scores(group, index_scores, CRITERIA["l1"], "mean").tolist() == pytest.approx([1.4, 0.6])
    assert unit_scores(group, index_scores, CRITERIA["l1"], "none").tolist() == pytest.approx([10, 3])


def test_gone_units_are_not_a_number_and_do_not_count_for_the_normalisation() -> None:
    slot = Slot("a", 0)
    group = group_of([[0], [1], [2]], writers=(slot,))
    scores = unit_scores(group, {slot: np.array([1.0, np.nan, 3.0])}, CRITERIA["l1"], "mean")
    assert np.isnan(scores[1])
    assert scores[[0, 2]].tolist() == [0.5, 1.5]


def test_signed_scores_cancel_before_the_absolute_value() -> None:
    one, other = Slot("a", 1), Slot("b", 1)
    group = group_of([[0], [1]], readers=(one, other))
    scores = {one: np.array([3.0, -1.0]), other: np.array([-3.0, -1.0])}
    assert unit_scores(group, scores, CRITERIA["taylor"], "none").tolist() == [0, 2]


def test_a_criterion_looks_at_the_other_side_where_its_own_is_empty() -> None:
    writer, reader = Slot("a", 0), Slot("b", 1)
    assert slots_of(group_of([[0]], (writer,), (reader,)), CRITERIA["l1"]) == (writer,)
    assert slots_of(group_of([[0]], (writer,), (reader,)), CRITERIA["taylor"]) == (reader,)
    assert slots_of(group_of([[0]], (), (reader,)), CRITERIA["l1"]) == (reader,)
    assert slots_of(group_of([[0]], (writer,), ()), CRITERIA["taylor"]) == (writer,)
    assert unit_scores(group_of([[0], [1]]), {}, CRITERIA["l1"], "mean").tolist() == [0, 0]


def test_an_unknown_criterion_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="'l3'") as caught:
        criterion_named("l3")
    assert caught.value.hint == f"choose one of: {', '.join(CRITERIA)}"


def test_distances_to_all_others_by_hand() -> None:
    """Rows (0, 0), (3, 4), (6, 8), (0, 0): the middle of the line is nearest to the geometric median."""
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 0.0]])
    assert geometric_median(weight, 0).tolist() == [15, 15, 25, 15]
    assert geometric_median(weight.t().contiguous(), 1).tolist() == [15, 15, 25, 15]
    assert geometric_median(weight.reshape(4, 1, 2, 1), 0).tolist() == [15, 15, 25, 15]
    assert geometric_median(torch.tensor([1.0, 2.0, 5.0]), 0).tolist() == [5, 4, 7]


def test_a_filter_that_others_can_stand_for_has_the_least_distance() -> None:
    weight = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1], [0.1, 0.1], [5, 5]])
    assert int(geometric_median(weight, 0).argmin()) == 4
    assert int(magnitude(weight, 0, 1).argmin()) == 4
    moved = weight + 10  # what magnitude goes by is gone, distances stay
    torch.testing.assert_close(geometric_median(moved, 0), geometric_median(weight, 0), atol=1e-5, rtol=0)


def test_sums_over_activations_by_hand() -> None:
    activation = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [1.0, 1.0]]])  # [N, C, L]
    gradient = torch.tensor([[[1.0, -1.0], [2.0, 0.0]], [[5.0, 1.0], [-1.0, -1.0]]])
    assert activation_sum(activation, gradient, 1).tolist() == [6, 0]
    assert activation_taylor(activation, gradient, 1).tolist() == [0, 4]
    assert activation_sum(activation, gradient, 2).tolist() == [7, -1]


def test_scales_are_looked_at_where_there_are_any() -> None:
    writer, scale, reader = Slot("a", 0), Slot("norm", 0), Slot("b", 1)
    indices = [np.array([0]), np.array([1])]
    slots = {slot: indices for slot in (writer, scale, reader)}
    group = Group("g", np.arange(1, 3), slots, (writer,), (reader,))
    rule = CRITERIA["bn-scale"]
    assert slots_of(group, rule, {"norm"}) == (scale,)
    assert slots_of(group, rule, {"other"}) == (writer,)
    scores = {scale: np.array([0.5, 1.5])}
    assert unit_scores(group, scores, rule, "none", {"norm"}).tolist() == [0.5, 1.5]


def test_all_parameters_of_a_unit_are_looked_at_and_no_statistics() -> None:
    writer, bias, mean, reader = Slot("a", 0), Slot("bias", 0), Slot("mean", 0), Slot("b", 1)
    indices = [np.array([0]), np.array([1])]
    group = Group("g", np.arange(1, 3), {slot: indices for slot in (writer, bias, mean, reader)}, (writer,), (reader,))
    rule = CRITERIA["jacobian"]
    assert slots_of(group, rule, {"a", "b", "bias", "other"}) == (writer, bias, reader)
    scores = {writer: np.array([1.0, 2.0]), bias: np.array([0.5, 0.0]), reader: np.array([-4.0, 1.0])}
    assert unit_scores(group, scores, rule, "none", {"a", "b", "bias"}).tolist() == [2.5, 3.0]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Criterion:
    own = Criterion("largest", "writers", False, lambda weight, _, dim: -magnitude(weight, dim, 1))
    points = [EntryPoint(name, "package:X", criteria.GROUP) for name in ("largest", "broken", "wrong")]

    def load(point: EntryPoint) -> object:
        if point.name == "broken":
            raise ModuleNotFoundError("no module named package")
        return own if point.name == "largest" else dict

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(criteria, "entry_points", lambda group: points if group == criteria.GROUP else [])
    return own


def test_a_criterion_of_another_package(plugins: Criterion) -> None:
    assert criterion_named("largest") is plugins
    assert criterion_names() == (*CRITERIA, "largest", "broken", "wrong")
    for name, text in (("broken", "cannot be imported"), ("wrong", "is not an edgespa")):
        with pytest.raises(ConfigError, match=text) as caught:
            criterion_named(name)
        assert caught.value.hint
