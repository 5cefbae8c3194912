"""Selection under a budget."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespa.errors import BudgetError, ConfigError
from edgespa.graph.groups import Kept
from edgespa.selection.criteria import Scores
from edgespa.selection.select import QUANTITIES, Budget, Constraints, align_units, halved, select
from edgespa.tasks.base import Base

ANY = Constraints(round_to=1)


def measured(base: Base, of: str, kept: Kept) -> float:
    if of == "channels":
        return base.groups.channel_density(kept)
    now, whole = base.cost.cost(kept), base.whole_cost
    return now.macs / whole.macs if of == "macs" else now.parameters / whole.parameters


def choose(
    base: Base,
    scores: dict[str, Scores],
    density: float,
    of: str = "channels",
    constraints: Constraints = ANY,
    kept: Kept | None = None,
) -> Kept:
    return select(base.groups, scores, Budget(density, of), constraints, base.cost, kept)


def rising(base: Base) -> dict[str, Scores]:
    return {name: np.arange(1.0, len(group) + 1) / len(group) for name, group in base.groups.groups.items()}


def drawn(base: Base, seed: int, ties: bool = False) -> dict[str, Scores]:
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 3, len(group)).astype(np.float64) if ties else random.random(len(group))
        for name, group in base.groups.groups.items()
    }


def test_the_exact_mask_is_known(toy_base: Base) -> None:
    # 16 units of conv1/conv3 (2 channels each: both write the stream), 24 of conv2/depthwise.
    assert {name: (len(g), g.channels) for name, g in toy_base.groups.groups.items()} == {
        "conv1": (16, 2),
        "conv2": (24, 2),
    }
    kept = choose(toy_base, rising(toy_base), 0.5)
    assert kept["conv1"].tolist() == [False] * 8 + [True] * 8
    assert kept["conv2"].tolist() == [False] * 12 + [True] * 12


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.floats(0.15, 0.99),
    st.sampled_from(QUANTITIES),
    st.integers(1, 12),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_budget_is_met_from_below_within_one_step(
    toy_base: Base, seed: int, density: float, of: str, round_to: int, min_width: int, ties: bool
) -> None:
    constraints = Constraints(round_to, min_width)
    scores = drawn(toy_base, seed, ties)
    try:
        kept = choose(toy_base, scores, density, of, constraints)
    except BudgetError as error:
        least = float(re.findall(r"the least is ([\d.]+)", error.message)[0])
        assert least > density
        assert measured(toy_base, of, choose(toy_base, scores, least, of, constraints)) <= least + 1e-9
        return
    assert measured(toy_base, of, kept) <= density + 1e-9
    for name, group in toy_base.groups.groups.items():
        step, width = align_units(group, round_to), int(kept[name].sum())
        halves = [step >> shift for shift in range(step.bit_length())]
        assert width % step == 0 or width in halves or width == len(group)
        assert width >= min_width
        assert scores[name][kept[name]].min() >= scores[name][~kept[name]].max(initial=-1)
        allowed = {w for w in (*halves, *range(step, len(group), step), len(group)) if w > width}
        if allowed:  # one step more of any group is too much
            more = {**kept, name: np.argsort(np.argsort(-scores[name], kind="stable")) < min(allowed)}
            assert measured(toy_base, of, more) > density + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 24), st.integers(1, 16), st.integers(1, 8), st.floats(0.05, 1.0))
def test_gone_units_stay_gone(
    toy_base: Base, seed: int, wide: int, narrow: int, round_to: int, fraction: float
) -> None:
    random = np.random.default_rng(seed)
    before = {"conv1": random.permutation(16) < narrow, "conv2": random.permutation(24) < wide}
    scores = {name: np.where(before[name], values, np.nan) for name, values in drawn(toy_base, seed).items()}
    try:
        kept = choose(
            toy_base,
            scores,
            toy_base.groups.channel_density(before) * fraction,
            "channels",
            Constraints(round_to),
            before,
        )
    except BudgetError:
        return
    assert not any((kept[name] & ~before[name]).any() for name in kept)
    assert all(mask.any() for mask in kept.values())


def test_density_one_keeps_everything(toy_base: Base) -> None:
    kept = choose(toy_base, rising(toy_base), 1.0, constraints=Constraints(round_to=7))
    assert all(mask.all() for mask in kept.values())


def test_ties_go_in_the_order_of_the_units_and_fill_the_budget(toy_base: Base) -> None:
    same = {name: np.ones(len(group)) for name, group in toy_base.groups.groups.items()}
    kept = choose(toy_base, same, 0.6)
    assert toy_base.groups.channel_density(kept) == pytest.approx(0.6)
    assert all(mask.tolist() == sorted(mask.tolist(), reverse=True) for mask in kept.values())


def test_the_step_is_halved_until_it_is_at_most_half_of_the_width(toy_base: Base) -> None:
    groups = toy_base.groups.groups  # of 16 and of 24 units
    assert align_units(groups["conv1"], 16) == 8
    assert align_units(groups["conv2"], 16) == 8
    assert align_units(groups["conv2"], 8) == 8
    assert align_units(groups["conv2"], 12) == 12
    assert align_units(groups["conv2"], 4) == 4
    assert align_units(groups["conv2"], 1) == 1
    assert [halved(16, count) for count in (64, 32, 31, 24, 16, 9, 4, 3, 2, 1)] == [16, 16, 8, 8, 8, 4, 2, 1, 1, 1]


def test_by_default_widths_lie_on_the_widest_block(toy_base: Base) -> None:
    for density in (0.3, 0.5, 0.7):
        kept = choose(toy_base, rising(toy_base), density, constraints=Constraints())
        assert all(int(mask.sum()) in (1, 2, 4, 8, 16, 24) for mask in kept.values())


def test_protected_groups_stay_whole(toy_base: Base) -> None:
    kept = choose(toy_base, rising(toy_base), 0.8, constraints=Constraints(1, keep=("depthwise",)))
    assert kept["conv2"].all()
    assert kept["conv1"].sum() == 8
    kept = choose(toy_base, rising(toy_base), 0.7, constraints=Constraints(1, only=("depth*",)))
    assert kept["conv1"].all()
    assert kept["conv2"].sum() == 12
    with pytest.raises(BudgetError) as failed:
        choose(toy_base, rising(toy_base), 0.5, constraints=Constraints(1, keep=("*",)))
    assert failed.value.message.endswith("the least is 1")


@pytest.mark.parametrize("constraints", [Constraints(keep=("conv9",)), Constraints(only=("conv2", "con"))])
def test_a_pattern_that_matches_nothing_is_refused(toy_base: Base, constraints: Constraints) -> None:
    with pytest.raises(ConfigError, match="matches no layer") as caught:
        choose(toy_base, rising(toy_base), 0.5, constraints=constraints)
    assert "edgespa inspect" in str(caught.value.hint)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6])
def test_the_least_is_said_so_that_it_can_be_asked_for(toy_base: Base, width: int) -> None:
    constraints = Constraints(1, min_width=width)
    with pytest.raises(BudgetError, match=r"macs density 0.001 cannot be reached: the least is 0\.\d+") as caught:
        choose(toy_base, rising(toy_base), 0.001, "macs", constraints)
    least = float(caught.value.message.rpartition(" ")[2])
    kept = choose(toy_base, rising(toy_base), least, "macs", constraints)
    assert [int(mask.sum()) for mask in kept.values()] == [width, width]


@pytest.mark.parametrize(
    ("density", "of"), [(0.0, "channels"), (1.5, "channels"), (float("nan"), "macs"), (0.5, "flops")]
)
def test_a_budget_that_cannot_be_is_refused(density: float, of: str) -> None:
    with pytest.raises(ConfigError):
        Budget(density, of)


def test_constraints_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError):
        Constraints(round_to=0)
    with pytest.raises(ConfigError):
        Constraints(min_width=0)
