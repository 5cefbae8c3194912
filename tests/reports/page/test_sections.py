"""What sections make of bundles, profiles and logs."""

from __future__ import annotations

from typing import Any

import pytest

from edgespa.reports.page.found import Found, FoundLog, FoundTask, modules_in
from edgespa.reports.page.layers import kept_layers, module_tree
from edgespa.reports.page.parts import Branch, Chart, Table, Tiles, Tree, Words
from edgespa.reports.page.training import curves, reconstruction
from edgespa.reports.report import report_page

pytest.importorskip("plotly")


def row(name: str, channels: int | None, was: int | None, macs: int, base_macs: int) -> dict[str, Any]:
    return {
        "module": name, "operator": "conv2d", "channels": channels, "base_channels": was, "parameters": 2 * macs,
        "base_parameters": 2 * base_macs, "macs": macs, "base_macs": base_macs,
    }  # fmt: skip


ROWS = [row("stem", 4, 8, 10, 40), row("body.0.conv", 8, 8, 60, 60), row("body.1.conv", 0, 8, 0, 100)]


def labels(branches: Any, depth: int = 0) -> list[tuple[int, str]]:
    found = []
    for each in branches:
        found += [(depth, each.label), *labels(each.children, depth + 1)]
    return found


def test_the_tree_adds_up_and_names_what_holds_but_one() -> None:
    tree = module_tree(ROWS, "")
    assert labels(tree.roots) == [(0, "stem  conv2d"), (0, "body"), (1, "0.conv  conv2d"), (1, "1.conv  conv2d")]
    stem, body = tree.roots
    assert [each.text for each in stem.cells] == ["8 → 4", "80 → 20", "40 → 10", "25%"]
    assert [each.text for each in body.cells] == ["", "320 → 120", "160 → 60", "38%"]
    assert (body.bar, body.was) == (60 / 200, 160 / 200)


def test_nothing_is_said_of_layers_that_are_as_they_were() -> None:
    whole = [row("stem", 8, 8, 40, 40)]
    task = FoundTask("t.spa", "t.spa", 1, {"provenance": {}}, {}, whole)
    assert not kept_layers(Found(tasks=(task,))).pieces


def test_a_task_beside_its_bundle_is_shown_once() -> None:
    one = FoundTask("a.spa", "a.spa", 1, {"provenance": {}}, {}, ROWS)
    two = FoundTask("b.spa", "b.spa", 1, {"provenance": {}}, {}, [dict(each) for each in ROWS])
    pieces = kept_layers(Found(tasks=(one, two))).pieces
    assert [type(each) for each in pieces] == [Chart, Tree]


def test_without_its_base_the_groups_of_a_task_are_shown() -> None:
    task = FoundTask("a.spa", "a.spa", 1, {"provenance": {}}, {"stem": (3, 8), "body": (8, 8)})
    (chart,) = kept_layers(Found(tasks=(task,))).pieces
    assert isinstance(chart, Chart)
    assert chart.figure["data"][1]["y"] == [3, 8]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        "x",
        [1],
        [{"module": 3}],
        [{**ROWS[0], "macs": "many"}],
        [{**ROWS[0], "macs": -1}],
        [{**ROWS[0], "channels": "x"}],
    ],
)
def test_odd_modules_of_a_file_from_anywhere_are_left_out(odd: Any) -> None:
    assert modules_in(odd) == []


def test_training_has_loss_validation_and_steps() -> None:
    events = [
        {"event": "epoch", "epoch": 1, "loss": 1.0, "validation": 0.5, "density": 1.0},
        {"event": "prune", "epoch": 2, "step": 10, "density": 0.8, "macs": 5_000_000},
        {"event": "prune", "epoch": 2, "step": 20, "density": 0.6, "macs": 4_000_000},
        {"event": "epoch", "epoch": 2, "loss": 0.8, "validation": 0.7, "density": 0.6},
    ]
    (chart,) = curves(Found(logs=(FoundLog("train.jsonl", "train.jsonl", tuple(events)),))).pieces
    assert isinstance(chart, Chart)
    loss, validation, density = chart.figure["data"]
    assert (loss["x"], loss["y"], validation["y"]) == ([1, 2], [1.0, 0.8], [0.5, 0.7])
    assert density["x"] == [1, 1.25, 1.75, 2]
    assert density["y"] == [1.0, 0.8, 0.6, 0.6]
    assert len(chart.figure["layout"]["shapes"]) == 2


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"event": "epoch"}],
        [{"event": "epoch", "epoch": "x"}],
        [{"event": "epoch", "epoch": True}],
        [{"event": "prune", "epoch": 1}],
    ],
)
def test_a_log_without_epochs_has_no_chart(events: list[dict[str, Any]]) -> None:
    assert not curves(Found(logs=(FoundLog("l", "l", tuple(events)),))).pieces


