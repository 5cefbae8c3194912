"""Sweeps: what became of each task over one base, how well it does, how large and how fast it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from edgespa.findings.evaluation import Column
from edgespa.reports.page.charts import axis_of, colour, figure, said, short
from edgespa.reports.page.found import Found, FoundSweep
from edgespa.reports.page.parts import (
    Cell,
    Chart,
    Piece,
    Section,
    Table,
    Tiles,
    Value,
    Words,
    bytes_cell,
    cell,
    ms_cell,
    number_cell,
)
from edgespa.trials.swept import SweepRecord, SweptTask

_MARKS = {"made": "good", "unchanged": "good", "failed": "bad", "waiting": "doubt"}
_MOST_BARS = 60


def sweeps(found: Found) -> Section:
    """Of each sweep its tasks: state, quality, sizes, times, and what failed."""
    pieces: list[Piece] = []
    for each in found.sweeps:
        pieces.append(_tiles(each))
        if failed := [_failure(task) for task in each.sweep.all if task.state == "failed"]:
            pieces.append(Words(failed, "doubt"))
        pieces += _charts(each.sweep)
        pieces.append(_tasks(each))
    return Section(
        "sweep", "Sweep", pieces, "Many tasks over one base, as the last sweep has left them." if pieces else ""
    )


def _failure(task: SweptTask) -> str:
    return f"{task.name}: {task.error or 'failed'}" + (f" ({task.hint})" if task.hint else "")


def _tiles(found: FoundSweep) -> Tiles:
    sweep = found.sweep
    states = Counter[str](each.state for each in sweep.tasks)
    rows: list[tuple[str, str, str, str]] = [("tasks", f"{len(sweep.tasks):,}", "", "" if sweep.done else "doubt")]
    rows += [(state, f"{states[state]:,}", "", mark) for state, mark in _MARKS.items() if states[state]]
    sizes = [each.task_bytes for each in sweep.tasks if each.task_bytes is not None]
    if sizes:
        rows.append(("all task files", bytes_cell(sum(sizes)).text, "", ""))
    if sweep.base is not None and sweep.base.smallest is not None:
        rows.append(("smallest file of the base", bytes_cell(sweep.base.smallest).text, "unpruned", ""))
    return Tiles(rows, f"{found.name}: {PurePath(sweep.sweep).name}", found.link)


def _measured(tasks: Sequence[SweptTask]) -> dict[str, tuple[Column, list[SweptTask]]]:
    """Tasks that have a figure, by what it is: accuracies do not stand beside errors."""
    found: dict[str, tuple[Column, list[SweptTask]]] = {}
    for each in tasks:
        if each.measure is not None and each.quality is not None:
            found.setdefault(each.measure.title, (each.measure, []))[1].append(each)
    return found


def _charts(sweep: SweepRecord) -> list[Chart]:
    """Quality by task, or against time where that was measured: one chart for each measure and device."""
    charts = []
    for measure, tasks in _measured(sweep.tasks).values():
        devices = list(dict.fromkeys(name for each in tasks for name in each.times))
        if devices:
            charts += [_against(measure, tasks, device) for device in devices]
        elif 1 < len(tasks) <= _MOST_BARS:
            charts.append(_bars(measure, tasks))
    return charts


def _against(measure: Column, tasks: Sequence[SweptTask], device: str) -> Chart:
    import plotly.graph_objects as go

    rows = [(each, each.times[device]) for each in tasks if device in each.times]
    trace = go.Scatter(
        x=[time.ms for _, time in rows],
        y=[each.quality for each, _ in rows],
        mode="markers+text" if len(rows) <= _MOST_BARS // 3 else "markers",
        text=[short(each.name, 16) for each, _ in rows],
        textposition="top center",
        cliponaxis=False,
        marker={"color": colour(0), "size": 10},
        hovertext=[
            said(each.name, f"{measure.title} {measure.figure(each.quality)}", f"{time.ms:.3g} ms", time.variant)
            for each, time in rows
        ],
        hoverinfo="text",
        showlegend=False,
    )
    y = {"title": measure.title, **({"tickformat": ".0%"} if measure.percent else {})}
    drawn = figure([trace], xaxis=axis_of("latency, ms", [time.ms for _, time in rows]), yaxis=y)
    return Chart(drawn, f"{measure.title} of each task against the latency of its fastest file on {short(device)}.")


def _bars(measure: Column, tasks: Sequence[SweptTask]) -> Chart:
    import plotly.graph_objects as go

    rows = list(reversed(tasks))
    bar = go.Bar(
        y=[short(each.name, 24) for each in rows],
        x=[each.quality for each in rows],
        orientation="h",
        marker={"color": colour(0)},
        hovertext=[said(each.name, f"{measure.title} {measure.figure(each.quality)}") for each in rows],
        hoverinfo="text",
    )
    x = {"title": measure.title, **({"tickformat": ".0%", "range": [0, 1]} if measure.percent else {})}
    return Chart(
        figure([bar], xaxis=x, yaxis={"automargin": True}),
        f"{measure.title} of each task.",
        height=140 + 26 * len(rows),
    )


def _tasks(found: FoundSweep) -> Table:
    sweep = found.sweep
    devices = list(dict.fromkeys(name for each in sweep.all for name in each.times))
    measures = list(_measured(sweep.tasks)) or ["quality"]
    times = [f"ms {name}" for name in devices]
    columns = ["task", "state", *measures, "measured on", "task file", "smallest file", *times, "seconds", "why"]
    rows: list[list[Cell | Value]] = [
        [
            _name(found, each),
            Cell(each.state, mark=_MARKS[each.state]),
            *(_figure(each, title) for title in measures),
            each.of,
            cell(None) if each.task_bytes is None else bytes_cell(each.task_bytes),
            cell(None) if each.smallest is None else bytes_cell(each.smallest),
            *(ms_cell(each.times[name].ms if name in each.times else None) for name in devices),
            number_cell(each.seconds or None, ",.0f"),
            each.error or each.why,
        ]
        for each in sweep.all
    ]
    numbers = [name for name in columns if name not in ("task", "state", "measured on", "why")]
    return Table(columns, rows, f"{found.name}: every task", right=numbers, compare=True)


def _figure(task: SweptTask, title: str) -> Cell:
    if task.quality is None or task.measure is None or task.measure.title != title:
        return cell(None)
    return Cell(task.measure.figure(task.quality), task.quality)


def _name(found: FoundSweep, task: SweptTask) -> Cell:
    """With a link to its bundle, or its task file, where that lies in the folder of the record."""
    for path in (task.bundle, task.task):
        if path is None or not Path(path).is_relative_to(found.sweep.folder):
            continue
        inside = Path(path).relative_to(found.sweep.folder).as_posix()
        return Cell(task.name, task.name, link=found.beside(inside))
    return Cell(task.name, task.name)
