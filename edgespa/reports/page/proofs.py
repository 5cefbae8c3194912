"""How near each file is to the program it was made from, and what int8 did on the way."""

from __future__ import annotations

from collections.abc import Sequence

from edgespa.bundle import Variant
from edgespa.device.runner.compare import ERRORS
from edgespa.reports.page.charts import BAD, colour, figure, said, short
from edgespa.reports.page.found import Found, FoundBundle
from edgespa.reports.page.parts import Cell, Chart, Folded, Piece, Section, Table, Words, number_cell


def parity(found: Found) -> Section:
    """Each file's error against what it may be, and the figures."""
    rows = [(bundle, variant) for bundle in found.bundles for variant in bundle.manifest.variants]
    if not rows:
        return Section("proof", "Proof", ())
    pieces: list[Piece] = []
    for bundle in found.bundles:
        if isinstance(weak := bundle.manifest.provenance.get("weak_proof"), str):
            pieces.append(Words([f"{bundle.name}: its figures say little: {weak}."], "doubt"))
    pieces += [_errors(rows), _used(rows), *_steps(rows), _table(rows)]
    if any(variant.proofs for _, variant in rows):
        pieces.append(_elsewhere(rows))
    for bundle, variant in rows:
        if variant.float_layers:
            title = f"{bundle.name}, {variant.name}: {len(variant.float_layers)} layers stay in float"
            pieces.append(Folded(f"{title}, because int8 hurts there", "\n".join(variant.float_layers)))
    return Section(
        "proof",
        "Proof: each file against the program",
        pieces,
        "Every file was run, and its outputs compared with those of the program that it was made from. Error: of the "
        "worst component of the outputs, against its own spread: 0 is equal, 1 is noise.",
    )


def _elsewhere(rows: Sequence[tuple[FoundBundle, Variant]]) -> Table:
    cells = [
        [
            Cell(bundle.name),
            Cell(variant.name),
            Cell(proof.runtime),
            Cell(proof.arithmetic),
            Cell(proof.machine),
            number_cell(proof.component_error, ".2e"),
            Cell("holds", mark="good") if proof.holds else Cell("DOES NOT HOLD", mark="bad"),
            Cell("; ".join(proof.failures)),
        ]
        for bundle, variant in rows
        for proof in variant.proofs
    ]
    columns = ("bundle", "file", "runtime", "numbers", "processor", "error", "outputs", "why not")
    return Table(columns, cells, "In the other runtimes that were there; what does not hold is not picked", ("error",))


def _named(bundle: FoundBundle, variant: Variant) -> str:
    return short(f"{bundle.name} {variant.name}", 44)


def _errors(rows: Sequence[tuple[FoundBundle, Variant]]) -> Chart:
    import plotly.graph_objects as go

    names = [_named(*row) for row in rows]
    errors = [max(variant.parity.component_error or 0.0, 1e-9) for _, variant in rows]
    bounds = [(name, variant.parity.bound["component_error"]) for name, (_, variant) in zip(names, rows, strict=True)
              if "component_error" in variant.parity.bound]  # fmt: skip
    traces = [
        go.Bar(
            y=names,
            x=errors,
            orientation="h",
            marker={"color": colour(0)},
            hovertext=[_figures(bundle, variant) for bundle, variant in rows],
            hoverinfo="text",
            name="error",
        ),
        go.Scatter(
            y=[name for name, _ in bounds],
            x=[limit for _, limit in bounds],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 16, "color": BAD, "line": {"width": 3}},
            hovertext=[f"bound {limit:.3g}" for _, limit in bounds],
            hoverinfo="text",
            name="bound",
        ),
    ]
    layout = {
        "xaxis": {"title": "error of the worst component", "type": "log", "exponentformat": "power", "dtick": 1},
        "yaxis": {"autorange": "reversed", "type": "category"},
    }
    return Chart(figure(traces, **layout), "Error, and what it may be at most", 130 + 24 * len(rows))


