"""What a program takes with any selection of its units, foretold from a latency table, without building it.

For one selection `Predictor.latency_ms`; for searches over millions of them `Predictor.parts`, along which
`edgespa.selection.along` looks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.graph.forms import Form, Part
from edgespa.graph.groups import Groups, Kept
from edgespa.graph.kinds import BY_ELEMENTS, Kind
from edgespa.graph.layers import Layer, Layers
from edgespa.latency.table import LatencyTable
from edgespa.selection.staircase import Staircase, grid, spread

WIDEST = 16
"""The widest block that there is: what is measured on its steps serves the smaller ones too."""


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """What one layer takes.

    Attributes:
        layer: Its name.
        kind: What it is.
        widths: Of it.
        latency_ms: Foretold.
    """

    layer: str
    kind: str
    widths: tuple[int, ...]
    latency_ms: float


def grids_of(layer: Layer, layers: Iterable[Layer]) -> tuple[tuple[int, ...], ...]:
    """The widths at which a layer is measured.

    Args:
        layer: It.
        layers: All of the program: layers that are told by what they touch share their points.
    """
    if layer.kind.operator in BY_ELEMENTS:
        counts = [count for each in layers if each.kind == layer.kind and (count := each.dims[0].count())]
        return (spread(min(counts) // 4, max(counts)),)
    return tuple(
        grid(dim.count(), WIDEST, layer.kind.axes) if dim.shrinks else (max(1, dim.count()),) for dim in layer.dims
    )


def needed(layers: Layers) -> dict[Kind, set[tuple[int, ...]]]:
    """All points that the prediction of a program needs.

    Args:
        layers: Of the program.
    """
    points: dict[Kind, set[tuple[int, ...]]] = {}
    for layer in layers.layers:
        points.setdefault(layer.kind, set()).update(itertools.product(*grids_of(layer, layers.layers)))
    return points


def missing(layers: Layers, table: LatencyTable) -> dict[Kind, set[tuple[int, ...]]]:
    """Those of them that a table does not have.

    Args:
        layers: Of the program.
        table: The table.
    """
    found = {kind: points - set(table.points(kind)) for kind, points in needed(layers).items()}
    return {kind: points for kind, points in found.items() if points}


class Predictor:
    """Foretells the time of one program.

    Args:
        layers: Of the whole program.
        groups: Its channel groups.
        table: Has all points that it needs, see `missing`.
        scale: Times of layers are multiplied by it; that of the table where nothing is said.

    Raises:
        KeyError: A point is missing.
    """

    def __init__(self, layers: Layers, groups: Groups, table: LatencyTable, scale: float | None = None) -> None:
        self.layers, self.groups, self.table = layers, groups, table
        self.scale = table.scale() if scale is None else scale
        made: dict[tuple[Kind, tuple[tuple[int, ...], ...]], Staircase] = {}
        self._stairs: list[Staircase] = []
        for layer in layers.layers:
            grids = grids_of(layer, layers.layers)
            if (layer.kind, grids) not in made:
                plain = layer.kind.operator in BY_ELEMENTS or layer.kind.operator in ("attention", "grouped")
                made[layer.kind, grids] = Staircase.of(
                    grids, table.points(layer.kind), 1 if plain else table.step, table.factors(layer.kind)
                )
            self._stairs.append(made[layer.kind, grids])
        self._forms = [
            tuple(Form.of(dim.rest, dim.axes, groups, dim.heads) for dim in layer.dims) for layer in layers.layers
        ]

    def latency_ms(self, kept: Kept | None = None, heads: Mapping[str, int] | None = None) -> float:
        """Of one inference.

        Args:
            kept: Units; all of them by default.
            heads: Widths of heads by their names in `Layers.heads`; one that is not named is as wide as it is.
        """
        return sum(each.latency_ms for each in self.layer_ms(kept, heads)) + self.fixed_ms

    @property
    def fixed_ms(self) -> float:
        """What a run costs besides its layers."""
        return self.scale * self.table.run_us / 1e3

    def layer_ms(self, kept: Kept | None = None, heads: Mapping[str, int] | None = None) -> tuple[LayerTime, ...]:
        """Each layer, in the order of the graph; as `latency_ms`."""
        sizes = {**self.layers.heads, **(heads or {})}
        alive = None if kept is None else self.groups.alive(kept)
        rows = []
        for layer, stairs in zip(self.layers.layers, self._stairs, strict=True):
            widths = tuple(dim.count(alive, sizes) for dim in layer.dims)
            rows.append(LayerTime(layer.name, str(layer.kind), widths, self.scale * float(stairs(*widths)) / 1e3))
        return tuple(rows)

    def width_ms(self, widths: Mapping[str, int]) -> float:
        """The same by how many units each group keeps, and how wide heads are; all of it where it is not named.

        Where the units of a group are not alike (some have more channels in a layer than others), theirs is the mean.

        Args:
            widths: By the name of the group, or of a width of heads.
        """
        sizes = {name: len(group) for name, group in self.groups.groups.items()} | {**self.layers.heads}
        counts = {name: np.float64(widths.get(name, size)) for name, size in sizes.items()}
        return sum(float(self.over(layer, counts)) for layer in range(len(self._forms))) + self.fixed_ms

    def parts(self) -> list[Part]:
        """The layers, in ms, in the order of the graph; besides them there is `fixed_ms`."""
        return [
            Part(self.touched(index), functools.partial(self.over, index), frozenset({layer.node}))
            for index, layer in enumerate(self.layers.layers)
        ]

    def touched(self, layer: int) -> tuple[str, ...]:
        """Names of the groups that a layer's time depends on.

        Args:
            layer: Its place in the graph's order.
        """
        return tuple(dict.fromkeys(name for form in self._forms[layer] for name in form.groups))

    def over(self, layer: int, counts: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The time of a layer in ms, over widths of the groups that it touches; these are broadcast together.

        Args:
            layer: Its place in the graph's order.
            counts: Of every group that it touches the numbers of units.
        """
        values = (form(counts) for form in self._forms[layer])
        return self.scale * self._stairs[layer](*values) / 1e3
