"""Foretold time as a search over widths asks for it: of one group after the other, the others as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.latency.predict import Predictor

_MOST = 20_000
"""Numbers of one array over all widths of the groups that some layers touch; above it they are asked one by one."""


class Along:
    """The time of a program over the widths that its groups may have (`edgespa.selection.knapsack.Times`).

    Layers that touch the same groups are one array over their widths; so a search looks numbers up.

    Args:
        predictor: Foretells the program.
        widths: Of each group the numbers of units that it may keep. A group that is not named stays whole.

    Attributes:
        neighbours: Of each group those that some layer touches together with it.
    """

    def __init__(self, predictor: Predictor, widths: Mapping[str, Sequence[int]]) -> None:
        self.predictor = predictor
        self.widths = {name: np.asarray(own, dtype=np.float64) for name, own in widths.items()}
        self._whole = {name: np.float64(len(group)) for name, group in predictor.groups.groups.items()}
        self._fixed = predictor.fixed_ms
        self._arrays: dict[tuple[str, ...], NDArray[np.float64]] = {}
        self._apart: list[tuple[int, tuple[str, ...]]] = []
        for layer in range(len(predictor.layers.layers)):
            touched = tuple(sorted(name for name in predictor.touched(layer) if name in self.widths))
            shape = [len(self.widths[name]) for name in touched]
            if math.prod(shape) > _MOST:
                self._apart.append((layer, touched))
                continue
            counts: dict[str, ArrayLike] = {**self._whole}
            for axis, name in enumerate(touched):
                counts[name] = self.widths[name].reshape([-1 if each == axis else 1 for each in range(len(shape))])
            times = np.broadcast_to(predictor.over(layer, counts), shape)
            if not touched:
                self._fixed += float(times)
            else:
                self._arrays[touched] = self._arrays[touched] + times if touched in self._arrays else times.copy()
        self._of_group: dict[str, list[tuple[str, ...]]] = {name: [] for name in self.widths}
        self._apart_of_group: dict[str, list[int]] = {name: [] for name in self.widths}
        around: dict[str, set[str]] = {name: set() for name in self.widths}
        for touched in (*self._arrays, *(names for _, names in self._apart)):
            for name in touched:
                around[name].update(touched)
        for touched in self._arrays:
            for name in touched:
                self._of_group[name].append(touched)
        for layer, touched in self._apart:
            for name in touched:
                self._apart_of_group[name].append(layer)
        self.neighbours: Mapping[str, Sequence[str]] = {
            name: tuple(each for each in self.widths if each in found and each != name)
            for name, found in around.items()
        }

    def total(self, choice: Mapping[str, int]) -> float:
        """Of one inference, in ms.

        Args:
            choice: Of each group the place of its width.
        """
        total = self._fixed + sum(
            float(own[tuple(choice[name] for name in touched)]) for touched, own in self._arrays.items()
        )
        if self._apart:
            counts = self._counts(choice)
            total += sum(float(self.predictor.over(layer, counts)) for layer, _ in self._apart)
        return total

    def along(self, name: str, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """Of the layers that touch a group, in ms at each of its widths, the other groups as chosen.

        Args:
            name: Of the group.
            choice: Of each group the place of its width.
        """
        found = np.zeros(len(self.widths[name]))
        for touched in self._of_group[name]:
            found += self._arrays[touched][tuple(slice(None) if own == name else choice[own] for own in touched)]
        if self._apart_of_group[name]:
            counts = {**self._counts(choice), name: self.widths[name]}
            for layer in self._apart_of_group[name]:
                found += self.predictor.over(layer, counts)
        return found

    def _counts(self, choice: Mapping[str, int]) -> dict[str, NDArray[np.float64] | np.float64]:
        return {**self._whole, **{name: own[choice[name]] for name, own in self.widths.items()}}