def _figures(bundle: FoundBundle, variant: Variant) -> str:
    parity = variant.parity
    return said(
        f"{bundle.name}, {variant.name}",
        "" if parity.component_error is None else f"error {parity.component_error:.3g} at {parity.worst}",
        "" if parity.correlation is None else f"correlation {parity.correlation:.8g}",
        f"{parity.varying} of {parity.components} components depend on the input",
        f"on {parity.count} samples: {parity.inputs}",
        f"in {variant.runtime}",
    )


def shares_used(variant: Variant) -> dict[str, float]:
    """How much of each of its bounds a file uses: 1 is all of it; of bounds from below, of what is left up to 1."""
    shares: dict[str, float] = {}
    for name, limit in variant.parity.bound.items():
        value = getattr(variant.parity, name, None)
        if value is None:
            continue
        room = limit if name in ERRORS else 1 - limit
        used = value if name in ERRORS else 1 - value
        if room > 0:
            shares[name] = max(0.0, used) / room
    return shares


def _used(rows: Sequence[tuple[FoundBundle, Variant]]) -> Chart:
    import plotly.graph_objects as go

    names = [_named(*row) for row in rows]
    found = [shares_used(variant) for _, variant in rows]
    kinds = dict.fromkeys(name for each in found for name in each)
    traces = [
        go.Bar(
            y=names,
            x=[each.get(kind) for each in found],
            orientation="h",
            name=kind.replace("_", " "),
            marker={"color": colour(number)},
            hovertemplate="%{x:.1%} of the bound<extra>" + kind.replace("_", " ") + "</extra>",
        )
        for number, kind in enumerate(kinds)
    ]
    layout = {
        "xaxis": {"title": "share of the bound that is used", "tickformat": ".0%", "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "shapes": [
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": BAD, "dash": "dash"},
            }
        ],
        "barmode": "group",
    }
    return Chart(
        figure(traces, **layout),
        "Of what is allowed, so much is used; beyond the line a file is not written",
        130 + 24 * len(rows),
    )


def _steps(rows: Sequence[tuple[FoundBundle, Variant]]) -> list[Chart]:
    import plotly.graph_objects as go

    stepped = [(bundle, variant) for bundle, variant in rows if variant.errors]
    if not stepped:
        return []
    traces = [
        go.Bar(
            x=list(variant.errors),
            y=list(variant.errors.values()),
            name=_named(bundle, variant),
            marker={"color": colour(i)},
        )
        for i, (bundle, variant) in enumerate(stepped)
    ]
    layout = {"yaxis": {"title": "error of the worst component"}, "xaxis": {"type": "category"}, "barmode": "group"}
    caption = "int8, all layers in it: by each way of finding ranges, then with rounded weights, then with moved biases"
    return [Chart(figure(traces, **layout), caption, 360)]


def _table(rows: Sequence[tuple[FoundBundle, Variant]]) -> Table:
    cells = []
    for bundle, variant in rows:
        parity = variant.parity
        worst = max(shares_used(variant).values(), default=None)
        cells.append(
            [
                Cell(bundle.name),
                Cell(variant.name),
                number_cell(parity.component_error, ".2e"),
                number_cell(parity.correlation, ".6f"),
                number_cell(parity.relative_error, ".2e"),
                number_cell(worst, ".0%", "doubt" if worst is not None and worst > 0.8 else ""),
                Cell(f"{parity.varying} of {parity.components}", parity.varying),
                Cell(parity.worst or "–"),
                Cell(parity.inputs),
                Cell(variant.calibration or "–"),
                number_cell(variant.time_ratio, ".2f"),
            ]
        )
    columns = (
        "bundle", "file", "error", "correlation", "relative", "bound used", "components", "worst", "on", "ranges",
        "CPU time / fp32",
    )  # fmt: skip
    right = ("error", "correlation", "relative", "bound used", "CPU time / fp32")
    return Table(columns, cells, "Figures", right)
