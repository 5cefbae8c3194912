"""Fitting on some images what is judged on others: how near new weights stay to the old ones.

A reader that is solved on the very images that its inputs were fitted on takes them for better than they are, and so
does the next one: front to back each makes up for errors that other images do not have. So calibration images are in
folds. Those of a fold run through a network whose new weights were fitted on all the *other* folds, what every layer
sees of them is what it would see of images that nobody has seen, and the weights that are kept are fitted on that.
The same images tell how near weights have to stay to the old ones, for each layer: it is what loses least on the fold
that was left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from edgespa.graph.groups import Mask
from edgespa.pruning.evidence import Evidence, Solved, judged, solve
from edgespa.pruning.readers import Reader

FOLDS = 4
NEAR = (1e-6, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""See `edgespa.pruning.evidence.solve`. With the first one enough images have their way."""
MOST_COLUMNS = 2304
"""Of a reader that is solved for each fold, and each nearness: of a wider one all folds have the same weights."""


@dataclasses.dataclass(frozen=True, eq=False)
class OfFolds:
    """A reader's new weights.

    Attributes:
        solved: From all images; its error is that on images that were left out.
        apart: From all but each of the folds.
        near: How near they are to the old ones.
    """

    solved: Solved
    apart: tuple[Solved, ...]
    near: float


def joined(parts: Sequence[Sequence[Evidence]]) -> list[Evidence]:
    """The evidence of several folds together, per part of a reader.

    Args:
        parts: Of each fold, per part; not shrunk.
    """
    return [
        Evidence(
            sum((each.gram for each in own[1:]), own[0].gram.clone()),
            sum((each.cross for each in own[1:]), own[0].cross.clone()),
            sum((each.energy for each in own[1:]), own[0].energy.clone()),
            sum(each.rows for each in own),
        )
        for own in zip(*parts, strict=True)
    ]


def solve_apart(
    reader: Reader,
    folds: Sequence[Sequence[Evidence]],
    alive: Mask,
    outputs: Mask,
    weight: Tensor,
    bias: Tensor | None,
) -> OfFolds:
    """A reader's new weights, as near to the old ones as loses least on what is left out.

    Args:
        reader: The reader.
        folds: The evidence of each fold, per part; not shrunk.
        alive: Which unit ids are there among its inputs.
        outputs: Which are there among its outputs.
        weight: Its old weight.
        bias: Its old bias, if it has one.
    """
    whole = joined(folds)
    others = [_without(whole, own) for own in folds]
    best: tuple[float, float, list[Solved]] | None = None
    energy = 0.0
    for near in NEAR:
        apart = [solve(reader, own, alive, outputs, weight, bias, near) for own in others]
        found = [judged(reader, own, outputs, each.weight, each.bias) for own, each in zip(folds, apart, strict=True)]
        left, energy = sum(each[0] for each in found), sum(each[1] for each in found)
        if best is None or left < best[0]:
            best = left, near, apart
    assert best is not None
    left, near, apart = best
    solved = solve(reader, whole, alive, outputs, weight, bias, near)
    solved = dataclasses.replace(solved, error=left / energy if energy > 0 else 0.0)
    return OfFolds(solved, tuple(apart), near)


def _without(whole: Sequence[Evidence], own: Sequence[Evidence]) -> list[Evidence]:
    return [
        Evidence(all_.gram - each.gram, all_.cross - each.cross, all_.energy - each.energy, all_.rows - each.rows)
        for all_, each in zip(whole, own, strict=True)
    ]
