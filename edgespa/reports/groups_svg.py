"""A drawing of channel groups over the module tree.

From left to right: the module tree; for each weight its input and output channels as bars, coloured and numbered by
channel group, grey where they are fixed; a lane per group, with a full dot where a layer writes it and a ring where one
reads it, so that residual streams can be followed; a legend with what hangs on each group, and why the rest is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgespa.reports.groups_layout import Colours, Lane, Part, Row, colours, lanes, module_rows
from edgespa.reports.svg import CHAR, SIZE, Canvas, ink, shorten, wrap

MARGIN = 16.0
ROW = 16.0
TOP = 74.0
INDENT = 2  # letters
TREE = 38  # letters
KIND = 9  # letters
BAR = 120.0
COUNT = 6  # letters
LANE = 10.0
LEGEND = 77  # letters
NAME = 34  # letters
_FAINT = "#6b6b6b"
_BAND = "#f5f5f5"


def draw_groups(values: Mapping[str, Any]) -> str:
    """Draw the channel groups of a model.

    Args:
        values: From `edgespa.tasks.inspection.describe` (or `describe_task`, whose kept units the legend shows).

    Returns:
        An SVG document.
    """
    rows = module_rows(values)
    number = len(values["groups"])
    palette = colours(rows, number)
    followed = lanes(rows, number)
    page = _Page(rows, followed, palette)
    page.title(values)
    page.rows()
    page.lanes()
    bottom = page.legend(values)
    height = max(TOP + len(rows) * ROW, bottom) + MARGIN
    return page.canvas.document(page.width, height, f"Channel groups of {values['model']}")


class _Page:
    def __init__(self, rows: Sequence[Row], followed: Sequence[Lane], palette: Sequence[Colours]) -> None:
        self._rows = rows
        self._followed = followed
        self._palette = palette
        self.canvas = Canvas()
        longest = max((INDENT * row.depth + len(row.label) for row in rows), default=0)
        self._tree = min(TREE, max(longest, 12))
        self._kinds = MARGIN + (self._tree + 2) * CHAR
        self._reads = self._kinds + KIND * CHAR  # bars of inputs end at `_middle`, those of outputs begin behind it
        self._middle = self._reads + BAR
        self._writes = self._middle + (2 * COUNT + 5) * CHAR
        self._lanes = self._writes + BAR + 14
        columns = max((lane.column for lane in followed), default=-1) + 1
        self._legend = self._lanes + columns * LANE + 24
        self.width = self._legend + LEGEND * CHAR + MARGIN
        widest = max((count for row in rows for count in (_count(row.reads), _count(row.writes))), default=1)
        self._scale = BAR / math.sqrt(widest)

    def title(self, values: Mapping[str, Any]) -> None:
        totals, prunable = values["totals"], values["prunable"]
        room = int((self.width - 2 * MARGIN) / CHAR)
        self.canvas.text(
            MARGIN, MARGIN + 8, shorten(f"Channel groups of {values['model']}", room), bold=True, fill="#000000"
        )
        summary = (
            f"{totals['parameters']:,} parameters, {totals['macs'] / 1e6:,.1f}M MACs; {prunable['units']:,} units in "
            f"{prunable['groups']} groups, {prunable['channel_share']:.1%} of the channels can go"
        )
        self.canvas.text(MARGIN, MARGIN + 8 + ROW, shorten(summary, room), fill=_FAINT)
        y = TOP - 10
        for x, anchor, text in (
            (MARGIN, "start", "weight"),
            (self._middle, "end", "reads"),
            (self._writes, "start", "writes"),
        ):
            self.canvas.text(x, y, text, anchor=anchor, fill=_FAINT)
        self.canvas.text((self._middle + self._writes) / 2, y, "in → out", anchor="middle", fill=_FAINT)

    def rows(self) -> None:
        for index, row in enumerate(self._rows):
            top = TOP + index * ROW
            if index % 2 == 0:
                self.canvas.rect(MARGIN - 4, top, self._legend - 16 - MARGIN, ROW, _BAND)
            base = top + ROW / 2 + SIZE * 0.36
            with self.canvas.titled(row.path):
                indent = min(INDENT * row.depth, self._tree - 8)
                label = shorten(row.label, self._tree - indent)
                self.canvas.text(MARGIN + indent * CHAR, base, label, fill="#222222" if row.layer else _FAINT)
            if row.layer is not None:
                self._layer(row, row.layer, top, base)

    def _layer(self, row: Row, layer: Mapping[str, Any], top: float, base: float) -> None:
        self.canvas.text(self._kinds, base, shorten(_kind(row, layer), KIND - 1), fill=_FAINT)
        middle = (self._middle + self._writes) / 2
        if not row.depthwise:
            width = self._bar_width(row.reads)
            self._bar(row, layer["in"], row.reads, self._middle - width, width, top)
            self.canvas.text(middle - 1.5 * CHAR, base, _short(_count(row.reads)), anchor="end")
        self.canvas.text(middle, base, "→", anchor="middle", fill=_FAINT)
        self.canvas.text(middle + 1.5 * CHAR, base, _short(_count(row.writes)))
        self._bar(row, layer["out"], row.writes, self._writes, self._bar_width(row.writes), top)

    def _bar_width(self, parts: Sequence[Part]) -> float:
        number = (len(str(parts[0].group)) + 0.6) * CHAR if len(parts) == 1 and parts[0].group else 6.0
        return max(number, 2.0 * len(parts), self._scale * math.sqrt(_count(parts)))

    def _bar(self, row: Row, dim: int, parts: Sequence[Part], x: float, width: float, top: float) -> None:
        spare = width - 2.0 * len(parts)  # each part can be seen
        total = _count(parts)
        tensor = row.layer["tensor"] if row.layer else row.path
        for part in parts:
            own = 2.0 + spare * part.count / total
            colour = self._palette[part.group]
            what = f"group {part.group}" if part.group else f"fixed: {part.reason}"
            with self.canvas.titled(f"{tensor}[{dim}]: {part.count} channels, {what}"):
                self.canvas.rect(x, top + 1.5, own, ROW - 3, colour.fill, colour.line)
                label = str(part.group) if part.group else ""
                if label and (len(label) + 0.4) * CHAR <= own:
                    base = top + ROW / 2 + SIZE * 0.36
                    self.canvas.text(x + own / 2, base, label, anchor="middle", fill=ink(colour.fill))
            x += own

    def lanes(self) -> None:
        for lane in self._followed:
            colour = self._palette[lane.group]
            x = self._lanes + lane.column * LANE + LANE / 2
            first, last = lane.span
            with self.canvas.titled(f"group {lane.group}"):
                self.canvas.line(x, _centre(first), x, _centre(last), colour.line, 2)
                for index in lane.readers:
                    self.canvas.dot(x, _centre(index), 3, "#ffffff", colour.line)
                for index in lane.writers:
                    self.canvas.dot(x, _centre(index), 3, colour.line, colour.line)

    def legend(self, values: Mapping[str, Any]) -> float:
        """Draw it; returns where it ends."""
        y = TOP - 10
        heads = ("units", "layers", "parameters", "MACs")
        self._legend_line(y, "group", heads, _FAINT)
        layers = _layers_of(self._rows, len(values["groups"]))
        followed = {lane.group for lane in self._followed}
        for number, group in enumerate(values["groups"], 1):
            y += ROW
            colour = self._palette[number]
            shares = [_share(group[what], values["totals"][what]) for what in ("parameters", "macs")]
            with self.canvas.titled(f"group {number}: {group['name']}, {len(group['slots'])} slots"):
                width = 4 * CHAR
                self.canvas.rect(self._legend, y - ROW / 2 - 2.5, width, ROW - 4, colour.fill, colour.line)
                self.canvas.text(self._legend + width / 2, y, str(number), anchor="middle", fill=ink(colour.fill))
                self._legend_line(y, group["name"], (_units(group), str(layers[number]), *shares), "#222222")
        y += ROW
        for text in _notes(len(values["groups"]) - len(followed)):
            y += ROW
            self.canvas.text(self._legend, y, text, fill=_FAINT)
        return self._causes(values, y + 2 * ROW)

    def _legend_line(self, y: float, name: str, cells: Sequence[str], fill: str) -> None:
        x = self._legend + 5 * CHAR
        self.canvas.text(x, y, shorten(name, NAME), fill=fill)
        x += (NAME + 1) * CHAR
        for cell, width in zip(cells, (9, 7, 12, 7), strict=True):
            x += width * CHAR
            self.canvas.text(x, y, cell, anchor="end", fill=fill)

    def _causes(self, values: Mapping[str, Any], y: float) -> float:
        causes: dict[str, int] = {}
        for fixed in values["fixed"]:
            if fixed["kind"] != "kernel":
                causes[fixed["cause"]] = causes.get(fixed["cause"], 0) + 1
        grey = self._palette[0]
        for cause, count in sorted(causes.items(), key=lambda item: -item[1]):
            self.canvas.rect(self._legend, y - ROW / 2 - 2.5, 4 * CHAR, ROW - 4, grey.fill, grey.line)
            text = f"fixed ({count} {'slot' if count == 1 else 'slots'}): {cause}"
            for line in wrap(text, LEGEND - 5):
                self.canvas.text(self._legend + 5 * CHAR, y, line)
                y += ROW
        return y


def _notes(unfollowed: int) -> list[str]:
    notes = [
        "A bar is a weight's channels: colour and number say the group, grey is",
        "fixed. Full colours: groups of three or more layers. Lanes: a dot where",
        "a layer writes the group, a ring where one reads it. Shares are of all",
        "that touches the group, so they overlap.",
    ]
    return notes + ([f"{unfollowed} groups have no lane, for want of room."] if unfollowed else [])


def _layers_of(rows: Sequence[Row], groups: int) -> list[int]:
    layers = [0] * (groups + 1)
    for row in rows:
        for group in {part.group for part in (*row.reads, *row.writes)}:
            layers[group] += 1
    return layers


def _units(group: Mapping[str, Any]) -> str:
    return f"{len(group['kept'])}/{group['units']}" if "kept" in group else f"{group['units']:,}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _kind(row: Row, layer: Mapping[str, Any]) -> str:
    """``3x3`` for a convolution, with ``dw`` if it is depthwise and its groups if it has some; else the operator."""
    operator, shape = str(layer["operator"]), layer["shape"]
    if not operator.startswith("conv"):
        return {"parameter": "tensor"}.get(operator, operator)
    extent = "x".join(str(size) for size in shape[2:])
    if row.depthwise:
        return f"dw {extent}"
    return f"{extent}/{layer['groups']}" if layer["groups"] > 1 else extent


def _short(count: int) -> str:
    return str(count) if count < 10**COUNT else f"{count / 1e6:.1f}M"


def _count(parts: Sequence[Part]) -> int:
    return sum(part.count for part in parts)


def _centre(row: int) -> float:
    return TOP + row * ROW + ROW / 2
