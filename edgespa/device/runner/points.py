"""Key points from heat maps."""

from __future__ import annotations

import numpy as np

QUARTER = 0.25


def point_rows(maps: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Where each map is highest, a quarter of a pixel towards the higher neighbour in each direction.

    Xiao, Wu and Wei 2018, "Simple Baselines for Human Pose Estimation and Tracking", section 3 and its code: the
    location is between the highest place and the second highest one beside it. At the edge of a map, where one of the
    two neighbours is missing, nothing is moved.

    Args:
        maps: [K, h, w].
        size: Height and width of the input; None leaves the places in pixels of the maps.

    Returns:
        Places [K, 2], x and y in pixels of the input, the middle of the first pixel of a map being at (0.5, 0.5) of
        it; and the values there, [K].
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, -1)
    best = flat.argmax(1)
    places = np.stack([best % width, best // width], 1).astype(np.float64)
    for k, (column, row) in enumerate(places.astype(np.int64)):
        if 0 < column < width - 1:
            places[k, 0] += QUARTER * np.sign(maps[k, row, column + 1] - maps[k, row, column - 1])
        if 0 < row < height - 1:
            places[k, 1] += QUARTER * np.sign(maps[k, row + 1, column] - maps[k, row - 1, column])
    scale = (1.0, 1.0) if size is None else (size[1] / width, size[0] / height)
    return (places + 0.5) * scale, flat[np.arange(count), best]
