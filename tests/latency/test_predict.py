"""Predictions from tables: sums of layers, for any selection."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgespa.latency.predict import Predictor, missing, needed
from edgespa.latency.table import LatencyTable, Whole
from edgespa.tasks.base import Base


def test_the_whole_is_the_sum_of_its_layers(toy_base: Base, toy_table: LatencyTable) -> None:
    predictor = Predictor(toy_base.layers, toy_base.groups, toy_table)
    rows = predictor.layer_ms()
    assert predictor.latency_ms() == pytest.approx(sum(row.latency_ms for row in rows) + 0.007)
    by_name = {row.layer: row for row in rows}
    assert by_name["conv2"].widths == (16, 24)
    assert by_name["conv2"].latency_ms == pytest.approx((1 + 16 * 24) / 1e3)
    assert by_name["depthwise"].latency_ms == pytest.approx((1 + 24) / 1e3)


def test_the_scale_is_that_of_the_network(toy_base: Base, toy_table: LatencyTable) -> None:
    plain = Predictor(toy_base.layers, toy_base.groups, toy_table).latency_ms()
    corrected = toy_table.with_whole(Whole(digest="a", predicted_ms=1.0, measured_ms=3.0))
    assert Predictor(toy_base.layers, toy_base.groups, corrected).latency_ms() == pytest.approx(3 * plain)


@pytest.mark.parametrize("seed", range(5))
def test_widths_and_masks_say_the_same(toy_base: Base, toy_table: LatencyTable, seed: int) -> None:
    predictor = Predictor(toy_base.layers, toy_base.groups, toy_table)
    random = np.random.default_rng(seed)
    counts = {name: int(random.choice((4, 8, len(group)))) for name, group in toy_base.groups.groups.items()}
    kept = {name: np.arange(len(group)) < counts[name] for name, group in toy_base.groups.groups.items()}
    assert predictor.width_ms(counts) == pytest.approx(predictor.latency_ms(kept))


def test_what_a_table_lacks(toy_base: Base, toy_table: LatencyTable) -> None:
    assert missing(toy_base.layers, toy_table) == {}
    kind, points = next(iter(needed(toy_base.layers).items()))
    lost = next(iter(points))
    kinds = {
        text: tuple(p for p in own if (text, p.widths) != (str(kind), lost)) for text, own in toy_table.kinds.items()
    }
    smaller = toy_table._with(kinds=kinds)
    assert missing(toy_base.layers, smaller) == {kind: {lost}}
    with pytest.raises(KeyError):
        Predictor(toy_base.layers, toy_base.groups, smaller)


def test_few_files_for_a_network(toy_base: Base) -> None:
    points = needed(toy_base.layers)
    assert sum(map(len, points.values())) < 40
    assert all(len(at) == kind.axes for kind, own in points.items() for at in own)
    assert all(width >= 1 for width in itertools.chain.from_iterable(at for own in points.values() for at in own))
