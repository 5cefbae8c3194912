"""Quality against latency, size and work, with what no other file beats; and the table of all files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from urllib.parse import quote

from edgespa.bundle import Variant
from edgespa.reports.page.charts import SYMBOLS, axis_of, colour, figure, front, said, short
from edgespa.reports.page.found import Found, FoundBundle, Timed
from edgespa.reports.page.parts import (
    Cell,
    Chart,
    Piece,
    Section,
    Table,
    Tiles,
    bytes_cell,
    cell,
    count_cell,
    ms_cell,
    number_cell,
)


@dataclasses.dataclass(frozen=True)
class Good:
    """How good a file is, by what there is to say it with.

    Attributes:
        title: Of the measure.
        data: On what.
        value: Its value.
        percent: It is a fraction.
        rises: More is better.
        text: As it is shown.
    """

    title: str
    data: str
    value: float
    percent: bool
    rises: bool
    text: str


def good_of(variant: Variant) -> Good | None:
    """Its quality; where none was measured, how often it decides as the program does, or how near its outputs are."""
    if variant.accuracy is not None:
        measure = variant.accuracy.of
        of = f"{variant.accuracy.data} ({variant.accuracy.count:,} samples)"
        return Good(measure.title, of, variant.accuracy.value, measure.percent, measure.rises, variant.accuracy.figure)
    if variant.agreement is not None:
        value = variant.agreement.value
        of = f"{variant.agreement.data} ({variant.agreement.count:,} samples)"
        return Good(f"same {variant.agreement.what} as the program", of, value, True, True, f"{value:.1%}")
    error = variant.parity.component_error
    if error is None or not error > 0:
        return None
    ratio = -20 * math.log10(error)
    return Good("signal to noise of the worst output, dB", variant.parity.inputs, ratio, False, True, f"{ratio:.1f} dB")


def fastest(timed: Sequence[Timed]) -> Timed | None:
    """The measurement of the least median, of those on real machines whose outputs were not seen to be wrong there."""
    right = [each for each in timed if each.holds is not False and not each.profile.emulated]
    return min(right, key=lambda each: each.result.p50_ms, default=None)


def tiles(found: Found, timed: Sequence[Timed]) -> Section:
    """What is seen first: each bundle and task in a few figures."""
    pieces: list[Piece] = []
    for bundle in found.bundles:
        manifest, own = bundle.manifest, [each for each in timed if each.bundle == bundle.name]
        cost = manifest.compaction
        rows = [("files, all proved", str(len(manifest.variants)), "", "good")]
        if (quality := manifest.reference_accuracy) is not None:
            rows.append((quality.of.title, quality.figure, f"{quality.count:,} samples", ""))
        rows.append(("parameters", count_cell(cost.parameters).text, f"{cost.parameter_density:.0%} of the base", ""))
        rows.append(("MACs", count_cell(cost.macs).text, f"{cost.mac_density:.0%} of the base", ""))
        small = min(manifest.variants, key=lambda each: each.size_bytes)
        rows.append(("smallest file", bytes_cell(small.size_bytes).text, small.name, ""))
        if (fast := fastest(own)) is not None:
            doubt = "doubt" if False in (fast.result.clean, fast.result.steady) else ""
            rows.append(
                ("fastest, p50", f"{ms_cell(fast.result.p50_ms).text} ms", f"{fast.result.variant}, {fast.way}", doubt)
            )
        if manifest.pick is not None:
            rows.append(("run.py takes", manifest.pick.variant, f"picked on {manifest.pick.device}", ""))
        if manifest.max_latency_ms is not None:
            rows.append(
                ("may take", f"{ms_cell(manifest.max_latency_ms).text} ms", "else a watched device goes back", "")
            )
        pieces.append(
            Tiles(rows, bundle.name if bundle.name == manifest.task else f"{bundle.name}: {manifest.task}", bundle.link)
        )
    costs = [bundle.manifest.compaction for bundle in found.bundles]
    shown = {(cost.task_size_bytes, cost.parameters, cost.macs) for cost in costs}
    for task in found.tasks:
        figures = task.header["figures"]
        if (task.size_bytes, figures["parameters"], figures["macs"]) in shown:  # of a bundle above
            continue
        pieces.append(
            Tiles(
                [
                    ("task file", bytes_cell(task.size_bytes).text, "", ""),
                    ("channels kept", f"{figures['channel_density']:.0%}", "", ""),
                    ("parameters", count_cell(figures["parameters"]).text, _share(figures, "parameters"), ""),
                    ("MACs", count_cell(figures["macs"]).text, _share(figures, "macs"), ""),
                    *((name.replace("_", " "), f"{value:.4g}", "", "") for name, value in _few(task.header["metrics"])),
                ],
                task.name,
                task.link,
            )
        )
    return Section("overview", "Overview", pieces)


def _few(metrics: dict[str, float]) -> list[tuple[str, float]]:
    return list(metrics.items())[:6]


def _share(figures: dict[str, float], key: str) -> str:
    whole = figures[f"base_{key}"]
    return f"{figures[key] / whole:.0%} of the base" if whole else ""


def trade_offs(found: Found, timed: Sequence[Timed]) -> Section:
    """Quality against latency by device and runtime, against bytes and MACs; a line joins what no other beats."""
    bundles = {bundle.name: bundle for bundle in found.bundles}
    symbols = {name: SYMBOLS[i % len(SYMBOLS)] for i, name in enumerate(bundles)}
    titles = dict.fromkeys(
        good.title for bundle in found.bundles for each in bundle.manifest.variants if (good := good_of(each))
    )
    pieces: list[Piece] = []
    for title in titles:
        pieces += _against_time(title, timed, symbols)
        pieces += _against_cost(title, found.bundles, symbols)
    intro = (
        "Each point is a file; a line joins those that no other beats in both. Hollow: the measurement was disturbed, "
        "or not steady; hover says what is known of it."
    )
    return Section("quality", "Quality against time, bytes and work", pieces, intro if pieces else "")


def _against_time(title: str, timed: Sequence[Timed], symbols: dict[str, str]) -> list[Chart]:
    import plotly.graph_objects as go

    ways: dict[str, list[tuple[Timed, Good]]] = {}
    for each in timed:
        good = good_of(each.variant) if each.variant is not None else None
        if good is not None and good.title == title and each.holds is not False:
            ways.setdefault(each.way, []).append((each, good))
    if not ways:
        return []
    traces = []
    for number, (way, rows) in enumerate(ways.items()):
        rises = rows[0][1].rises
        points = [(each.result.p50_ms, good.value) for each, good in rows]
        best = front(points, rises=rises)
        sure = [False not in (each.result.clean, each.result.steady) for each, _ in rows]
        shapes = [
            symbols.get(each.bundle, "circle") + ("" if is_sure else "-open")
            for (each, _), is_sure in zip(rows, sure, strict=True)
        ]
        traces.append(
            go.Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                mode="markers",
                marker={
                    "size": 11,
                    "color": colour(number),
                    "symbol": shapes,
                    "line": {"width": 2, "color": colour(number)},
                },
                name=short(way, 48),
                legendgroup=way,
                hovertext=[_hover(each, good) for each, good in rows],
                hoverinfo="text",
            )
        )
        traces.append(
            go.Scatter(
                x=[points[i][0] for i in best],
                y=[points[i][1] for i in best],
                mode="lines",
                line={"color": colour(number), "width": 1.5, "shape": "hv"},
                legendgroup=way,
                showlegend=False,
                hoverinfo="skip",
            )
        )
    names = ", ".join(f"{_SHAPES[symbol]}: {name}" for name, symbol in symbols.items())
    axes = {
        "xaxis": axis_of("median latency, ms", [each.result.p50_ms for rows in ways.values() for each, _ in rows]),
        "yaxis": _axis(title, [good for rows in ways.values() for _, good in rows]),
    }
    height = 400 + 17 * len(ways)
    legend = {"orientation": "v"}
    return [
        Chart(
            figure(traces, **axes, legend=legend),
            f"{title} against latency, on {_data(ways)}. {names}",
            height,
            wide=True,
        )
    ]


_SHAPES = {
    "circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "star": "★", "hexagon": "⬢",
    "pentagon": "⬟",
}  # fmt: skip


def _hover(each: Timed, good: Good) -> str:
    result = each.result
    return said(
        f"{each.bundle}, {result.variant}",
        f"{good.text} ({good.title}, {good.data})",
        f"p50 {result.p50_ms:.4g} ms, p90 {result.p90_ms:.4g} ms",
        each.way,
        *(f"not clean: {doubt}" for doubt in result.doubts[:3]),
        "outputs compared there: as the program's" if each.holds else "outputs not compared there",
    )


def _data(ways: dict[str, list[tuple[Timed, Good]]]) -> str:
    names = dict.fromkeys(good.data for rows in ways.values() for _, good in rows)
    return next(iter(names)) if len(names) == 1 else f"{len(names)} data sets: they are not the same"


def _axis(title: str, goods: Sequence[Good]) -> dict[str, object]:
    """An axis around its values, with some room where they are all alike; a fraction is at most 1."""
    values = [good.value for good in goods]
    room = max(0.15 * (max(values) - min(values)), 0.02 * max(abs(value) for value in values), 1e-6)
    low, high = min(values) - room, max(values) + room
    if goods[0].percent:
        low, high = max(low, 0.0), min(high, 1 + 0.04 * (1 - low))
    return {"title": short(title, 46), "range": [low, high], **({"tickformat": ".1%"} if goods[0].percent else {})}


def _against_cost(title: str, bundles: Sequence[FoundBundle], symbols: dict[str, str]) -> list[Chart]:
    import plotly.graph_objects as go

    rows = [
        (bundle, variant, good)
        for bundle in bundles
        for variant in bundle.manifest.variants
        if (good := good_of(variant)) is not None and good.title == title
    ]
    rises = rows[0][2].rises
    y = _axis(title, [good for _, _, good in rows])
    charts = []
    sizes: list[tuple[str, str, Callable[[FoundBundle, Variant], int]]] = [
        ("bytes", "bytes of the file", lambda _, variant: variant.size_bytes),
        ("MACs", "multiply-accumulates", lambda bundle, _: bundle.manifest.compaction.macs),
    ]
    for words, axis, of in sizes:
        points = [(float(of(bundle, variant)), good.value) for bundle, variant, good in rows]
        if len({x for x, _ in points}) < 2:
            continue
        best = front(points, rises=rises)
        markers = {
            "size": 11,
            "color": [_PRECISIONS.get(variant.precision, "#7f7f7f") for _, variant, _ in rows],
            "symbol": [symbols[bundle.name] for bundle, _, _ in rows],
        }
        hover = [
            said(f"{bundle.name}, {variant.name}", f"{good.text} ({good.title})", f"{words}: {of(bundle, variant):,}")
            for bundle, variant, good in rows
        ]
        xs, ys = ([point[i] for point in points] for i in (0, 1))
        line = {"color": "#7f7f7f", "width": 1.5, "shape": "hv", "dash": "dot"}
        traces = [
            go.Scatter(x=xs, y=ys, mode="markers", marker=markers, hovertext=hover, hoverinfo="text", showlegend=False),
            go.Scatter(
                x=[xs[i] for i in best],
                y=[ys[i] for i in best],
                mode="lines",
                line=line,
                hoverinfo="skip",
                showlegend=False,
            ),
        ]
        layout = {"xaxis": axis_of(axis, [x for x, _ in points], exponentformat="SI"), "yaxis": y}
        charts.append(Chart(figure(traces, **layout), f"Against {words}. Blue fp32, orange fp16, green int8", 340))
    return charts


_PRECISIONS = {"fp32": "#0072b2", "fp16": "#e69f00", "int8": "#009e73", "int8-weights": "#56b4e9"}


def files(found: Found, timed: Sequence[Timed]) -> Section:
    """All files, and all measurements."""
    rows: list[list[Cell]] = []
    for bundle in found.bundles:
        for variant in bundle.manifest.variants:
            good = good_of(variant)
            own = [each for each in timed if (each.bundle, each.result.variant) == (bundle.name, variant.name)]
            fast = fastest(own)
            # Of an archive the files have no place of their own.
            link = bundle.link if bundle.packed else f"{bundle.link}/{quote(variant.file)}"
            rows.append(
                [
                    Cell(bundle.name, link=bundle.link),
                    Cell(variant.name, link=link),
                    bytes_cell(variant.size_bytes),
                    count_cell(bundle.manifest.compaction.macs),
                    cell(None) if good is None else Cell(good.text, good.value, title=f"{good.title}, {good.data}"),
                    number_cell(variant.agreement.value if variant.agreement is not None else None, ".1%"),
                    number_cell(variant.parity.component_error, ".1e"),
                    ms_cell(None if fast is None else fast.result.p50_ms),
                    cell(None if fast is None else fast.way),
                    Cell(variant.runtime),
                ]
            )
    columns = (
        "bundle", "file", "size", "MACs", "quality", "same decision", "error", "p50 ms", "fastest where", "proved in",
    )  # fmt: skip
    note = "Error: of the worst component of the outputs, against its own spread. Names lead to the files."
    pieces: list[Piece] = []
    if rows:
        right = ("size", "MACs", "quality", "same decision", "error", "p50 ms")
        pieces.append(Table(columns, rows, "All files", right, compare=len(rows) > 1, note=note))
    if found.tasks:
        heads = ("task file", "size", "channels", "parameters", "MACs", "adapter", "made", "edgespa")
        tasks = [
            [
                Cell(task.name, link=task.link),
                bytes_cell(task.size_bytes),
                number_cell(task.header["figures"]["channel_density"], ".0%"),
                count_cell(task.header["figures"]["parameters"]),
                count_cell(task.header["figures"]["macs"]),
                cell((task.header["adapter"] or {}).get("kind")),
                Cell(str(task.header["created"])),
                Cell(str(task.header["edgespa_version"])),
            ]
            for task in found.tasks
        ]
        numbers = ("size", "channels", "parameters", "MACs")
        pieces.append(Table(heads, tasks, "Task files", numbers, compare=len(tasks) > 1))
    return Section("files", "Everything, with links", pieces)
