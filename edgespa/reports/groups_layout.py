"""What a drawing of channel groups shows, before it is drawn: rows of the module tree, bars, colours, lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespa.reports.svg import mixed

# Okabe and Ito's colours, which people with any colour vision tell apart; black is for text, grey for what is fixed.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442")
PALE = 0.35
LINE = 0.85
SHARED_LAYERS = 3
MAX_RUNS = 10
MAX_LANES = 24


@dataclasses.dataclass(frozen=True)
class Part:
    """Neighbouring channels of a slot with one owner.

    Attributes:
        count: How many.
        group: Number of their channel group, from 1; 0 if they are fixed.
        reason: Why they are fixed.
    """

    count: int
    group: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the drawing: a module, or a weight with its channels.

    Attributes:
        depth: In the tree.
        label: Its name below the row above it.
        path: Its whole name.
        layer: The weight, as `edgespa.tasks.inspection.describe` has it; None for a module.
        reads: Its input channels; empty for a module, and where each channel is its own input (depthwise).
        writes: Its output channels.
    """

    depth: int
    label: str
    path: str
    layer: Mapping[str, Any] | None = None
    reads: tuple[Part, ...] = ()
    writes: tuple[Part, ...] = ()

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.layer is not None and 1 < self.layer["groups"] == self.layer["shape"][0]


@dataclasses.dataclass(frozen=True)
class Lane:
    """Where a group is followed down the rows.

    Attributes:
        group: Its number.
        column: Its place, from 0.
        writers: Rows whose outputs it is, ascending.
        readers: Other rows whose inputs it is, ascending.
    """

    group: int
    column: int
    writers: tuple[int, ...]
    readers: tuple[int, ...]

    @property
    def span(self) -> tuple[int, int]:
        """First and last row."""
        rows = (*self.writers, *self.readers)
        return min(rows), max(rows)


def module_rows(values: Mapping[str, Any]) -> list[Row]:
    """Rows in the order of the program; modules with one part only are drawn as one with it.

    Args:
        values: From `edgespa.tasks.inspection.describe`.
    """
    owners = _owners(values)
    tree = _Node()
    for layer in values["layers"]:
        module, _, leaf = layer["tensor"].rpartition(".")
        path = module.split(".") if leaf == "weight" and module else layer["tensor"].split(".")
        node = tree
        for part in path:
            node = node.parts.setdefault(part, _Node())
        node.layer = layer
    return list(_walk(tree, owners, 0, ""))


@dataclasses.dataclass
class _Node:
    layer: Mapping[str, Any] | None = None
    parts: dict[str, _Node] = dataclasses.field(default_factory=dict)


def _walk(node: _Node, owners: _Owners, depth: int, above: str) -> Iterator[Row]:
    for name, part in node.parts.items():
        label = name
        while part.layer is None and len(part.parts) == 1:
            ((inner, part),) = part.parts.items()
            label += f".{inner}"
        path = f"{above}.{label}" if above else label
        layer = part.layer
        if layer is None:
            yield Row(depth, label, path)
        else:
            row = Row(depth, label, path, layer, (), _parts(layer, layer["out"], owners))
            yield row if row.depthwise else dataclasses.replace(row, reads=_parts(layer, layer["in"], owners))
        yield from _walk(part, owners, depth + 1, path)


_Owners = dict[tuple[str, int], dict[int, tuple[int, str]]]


def _owners(values: Mapping[str, Any]) -> _Owners:
    """For every slot of a layer the owner of each index: a group's number, or 0 and the reason."""
    owners: _Owners = {(layer["tensor"], layer[way]): {} for layer in values["layers"] for way in ("in", "out")}
    for number, group in enumerate(values["groups"], 1):
        for slot in group["slots"]:
            known = owners.get((slot["tensor"], slot["dim"]))
            if known is not None:
                known.update((index, (number, "")) for unit in slot["units"] for index in unit)
    for fixed in values["fixed"]:
        known = owners.get((fixed["tensor"], fixed["dim"]))
        if known is not None:
            known.update((index, (0, fixed["reason"])) for index in fixed["indices"])
    return owners


def _parts(layer: Mapping[str, Any], dim: int, owners: _Owners) -> tuple[Part, ...]:
    known = owners[layer["tensor"], dim]
    parts: list[Part] = []
    for index in range(layer["shape"][dim]):
        group, reason = known.get(index, (0, "a single channel"))
        if parts and (parts[-1].group, parts[-1].reason) == (group, reason):
            parts[-1] = dataclasses.replace(parts[-1], count=parts[-1].count + 1)
        else:
            parts.append(Part(1, group, reason))
    if len(parts) > MAX_RUNS:  # interleaved: how many of each
        counts: dict[tuple[int, str], int] = {}
        for part in parts:
            counts[part.group, part.reason] = counts.get((part.group, part.reason), 0) + part.count
        parts = [Part(count, *owner) for owner, count in counts.items()]
    return tuple(parts)


def lanes(rows: Sequence[Row], groups: int) -> list[Lane]:
    """A lane for each group, so that no two that overlap are in one column; what needs more than `MAX_LANES` has none.

    Groups that many layers share come first.

    Args:
        rows: Of the drawing.
        groups: How many groups there are.
    """
    writers: list[list[int]] = [[] for _ in range(groups + 1)]
    readers: list[list[int]] = [[] for _ in range(groups + 1)]
    for index, row in enumerate(rows):
        written = {part.group for part in row.writes} - {0}
        for group in written:
            writers[group].append(index)
        for group in {part.group for part in row.reads} - {0} - written:
            readers[group].append(index)
    found: list[Lane] = []
    columns: list[list[tuple[int, int]]] = []
    for group in sorted(range(1, groups + 1), key=lambda g: (len(writers[g]) + len(readers[g]) < SHARED_LAYERS, g)):
        if not writers[group] and not readers[group]:
            continue
        lane = Lane(group, 0, tuple(writers[group]), tuple(readers[group]))
        first, last = lane.span
        free = next(
            (c for c, spans in enumerate(columns) if all(last < a or b < first for a, b in spans)), len(columns)
        )
        if free == len(columns):
            if free == MAX_LANES:
                continue
            columns.append([])
        columns[free].append((first, last))
        found.append(dataclasses.replace(lane, column=free))
    return found


@dataclasses.dataclass(frozen=True)
class Colours:
    """Of a group.

    Attributes:
        fill: Of its bars.
        line: Of its lane.
    """

    fill: str
    line: str


def colours(rows: Sequence[Row], groups: int) -> list[Colours]:
    """Full colours for groups that `SHARED_LAYERS` or more layers share, pale ones for the rest; by number, 0 unused.

    Depthwise layers are not counted: they have the channels of their neighbours.

    Args:
        rows: Of the drawing.
        groups: How many groups there are.
    """
    layers = [0] * (groups + 1)
    for row in rows:
        for group in {part.group for part in (*row.reads, *row.writes)}:
            layers[group] += not row.depthwise
    result = [Colours("#d4d4d4", "#8c8c8c")]
    shared = private = 0
    for count in layers[1:]:
        if count >= SHARED_LAYERS:
            full = fill = PALETTE[shared % len(PALETTE)]
            shared += 1
        else:
            full = PALETTE[private % len(PALETTE)]
            fill = mixed(full, "#ffffff", PALE)
            private += 1
        result.append(Colours(fill, mixed(full, "#000000", LINE)))
    return result
