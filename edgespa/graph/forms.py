"""Sizes as functions of how many units each channel group keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.graph.groups import Groups


@dataclasses.dataclass(frozen=True)
class Ratio:
    """What is left of a size: ``(fixed + sum(per unit * kept units)) / whole``.

    Attributes:
        fixed: What stays.
        shares: By the name of what can shrink what each of its units adds.
        whole: The size with everything.
    """

    fixed: float
    shares: tuple[tuple[str, float], ...]
    whole: float

    def __call__(self, counts: Mapping[str, float]) -> float:
        """At numbers of units.

        Args:
            counts: Of all that can shrink.
        """
        return (self.fixed + sum(share * counts[name] for name, share in self.shares)) / self.whole


@dataclasses.dataclass(frozen=True)
class Form:
    """A product of sums, ``rest * prod(fixed + sum(per unit * kept units))``.

    Where the units of a group are not alike (some have more channels than others), theirs is the mean.

    Attributes:
        rest: Of what cannot shrink.
        axes: Of each sum what is fixed, and by the name of a group what each of its units adds.
    """

    rest: float
    axes: tuple[tuple[float, tuple[tuple[str, float], ...]], ...]

    @classmethod
    def of(cls, rest: float, axes: Sequence[NDArray[np.int64]], groups: Groups, ratios: Sequence[Ratio] = ()) -> Form:
        """From unit ids.

        Args:
            rest: Of what cannot shrink.
            axes: Of each size that can the ids of its units.
            groups: Of the program.
            ratios: What is left of all that by what is no channel group.
        """
        names, owner = list(groups.groups), groups.owner
        found: list[tuple[float, tuple[tuple[str, float], ...]]] = []
        for ids in axes:
            numbers, counts = np.unique(owner[ids], return_counts=True)
            own = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            shares = tuple(
                (names[number - 1], count / len(groups.groups[names[number - 1]]))
                for number, count in own.items()
                if number
            )
            found.append((float(own.get(0, 0)), shares))
        found += [(each.fixed, each.shares) for each in ratios]
        return cls(rest / math.prod(each.whole for each in ratios), tuple(found))

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of those that it depends on."""
        return tuple(dict.fromkeys(name for _, shares in self.axes for name, _ in shares))

    def __call__(self, counts: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The size.

        Args:
            counts: Of every group that it depends on the numbers of units; they are broadcast together.
        """
        value: NDArray[np.float64] = np.asarray(float(self.rest))
        for fixed, shares in self.axes:
            size: NDArray[np.float64] = np.asarray(float(fixed))
            for name, share in shares:
                size = size + share * np.asarray(counts[name], dtype=np.float64)
            value = value * size
        return value


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of what a program takes, such as a layer.

    Attributes:
        groups: Names of the channel groups, and of the widths of heads, that it depends on.
        over: What it takes, by the numbers of units of all of them, which are broadcast together.
        nodes: Of the graph, that it is of: without all of them it takes nothing.
    """

    groups: tuple[str, ...]
    over: Callable[[Mapping[str, ArrayLike]], NDArray[np.float64]]
    nodes: frozenset[str]
