"""Charts of rows, and what the parts of this benchmark share of the others."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from rows import Row, Rows, fill, table  # noqa: E402

__all__ = ["HERE", "Row", "Rows", "chart", "fill", "table"]


_COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)


def chart(path: Path, title: str, x_label: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """Lines in an SVG: x on a logarithmic scale, y from 0 to 1."""
    import math

    width, height, left, top, right, bottom = 720, 420, 60, 40, 200, 50
    xs = sorted({x for points in series.values() for x, _ in points})
    low, high = math.log(xs[0]), math.log(xs[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - low) / ((high - low) or 1)
        return left + across * (width - left - right), height - bottom - y * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="24" font-size="15">{title}</text>',
    ]
    for tick in range(6):
        y = at(xs[0], tick / 5)[1]
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick / 5:.1f}</text>')
    for x in xs:
        parts.append(f'<text x="{at(x, 0)[0]:.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">{x_label}</text>')
    for index, (name, points) in enumerate(series.items()):
        colour, dash = _COLOURS[index % len(_COLOURS)], ' stroke-dasharray="5 3"' if index >= len(_COLOURS) else ""
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*point) for point in sorted(points)))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        y = top + 16 * index
        parts.append(
            f'<line x1="{width - right + 12}" x2="{width - right + 32}" y1="{y}" y2="{y}" stroke="{colour}"{dash}/>'
        )
        parts.append(f'<text x="{width - right + 38}" y="{y + 4}">{name}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))
