"""Maps over a model's input: brought to another size, and back to what they show of the photograph."""

from __future__ import annotations

import numpy as np

from edgespa.pixels.placement import Placement


def resized_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Between the nearest four numbers, half-pixel centres, as ``interpolate(..., mode="bilinear")`` of PyTorch.

    Args:
        maps: [C, h, w].
        size: Height and width.

    Returns:
        float32 [C, height, width].
    """
    made = maps.astype(np.float32)
    if made.shape[1:] == tuple(size):
        return made
    rows, columns = (_interpolation(there, whole) for there, whole in zip(size, made.shape[1:]))
    result: np.ndarray = np.matmul(np.matmul(rows, made), columns.T)
    return result


def _interpolation(size: int, whole: int) -> np.ndarray:
    """What each of ``whole`` values counts in each of ``size`` between them: [size, whole]."""
    at = np.clip((np.arange(size) + 0.5) * (whole / size) - 0.5, 0, whole - 1)
    low = np.minimum(at.astype(np.int64), max(whole - 2, 0))
    weights = np.zeros((size, whole), np.float32)
    each = np.arange(size)
    weights[each, low] = 1 - (at - low)
    weights[each, np.minimum(low + 1, whole - 1)] += at - low
    return weights


def shown_of(maps: np.ndarray, place: Placement) -> np.ndarray:
    """What maps have of the photograph, without the padding, in its proportions, as fine as they are.

    Args:
        maps: [C, h, w] over the input, of its size or a multiple of it.
        place: Where the photograph lies there.

    Returns:
        float32 [C, height, width] of what the input shows of the photograph.
    """
    times = [own / whole for own, whole in zip(maps.shape[1:], place.size)]
    seen, become = place.window()
    parts = [slice(round(part.start * by), round(part.stop * by)) for part, by in zip(become, times)]
    cut = maps[(slice(None), *parts)]
    # Of the photograph that part is so large; the finer one of the two directions keeps its resolution.
    whole = [(part.stop - part.start) / by for part, by in zip(seen, place.scale)]
    times_of_it = max(own / there for own, there in zip(cut.shape[1:], whole))
    height, width = (max(1, round(there * times_of_it)) for there in whole)
    return resized_maps(cut, (height, width))
