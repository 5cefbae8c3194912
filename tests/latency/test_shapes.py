"""Widths for a latency: foretold, measured, corrected, chosen again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.arguments import latency_of
from edgespa.api.tasks import adapt_to_file
from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.device import load_device
from edgespa.errors import BudgetError, ConfigError
from edgespa.graph.program import Program
from edgespa.latency.budget import LatencyFitting
from edgespa.latency.predict import Predictor, needed
from edgespa.latency.shaper import Shaper
from edgespa.latency.shapes import MOST, fitted
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.latency.table import LatencyTable, save_table, table_path
from edgespa.pruning import PruneConfig
from edgespa.pruning.losses import BlockLoss, curve, lost_scores
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Losses, Lost, Shape
from edgespa.selection.select import Constraints
from edgespa.tasks.base import Base


@pytest.fixture
def predictor(toy_base: Base, toy_table: LatencyTable) -> Predictor:
    return Predictor(toy_base.layers, toy_base.groups, toy_table)


@pytest.fixture
def losses(toy_base: Base) -> dict[str, dict[int, float]]:
    groups = toy_base.groups.groups
    return {name: {width: 1 - width / len(g) for width in range(1, len(g) + 1)} for name, g in groups.items()}


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.2])
@pytest.mark.parametrize("power", [1.0, 1.15, 0.9])
def test_what_was_foretold_is_corrected_by_what_was_measured(
    predictor: Predictor, losses: dict[str, dict[int, float]], factor: float, power: float
) -> None:
    seen: list[dict[str, int]] = []

    def measure(shape: Shape) -> float:
        seen.append(dict(shape.widths))
        return factor * predictor.width_ms(shape.widths) ** power

    limit = 0.5 * factor * predictor.width_ms({}) ** power
    found = fitted(Losses(losses), predictor, limit, measure)
    assert found.chosen is not None
    assert 0.9 * limit <= found.chosen.measured_ms <= limit
    assert len(found.candidates) == len(seen) - 1 <= MOST
    assert found.chosen.loss == pytest.approx(sum(losses[name][w] for name, w in found.chosen.shape.widths.items()))
    assert found.chosen.loss == min(each.loss for each in found.candidates if each.measured_ms <= limit)
    last = found.candidates[-1]
    assert last.predicted_ms == pytest.approx(last.measured_ms, rel=0.05)


def test_a_network_that_is_fast_enough_stays_whole(
    toy_base: Base, predictor: Predictor, losses: dict[str, dict[int, float]]
) -> None:
    found = fitted(Losses(losses), predictor, 1e6, lambda shape: predictor.width_ms(shape.widths))
    assert found.chosen is found.whole
    assert found.candidates == ()
    assert found.whole.shape.widths == {name: len(group) for name, group in toy_base.groups.groups.items()}


def test_the_fastest_is_measured_before_it_is_said_that_nothing_fits(
    predictor: Predictor, losses: dict[str, dict[int, float]]
) -> None:
    seen: list[Mapping[str, int]] = []

    def measure(shape: Shape) -> float:
        seen.append(shape.widths)
        return predictor.width_ms(shape.widths)

    with pytest.raises(BudgetError, match=r"the fastest candidate takes 0\.\d+ ms"):
        fitted(Losses(losses), predictor, 1e-4, measure)
    assert seen[-1] == dict.fromkeys(losses, 1)


def test_a_table_that_is_wrong_finds_nothing(predictor: Predictor, losses: dict[str, dict[int, float]]) -> None:
    found = fitted(Losses(losses), predictor, 0.9, lambda shape: 1.0 + 1e-6 * sum(shape.widths.values()))
    assert found.chosen is None
    assert 1 <= len(found.candidates) <= MOST


def test_a_block_goes_where_that_loses_less(
    toy_base: Base, predictor: Predictor, losses: dict[str, dict[int, float]]
) -> None:
    inside = [each for each in predictor.layers.layers if each.name in ("conv2", "depthwise")]
    time = sum(row.latency_ms for row in predictor.layer_ms() if row.layer in ("conv2", "depthwise"))

    def measure(shape: Shape) -> float:
        return predictor.width_ms(shape.widths) - (time if shape.removed else 0.0)

    limit = predictor.width_ms({}) - 0.9 * time
    nodes = frozenset(each.node for each in inside)
    for loss, gone in ((0.01, ("block",)), (50.0, ())):
        blocks = {"block": BlockLoss(loss, nodes, ("conv2",))}
        found = fitted(Losses(losses, blocks), predictor, limit, measure)
        assert found.chosen is not None
        assert found.chosen.shape.removed == gone
        if gone:
            assert found.chosen.loss == pytest.approx(0.01)  # of the widths in it nothing
            assert "conv2" not in found.chosen.shape.widths
        else:
            assert set(found.chosen.shape.widths) == set(losses)


def test_widths_of_a_block_that_is_gone_lose_nothing_more() -> None:
    losses = {"inner": {4: 0.5, 8: 0.0}, "stream": {4: 0.3, 8: 0.0}}
    terms = Lost(Losses(losses, {"b": BlockLoss(0.2, frozenset(), ("inner",))})).terms
    assert terms.total({"inner": 0, "stream": 0, "block b": 1}) == pytest.approx(0.8)
    assert terms.total({"inner": 0, "stream": 0, "block b": 0}) == pytest.approx(0.5)


class TestCurves:
    def test_between_measured_points_by_the_error(self) -> None:
        errors = np.array([1.0, 0.8, 0.4, 0.2, 0.1, 0.0])
        found = curve(errors, {2: 0.04, 4: 0.03})
        assert found[[2, 4, 5]] == pytest.approx([0.04, 0.03, 0.0])
        assert found[3] == pytest.approx(0.03 + 0.01 / 3)
        assert found[:2] == pytest.approx([0.1, 0.08])  # beyond, it grows as the error does
        assert (np.diff(found) <= 0).all()

    def test_noise_does_not_make_fewer_units_cheaper(self) -> None:
        found = curve(np.array([1.0, 0.5, 0.25, 0.0]), {1: 0.01, 2: 0.02})
        assert (np.diff(found) <= 0).all()

    def test_errors_of_zero(self) -> None:
        assert curve(np.zeros(4), {1: 0.0, 2: 0.0}) == pytest.approx(np.zeros(4))

    def test_scores_are_lost_from_the_least(self) -> None:
        found = lost_scores({"a": np.array([3.0, 1.0, 2.0])})["a"]
        assert found == pytest.approx([6.0, 3.0, 1.0, 0.0])


def asked_of(base: Base, share: float, **settings: Any) -> tuple[Pruning, LatencyFitting]:
    board = load_device("local").model_copy(update={"name": "board"})
    stopwatch = Stopwatch(LatencyBudget(share * base.whole_cost.macs / 1e6, board), None)  # type: ignore[arg-type]
    pruning = Pruning(base, PruneConfig(density=1.0, **settings).for_latency())
    fitting = LatencyFitting(base, stopwatch, None)
    fitting.density(pruning)
    return pruning, fitting


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "latency_ms", lambda self, program, macs, size: macs / 1e6)


def test_a_latency_is_met_by_each_layer_for_itself(
    toy_base: Base, toy_table: LatencyTable, tmp_path: Path, by_macs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    save_table(toy_table, table_path("board", "onnx-fp32", 1))
    pruning, fitting = asked_of(toy_base, 0.5, round_to=1)
    task = fitting.recorded(pruning.task(0.5, tmp_path))
    account: Any = task.header.provenance["latency"]
    assert account["removed"] == []
    assert account["widths"] == {name: int(mask.sum()) for name, mask in task.kept.items()}
    assert set(account["losses"]) == set(account["widths"])
    rows = {row["layer"]: row for row in account["layers"]}
    assert {"conv1", "conv2", "depthwise", "conv3"} <= set(rows)
    assert rows["conv2"]["widths"][1] == int(task.kept["conv2"].sum())
    assert rows["conv2"]["of"][1] == len(task.kept["conv2"])
    whole = Predictor(toy_base.layers, toy_base.groups, toy_table)
    told = {each.layer: each.latency_ms for each in whole.layer_ms(task.kept)}
    assert all(row["foretold_ms"] == pytest.approx(told[name], rel=2e-2) for name, row in rows.items())
    assert {row["measured_ms"] for row in rows.values()} == {None}  # nothing was measured here
    assert account["obtained_ms"] == account["expected_ms"] <= 0.5 * toy_base.whole_cost.macs / 1e6
    assert {"density", "macs", "latency_ms", "foretold_ms"} == set(account["trials"][-1])
    shares = {round(int(mask.sum()) / len(mask), 2) for mask in task.kept.values()}
    assert len(shares) > 1
    # A run that is gone on with does not measure again.
    again = LatencyFitting(toy_base, fitting._stopwatch, None)
    again.take(account)
    other = Pruning(toy_base, PruneConfig(density=1.0, round_to=1).for_latency())
    assert again.density(other) == account["density"]
    assert other.chosen is not None
    assert other.chosen.widths == account["widths"]


def test_without_a_table_all_layers_are_cut_to_one_density(
    toy_base: Base, by_macs: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("its layers cannot be measured", "do this")

    monkeypatch.setattr("edgespa.latency.budget.make_latencies", refuse)
    pruning, fitting = asked_of(toy_base, 0.5, round_to=1)
    assert pruning.chosen is None
    assert "has no latency table for this network" in caplog.text
    account: Any = fitting.record()
    assert "widths" not in account
    assert account["expected_ms"] <= 0.5 * toy_base.whole_cost.macs / 1e6


@pytest.mark.parametrize("share", [0.3, 1e-6])
def test_where_the_table_is_wrong_one_density_is_found(
    toy_base: Base,
    toy_table: LatencyTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    share: float,
) -> None:
    """By the table all widths take the same."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    points = [(kind, at, 1.0) for kind, own in needed(toy_base.layers).items() for at in own]
    save_table(toy_table.with_points(points), table_path("board", "onnx-fp32", 1))

    def measured(self: Stopwatch, program: Program, macs: int, size: int) -> float:
        return macs / 1e6

    monkeypatch.setattr(Stopwatch, "latency_ms", measured)
    if share < 0.1:
        with pytest.raises(BudgetError, match="cannot be reached"):
            asked_of(toy_base, share, round_to=1)
        return
    pruning, fitting = asked_of(toy_base, share, round_to=1)
    assert pruning.chosen is None
    assert "one density for all layers is tried" in caplog.text
    account: Any = fitting.record()
    assert account["expected_ms"] <= share * toy_base.whole_cost.macs / 1e6


