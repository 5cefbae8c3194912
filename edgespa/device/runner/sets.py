"""Outputs that are sets, as the best entries of many are: two of nearly equal score may change places."""

from __future__ import annotations

import numpy as np

CLOSE = 1e-3  # of the spread: entries that are so near stay where they are
MOST_COMPARED = 1 << 26  # numbers that entries are compared by: of more none changes places
EQUAL = 0.3  # of the spread of what they are ordered by: only of such entries one may be where the other was


def reordered(outputs: list[np.ndarray], references: list[np.ndarray], axes: list[list[int]]) -> list[np.ndarray]:
    """The outputs with each entry of a set where its like stands in the references.

    An entry is an index along the set's axis in all of its outputs together: a box with its scores. Numbers that fall
    (or do not rise) along the axis in all references are what it is ordered by: they stay in place, for whatever
    changes places, they must be the same. So an entry moves only to a place whose numbers were nearly its own: the box
    of another score is wrong.

    Args:
        outputs: Of a file, the samples first.
        references: Of the program, of the same shapes.
        axes: Index and axis of each output that the set is in.
    """
    tables = [[np.moveaxis(each[i], axis, 1) for i, axis in axes] for each in (outputs, references)]
    flat = [[part.reshape(*part.shape[:2], -1).astype(np.float64) for part in side] for side in tables]
    ours, theirs = (np.concatenate(side, axis=2) for side in flat)
    widths = [part.shape[2] for part in flat[1]]
    ordered = np.all(np.diff(theirs, axis=1) <= 0, axis=(0, 1))
    spread = theirs.std(axis=(0, 1))
    spread[spread == 0] = 1.0
    matched = ours.copy()
    for n in range(len(theirs)):
        order = _order(ours[n] / spread, theirs[n] / spread, ordered)
        matched[n] = np.where(ordered, ours[n], ours[n][order])
    result = list(outputs)
    start = 0
    for (i, axis), width, part in zip(axes, widths, tables[0]):
        piece = matched[:, :, start : start + width].reshape(part.shape)
        result[i] = np.moveaxis(piece, 1, axis).astype(outputs[i].dtype)
        start += width
    return result


def _order(ours: np.ndarray, theirs: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """For each entry [k, F] of theirs the index of ours that is its like: the nearest pairs first, each once.

    Of those that are as good as equal in the columns that say their order, if any does; others stay where they are.
    """
    order = np.arange(len(theirs))
    apart = np.abs(ours - theirs).max(axis=1)
    open_ = np.flatnonzero(~(apart <= CLOSE))
    if len(open_) < 2 or len(open_) ** 2 * ours.shape[1] > MOST_COMPARED:
        return order
    unlike = np.stack([np.abs(ours[open_] - entry) for entry in theirs[open_]])
    distances = unlike.sum(axis=2)
    distances[(unlike[:, :, ordered] > EQUAL).any(axis=2)] = np.inf
    free_rows, free_columns = np.ones(len(open_), dtype=bool), np.ones(len(open_), dtype=bool)
    for place in np.argsort(distances, axis=None, kind="stable"):
        row, column = divmod(int(place), len(open_))
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            order[open_[row]] = open_[column]
    return order
