"""From what a detector gives to boxes, by a description that is plain data: a bundle's ``decoding``.

It stands alone, as `edgespa.pixels.picture` does, for it is a part of ``run.py`` too: numpy and Python 3.8. The
description is `edgespa.bundle.decoding.Decoding` as JSON has it. Boxes are x1, y1, x2, y2 in pixels of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # for annotations only: Python 3.8 cannot subscript it
from typing import Any

import numpy as np

_FIRST = 4  # times as many candidates as boxes are looked at first, and then as many times more


def decode_boxes(outputs: Sequence[np.ndarray], how: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """What a detector sees on each sample, the surest first.

    Args:
        outputs: Of the program, samples first.
        how: The description.

    Returns:
        For each sample a list of ``{"box": [x1, y1, x2, y2], "index": int, "score": float}``; the index is that of a
        class, without a background.

    Raises:
        ValueError: The outputs are not what is described, or the description is none: it may be anybody's.
    """
    found = []
    for sample in range(len(outputs[0])):
        try:
            boxes, classes, scores = detections([each[sample] for each in outputs], how)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"no description: {type(error).__name__}: {error}") from error
        rows = zip(boxes.tolist(), classes.tolist(), scores.tolist())
        found.append([{"box": box, "index": index, "score": score} for box, index, score in rows])
    return found


def detections(outputs: Sequence[np.ndarray], how: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a detector sees on one sample, the surest first.

    Scores are those of `scores_of`, boxes those of `boxes_of`. Of those above the threshold the best are candidates
    (for each class, for each level of anchors, or in all); of candidates of one class that overlap by more than is
    allowed the surest is kept; of all that are left the best.

    Args:
        outputs: Of the program, of one sample.
        how: The description.

    Returns:
        float32 [n, 4], int64 [n], float32 [n].

    Raises:
        ValueError: The outputs are not what is described.
    """
    scores = scores_of(outputs, how)
    places, classes = _candidates(scores, how)
    chosen = scores[places, classes]
    corners = boxes_of(outputs, how, places)
    if how["classes"] is not None:  # each entry says its own class
        classes = np.rint(_columns(outputs, how["classes"])[places, 0]).astype(np.int64)
    order = np.argsort(-chosen, kind="stable")
    corners, classes, chosen = corners[order], classes[order], chosen[order]
    most = int(how["most"])
    if how["overlap"] is not None:
        seen, kept = 0, np.zeros(0, dtype=np.int64)
        while seen < len(order) and len(kept) < most:  # what comes later changes nothing of what is surer
            seen = min(len(order), max(_FIRST * most, _FIRST * seen))
            kept = suppressed(corners[:seen], classes[:seen], float(how["overlap"]))
        corners, classes, chosen = corners[kept], classes[kept], chosen[kept]
    return corners[:most], classes[:most], chosen[:most]


def scores_of(outputs: Sequence[np.ndarray], how: Mapping[str, Any]) -> np.ndarray:
    """How sure a detector is of each class in each place: float32 [A, classes], without the background.

    Args:
        outputs: Of the program, of one sample.
        how: The description.
    """
    raw = _columns(outputs, how["scores"])
    activation, background = how["activation"], how["background"]
    if activation == "softmax":
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    else:
        scores = _sigmoid(raw) if activation == "sigmoid" else raw
    if background is not None:
        scores = scores[:, 1:] if background == "first" else scores[:, :-1]
    if how["centerness"] is not None:  # FCOS (Tian et al. 2019, section 3.3), with the root of torchvision
        scores = np.sqrt(scores * _sigmoid(_columns(outputs, how["centerness"])))
    result: np.ndarray = scores
    return result


def boxes_of(outputs: Sequence[np.ndarray], how: Mapping[str, Any], places: np.ndarray) -> np.ndarray:
    """The boxes in some places, float32 [n, 4].

    Args:
        outputs: Of the program, of one sample.
        how: The description.
        places: Which, int64 [n].

    Raises:
        ValueError: There are not as many anchors as places.
    """
    raw = _columns(outputs, how["boxes"])
    height, width = how["size"]
    coding = how["coding"]
    if coding in ("deltas", "distances"):
        anchors = anchors_of(how["anchors"], len(raw))[places]
        centres, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
        own = raw[places]
        if coding == "deltas":  # R-CNN (Girshick et al. 2014, appendix C), each divided by its weight
            own = own / np.asarray(how["weights"], np.float32)
            centres = own[:, :2] * sizes + centres
            half = np.exp(np.minimum(own[:, 2:], np.float32(how["largest"]))) * sizes / 2
            corners = np.concatenate([centres - half, centres + half], axis=1)
        else:  # FCOS: from the middle to the sides, in sizes of the anchor
            corners = np.concatenate([centres - own[:, :2] * sizes, centres + own[:, 2:] * sizes], axis=1)
    else:
        own = raw[places]
        if how["unit"] == "input":
            own = own * np.asarray([width, height, width, height], np.float32)
        if coding == "centres":
            own = np.concatenate([own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2], axis=1)
        corners = own
    if how["clip"]:
        corners = np.clip(corners, 0, np.asarray([width, height, width, height], np.float32))
    return corners.astype(np.float32, copy=False)


