"""The choices that the method is compared with: greedy forward selection without new weights, and sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.errors import ConfigError


def forward_selection(steps: Sequence[Sequence[tuple[Tensor, Tensor, Tensor]]]) -> NDArray[np.int64]:
    """Order units by adding, each time, the one after which the readers' outputs with their *old* weights differ least.

    ``argmin_c sum over readers of ||B W - B_(S+c) W||^2``. This is greedy forward selection (Ye et al. 2020, arXiv
    2003.01794) with the discrepancy of a layer's output in the place of the network's loss, as in their later paper
    (arXiv 2010.15969, "local imitation"): it needs neither labels nor a forward pass per candidate. Deviation: a unit
    is taken once at most, and the outputs are not rescaled by ``n / |S|``.

    Args:
        steps: Used in turn, one per unit that is added: per reader ``G`` ``[n, n]``, ``W`` ``[n, o]``, and the columns
            of each unit ``[units, b]`` (-1 where a unit has fewer). One entry is the method with one batch; several are
            batches of the whole data, a new one for each unit.

    Returns:
        All units, best first.

    Raises:
        ConfigError: If there is nothing to choose from.
    """
    if not steps or not steps[0]:
        raise ConfigError("forward selection needs at least one batch and one reader")
    units = len(steps[0][0][2])
    left = np.ones(units, dtype=bool)
    order: list[int] = []
    masks = [torch.ones(len(weight), 1, dtype=torch.float64) for _, weight, _ in steps[0]]  # 1 where not yet added
    for owner in zip(masks, (columns for _, _, columns in steps[0]), strict=True):
        _clear_others(*owner)
    tables = [[_blocks(gram, columns) for gram, _, columns in readers] for readers in steps]
    for step in range(units):
        change = np.zeros(units)
        for (gram, weight, columns), block, missing in zip(
            steps[step % len(steps)], tables[step % len(steps)], masks, strict=True
        ):
            padded = torch.cat([gram @ (weight * missing), weight.new_zeros(1, weight.shape[1])])[columns]
            own = torch.cat([weight, weight.new_zeros(1, weight.shape[1])])[columns]
            # adding c changes the discrepancy by -2 <W_c, G(W - W_S)_c> + tr(W_c^T G_cc W_c)
            change += ((own * (block @ own)).sum((1, 2)) - 2 * (own * padded).sum((1, 2))).numpy()
        best = int(np.argmin(np.where(left, change, math.inf)))
        left[best] = False
        order.append(best)
        for missing, (_, _, columns) in zip(masks, steps[0], strict=True):
            missing[columns[best][columns[best] >= 0]] = 0
    return np.array(order, dtype=np.int64)


def _clear_others(missing: Tensor, columns: Tensor) -> None:
    """Columns of no unit are never missing."""
    inside = torch.zeros(len(missing), dtype=torch.bool)
    inside[columns[columns >= 0]] = True
    missing[~inside] = 0


def _blocks(gram: Tensor, columns: Tensor) -> Tensor:
    wide = gram.new_zeros(len(gram) + 1, len(gram) + 1)
    wide[:-1, :-1] = gram
    return wide[columns[:, :, None], columns[:, None, :]]


def sensitivity(rows: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """Largest share that a unit has in any output of a reader, for any of some rows.

    ``max over rows, outputs, columns of the unit, and both signs, of w a / sum of all w a of that sign``, with positive
    and negative inputs taken apart (Liebenwein et al. 2020, arXiv 1911.07412, section 4).

    Args:
        rows: ``[n, m]``: a *column* of ``B`` per row.
        weight: ``W``, ``[n, o]``.
        columns: ``[units, b]``; -1 where a unit has fewer.

    Returns:
        ``[units]``, in [0, 1].
    """
    values = rows.to(torch.float64)
    share = torch.zeros(len(values) + 1, dtype=torch.float64)
    for inputs in (values.clamp_min(0), (-values).clamp_min(0)):
        for signed in (weight.clamp_min(0), (-weight).clamp_min(0)):
            sums = signed.T.to(torch.float64) @ inputs  # [o, m]
            inverse = torch.where(sums > torch.finfo(torch.float32).eps, sums.reciprocal(), 0.0)
            for output, scale in enumerate(inverse):
                own = (inputs * scale).amax(1) * signed[:, output]
                share[:-1] = torch.maximum(share[:-1], own)
    return share[columns].amax(1).clamp(0, 1)


def sampled_order(probability: Tensor, generator: torch.Generator) -> NDArray[np.int64]:
    """Draw all units one after the other without replacement, with chances in proportion to ``probability``.

    The keys ``log(u) / p`` in falling order are such a draw (Efraimidis and Spirakis 2006), so that smaller choices are
    contained in larger ones. Deviation from Liebenwein et al.: they draw with replacement, and scale by the counts.

    Args:
        probability: ``[units]``, not negative, not normalised. Units of zero come last, in the order of their indices.
        generator: Source of randomness.
    """
    chance = probability.to(torch.float64).numpy()
    uniform = torch.rand(len(chance), generator=generator, dtype=torch.float64).clamp_min(1e-300).numpy()
    with np.errstate(divide="ignore"):
        keys = np.where(chance > 0, np.log(uniform) / np.maximum(chance, 1e-300), -math.inf)
    return np.argsort(-keys, kind="stable").astype(np.int64)
