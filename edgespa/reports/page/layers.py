"""What is left of each layer: a chart of widths before and after, and the module tree, foldable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgespa.reports.page.charts import PALE, colour, figure, said, short
from edgespa.reports.page.found import Found
from edgespa.reports.page.parts import Branch, Cell, Chart, Piece, Section, Tree, cell, count_cell

MOST_BARS = 160
Row = Mapping[str, Any]


def kept_layers(found: Found) -> Section:
    """Of each bundle and task."""
    pieces: list[Piece] = []
    seen: list[Sequence[tuple[Any, ...]]] = []
    subjects = [(each.name, each.modules) for each in found.bundles]
    subjects += [(each.name, each.modules) for each in found.tasks]
    for name, rows in subjects:
        figures = [(row["module"], row["macs"], row["parameters"]) for row in rows]
        if figures in seen:  # a task file beside its bundle
            continue
        seen.append(figures)
        changed = any(row["macs"] != row["base_macs"] or row["parameters"] != row["base_parameters"] for row in rows)
        if rows and changed:
            pieces.append(_widths(name, rows))
            pieces.append(module_tree(rows, f"{name}: over its modules; grey is what it was"))
    for task in found.tasks:
        if not task.modules and any(kept != units for kept, units in task.kept.values()):
            pieces.append(_groups(task.name, task.kept))
    intro = "Channels, parameters and MACs, before and after." if pieces else ""
    return Section("layers", "What is left of each layer", pieces, intro)


def _widths(name: str, rows: Sequence[Row]) -> Chart:
    import plotly.graph_objects as go

    wide = [row for row in rows if row.get("base_channels")]
    shown = wide[:MOST_BARS]
    xs = [f"{i + 1}" for i in range(len(shown))]
    hover = [
        said(
            str(row["module"]),
            f"{row['channels']} of {row['base_channels']} channels",
            f"MACs {row['macs']:,} of {row['base_macs']:,}",
            f"parameters {row['parameters']:,} of {row['base_parameters']:,}",
            str(row.get("reason") or ""),
        )
        for row in shown
    ]
    bars = {"hovertext": hover, "hoverinfo": "text"}
    traces = [
        go.Bar(
            x=xs,
            y=[row["base_channels"] for row in shown],
            name="before",
            marker={"color": PALE, "opacity": 0.45},
            **bars,
        ),
        go.Bar(x=xs, y=[row["channels"] for row in shown], name="after", marker={"color": colour(0)}, **bars),
    ]
    more = f" (the first {MOST_BARS} of {len(wide)})" if len(wide) > MOST_BARS else ""
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "xaxis": {"title": "layers, from input to output", "type": "category", "nticks": 20},
        "yaxis": {"title": "output channels"},
    }
    return Chart(figure(traces, **layout), f"{name}: channels of each layer{more}", 320, wide=True)


def _groups(name: str, kept: Mapping[str, tuple[int, int]]) -> Chart:
    import plotly.graph_objects as go

    names = [f"{i + 1} {short(each, 40)}" for i, each in enumerate(kept)][:MOST_BARS]
    values = list(kept.values())[:MOST_BARS]
    hover = [said(each, f"{left} of {units} units") for each, (left, units) in zip(kept, values, strict=False)]
    traces = [
        go.Bar(
            x=names,
            y=[units for _, units in values],
            name="before",
            marker={"color": PALE, "opacity": 0.45},
            hoverinfo="skip",
        ),
        go.Bar(
            x=names,
            y=[left for left, _ in values],
            name="kept",
            marker={"color": colour(0)},
            hovertext=hover,
            hoverinfo="text",
        ),
    ]
    layout = {"barmode": "overlay", "xaxis": {"type": "category"}, "yaxis": {"title": "units"}}
    caption = f"{name}: units of each channel group (its base was not opened, so MACs are not known)"
    return Chart(figure(traces, **layout), caption, 420, wide=True)


@dataclasses.dataclass
class _Node:
    row: Row | None = None
    children: dict[str, _Node] = dataclasses.field(default_factory=dict)

    def sum(self, key: str) -> int:
        own = int(self.row[key]) if self.row is not None else 0
        return own + sum(each.sum(key) for each in self.children.values())


def module_tree(rows: Sequence[Row], caption: str, *, units: bool = False) -> Tree:
    """Modules as they are nested; a bar is the share of all MACs, or of parameters where there are none.

    Args:
        rows: Of `edgespa.tasks.modules.describe_modules`.
        caption: Of the tree.
        units: Show how many channels can go and why others cannot, in place of what has gone.
    """
    root = _Node()
    for row in rows:
        node = root
        for part in str(row["module"]).split("."):
            node = node.children.setdefault(part, _Node())
        node.row = row
    key = "macs" if root.sum("base_macs") else "parameters"
    whole = max(1, root.sum(f"base_{key}"))
    changed = any(row[kind] != row[f"base_{kind}"] for row in rows for kind in ("macs", "parameters"))

    def branch(label: str, node: _Node, depth: int) -> Branch:
        while node.row is None and len(node.children) == 1:  # a module that holds but one
            (name, only), *_ = node.children.items()
            label, node = f"{label}.{name}", only
        now, was = node.sum(key), node.sum(f"base_{key}")
        cells = [
            _channels(node.row),
            _pair(node.sum("parameters"), node.sum("base_parameters")),
            _pair(node.sum("macs"), node.sum("base_macs")),
        ]
        if units:
            cells.append(_units(node.row))
        elif changed:
            cells.append(cell(None) if not was else Cell(f"{now / was:.0%}", now / was))
        operator = f"  {node.row['operator']}" if node.row is not None and not node.children else ""
        reason = str(node.row.get("reason") or "") if units and node.row is not None else ""
        children = [branch(name, each, depth + 1) for name, each in node.children.items()]
        return Branch(
            label + operator, cells, now / whole, was / whole if changed else None, children, depth < 1, _why(reason)
        )

    columns = ["channels", "parameters", "MACs", *(["can go"] if units else ["left"] if changed else [])]
    return Tree(columns, [branch(name, node, 0) for name, node in root.children.items()], caption)


def _why(reason: str) -> str:
    return f"fixed: {reason}" if reason else ""


def _channels(row: Row | None) -> Cell:
    if row is None or row.get("base_channels") is None:
        return Cell("")
    before, now = row["base_channels"], row["channels"]
    return Cell(f"{now:,}", now) if now == before else Cell(f"{before:,} → {now:,}", now)


def _pair(now: int, was: int) -> Cell:
    if not was:
        return Cell("")
    return count_cell(now) if now == was else Cell(f"{count_cell(was).text} → {count_cell(now).text}", now)


def _units(row: Row | None) -> Cell:
    if row is None or row.get("base_channels") is None:
        return Cell("")
    count = row["base_channels"]
    free = row.get("units") or 0
    title = f"in the channel group of {row['group']}" if row.get("group") else ""
    return Cell(
        "all" if free == count else "none" if not free else f"{free:,}", free, title=title, mark="" if free else "doubt"
    )
