"""Latencies as they were measured: how they spread, what disturbed them, and what each layer takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgespa.device.measure.results import Measurement, Operator, VariantProfile
from edgespa.reports.page.charts import BAD, PALE, axis_of, colour, figure, said, short
from edgespa.reports.page.found import NamedLayer, Timed
from edgespa.reports.page.parts import Cell, Chart, Piece, Section, Table, Words, bytes_cell, cell, ms_cell, number_cell

MOST_BOXES = 60
MOST_OPERATORS = 40
MOST_LINES = 12


def latencies(timed: Sequence[Timed]) -> Section:
    """Distributions, runs over time, and the table."""
    if not timed:
        return Section("latency", "Latency", ())
    pieces: list[Piece] = []
    if any(each.profile.emulated for each in timed):
        pieces.append(Words(["Some of it was measured on an emulator: its times mean nothing."], "doubt"))
    for device in dict.fromkeys(each.device for each in timed):
        own = sorted((each for each in timed if each.device == device), key=lambda each: each.result.p50_ms)
        pieces.append(_boxes(device, own))
        if lines := _over_time(device, own):
            pieces.append(lines)
    pieces.append(_table(timed))
    intro = (
        "Medians of pieces of each run, all rounds together. Red: something disturbed it (a throttled, busy or "
        "swapping machine), so the figure is not the device's. Hover says what."
    )
    return Section("latency", "Latency", pieces, intro)


def _boxes(device: str, own: Sequence[Timed]) -> Chart:
    import plotly.graph_objects as go

    shown = own[:MOST_BOXES]
    traces = []
    for each in reversed(shown):
        result, name = each.result, _named(each)
        pieces = [value for round_ in result.rounds for value in round_.pieces_ms or (round_.p50_ms,)]
        bad = result.clean is False or result.steady is False
        traces.append(
            go.Box(
                x=pieces,
                y=[name] * len(pieces),
                name=name,
                orientation="h",
                boxpoints=False,
                line={"color": BAD if bad else colour(0), "width": 1.4},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        traces.append(
            go.Scatter(
                x=[result.p50_ms, result.p90_ms],
                y=[name] * 2,
                mode="markers",
                marker={
                    "symbol": ["line-ns-open", "x" if bad else "circle-open"],
                    "size": 8,
                    "color": BAD if bad else colour(0),
                },
                hovertext=_hover(each),
                hoverinfo="text",
                showlegend=False,
            )
        )
    more = f"; the fastest {MOST_BOXES} of {len(own)}" if len(own) > MOST_BOXES else ""
    caption = f"{device}: ms of one inference{more}. Boxes: quartiles; marks: p50 and p90"
    layout = {
        "xaxis": axis_of("ms", [each.result.p50_ms for each in shown]),
        "yaxis": {"type": "category"},
        "boxmode": "overlay",
    }
    return Chart(figure(traces, **layout), caption, 110 + 24 * len(shown), wide=True)


def _named(each: Timed) -> str:
    result = each.result
    numbers = "" if result.arithmetic in (None, "fp32") else f" {result.arithmetic}"
    return short(f"{each.bundle} {result.variant} · {result.runtime}{numbers} · {result.threads}t", 52)


def _hover(each: Timed) -> str:
    result = each.result
    runs = sum(round_.runs for round_ in result.rounds)
    return said(
        f"{each.bundle}, {result.variant}",
        each.way,
        f"p50 {result.p50_ms:.4g}, p90 {result.p90_ms:.4g} ms, {runs:,} runs in {len(result.rounds)} processes",
        "steady" if result.steady else "not known whether steady" if result.steady is None else "NOT STEADY",
        *(f"NOT CLEAN: {doubt}" for doubt in result.doubts),
        *(f"not known: {what}" for what in result.unknown[:3]),
    )


def _over_time(device: str, own: Sequence[Timed]) -> Chart | None:
    """What is not clean or not steady first, then the fastest; a round is a line."""
    import plotly.graph_objects as go

    troubled = [each for each in own if each.result.clean is False or each.result.steady is False]
    shown = [*troubled, *(each for each in own if each not in troubled)][:MOST_LINES]
    shown = [each for each in shown if any(len(round_.pieces_ms) > 2 for round_ in each.result.rounds)]
    traces = []
    for number, each in enumerate(shown):
        bad = each in troubled
        for place, round_ in enumerate(each.result.rounds):
            count = len(round_.pieces_ms)
            traces.append(
                go.Scatter(
                    x=[(i + 0.5) * 100 / count for i in range(count)],
                    y=list(round_.pieces_ms),
                    mode="lines",
                    line={"color": colour(number), "width": 1.3, "dash": "dot" if bad else "solid"},
                    name=_named(each) + (" ✗" if bad else ""),
                    legendgroup=str(number),
                    showlegend=not place,
                    hovertext=said(_hover(each).replace("<br>", "; "), f"round {place + 1}"),
                    hoverinfo="y+name",
                )
            )
    if not traces:
        return None
    layout = {
        "xaxis": {"title": "share of the run, %"},
        "yaxis": axis_of("ms", [each.result.p50_ms for each in shown]),
        "legend": {"orientation": "v"},
    }
    caption = f"{device}: while it ran. Dotted: not clean or not steady"
    return Chart(figure(traces, **layout), caption, 330 + 25 * len(shown), wide=True)


def _table(timed: Sequence[Timed]) -> Table:
    rows = []
    for each in timed:
        result = each.result
        rows.append(
            [
                Cell(each.bundle),
                Cell(result.variant),
                Cell(each.device),
                Cell(f"{result.runtime} {result.arithmetic or ''}".strip()),
                cell(result.threads)
                if result.cores is None
                else Cell(f"{result.threads} on {result.cores}", result.threads),
                ms_cell(result.p50_ms),
                ms_cell(result.p90_ms),
                ms_cell(result.p95_ms),
                ms_cell(result.load_ms),
                cell(None) if result.peak_kib is None else bytes_cell(result.peak_kib * 1024),
                number_cell(result.spread, ".1%"),
                _CLEAN[result.clean](result),
                _STEADY[result.steady],
                _PROVED[each.holds],
                Cell(each.profile.created[:10]),
            ]
        )
    columns = (
        "bundle", "file", "device", "runtime", "threads", "p50 ms", "p90 ms", "p95 ms", "load ms", "peak memory",
        "spread", "clean", "steady", "outputs there", "when",
    )  # fmt: skip
    right = ("threads", "p50 ms", "p90 ms", "p95 ms", "load ms", "peak memory", "spread")
    return Table(columns, rows, "All measurements", right, compare=len(rows) > 1)


_PROVED = {True: Cell("as the program", mark="good"), False: Cell("WRONG", mark="bad"), None: Cell("not compared")}
_STEADY = {True: Cell("yes"), False: Cell("no", mark="bad"), None: cell(None)}
_CLEAN: dict[bool | None, Callable[[VariantProfile], Cell]] = {
    True: lambda result: Cell("yes", mark="good"),
    False: lambda result: Cell("no", mark="bad", title="; ".join(result.doubts)),
    None: lambda result: Cell("not known", mark="doubt", title="; ".join(result.unknown)),
}


def operators(timed: Sequence[Timed]) -> Section:
    """What each layer takes, where that was measured."""
    pieces: list[Piece] = []
    measured = [(each, told) for each in timed if (told := _typical(each.result.rounds))]
    kinds = {op: colour(i) for i, op in enumerate(dict.fromkeys(one.op for _, told in measured for one in told))}
    for each, told in measured:
        pieces.append(_bars(each, told, kinds))
        remarked = [(name, found.remark) for name, found in each.layers.items() if found.remark]
        if remarked:
            rows = [[Cell(each.layers[name].layer), Cell(name), Cell(remark)] for name, remark in remarked]
            caption = f"{each.bundle}, {each.result.variant}: layers that cost more than they must"
            pieces.append(Table(("layer", "operator", "why, and what would help"), rows, caption))
    return Section(
        "time-per-layer",
        "Time per layer",
        pieces,
        "What each operator takes, as the runtime itself tells it (profile --by-layer)." if pieces else "",
    )


def _typical(rounds: Sequence[Measurement]) -> list[Operator]:
    """Of several rounds the median of each operator."""
    times: dict[tuple[str, str], list[float]] = {}
    for round_ in rounds:
        for each in round_.operators or ():
            times.setdefault((each.name, each.op), []).append(each.us)
    return [Operator(name=name, op=op, us=statistics.median(us)) for (name, op), us in times.items()]


def _layer(operator: Operator, layers: Mapping[str, NamedLayer | None]) -> str:
    found = layers.get(operator.name)
    return operator.name if found is None else found.layer


def _rate(operator: Operator, layers: Mapping[str, NamedLayer | None]) -> str:
    found = layers.get(operator.name)
    return f"{found.macs / operator.us / 1e3:.3g} GMAC/s" if found is not None and found.macs and operator.us else ""


def _bars(each: Timed, told: Sequence[Operator], kinds: Mapping[str, str]) -> Chart:
    import plotly.graph_objects as go

    total = sum(operator.us for operator in told)
    largest = sorted(told, key=lambda operator: -operator.us)[:MOST_OPERATORS]
    shown = [operator for operator in told if operator in largest]
    layers = {operator.name: each.layers.get(operator.name) for operator in shown}
    names = [f"{i + 1} {short(_layer(operator, layers), 44)}" for i, operator in enumerate(shown)]
    traces: list[Any] = []
    for op, tint in kinds.items():
        own = [(name, operator) for name, operator in zip(names, shown, strict=True) if operator.op == op]
        if own:
            traces.append(
                go.Bar(
                    y=[name for name, _ in own],
                    x=[operator.us for _, operator in own],
                    orientation="h",
                    marker={"color": tint},
                    name=short(op, 30),
                    hovertext=[
                        said(
                            _layer(operator, layers),
                            f"{op} {operator.name}",
                            f"{operator.us:.4g} µs, {operator.us / total:.1%}",
                            _rate(operator, layers),
                        )
                        for _, operator in own
                    ],
                    hoverinfo="text",
                )
            )
    rest = total - sum(operator.us for operator in shown)
    if rest > 0:
        traces.append(
            go.Bar(y=["all others"], x=[rest], orientation="h", marker={"color": PALE}, name="others", hoverinfo="x")
        )
    layout = {
        "xaxis": {"title": "µs of a run"},
        "yaxis": {"categoryorder": "array", "categoryarray": ["all others", *reversed(names)], "type": "category"},
        "barmode": "stack",
    }
    caption = f"{each.bundle}, {each.result.variant}, {each.way}: {total / 1e3:.4g} ms in all, in the order of the file"
    return Chart(figure(traces, **layout), caption, 120 + 19 * (len(shown) + 1), wide=True)