@pytest.mark.parametrize("method", ["l1", "asym-in-change"])
def test_losses_are_of_every_width_and_fall(
    toy_base: Base, method: str, toy_data: ImageData, toy_preprocess: Preprocess
) -> None:
    config = PruneConfig(density=1.0, method=method, round_to=4, keep=("conv1",)).for_latency()
    assert config.allocation == "knapsack"
    found = Pruning(toy_base, config, prepare(toy_data, toy_preprocess)).learnt.losses()
    assert set(found) == set(toy_base.groups.groups) - {"conv1"}
    for name, own in found.items():
        assert max(own) == len(toy_base.groups.groups[name])
        assert own[max(own)] == 0
        assert list(own.values()) == sorted(own.values(), reverse=True)
        assert max(own.values()) > 0


def test_methods_that_only_order_units_have_no_losses() -> None:
    assert PruneConfig(density=0.5, method="layer-random").for_latency().allocation == "auto"
    assert PruneConfig(density=0.5, method="l1", allocation="uniform").for_latency().allocation == "uniform"
    with pytest.raises(ValueError, match="asym-in-change"):
        PruneConfig(density=0.5, method="layer-random", allocation="knapsack")


def test_steps_are_those_that_the_table_found(
    toy_table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def step(**settings: int) -> object:
        return latency_of(1.0, "local", 1, "onnx-fp32", settings)[0]["round_to"]

    assert step() == load_device("local").round_to == 16
    path = table_path("local", "onnx-fp32", 1)
    save_table(toy_table, path)
    assert step() == 4
    assert step(round_to=2) == 2
    path.write_text("{")
    assert step() == 16


def test_of_a_device_that_is_away_the_table_counts(
    toy_base: Base, toy_table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    save_table(toy_table, table_path("board", "onnx-fp32", 1))

    def estimated(self: Stopwatch, program: Program, macs: int, size: int) -> float:
        self.estimated = True
        return 1e3

    monkeypatch.setattr(Stopwatch, "latency_ms", estimated)
    whole = Predictor(toy_base.layers, toy_base.groups, toy_table).latency_ms()
    pruning, fitting = asked_of(toy_base, 0.5 * whole * 1e6 / toy_base.whole_cost.macs, round_to=1)
    task = fitting.recorded(pruning.task(0.5, tmp_path))
    account: Any = task.header.provenance["latency"]
    assert account["estimated"]
    assert account["whole_ms"] == pytest.approx(whole)
    assert 0.4 * whole < account["obtained_ms"] <= 0.5 * whole
    assert task.header.metrics["estimated_latency_ms"] == account["obtained_ms"]


class TestTraining:
    def test_each_step_keeps_what_scores_most_within_its_time(self, toy_base: Base, predictor: Predictor) -> None:
        groups = toy_base.groups
        random = np.random.default_rng(0)
        scores = {name: random.random(len(group)) for name, group in groups.groups.items()}
        target = 0.5 * predictor.latency_ms()
        shaper = Shaper(predictor, Constraints(round_to=1), 0.4, target)
        assert shaper.limit_ms(1.0) == pytest.approx(predictor.latency_ms())
        assert shaper.limit_ms(0.4) == pytest.approx(target)
        kept, lasts = groups.all_kept(), []
        for density in (0.8, 0.6, 0.4):
            before, kept = kept, shaper(groups, scores, kept, density)
            assert all((mask <= before[name]).all() for name, mask in kept.items())
            lasts.append(predictor.latency_ms(kept))
            assert 0.9 * shaper.limit_ms(density) < lasts[-1] <= shaper.limit_ms(density)
            for name, mask in kept.items():  # the best of each group
                assert scores[name][mask].min() >= scores[name][before[name] & ~mask].max(initial=0)
        assert lasts == sorted(lasts, reverse=True)

    def test_what_is_protected_stays(self, toy_base: Base, predictor: Predictor) -> None:
        groups = toy_base.groups
        scores = {name: np.ones(len(group)) for name, group in groups.groups.items()}
        kept = groups.all_kept()
        kept["conv1"][:3] = False
        shaper = Shaper(predictor, Constraints(round_to=1, keep=("conv1",)), 0.4, 0.4 * predictor.latency_ms())
        found = shaper(groups, scores, kept, 0.4)
        assert (found["conv1"] == kept["conv1"]).all()
        assert found["conv2"].sum() < kept["conv2"].sum()

    def test_adapt_keeps_to_the_time(
        self, toy_base: Base, toy_folder: Path, tmp_path: Path, by_macs: None, told_by_macs: None
    ) -> None:
        asked = 0.5 * toy_base.whole_cost.macs / 1e6
        task = adapt_to_file(
            f"{toy_folder / 'net.py'}:build",
            str(toy_folder / "colours.npz"),
            tmp_path / "task.spa",
            AdaptConfig(rank=2, epochs=2, batch_size=32, prune_steps=3, round_to=1, criterion="taylor"),
            input_shape=(1, 3, 8, 8),
            latency=LatencyBudget(asked, load_device("local")),
        )
        account: Any = task.header.provenance["latency"]
        assert account["of"] == "macs"
        assert account["widths"] == {name: int(mask.sum()) for name, mask in task.kept.items()}
        assert "losses" not in account
        # By scores, other units and other widths than by the weights alone, in the same time.
        assert 0.75 * asked <= account["obtained_ms"] <= 1.05 * asked
