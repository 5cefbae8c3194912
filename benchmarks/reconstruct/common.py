"""Charts of rows, and what the parts of this benchmark share of the others."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from rows import Row, Rows, fill, table  # noqa: E402

__all__ = ["HERE", "Row", "Rows", "chart", "fill", "table"]


def chart(path: Path, title: str, x_label: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """Accuracies as lines in an SVG: x on a logarithmic scale, y from 0 to 1."""
    import matplotlib
    from matplotlib.figure import Figure

    ticks = sorted({x for points in series.values() for x, _ in points})
    styles = [(colour, line) for line in ("-", "--") for colour in matplotlib.colormaps["tab10"].colors]
    with matplotlib.rc_context({"svg.hashsalt": "edgespa", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for (name, points), (colour, line) in zip(series.items(), styles, strict=False):
            axes.plot(*zip(*sorted(points), strict=True), color=colour, linestyle=line, label=name)
        axes.set(title=title, xlabel=x_label, ylabel="accuracy", xscale="log", ylim=(0, 1))
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
