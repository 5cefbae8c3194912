"""Which samples a part has: drawn by a seed, evenly over groups. Pure: groups in, positions out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def drawn_evenly(groups: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Positions of as equal a number of each group as there is, in order; smaller ``n`` are contained in larger ones.

    Args:
        groups: Of each sample, int64 [N].
        n: How many.
        seed: Which.
    """
    rank, turn = _ranks(groups, seed)
    # First all samples that are drawn first in their group, then all that are drawn second, and so on.
    return np.sort(np.lexsort((turn, rank))[:n])


def held_out(groups: NDArray[np.int64], fraction: float, seed: int, *, block: bool = False) -> NDArray[np.bool_]:
    """Which samples are held out, with the groups in proportion; at least one of every group is not.

    Args:
        groups: Of each sample, int64 [N].
        fraction: To hold out, in (0, 1).
        seed: Which.
        block: Of each group those that follow each other.
    """
    counts = np.bincount(groups, minlength=1)
    exact = counts * fraction
    held = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    # What rounding down left over goes to the groups that lost most by it.
    for group in np.argsort(held - exact, kind="stable"):
        if held.sum() >= round(len(groups) * fraction):
            break
        held[group] += 1 if held[group] < counts[group] - 1 else 0
    if block:
        return _in_a_row(groups, held, seed)
    rank, _ = _ranks(groups, seed)
    return np.asarray(rank < held[groups])


def _in_a_row(groups: NDArray[np.int64], held: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Where so many of each group are that follow each other, from a random one on."""
    random = np.random.RandomState(seed)
    out = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        start = int(random.randint(0, len(members) - held[group] + 1))
        out[members[start : start + held[group]]] = True
    return out


def _ranks(groups: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each sample its place in a random order of its group, and its group's place in an order of groups."""
    # RandomState and not default_rng: numpy promises that its stream never changes, so a recorded seed stays good.
    random = np.random.RandomState(seed)
    present, inverse = np.unique(groups, return_inverse=True)
    turn = random.permutation(len(present)).astype(np.int64)[inverse]
    rank = np.empty(len(groups), dtype=np.int64)
    for group in range(len(present)):
        members = np.flatnonzero(inverse == group)
        rank[members] = random.permutation(len(members))
    return rank, turn
