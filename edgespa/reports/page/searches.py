"""Searches: what no other trial beats, every trial and what became of it, and what the goals hang on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edgespa.objectives.measures import ACCURACY, Measure
from edgespa.reports.page.charts import BAD, PALE, axis_of, colour, figure, said, short
from edgespa.reports.page.found import Found, FoundSearch
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
from edgespa.trials.record import STAGE_WORDS, Search, Trial

_MARKS = {"complete": "good", "rejected": "", "stopped": "", "failed": "bad", "waiting": "doubt"}


def searches(found: Found) -> Section:
    """Of each search its front, its trials, and what its goals hang on."""
    pieces: list[Piece] = []
    for each in found.searches:
        pieces.append(_tiles(each))
        pieces += _charts(each.search)
        if each.search.notes:
            pieces.append(Words(list(each.search.notes), "doubt"))
        pieces += _importance(each.search)
        pieces.append(_trials(each))
    intro = (
        "A line joins the trials that no other beats. Trials that were stopped earlier are pale, with the quality that "
        "they had then: it is of fewer epochs. Of the front times are measured, of the others foretold."
    )
    return Section("search", "Search", pieces, intro if pieces else "")


def _measure(search: Search) -> Measure:
    own = search.measure
    return ACCURACY if own is None else Measure(own.name, own.title, own.percent, own.rises)


def _tiles(found: FoundSearch) -> Tiles:
    search, measure, counts = found.search, _measure(found.search), found.search.counts()
    rows: list[tuple[str, str, str, str]] = []
    rows += [("trials", f"{len(search.trials):,}", search.sampler, "" if search.done else "doubt")]
    rows += [(state, f"{count:,}", "", _MARKS[state]) for state, count in counts.items()]
    front = search.front
    rows.append(("on the front", f"{len(front):,}", "", ""))
    known = [each for each in front if each.quality is not None]
    if known:
        top = max(known, key=lambda each: measure.merit(each.quality or 0.0))
        rows.append((f"best {measure.title}", measure.figure(top.quality or 0.0), f"trial {top.number}", "good"))
    times = [each.time_ms for each in front if each.time_ms is not None]
    if times:
        rows.append(("fastest", f"{ms_cell(min(times)).text} ms", search.device or "", "good"))
    sizes = [each.size_bytes for each in front if each.size_bytes is not None]
    if sizes:
        rows.append(("smallest", bytes_cell(min(sizes)).text, "", "good"))
    return Tiles(rows, f"{found.name}: {Path(search.model).name}", found.link)


def _charts(search: Search) -> list[Chart]:
    charts = []
    if search.device is not None:
        charts.append(_against(search, [each.time_ms for each in search.trials], "latency, ms", search.latency_ms))
    sizes = [None if each.size_bytes is None else each.size_bytes / 1024 for each in search.trials]
    bound = None if search.size_bytes is None else search.size_bytes / 1024
    charts.append(_against(search, sizes, "size, KiB", bound))
    return [each for each in charts if each is not None]


def _against(search: Search, values: Sequence[float | None], title: str, bound: float | None) -> Chart | None:
    import plotly.graph_objects as go

    measure = _measure(search)
    kinds: dict[str, list[tuple[float, float, Trial]]] = {"front": [], "complete": [], "few epochs": []}
    for trial, value in zip(search.trials, values, strict=True):
        if value is None:
            continue
        if trial.quality is not None:
            kinds["front" if trial.front else "complete"].append((value, trial.quality, trial))
        elif trial.few is not None:
            kinds["few epochs"].append((value, trial.few, trial))
    rows = [each for own in kinds.values() for each in own]
    if not rows:
        return None
    looks = {
        "few epochs": {"color": PALE, "size": 7},
        "complete": {"color": colour(1), "size": 9, "symbol": "circle-open", "line": {"width": 2}},
        "front": {"color": colour(0), "size": 11},
    }
    traces = [
        go.Scatter(
            x=[x for x, _, _ in kinds[name]],
            y=[y for _, y, _ in kinds[name]],
            mode="markers",
            name={"front": "on the front", "complete": "fully adapted"}.get(name, name),
            marker=look,
            hovertext=[_hover(trial, measure) for _, _, trial in kinds[name]],
            hoverinfo="text",
        )
        for name, look in looks.items()
        if kinds[name]
    ]
    best = sorted((x, y) for x, y, _ in kinds["front"])
    if len(best) > 1:
        traces.append(
            go.Scatter(
                x=[x for x, _ in best],
                y=[y for _, y in best],
                mode="lines",
                line={"color": colour(0), "width": 1.5, "shape": "hv"},
                showlegend=False,
                hoverinfo="skip",
            )
        )
    shapes = []
    if bound is not None:
        shapes.append(
            {"type": "line", "x0": bound, "x1": bound, "yref": "paper", "y0": 0, "y1": 1,
             "line": {"color": BAD, "width": 1, "dash": "dash"}}
        )  # fmt: skip
    axis = axis_of(title, [x for x, _, _ in rows])
    if bound is not None and axis.get("type") == "log" and not math.isfinite(math.log10(bound)):
        shapes = []
    y = {"title": measure.title, **({"tickformat": ".0%"} if measure.percent else {})}
    asked = "" if bound is None else " The dashed line is what was asked for."
    return Chart(
        figure(traces, xaxis=axis, yaxis=y, shapes=shapes),
        f"{measure.title} on {short(Path(search.validation).name)} against {title.partition(',')[0]}.{asked}",
    )


def _hover(trial: Trial, measure: Measure) -> str:
    value = trial.few if trial.quality is None else trial.quality
    return said(
        f"trial {trial.number}: {trial.state}",
        "" if value is None else f"{measure.title} {measure.figure(value)}",
        "" if trial.time_ms is None else f"{trial.time_ms:.3g} ms {'foretold' if trial.measured_ms is None else ''}",
        "" if trial.size_bytes is None else bytes_cell(trial.size_bytes).text,
        *(f"{name} {value}" for name, value in trial.recipe.items()),
        trial.why,
    )


def _importance(search: Search) -> list[Piece]:
    """How much of each goal hangs on which setting."""
    import plotly.graph_objects as go

    if not search.importance:
        return []
    names = sorted({name for shares in search.importance.values() for name in shares}, reverse=True)
    bars = [
        go.Bar(
            y=[short(name, 24) for name in names],
            x=[shares.get(name, 0.0) for name in names],
            name=goal,
            orientation="h",
            marker={"color": colour(number)},
        )
        for number, (goal, shares) in enumerate(search.importance.items())
    ]
    drawn = figure(bars, barmode="group", xaxis={"tickformat": ".0%", "title": "share"}, yaxis={"automargin": True})
    note = (
        "How much of what is good in each goal hangs on which setting (PED-ANOVA), by all trials, as far as each came."
    )
    return [Chart(drawn, note, height=160 + 38 * len(names))]


def _trials(found: FoundSearch) -> Table:
    search, measure = found.search, _measure(found.search)
    names = [name for name in search.space if any(name in each.recipe for each in search.trials)]
    tested = any(each.test is not None for each in search.trials)
    columns = [
        "trial", "became", "came to", measure.title, *(["test"] if tested else []), "few epochs", "error of the cut",
        "ms foretold", "ms measured", "size", "seconds", *names, "why",
    ]  # fmt: skip
    rows: list[list[Cell | Value]] = [
        [
            _number(found, each),
            Cell("on the front" if each.front else each.state, mark=_MARKS[each.state]),
            STAGE_WORDS[each.stage],
            _figure(each.quality, measure),
            *([_figure(each.test, measure)] if tested else []),
            _figure(each.few, measure),
            number_cell(each.error, ".3f"),
            ms_cell(each.latency_ms),
            ms_cell(each.measured_ms),
            cell(None) if each.size_bytes is None else bytes_cell(each.size_bytes),
            number_cell(each.seconds, ",.0f"),
            *(cell(each.recipe.get(name)) for name in names),
            each.why,
        ]
        for each in search.trials
    ]
    numbers = [name for name in columns if name not in ("became", "came to", "why", *names)]
    return Table(columns, rows, f"{found.name}: every trial", right=numbers, compare=True)


def _number(found: FoundSearch, trial: Trial) -> Cell:
    """With a link to its folder, where that lies beside the record."""
    text = f"{trial.number}, the defaults" if trial.defaults else str(trial.number)
    return Cell(text, trial.number, link=None if trial.folder is None else found.beside(trial.folder))


def _figure(value: float | None, measure: Measure) -> Cell:
    return cell(None) if value is None else Cell(measure.figure(value), value)
