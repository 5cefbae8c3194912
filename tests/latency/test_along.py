"""Times as a search asks for them: the same as those of the predictor, however they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from edgespa.graph.groups import Kept
from edgespa.latency.predict import Predictor
from edgespa.latency.table import LatencyTable
from edgespa.selection import along
from edgespa.selection.along import Along
from edgespa.tasks.base import Base


@pytest.fixture(scope="module")
def predictor(toy_base: Base, toy_table: LatencyTable) -> Predictor:
    return Predictor(toy_base.layers, toy_base.groups, toy_table)


@pytest.fixture(params=[20_000, 1], ids=["arrays", "one by one"])
def times(request: pytest.FixtureRequest, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Along:
    monkeypatch.setattr(along, "_MOST", request.param)
    return along_of(predictor, {name: (4, 8, len(group)) for name, group in predictor.groups.groups.items()})


def along_of(
    predictor: Predictor, widths: Mapping[str, Sequence[int]], blocks: Mapping[str, frozenset[str]] | None = None
) -> Along:
    return Along(predictor.parts(), predictor.groups, widths, blocks, predictor.fixed_ms)


@pytest.mark.parametrize("seed", range(3))
def test_totals_are_those_of_the_predictor(predictor: Predictor, times: Along, seed: int) -> None:
    random = np.random.default_rng(seed)
    choice = {name: int(random.integers(3)) for name in times.widths}
    counts = {name: int(times.widths[name][place]) for name, place in choice.items()}
    assert times.total(choice) == pytest.approx(predictor.width_ms(counts))


def test_along_a_group_are_the_differences_of_totals(times: Along) -> None:
    for name, widths in times.widths.items():
        choice = dict.fromkeys(times.widths, 1)
        totals = [times.total({**choice, name: place}) for place in range(len(widths))]
        along_it = times.along(name, choice)
        assert along_it - along_it[0] == pytest.approx(np.array(totals) - totals[0])


def test_what_is_around_a_group_is_in_some_layer_with_it(times: Along) -> None:
    for name in times.widths:
        for other in times.widths:
            choice = dict.fromkeys(times.widths, 2)
            apart = times.along(name, choice) - times.along(name, {**choice, other: 0})
            assert other == name or (other in times.around(name)) == bool(np.abs(apart).max() > 0)


def test_a_block_that_is_gone_takes_nothing(predictor: Predictor, times: Along) -> None:
    inside = [each for each in predictor.layers.layers if each.name in ("conv2", "depthwise")]
    widths = {name: own.astype(int).tolist() for name, own in times.widths.items()}
    own = along_of(predictor, widths, {"block": frozenset(each.node for each in inside)})
    choice = dict.fromkeys(widths, 1)
    rows = {each.layer: each.latency_ms for each in predictor.layer_ms(kept_of(predictor, widths, choice))}
    there = own.total({**choice, "block": 1})
    assert there == pytest.approx(times.total(choice))
    gone = there - own.total({**choice, "block": 0})
    assert gone == pytest.approx(sum(rows[each.name] for each in inside))
    assert own.along("block", {**choice, "block": 1}) == pytest.approx([0.0, gone])
    for name in widths:
        for block in (0, 1):
            at = {**choice, "block": block}
            totals = [own.total({**at, name: place}) for place in range(3)]
            along_it = own.along(name, at)
            assert along_it - along_it[0] == pytest.approx(np.array(totals) - totals[0])


def kept_of(predictor: Predictor, widths: dict[str, list[int]], choice: dict[str, int]) -> Kept:
    groups = predictor.groups.groups
    return {name: np.arange(len(group)) < widths[name][choice[name]] for name, group in groups.items()}


def test_a_group_that_is_not_named_stays_whole(predictor: Predictor) -> None:
    times = along_of(predictor, {"conv2": (8, 24)})
    assert times.total({"conv2": 1}) == pytest.approx(predictor.latency_ms())
    assert times.total({"conv2": 0}) == pytest.approx(predictor.width_ms({"conv2": 8}))
