"""Times as a search asks for them: the same as those of the predictor, however they are kept."""

from __future__ import annotations

import numpy as np
import pytest

from edgespa.latency import along
from edgespa.latency.along import Along
from edgespa.latency.predict import Predictor, needed
from edgespa.latency.table import LatencyTable, Origin
from edgespa.tasks.base import Base

ORIGIN = Origin(
    device="board", machine="aarch64", cpu_model="a core", runtime="onnxruntime 1.2.3", variant="onnx-fp32", threads=1
)


@pytest.fixture(scope="module")
def predictor(toy_base: Base) -> Predictor:
    points = [(kind, at, 1.0 + float(np.prod(at))) for kind, own in needed(toy_base.layers).items() for at in own]
    table = LatencyTable(origin=ORIGIN, created="now", step=4, run_us=7.0).with_points(points)
    return Predictor(toy_base.layers, toy_base.groups, table)


@pytest.fixture(params=[20_000, 1], ids=["arrays", "one by one"])
def times(request: pytest.FixtureRequest, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Along:
    monkeypatch.setattr(along, "_MOST", request.param)
    return Along(predictor, {name: (4, 8, len(group)) for name, group in predictor.groups.groups.items()})


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


def test_neighbours_are_those_of_some_layer(times: Along) -> None:
    for name in times.widths:
        for other in times.widths:
            if other == name:
                continue
            choice = dict.fromkeys(times.widths, 2)
            apart = times.along(name, choice) - times.along(name, {**choice, other: 0})
            assert (other in times.neighbours[name]) == bool(np.abs(apart).max() > 0)


def test_a_group_that_is_not_named_stays_whole(predictor: Predictor) -> None:
    times = Along(predictor, {"conv2": (8, 24)})
    assert times.total({"conv2": 1}) == pytest.approx(predictor.latency_ms())
    assert times.total({"conv2": 0}) == pytest.approx(predictor.width_ms({"conv2": 8}))