def test_odd_numbers_in_a_log_leave_gaps() -> None:
    events = [
        {"event": "epoch", "epoch": n, "loss": loss, "validation": None} for n, loss in enumerate((1.0, "x", 0.5))
    ]
    (chart,) = curves(Found(logs=(FoundLog("l", "l", tuple(events)),))).pieces
    assert isinstance(chart, Chart)
    assert chart.figure["data"][0]["y"] == [1.0, None, 0.5]


def test_curves_of_reconstruction_and_odd_ones() -> None:
    told = {
        "curves": {
            "good": {"kept": 4, "units": [0, 4, 8], "error": [1.0, 0.3, 0.0]},
            "short": {"units": [1], "error": [0.1]},
            "uneven": {"units": [1, 2], "error": [0.1]},
            "odd": 3,
        },
        "reconstruction_error": {"a": 0.1, "b": "x", "c": 0.3},
        "foretold": [
            {"device": "pi", "variant": "onnx-fp32", "latency_ms": 2.0, "whole_ms": 4.0},
            {"latency_ms": "x"},
            3,
        ],
    }
    task = FoundTask("a.spa", "a.spa", 1, {"provenance": told}, {})
    greedy, errors, table = reconstruction(Found(tasks=(task,))).pieces
    assert isinstance(greedy, Chart)
    assert isinstance(errors, Chart)
    assert [trace["name"] for trace in greedy.figure["data"]] == ["good"]
    assert greedy.figure["data"][0]["x"] == [0.0, 0.5, 1.0]
    assert errors.figure["data"][0]["y"] == [0.1, 0.3]
    assert len(table.rows) == 1  # type: ignore[union-attr]


def test_a_branch_says_why_a_module_is_fixed() -> None:
    fixed = {**row("head", 5, 5, 10, 10), "units": 0, "reason": "output of the network", "group": None}
    (branch,) = module_tree([fixed], "", units=True).roots
    assert isinstance(branch, Branch)
    assert branch.note == "fixed: output of the network"
    assert branch.cells[-1].text == "none"


def test_a_sweep_is_shown_with_every_task() -> None:
    from edgespa.reports.page.found import FoundSweep
    from edgespa.reports.page.sweeps import sweeps
    from edgespa.trials.swept import SweepRecord

    accuracy = {"name": "accuracy", "title": "accuracy", "percent": True}
    file = {"name": "onnx-fp32", "size_bytes": 5000, "quality": 0.9}

    def task(name: str, state: str = "made", **values: Any) -> dict[str, Any]:
        own = {
            "name": name,
            "state": state,
            "files": [{**file, "size_bytes": 9000}, file],
            "bundle": f"/f/bundles/{name}",
        }
        return {**own, "quality": 0.9, "measure": accuracy, "of": "test", "task_bytes": 700, "seconds": 9.0, **values}

    on_pi = {"pi": {"ms": 3.5, "variant": "onnx-fp32", "runtime": "onnxruntime", "clean": True}}
    tasks = [
        task("one", times=on_pi),
        task("two", "unchanged", quality=0.25, times={"pi": {"ms": 2.5, "variant": "onnx-int8"}}),
        task("three", "failed", error="<b>no images</b>", hint="give some", bundle="/elsewhere/three"),
        task("four", quality=0.1, measure={"name": "error", "title": "relative error", "rises": False},
             bundle="/f/javascript:alert(1)"),
    ]  # fmt: skip
    base = {**task("base"), "quality": None, "measure": None, "of": None, "task_bytes": None}
    record = SweepRecord.parse(
        {"format": "edgespa sweep", "format_version": 1, "folder": "/f", "sweep": "a/tasks.toml", "base": base,
         "tasks": tasks}, "x",
    )  # fmt: skip
    found = Found(sweeps=(FoundSweep("sweep.json", "sub/sweep.json", record),))
    tiles, words, chart, table = sweeps(found).pieces
    assert isinstance(tiles, Tiles)
    shown = {name: figure for name, figure, _, _ in tiles.tiles}
    assert (shown["tasks"], shown["made"], shown["unchanged"], shown["failed"]) == ("4", "2", "1", "1")
    assert (shown["all task files"], shown["smallest file of the base"]) == ("2.73 KiB", "4.88 KiB")
    assert isinstance(words, Words)
    assert list(words.lines) == ["three: <b>no images</b> (give some)"]
    assert isinstance(chart, Chart)
    trace = chart.figure["data"][0]
    assert (list(trace["x"]), list(trace["y"])) == ([3.5, 2.5], [0.9, 0.25])
    assert isinstance(table, Table)
    cells = {row[0].text: dict(zip(table.columns, row, strict=True)) for row in table.cells}
    assert (cells["one"]["accuracy"].text, cells["one"]["ms pi"].text) == ("90.00%", "3.5")
    assert (cells["four"]["accuracy"].text, cells["four"]["relative error"].text) == ("–", "0.1000")
    assert [cells[name]["task"].link for name in ("one", "three", "four")] == [
        "sub/bundles/one", None, "sub/javascript%3Aalert%281%29",
    ]  # fmt: skip
    assert cells["three"]["why"].text == "<b>no images</b>"
    assert sweeps(Found()).pieces == []
    page = report_page(found, "a", "b")
    assert "<b>no images</b>" not in page
    # Without times there are bars; tasks that are measured by other things have a chart of their own.
    timeless = record.model_copy(
        update={"tasks": tuple(each.model_copy(update={"times": {}}) for each in record.tasks)}
    )
    bars = [each for each in sweeps(Found(sweeps=(FoundSweep("s", "s", timeless),))).pieces if isinstance(each, Chart)]
    (accuracies,) = bars
    assert list(accuracies.figure["data"][0]["y"]) == ["three", "two", "one"]