def anchors_of(grids: Sequence[Mapping[str, Any]], count: int) -> np.ndarray:
    """All anchors, float32 [A, 4]: of each grid row by row, of each place one after the other.

    Args:
        grids: Their description.
        count: How many there have to be.

    Raises:
        ValueError: There are more or fewer.
    """
    there = sum(_anchors_in(grid) for grid in grids)
    if there != count:  # before anything is made of their number
        raise ValueError(f"{there:,} anchors are described, and the outputs have {count:,}")
    parts = []
    for grid in grids:
        rows, columns = (
            (np.arange(grid[name], dtype=np.float32) + np.float32(grid["offset"][i])) * np.float32(grid["stride"][i])
            for i, name in enumerate(("rows", "columns"))
        )
        y, x = np.meshgrid(rows, columns, indexing="ij")
        places = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        parts.append((places + np.asarray(grid["cells"], np.float32)[None]).reshape(-1, 4))
    return np.concatenate(parts)


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with others, [n]; boxes of no size overlap with nothing.

    Args:
        box: x1, y1, x2, y2.
        others: [n, 4].
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / np.maximum(areas - shared, 1e-12))


def suppressed(corners: np.ndarray, classes: np.ndarray, overlap: float) -> np.ndarray:
    """Positions of those that stay where the surest of several that overlap is taken, each class by itself.

    Args:
        corners: float32 [n, 4], the surest first.
        classes: int64 [n].
        overlap: Largest intersection over union of two that both stay.

    Returns:
        int64 [m], in order.
    """
    stays = np.zeros(len(corners), dtype=bool)
    for index in np.unique(classes):
        left = np.flatnonzero(classes == index)
        while len(left):
            first, rest = left[0], left[1:]
            stays[first] = True
            left = rest[overlaps(corners[first], corners[rest]) <= overlap]
    return np.flatnonzero(stays)


def _candidates(scores: np.ndarray, how: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Places and classes that are looked at further."""
    count, threshold = int(how["candidates"]), float(how["threshold"])
    pools: list[tuple[np.ndarray, np.ndarray]] = []
    if how["pool"] == "class":
        for index in range(scores.shape[1]):
            places = _best(scores[:, index], count, threshold)
            pools.append((places, np.full(len(places), index, dtype=np.int64)))
    elif how["only_best"]:
        top = scores.argmax(axis=1)
        places = _best(scores[np.arange(len(scores)), top], count, threshold)
        pools.append((places, top[places]))
    else:
        edges = [0, len(scores)]
        if how["pool"] == "grid":
            edges = [0, *np.cumsum([_anchors_in(grid) for grid in how["anchors"]]).tolist()]
        for start, end in zip(edges, edges[1:]):
            flat = _best(scores[start:end].reshape(-1), count, threshold)
            pools.append((flat // scores.shape[1] + start, flat % scores.shape[1]))
    return np.concatenate([each for each, _ in pools]), np.concatenate([each for _, each in pools])


def _best(scores: np.ndarray, count: int, threshold: float) -> np.ndarray:
    above = np.flatnonzero(scores > threshold)
    return above[np.argsort(-scores[above], kind="stable")[:count]]


def _anchors_in(grid: Mapping[str, Any]) -> int:
    return int(grid["rows"]) * int(grid["columns"]) * len(grid["cells"])


def _columns(outputs: Sequence[np.ndarray], part: Mapping[str, Any]) -> np.ndarray:
    """Some columns of an output of one sample, float32 [A, columns].

    Raises:
        ValueError: There are no such columns.
    """
    index, first = int(part["output"]), int(part["first"])
    table = outputs[index] if 0 <= index < len(outputs) else np.zeros(())
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim == 2 and part["rows"]:
        table = table.T
    end = table.shape[-1] if part["count"] is None else first + int(part["count"])
    if table.ndim != 2 or not 0 <= first < end <= table.shape[1]:
        raise ValueError(f"output {index} of shape {list(table.shape)} has no columns {first} to {end}")
    return table[:, first:end].astype(np.float32, copy=False)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        result: np.ndarray = 1 / (1 + np.exp(-values))
    return result
