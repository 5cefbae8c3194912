"""What a program takes, as a search over widths and blocks asks for it (`edgespa.selection.knapsack`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgespa.graph.forms import Part
from edgespa.graph.groups import Groups
from edgespa.selection.knapsack import Terms

_MOST = 20_000
"""Numbers of one array over all widths of the groups that a part depends on; above it they are asked for one by one."""
_DEAR = 20
"""Terms that take as long as asking a part once."""


class Along(Terms):
    """What a program takes over the widths that its groups may have, and over blocks that are there or not.

    Args:
        parts: Of the program: its layers with their times, or what it is to be measured in else.
        groups: Its channel groups.
        widths: Of each group, or width of heads, the sizes that it may have. A group that is not named stays whole.
        blocks: Of each residual block that may go the nodes that are computed in it; its values are gone and there.
        constant: What it takes besides its parts.
        heads: Sizes of the widths of heads that parts depend on; one that `widths` does not name stays as it is.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        groups: Groups,
        widths: Mapping[str, Sequence[int]],
        blocks: Mapping[str, frozenset[str]] | None = None,
        constant: float = 0.0,
        heads: Mapping[str, int] | None = None,
    ) -> None:
        blocks = blocks or {}
        sizes = {name: len(own) for name, own in widths.items()} | dict.fromkeys(blocks, 2)
        super().__init__(sizes, constant)
        self.widths = {name: np.asarray(own, dtype=np.float64) for name, own in widths.items()}
        self._whole = {name: np.float64(len(group)) for name, group in groups.groups.items()}
        self._whole |= {name: np.float64(size) for name, size in (heads or {}).items()}
        owner = {node: block for block, nodes in blocks.items() for node in nodes}
        self._apart: list[tuple[Part, tuple[str, ...], str | None]] = []
        for part in parts:
            touched = tuple(name for name in part.groups if name in self.widths)
            owners = {owner.get(node) for node in part.nodes}
            block = owners.pop() if len(owners) == 1 else None
            if math.prod(sizes[name] for name in touched) > _MOST:
                self._apart.append((part, touched, block))
                continue
            counts: dict[str, ArrayLike] = {**self._whole}
            for axis, name in enumerate(touched):
                counts[name] = self.widths[name].reshape([-1 if each == axis else 1 for each in range(len(touched))])
            takes = part.over(counts)
            if block is None:
                self.add(touched, takes)
            else:
                there = np.array([0.0, 1.0])
                self.add((*touched, block), np.broadcast_to(takes, [sizes[n] for n in touched])[..., None] * there)

    def around(self, name: str) -> set[str]:
        """See `Terms.around`."""
        apart = ({*touched, block} - {None} for _, touched, block in self._apart)
        return super().around(name) | {each for names in apart if name in names for each in names if each is not None}

    def work(self, name: str) -> int:
        """See `Terms.work`."""
        return super().work(name) + _DEAR * sum(name in (*touched, block) for _, touched, block in self._apart)

    def total(self, choice: Mapping[str, int]) -> float:
        """Of the program."""
        found = super().total(choice)
        if self._apart:
            counts = self._counts(choice)
            found += sum(float(part.over(counts)) for part, _, block in self._apart if block is None or choice[block])
        return found

    def along(self, name: str, choice: Mapping[str, int]) -> NDArray[np.float64]:
        """See `Terms.along`: of the parts that depend on a width, or that are in a block."""
        found = super().along(name, choice)
        own = [each for each in self._apart if name in (*each[1], each[2])]
        if own:
            counts = self._counts(choice)
            if name in self.widths:
                counts[name] = self.widths[name]
            for part, _, block in own:
                takes = part.over(counts)
                if block == name:
                    found += np.array([0.0, 1.0]) * takes
                elif block is None or choice[block]:
                    found += takes
        return found

    def _counts(self, choice: Mapping[str, int]) -> dict[str, ArrayLike]:
        return {**self._whole, **{name: own[choice[name]] for name, own in self.widths.items()}}
