"""A picture of what depth pruning saw: the classes in two dimensions at every block, and the score per depth."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgespa.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = {".svg": "svg", ".png": "png", ".json": "json"}
KIND = "edgespa depth"
_DIGITS = 4
_COLUMNS = 6
_CELL = 1.7  # inches
_MOST_CLASSES = 20  # colours that can be told apart
_KEPT, _REMOVED, _LIMIT = "#1f4e79", "#b0b0b0", "#c0504d"


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """A block in the picture.

    Attributes:
        name: Of the block.
        stage: Of its stage.
        score: How far the classes are apart.
        points: Their embedding, ``[N, 2]``, in [0, 1].
        kept: Whether the block stays.
    """

    name: str
    stage: str
    score: float
    points: NDArray[np.floating]
    kept: bool


def plot_format(path: Path) -> str:
    """The format of a picture, by its name.

    Raises:
        ConfigError: If it is neither SVG nor PNG nor JSON.
        MissingExtraError: If it is a picture, and matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"{path}: a plot is written as SVG or PNG, or as JSON for edgespa report",
            "end the name of the file in .svg, .png or .json",
        )
    if FORMATS[path.suffix.lower()] == "json":
        return "json"
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    return FORMATS[path.suffix.lower()]


def draw_depth(
    panels: Sequence[Panel],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    thresholds: Mapping[str, float],
    what: str,
    format_: str,
) -> bytes:
    """Draw the score per depth above one small panel per block; blocks that go are grey.

    Args:
        panels: The blocks, in the order of the network.
        labels: Class of each point, ``[N]``.
        classes: Names of the classes.
        thresholds: Per stage the score below which classes do not count as apart.
        what: What the score is, for the axis.
        format_: ``svg`` or ``png``.

    Returns:
        The file. An SVG is the same bytes for the same input.
    """
    if format_ == "json":
        return depth_json(panels, labels, classes, thresholds, what)
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(panels) // _COLUMNS)
    with matplotlib.rc_context({"svg.hashsalt": "edgespa", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(_COLUMNS * _CELL, 2.6 + rows * (_CELL + 0.25)), layout="constrained")
        grid = figure.add_gridspec(rows + 1, _COLUMNS, height_ratios=[2.0, *[_CELL] * rows])
        _draw_scores(figure.add_subplot(grid[0, :]), panels, thresholds, what)
        colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        tint = np.asarray(colours)[np.asarray(labels) % len(colours)]
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(grid[1 + index // _COLUMNS, index % _COLUMNS])
            _draw_points(axes, panel, tint)
        _draw_legend(figure, classes, colours)
        stream = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if format_ == "svg" else {"Software": None}
        figure.savefig(stream, format=format_, dpi=150, metadata=metadata)
    return stream.getvalue()


def depth_json(
    panels: Sequence[Panel],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    thresholds: Mapping[str, float],
    what: str,
) -> bytes:
    """The same as plain values, which `edgespa report` draws: see `draw_depth`."""
    values = {
        "kind": KIND,
        "version": 1,
        "what": what,
        "classes": list(classes),
        "labels": np.asarray(labels).tolist(),
        "thresholds": {stage: float(value) for stage, value in thresholds.items()},
        "panels": [
            {
                "name": each.name,
                "stage": each.stage,
                "score": float(each.score),
                "kept": bool(each.kept),
                "points": np.round(np.asarray(each.points, np.float64), _DIGITS).tolist(),
            }
            for each in panels
        ],
    }
    return (json.dumps(values, allow_nan=False) + "\n").encode()


def read_depth(values: Any) -> Mapping[str, Any] | None:
    """What `depth_json` wrote, as it was read from a file of whomever.

    Returns:
        The values; None if they are of another kind.

    Raises:
        ConfigError: They say that they are, and read odd.
    """
    if not isinstance(values, dict) or values.get("kind") != KIND:
        return None
    try:
        count = len(values["labels"])
        whole = (
            values["version"] == 1
            and all(isinstance(each, str) for each in values["classes"])
            and all(isinstance(each, int) and 0 <= each < len(values["classes"]) for each in values["labels"])
            and all(_is_panel(each, count) for each in values["panels"])
        )
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise ConfigError("it is not as prune --method sls --plot FILE.json writes it", "write it again")
    return values


def _is_panel(value: Any, count: int) -> bool:
    points = np.asarray(value["points"], np.float64)
    named = (
        isinstance(value["name"], str) and isinstance(value["kept"], bool) and isinstance(value["score"], float | int)
    )
    return named and points.shape == (count, 2) and bool(np.isfinite(points).all())


def _draw_scores(axes: Axes, panels: Sequence[Panel], thresholds: Mapping[str, float], what: str) -> None:
    places = np.arange(1, len(panels) + 1)
    axes.plot(places, [panel.score for panel in panels], color="#808080", linewidth=1, zorder=1)
    for kept, colour in ((True, _KEPT), (False, _REMOVED)):
        own = [number for number, panel in enumerate(panels) if panel.kept is kept]
        if own:
            scores = [panels[number].score for number in own]
            axes.scatter(places[own], scores, color=colour, label="kept" if kept else "removed", zorder=2, s=28)
    for number, (stage, threshold) in enumerate(thresholds.items()):
        stretch = [place for place, panel in zip(places, panels, strict=True) if panel.stage == stage]
        label = "_nolegend_" if number else "threshold"
        axes.hlines(threshold, stretch[0] - 0.4, stretch[-1] + 0.4, colors=_LIMIT, linestyles="dashed", label=label)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xlabel("block")
    axes.set_ylabel("\n".join(_wrapped(what)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")


def _draw_points(axes: Axes, panel: Panel, tint: NDArray[np.floating]) -> None:
    axes.scatter(panel.points[:, 0], panel.points[:, 1], c=tint, s=3, linewidths=0, rasterized=len(tint) > 2000)
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.04)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    name = panel.name if len(panel.name) <= 20 else f"…{panel.name[-19:]}"
    axes.set_title(f"{name}\n{panel.score:.3f}", fontsize=7, color="black" if panel.kept else "#909090", pad=2)
    for spine in axes.spines.values():
        spine.set_color(_KEPT if panel.kept else _REMOVED)
        spine.set_linestyle("-" if panel.kept else "--")


def _draw_legend(figure: Figure, classes: Sequence[str], colours: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D

    if len(classes) > _MOST_CLASSES:
        return
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=colours[number % len(colours)], label=name)
        for number, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(classes), 10), frameon=False, fontsize=7)


def _wrapped(text: str, width: int = 24) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
