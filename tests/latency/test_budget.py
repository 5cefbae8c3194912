"""Latency as a budget: measured candidates on real runtimes, the estimate only where nothing can be measured."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.tasks import adapt_to_file, prune_to_file
from edgespa.device import load_device
from edgespa.device.board import Device
from edgespa.errors import BudgetError, ConfigError, DeviceError
from edgespa.graph.program import Program
from edgespa.latency.budget import LatencyFitting
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.pruning import PruneConfig
from edgespa.pruning.run import Pruning
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

SPEC, SHAPE = "{folder}/net.py:build", (1, 3, 8, 8)


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device without a latency table, on which a thousand MACs take a microsecond; what was measured."""
    seen: list[int] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("nothing of it can be measured")

    def measured(self: Stopwatch, program: Program, macs: int, size_bytes: int) -> float:
        seen.append(macs)
        return macs / 1e6

    monkeypatch.setattr(Stopwatch, "latency_ms", measured)
    monkeypatch.setattr("edgespa.latency.budget.make_latencies", refuse)
    return seen


def away() -> Device:
    device = load_device("pi-4b")
    reach = device.connection.model_copy(update={"host": "127.0.0.1", "port": 1, "ssh_config": "/dev/null"})
    return device.model_copy(update={"connection": reach})


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("method", ["l1", "layer-weight-norm"])
def test_the_density_is_the_largest_that_fits(
    toy_base: Base, toy_folder: Path, tmp_path: Path, by_macs: list[int], share: float, method: str
) -> None:
    asked = share * toy_base.whole_cost.macs / 1e6
    output = tmp_path / "cut.spa"
    task = prune_to_file(
        SPEC.format(folder=toy_folder),
        output,
        PruneConfig(density=1.0, method=method, round_to=1),
        input_shape=SHAPE,
        latency=LatencyBudget(asked, load_device("local")),
    )
    account: Any = Task.load(output).header.provenance["latency"]
    assert account["obtained_ms"] == task.header.metrics["latency_ms"] == pytest.approx(task.header.figures.macs / 1e6)
    # The candidate that was measured is the network that came out.
    assert account["obtained_ms"] == pytest.approx(account["expected_ms"])
    assert 0.9 * asked <= account["obtained_ms"] <= asked
    assert account["whole_ms"] == pytest.approx(toy_base.whole_cost.macs / 1e6)
    assert (account["estimated"], account["device"], account["of"]) == (False, "local", "channels")
    assert len(account["trials"]) == len(by_macs) - 1
    assert len(set(by_macs)) >= len(by_macs) - 1


def test_a_network_that_is_fast_enough_stays_whole(toy_folder: Path, tmp_path: Path, by_macs: list[int]) -> None:
    task = prune_to_file(
        SPEC.format(folder=toy_folder),
        tmp_path / "whole.spa",
        PruneConfig(density=1.0),
        input_shape=SHAPE,
        latency=LatencyBudget(1e6, load_device("local")),
    )
    assert task.header.figures.channel_density == 1.0


def test_a_budget_that_cannot_be_reached_says_what_can(toy_folder: Path, tmp_path: Path, by_macs: list[int]) -> None:
    with pytest.raises(
        BudgetError, match=r"1e-06 ms cannot be reached on local: the fastest candidate takes 0\.\d+ ms"
    ):
        prune_to_file(
            SPEC.format(folder=toy_folder),
            tmp_path / "none.spa",
            PruneConfig(density=1.0),
            input_shape=SHAPE,
            latency=LatencyBudget(1e-6, load_device("local")),
        )
    assert not (tmp_path / "none.spa").exists()


def test_adapt_prunes_to_a_fraction_of_the_macs(
    toy_folder: Path, toy_base: Base, tmp_path: Path, by_macs: list[int]
) -> None:
    asked = 0.5 * toy_base.whole_cost.macs / 1e6
    task = adapt_to_file(
        SPEC.format(folder=toy_folder),
        str(toy_folder / "colours.npz"),
        tmp_path / "task.spa",
        AdaptConfig(rank=2, epochs=1, batch_size=32, prune_steps=2, round_to=1),
        input_shape=SHAPE,
        latency=LatencyBudget(asked, load_device("local")),
    )
    account: Any = task.header.provenance["latency"]
    assert account["of"] == "macs"
    # Which units go is learnt; how many MACs is not.
    assert 0.85 * asked <= account["obtained_ms"] <= 1.05 * asked


def test_a_device_that_is_away_is_estimated_and_said_to_be(
    toy_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        task = prune_to_file(
            SPEC.format(folder=toy_folder),
            tmp_path / "cut.spa",
            PruneConfig(density=1.0, round_to=1),
            input_shape=SHAPE,
            latency=LatencyBudget(0.05, away()),
        )
    account: Any = task.header.provenance["latency"]
    assert account["estimated"] is True
    assert "latency_ms" not in task.header.metrics
    assert task.header.metrics["estimated_latency_ms"] <= 0.05
    # Once, not for each candidate.
    assert sum("ESTIMATED" in record.getMessage() for record in caplog.records) == 1


def test_without_references_an_absent_device_is_an_error(toy_folder: Path, tmp_path: Path) -> None:
    nothing = away().model_copy(update={"references": (), "clock_mhz": None})
    with pytest.raises(DeviceError, match="nothing to estimate from"):
        prune_to_file(
            SPEC.format(folder=toy_folder),
            tmp_path / "cut.spa",
            PruneConfig(density=1.0),
            input_shape=SHAPE,
            latency=LatencyBudget(1, nothing),
        )


def test_a_candidate_is_really_measured(toy_base: Base) -> None:
    with LatencyFitting.of(LatencyBudget(1, load_device("local")), toy_base, None, None, None) as fitting:
        stopwatch = fitting._stopwatch
        assert stopwatch is not None
        value = stopwatch.latency_ms(toy_base.program, 0, 0)
    assert not stopwatch.estimated
    assert 0 < value < 100


def test_what_does_not_go_together(toy_folder: Path, tmp_path: Path, by_macs: list[int]) -> None:
    local = load_device("local")
    for values in ({"latency_ms": 0.0}, {"latency_ms": 1.0, "variant": "onnx-fp64"}, {"latency_ms": 1.0, "threads": 0}):
        with pytest.raises(ConfigError):
            LatencyBudget(device=local, **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs images"):
        prune_to_file(
            SPEC.format(folder=toy_folder),
            tmp_path / "cut.spa",
            PruneConfig(density=1.0),
            input_shape=SHAPE,
            latency=LatencyBudget(1, local, variant="onnx-int8"),
        )


def test_the_smallest_selection_is_found_without_measuring(toy_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.latency.fits import _smallest

    pruning = Pruning(toy_base, PruneConfig(density=1.0, round_to=8))
    low = _smallest(pruning)
    pruning.widths(low)
    with pytest.raises(BudgetError):
        pruning.widths(low - 0.005)
