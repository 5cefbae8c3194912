"""Charts of plotly in the page's colours, as plain values; light or dark is decided where they are looked at."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from edgespa.errors import MissingExtraError
from edgespa.reports.groups_layout import PALETTE

COLOURS = (*PALETTE[:6], "#8c6bb1", "#7f7f7f", "#b3a100", "#17a2b8")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")
BAD = "#d1242f"
PALE = "#9aa5b1"
LONGEST = 60
_FAR = 8


def require_plotly() -> None:
    """Refuse before anything is done where charts cannot be drawn.

    Raises:
        MissingExtraError: It names the extra.
    """
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise MissingExtraError("plotly", "report") from None


def figure(traces: Iterable[Any], **layout: Any) -> dict[str, Any]:
    """A figure as plain values.

    Args:
        traces: Of `plotly.graph_objects`.
        **layout: Axes and the like.
    """
    import plotly.graph_objects as go

    drawn = go.Figure(data=list(traces), layout={"template": {}, **layout})
    values: dict[str, Any] = json.loads(drawn.to_json())
    values["layout"].pop("template", None)
    return {"data": values["data"], "layout": values["layout"]}


def axis_of(title: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """An axis of positive numbers: in logarithms, with plain numbers on it, where they are far apart."""
    known = [value for value in values if value > 0]
    if not known or len(known) < len(values) or max(known) < _FAR * min(known):
        return {"title": title, **more}
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if high - low <= 3 else (1, 3) if high - low <= 5 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    texts = [f"{tick:,.0f}" if tick >= 1000 else f"{tick:.3g}" for tick in ticks]
    return {"title": title, "type": "log", "tickvals": ticks, "ticktext": texts, **more}


def said(*lines: str) -> str:
    """Lines for hovering: what a file calls itself is no markup."""
    return "<br>".join(html.escape(each) for each in lines if each)


def short(text: str, length: int = LONGEST) -> str:
    """A name on an axis or in a legend: its middle is left out where it is long."""
    front = (length - 1) // 2
    cut = text if len(text) <= length else f"{text[:front]}…{text[len(text) - (length - 1 - front) :]}"
    return html.escape(cut)


def colour(index: int) -> str:
    """One of `COLOURS`."""
    return COLOURS[index % len(COLOURS)]


def front(points: Sequence[tuple[float, float]], *, rises: bool = True) -> list[int]:
    """The points that no other beats in both: less of the first, more (or less) of the second; by their number.

    Of equal points the first counts.
    """
    best: float | None = None
    found = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1] if rises else points[i][1], i)):
        value = points[index][1] if rises else -points[index][1]
        if best is None or value > best:
            best = value
            found.append(index)
    return found
