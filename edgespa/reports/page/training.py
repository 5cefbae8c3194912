"""How tasks were made: training curves with the steps of density, errors of reconstruction, blocks that went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespa.reports.page.charts import PALE, SYMBOLS, axis_of, colour, figure, said, short
from edgespa.reports.page.found import Found, FoundDepth
from edgespa.reports.page.parts import Cell, Chart, Piece, Section, Table, ms_cell

MOST_CURVES = 60
MOST_CLASSES = 20


def curves(found: Found) -> Section:
    """Of each training log, and of tasks and bundles without one what they remember."""
    pieces: list[Piece] = []
    for log in found.logs:
        if chart := _training(log.name, log.events):
            pieces.append(chart)
    for name, told in _makings(found):
        events = [{"event": "epoch", **each} for each in _dicts(told.get("history"))]
        if chart := _training(name, events):
            pieces.append(chart)
    intro = "Loss and validation by epoch, and below them the share of units that are left." if pieces else ""
    return Section("training", "Training", pieces, intro)


def _makings(found: Found) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """How each task was made; once, where its bundle is there too."""
    seen: list[Mapping[str, Any]] = []
    for name, told in (
        *((each.name, each.header["provenance"]) for each in found.tasks),
        *((each.name, {k: v for k, v in each.training.items() if k != "metrics"}) for each in found.bundles),
    ):
        if told and told not in seen:
            seen.append(told)
            yield name, told


def _training(name: str, events: Sequence[Mapping[str, Any]]) -> Chart | None:
    import plotly.graph_objects as go

    epochs = [each for each in events if each.get("event") == "epoch" and _is_number(each.get("epoch"))]
    if not epochs:
        return None
    xs = [float(each["epoch"]) for each in epochs]
    losses = [_number(each.get("loss")) for each in epochs]
    validation = [_number(each.get("validation")) for each in epochs]
    cuts = list(_cuts(events))
    steps = cuts + [(float(each["epoch"]), _number(each.get("density")), "") for each in epochs]
    steps = sorted((step for step in steps if step[1] is not None), key=lambda step: step[0])
    traces = [
        go.Scatter(x=xs, y=losses, name="loss", mode="lines+markers", line={"color": colour(3)}, marker={"size": 5}),
        go.Scatter(
            x=xs,
            y=validation,
            name="validation",
            mode="lines+markers",
            yaxis="y2",
            line={"color": colour(0)},
            marker={"size": 5},
        ),
    ]
    is_cut = any(density not in (None, 1.0) for _, density, _ in steps)
    if is_cut:
        traces.append(
            go.Scatter(
                x=[x for x, _, _ in steps],
                y=[density for _, density, _ in steps],
                name="units left",
                mode="lines",
                yaxis="y3",
                fill="tozeroy",
                line={"color": PALE, "shape": "hv", "width": 2},
                hovertext=[said(f"{density:.1%} of the units", words) for _, density, words in steps],
                hoverinfo="text",
            )
        )
    layout = {
        "xaxis": {"title": "epoch", "anchor": "y3" if is_cut else "y"},
        "yaxis": axis_of("loss", [value for value in losses if value is not None], domain=[0.34 if is_cut else 0, 1]),
        "yaxis2": {"title": "validation", "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"},
        **(
            {
                "yaxis3": {
                    "title": "units left",
                    "domain": [0, 0.24],
                    "range": [0, 1.05],
                    "tickformat": ".0%",
                    "nticks": 3,
                }
            }
            if is_cut
            else {}
        ),
        "shapes": [
            {
                "type": "line",
                "x0": x,
                "x1": x,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": PALE, "width": 0.6, "dash": "dot"},
            }
            for x, _, _ in cuts
        ],
        "hovermode": "closest",
    }
    dotted = "; dotted: units were removed" if cuts else ""
    return Chart(figure(traces, **layout), f"{name}{dotted}", 420 if is_cut else 340, wide=True)


def _cuts(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float | None, str]]:
    """Pruning steps, those of an epoch spread over it: when, the share of units left, the MACs."""
    pruned = [each for each in events if each.get("event") == "prune" and _is_number(each.get("epoch"))]
    by_epoch: dict[float, list[Mapping[str, Any]]] = {}
    for each in pruned:
        by_epoch.setdefault(float(each["epoch"]), []).append(each)
    for epoch, own in by_epoch.items():
        for place, each in enumerate(own):
            macs = _number(each.get("macs"))
            words = f"{macs / 1e6:,.1f}M MACs" if macs is not None else ""
            yield epoch - 1 + (place + 0.5) / len(own), _number(each.get("density")), words


def reconstruction(found: Found) -> Section:
    """What layers lost when units went without training, and what was foretold of the time."""
    pieces: list[Piece] = []
    for name, told in _makings(found):
        if chart := _greedy(name, told.get("curves")):
            pieces.append(chart)
        if chart := _layer_errors(name, told.get("reconstruction_error")):
            pieces.append(chart)
        rows = [each for each in _dicts(told.get("foretold")) if _is_number(each.get("latency_ms"))]
        if rows:
            cells = [
                [
                    Cell(str(each.get("device"))),
                    Cell(str(each.get("variant"))),
                    ms_cell(float(each["latency_ms"])),
                    ms_cell(_number(each.get("whole_ms"))),
                ]
                for each in rows
            ]
            columns = ("device", "file", "foretold ms", "whole network ms")
            pieces.append(Table(columns, cells, f"{name}: what latency tables foretold", columns[2:]))
    intro = "How far a layer's outputs are from what they were, against their spread: 0 is equal, 1 is nothing left."
    return Section("reconstruction", "Errors of reconstruction", pieces, intro if pieces else "")


def _greedy(name: str, told: Any) -> Chart | None:
    import plotly.graph_objects as go

    rows = [(group, each) for group, each in (told.items() if isinstance(told, dict) else ()) if isinstance(each, dict)]
    traces: list[Any] = []
    for number, (group, each) in enumerate(rows[:MOST_CURVES]):
        units, errors = _numbers(each.get("units")), _numbers(each.get("error"))
        if len(units) < 2 or len(units) != len(errors) or not max(units):
            continue
        shares = [unit / max(units) for unit in units]
        kept = each.get("kept")
        hover = [
            said(str(group), f"{unit:,.0f} of {max(units):,.0f} units: error {error:.3g}")
            for unit, error in zip(units, errors, strict=True)
        ]
        sizes = [11 if unit == kept else 0 for unit in units]
        traces.append(
            go.Scatter(
                x=shares,
                y=errors,
                mode="lines+markers",
                marker={"size": sizes, "color": colour(number), "symbol": SYMBOLS[number // 10 % len(SYMBOLS)]},
                line={"color": colour(number), "width": 1.3},
                hovertext=hover,
                hoverinfo="text",
                name=short(str(group), 40),
                showlegend=len(rows) <= 12,
            )
        )
    if not traces:
        return None
    layout = {
        "xaxis": {"title": "share of the units that is kept", "tickformat": ".0%"},
        "yaxis": {"title": "error", "rangemode": "tozero"},
    }
    more = f" (the first {MOST_CURVES} of {len(rows)} groups)" if len(rows) > MOST_CURVES else ""
    return Chart(figure(traces, **layout), f"{name}: error over units kept; the mark is what was chosen{more}", 380)


def _layer_errors(name: str, told: Any) -> Chart | None:
    import plotly.graph_objects as go

    rows = [
        (str(layer), float(value))
        for layer, value in (told.items() if isinstance(told, dict) else ())
        if _is_number(value)
    ]
    if not rows:
        return None
    hover = [said(layer, f"error {value:.3g}") for layer, value in rows]
    xs = [str(i + 1) for i in range(len(rows))]
    bars = go.Bar(x=xs, y=[value for _, value in rows], marker={"color": colour(0)}, hovertext=hover, hoverinfo="text")
    layout = {
        "xaxis": {"title": "layers, front to back", "type": "category", "nticks": 20},
        "yaxis": {"title": "error"},
    }
    return Chart(figure([bars], **layout), f"{name}: error of each layer that was solved anew", 380)


def depth(found: Found) -> Section:
    """Which blocks went, by how far the classes are apart there, and the classes in two dimensions."""
    pieces: list[Piece] = []
    for name, told in _makings(found):
        account = told.get("depth")
        if isinstance(account, dict) and (chart := _scores(name, account.get("scores"), account.get("removed"))):
            pieces.append(chart)
    for each in found.depths:
        panels = each.values["panels"]
        scores = {panel["name"]: panel["score"] for panel in panels}
        if chart := _scores(each.name, scores, [panel["name"] for panel in panels if not panel["kept"]]):
            pieces.append(chart)
        pieces += _embedded(each)
    intro = (
        "How far the classes of the task are apart behind each block; blocks after the threshold bring nothing more."
    )
    return Section("depth", "Depth", pieces, intro if pieces else "")


def _scores(name: str, scores: Any, removed: Any) -> Chart | None:
    import plotly.graph_objects as go

    rows = [
        (str(block), float(value))
        for block, value in (scores.items() if isinstance(scores, dict) else ())
        if _is_number(value)
    ]
    if not rows:
        return None
    gone = {str(each) for each in removed} if isinstance(removed, list) else set()
    bars = go.Bar(
        x=[short(block, 30) for block, _ in rows],
        y=[value for _, value in rows],
        marker={"color": [PALE if block in gone else colour(0) for block, _ in rows]},
        hovertext=[said(block, f"score {value:.4g}", "removed" if block in gone else "kept") for block, value in rows],
        hoverinfo="text",
    )
    return Chart(figure([bars], xaxis={"type": "category"}, yaxis={"title": "score"}), f"{name}: grey blocks went", 320)


def _embedded(found: FoundDepth) -> list[Chart]:
    import plotly.graph_objects as go

    values = found.values
    classes, labels = values["classes"], values["labels"]
    charts = []
    for panel in values["panels"]:
        traces = []
        for number, name in enumerate(classes[:MOST_CLASSES]):
            own = [point for point, label in zip(panel["points"], labels, strict=True) if label == number]
            traces.append(
                go.Scatter(
                    x=[x for x, _ in own],
                    y=[y for _, y in own],
                    mode="markers",
                    marker={"size": 4, "color": colour(number), "symbol": SYMBOLS[number // 10]},
                    name=short(str(name), 24),
                    hoverinfo="name",
                )
            )
        plain = {"visible": False, "range": [-0.04, 1.04]}
        state = "kept" if panel["kept"] else "removed"
        caption = f"{panel['name']}: score {panel['score']:.4g}, {state}"
        charts.append(
            Chart(figure(traces, xaxis=plain, yaxis={**plain, "scaleanchor": "x"}), f"{found.name}, {caption}", 380)
        )
    return charts


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _numbers(values: Any) -> list[float]:
    found = values if isinstance(values, list) else []
    return [float(each) for each in found if _is_number(each)]
