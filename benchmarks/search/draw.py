"""The figure and the table of `run.py`: the front of the search beside the defaults."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, PLOT = 860, 330, 64, 44, 250
COLOURS = {"searched": "#1f77b4", "default fp32": "#d62728", "default int8": "#ff7f0e", "few epochs": "#b8c0c8"}


def draw(work: Path) -> None:
    """Write front.svg beside this file, and the table to stdout."""
    search = json.loads((work / "search" / "search.json").read_text())
    defaults = json.loads((work / "fixed.json").read_text())
    points: dict[str, list[dict[str, Any]]] = {name: [] for name in COLOURS}
    for each in search["trials"]:
        if each["front"]:
            points["searched"].append(
                {**each, "ms": each["measured_ms"] or each["latency_ms"], "bytes": each["size_bytes"]}
            )
        elif each["few"] is not None and each["quality"] is None:
            points["few epochs"].append({"quality": each["few"], "ms": each["latency_ms"], "bytes": each["size_bytes"]})
    for each in defaults:
        points["default " + each["variant"].split("-")[1]].append(each)
    drawn = [_plot(points, "ms", "latency, ms (measured; grey: foretold)", LEFT, 1.0)]
    drawn.append(_plot(points, "bytes", "file, KiB", LEFT + PLOT + 180, 1024.0))
    legend = "".join(
        f'<circle cx="{LEFT + 130 * i}" cy="16" r="5" fill="{colour}"/>'
        f'<text x="{LEFT + 10 + 130 * i}" y="20">{escape(name)}</text>'
        for i, (name, colour) in enumerate(COLOURS.items())
    )
    (Path(__file__).parent / "front.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{legend}'
        f"{''.join(drawn)}</svg>\n"
    )
    out = sys.stdout
    out.write("| what | validation | test | ms | KiB |\n| --- | ---: | ---: | ---: | ---: |\n")
    for each in points["searched"]:
        words = " ".join(f"{name}={value}" for name, value in each["recipe"].items())
        out.write(f"| trial {each['number']}: {words} {_row(each)}")
    for each in defaults:
        out.write(f"| default, density {each['density']:g}, {each['variant']} {_row(each)}")


def _row(each: dict[str, Any]) -> str:
    test = "-" if each["test"] is None else f"{each['test']:.1%}"
    return f"| {each['quality']:.1%} | {test} | {each['ms']:.2f} | {each['bytes'] / 1024:,.0f} |\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _plot(points: dict[str, list[dict[str, Any]]], key: str, title: str, left: float, unit: float) -> str:
    every = [each for own in points.values() for each in own]
    most = 1.06 * max(each[key] / unit for each in every)
    low = min(0.1 * int(10 * each["quality"]) for each in every)

    def place(each: dict[str, Any]) -> tuple[float, float]:
        across = left + (PLOT + 60) * each[key] / unit / most
        return across, TOP + PLOT * (1 - (each["quality"] - low) / (0.9 - low))

    parts = [f'<text x="{left + PLOT / 2}" y="{TOP + PLOT + 32}" text-anchor="middle">{escape(title)}</text>']
    for step in range(round(10 * low), 10):
        y = TOP + PLOT * (1 - (step / 10 - low) / (0.9 - low))
        parts.append(f'<line x1="{left}" x2="{left + PLOT + 60}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10 * step}%</text>')
    for fifth in range(6):
        value = most * fifth / 5
        x = left + (PLOT + 60) * fifth / 5
        parts.append(f'<text x="{x:.1f}" y="{TOP + PLOT + 16}" text-anchor="middle">{_number(value)}</text>')
    front = sorted(place(each) for each in points["searched"])
    steps = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(front))
    parts.append(f'<path d="{steps}" fill="none" stroke="{COLOURS["searched"]}"/>')
    for name in reversed(list(points)):
        for each in points[name]:
            x, y = place(each)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLOURS[name]}"/>')
    return "".join(parts)