def test_a_search_is_shown_with_its_front_and_every_trial() -> None:
    from edgespa.reports.page.found import FoundSearch
    from edgespa.reports.page.searches import searches
    from edgespa.trials.record import Search, Trial

    def trial(number: int, **values: Any) -> Trial:
        return Trial(number=number, wave=0, digest=f"{number:016x}", recipe={"rank": 2 + number}, **values)

    trials = (
        trial(0, state="complete", stage="file", quality=0.9, size_bytes=9000, latency_ms=3, measured_ms=4, front=2,
              folder="front/a"),
        trial(1, state="complete", stage="file", quality=0.8, size_bytes=5000, latency_ms=2, measured_ms=1.5, front=1),
        trial(2, state="complete", stage="file", quality=0.7, size_bytes=9999, latency_ms=5, why="others are better"),
        trial(3, state="stopped", stage="few", few=0.4, size_bytes=100, latency_ms=1, why="not among the best"),
        trial(4, state="rejected", stage="cut", error=0.5, latency_ms=9, why="<b>too slow</b>"),
        trial(5, state="failed", why="no memory"),
    )  # fmt: skip
    record = Search(
        model="a/net.py:b", data="d", validation="v", device="pi", goals=("quality", "latency"), sampler="tpe",
        bracket=6, identity="0" * 16, space={"rank": [2, 3]}, trials=trials, latency_ms=4.5, notes=("careful",),
        importance={"quality": {"rank": 1.0}},
        measure={"name": "accuracy", "title": "accuracy", "percent": True},
    )  # fmt: skip
    found = Found(searches=(FoundSearch("search.json", "sub/search.json", record),))
    section = searches(found)
    tiles, by_time, by_size, words, importance, table = section.pieces
    assert isinstance(tiles, Tiles)
    shown = {name: figure for name, figure, _, _ in tiles.tiles}
    assert (shown["trials"], shown["on the front"], shown["rejected"]) == ("6", "2", "1")
    assert (shown["best accuracy"], shown["fastest"]) == ("90.00%", "1.5 ms")
    for chart in (by_time, by_size, importance):
        assert isinstance(chart, Chart)
    assert isinstance(by_time, Chart)
    traces = {each["name"]: each for each in by_time.figure["data"] if "name" in each}
    assert sorted(traces["on the front"]["y"]) == [0.8, 0.9]
    assert sorted(traces["on the front"]["x"]) == [1.5, 4]  # measured
    assert traces["fully adapted"]["x"] == [5]  # foretold
    assert traces["few epochs"]["y"] == [0.4]
    line = next(each for each in by_time.figure["data"] if each["mode"] == "lines")
    assert line["x"] == [1.5, 4]
    assert by_time.figure["layout"]["shapes"][0]["x0"] == 4.5
    assert isinstance(words, Words)
    assert isinstance(table, Table)
    assert [row[1].text for row in table.cells] == ["on the front"] * 2 + ["complete", "stopped", "rejected", "failed"]
    assert table.cells[0][0].link == "sub/front/a"
    assert table.cells[4][-1].text == "<b>too slow</b>"  # escaped by the template
    assert searches(Found()).pieces == []
    page = report_page(found, "a", "b")
    assert "<b>too slow</b>" not in page
