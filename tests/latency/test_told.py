"""Results say what they take where tables are there; cuts that buy nothing are told, widths given back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import edgespa as es
from edgespa.device.board import load_device
from edgespa.latency.budget import LatencyFitting
from edgespa.latency.predict import needed
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch
from edgespa.latency.table import LatencyTable, Origin, Whole, save_table, table_path
from edgespa.pruning import PruneConfig
from edgespa.pruning.run import Pruning
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

Time = Callable[[tuple[int, ...]], float]


def padded(widths: tuple[int, ...]) -> float:
    """A device that works in blocks of 16."""
    return 1.0 + math.prod(math.ceil(width / 16) for width in widths)


def constant(widths: tuple[int, ...]) -> float:
    """A device on which starting an operator is all that takes time."""
    return 5.0


def put_table(base: Base, time: Time, device: str = "board", runtime: str = "onnxruntime 1.2.3") -> LatencyTable:
    """A table of a made-up device, in the user's folder."""
    origin = Origin(device=device, machine="x", cpu_model=None, runtime=runtime, variant="onnx-fp32", threads=1)
    points = [(kind, at, time(at)) for kind, own in needed(base.layers).items() for at in own]
    table = LatencyTable(origin=origin, created="now", step=16).with_points(points)
    table = table.with_whole(Whole(digest=base.digest, predicted_ms=1.0, measured_ms=2.0))
    save_table(table, table_path(device, "onnx-fp32", 1))
    return table


@pytest.fixture(autouse=True)
def _own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def cut(folder: Path, output: Path, **more: Any) -> es.TaskFile:
    spec = f"{folder / 'net.py'}:build"
    return es.prune(spec, density=0.5, input_shape=(1, 3, 8, 8), output=output, progress=False, **more)


def test_a_result_says_what_it_takes(toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    plain = cut(toy_folder, tmp_path / "plain.spa")
    assert plain.to_dict()["foretold"] == []
    put_table(toy_base, lambda widths: 1.0 + math.prod(widths))
    found = cut(toy_folder, tmp_path / "cut.spa")
    (row,) = found.to_dict()["foretold"]
    assert (row["device"], row["variant"], row["threads"], row["corrected"]) == ("board", "onnx-fp32", 1, True)
    assert 0 < row["latency_ms"] < row["whole_ms"]
    assert "foretold" in repr(found)
    assert "foretold" not in repr(plain)
    # It is in the file, for whoever opens it.
    assert Task.load(tmp_path / "cut.spa").header.provenance["foretold"] == [row]
    assert {name: mask.tolist() for name, mask in found.task.kept.items()} == {
        name: mask.tolist() for name, mask in plain.task.kept.items()
    }


def test_a_cut_that_buys_no_time_is_told(
    toy_base: Base, toy_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_table(toy_base, constant)
    with caplog.at_level(logging.WARNING):
        cut(toy_folder, tmp_path / "cut.spa")
    assert "buys no time" in caplog.text
    assert "--budget latency_ms=" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cut(toy_folder, tmp_path / "four.spa", round_to=4)
    assert "--round-to 16" in caplog.text


def test_tables_that_do_not_hold_are_not_used(
    toy_base: Base, toy_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_table(toy_base, padded, "local", "onnxruntime 0.1")
    path = table_path("broken", "onnx-fp32", 1)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    found = cut(toy_folder, tmp_path / "cut.spa")
    assert found.to_dict()["foretold"] == []
    assert "is of onnxruntime 0.1" in caplog.text
    assert "is left out" in caplog.text


def test_widths_that_cost_nothing_are_given_back(toy_base: Base) -> None:
    groups = toy_base.groups.groups

    def time(counts: Mapping[str, int]) -> float:
        return float(sum(math.ceil(counts.get(name, len(group)) / 8) for name, group in groups.items()))

    plain = Pruning(toy_base, PruneConfig(density=1.0, round_to=1))
    before = plain.widths(0.6)
    wide = Pruning(toy_base, PruneConfig(density=1.0, round_to=1))
    wide.time_of = time
    after = {name: len(groups[name]) for name in before} | wide.widths(0.6)
    assert all(after[name] % 8 == 0 for name in before)
    assert any(after[name] > count for name, count in before.items())
    assert time(after) == time(before)
    without = Pruning(toy_base, PruneConfig(density=1.0, round_to=1, widen=False))
    without.time_of = time
    assert without.widths(0.6) == before


def test_a_latency_budget_widens_by_the_table_of_its_device(toy_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    board = load_device("local").model_copy(update={"name": "board"})
    monkeypatch.setattr(Stopwatch, "latency_ms", lambda self, program, macs, size: macs / 1e6)
    stopwatch = Stopwatch(LatencyBudget(0.5 * toy_base.whole_cost.macs / 1e6, board), None)  # type: ignore[arg-type]

    def asked(**settings: Any) -> Pruning:
        pruning = Pruning(toy_base, PruneConfig(density=1.0, round_to=4, **settings))
        LatencyFitting(toy_base, stopwatch, None).density(pruning)
        return pruning

    assert asked().time_of is None
    put_table(toy_base, padded)
    assert asked().time_of is not None
    assert asked(widen=False).time_of is None
