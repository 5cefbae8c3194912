"""`--budget latency_ms=X` on the command line of prune and adapt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgespa.cli import adapt, prune
from edgespa.cli._kinds import LATENCY, Bound
from edgespa.graph.program import Program
from edgespa.latency.stopwatch import Stopwatch
from edgespa.tasks.base import Base


def invoke(module: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(module.command, [str(each) for each in arguments])


@pytest.fixture
def by_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(self: Stopwatch, program: Program, macs: int, size_bytes: int) -> float:
        return macs / 1e6

    monkeypatch.setattr(Stopwatch, "latency_ms", measured)


@pytest.mark.usefixtures("by_macs")
def test_prune_says_what_was_asked_and_obtained(toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    asked = 0.6 * toy_base.whole_cost.macs / 1e6
    common = (f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8", "--round-to", "1", "--allocation", "global")
    result = invoke(prune, *common, "--budget", f"latency_ms={asked:.3g}", "--output", tmp_path / "cut.spa", "--json")
    assert result.exit_code == 0, result.output
    latency = json.loads(result.stdout)["latency"]
    assert latency["asked_ms"] == float(f"{asked:.3g}")
    assert 0.9 * asked < latency["obtained_ms"] <= 1.01 * asked
    assert (latency["device"], latency["variant"], latency["threads"]) == ("local", "onnx-fp32", 1)
    shown = invoke(prune, *common, "--budget", f"latency_ms={asked:.3g}", "--output", tmp_path / "again.spa")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("latency:")]
    assert f"asked {asked:.3g}, whole network" in line
    assert "(onnx-fp32, 1 thread, local;" in line


@pytest.mark.usefixtures("by_macs", "told_by_macs")
def test_prune_says_where_most_is_lost(toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    common = (f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8", "--round-to", "1")
    asked = f"latency_ms={0.6 * toy_base.whole_cost.macs / 1e6:.3g}"
    shown = invoke(prune, *common, "--budget", asked, "--output", tmp_path / "cut.spa")
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("foretold loss")]
    assert "most of it with conv" in line
    (head,) = [line for line in shown.stdout.splitlines() if "ms foretold" in line and "measured" in line]
    assert shown.stdout.index("What its layers take") < shown.stdout.index(head)
    shared = ("--budget", "macs", "--density", "0.5", "--allocation", "knapsack")
    shown = invoke(prune, *common, *shared, "--output", tmp_path / "half.spa")
    assert shown.exit_code == 0, shown.output
    assert "most of it with conv" in shown.output


@pytest.mark.slow
@pytest.mark.more
def test_what_each_layer_takes_is_foretold_and_measured(
    toy_base: Base, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    whole = toy_base.whole_cost.macs
    common = (f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8", "--round-to", "1", "--budget")
    result = invoke(prune, *common, "latency_ms=1000", "--output", tmp_path / "cut.spa", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["macs"] == whole  # it is fast enough
    rows = {row["layer"]: row for row in found["latency"]["layers"]}
    assert rows["conv1"]["widths"] == rows["conv1"]["of"]
    for name in ("conv1", "conv2", "conv3"):
        assert 0 < rows[name]["measured_ms"] < found["latency"]["obtained_ms"]
        assert rows[name]["foretold_ms"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "latency=3"], "is not one of channels, parameters, macs, nor latency_ms=12"),
        (["--budget", "latency_ms=fast"], "is not a number of milliseconds"),
        (["--budget", "latency_ms=-1"], "is not a number of milliseconds"),
        (["--budget", "latency_ms=3", "--density", "0.5"], "exclude each other"),
        (["--density", "0.5", "--device", "local"], "--device is for --budget latency_ms=X"),
        (["--density", "0.5", "--threads", "2"], "--threads is for --budget latency_ms=X"),
        ([], "Missing option '--density' (or --budget latency_ms=X)"),
    ],
)
def test_prune_refuses_what_makes_no_sense(toy_folder: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = invoke(prune, f"{toy_folder / 'net.py'}:build", *options, "--output", tmp_path / "cut.spa")
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


@pytest.mark.usefixtures("by_macs")
def test_adapt_does_not_search_from_a_task(toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    data = toy_folder / "colours.npz"
    start = tmp_path / "start.spa"
    model = (f"{toy_folder / 'net.py'}:build", "--input-shape", "1,3,8,8")
    assert invoke(prune, *model, "--density", "0.9", "--output", start).exit_code == 0
    common = ("--data", data, "--epochs", "1", "--output", tmp_path / "task.spa", "--budget", "latency_ms=0.001")
    result = invoke(adapt, "--from", start, *common)
    assert result.exit_code == 1
    assert "a latency budget does not go with --from" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "found"),
    [("speedup=2", ("speedup", 2.0)), ("speedup=1.5x", ("speedup", 1.5)), ("latency_ms=0.3", ("latency_ms", 0.3))],
)
def test_a_bound_is_read(words: str, found: tuple[str, float]) -> None:
    assert Bound(LATENCY, "speedup").convert(words, None, None) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("speedup=1", "not a number above 1"), ("speedup=0.5", "not a number above 1"), ("speedup=inf", "above 1"),
        ("speedup=nan", "above 1"), ("latency_ms=0", "number of milliseconds"), ("latency_ms=-2", "milliseconds"),
        ("size_bytes=5", "is neither latency_ms=20 nor speedup=2"), ("2", "is neither"), ("speedup", "is neither"),
    ],
)  # fmt: skip
def test_what_is_no_bound_is_said(words: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        Bound(LATENCY, "speedup").convert(words, None, None)
