"""What the outputs of a model say: classes, numbers, areas, key points, boxes, pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.maps import resized_maps, shown_of
from edgespa.device.runner.points import point_rows
from edgespa.pixels.boxes import decode_boxes
from edgespa.pixels.placement import Placement

LISTS = ("classes", "multi-label", "regression")
"""What is learned where the first output of a sample is a list."""
DRAWN = (*LISTS, "segmentation", "heatmaps", "image")
"""What is learned where the answer can be drawn on a photograph."""
SURE = 0.3
"""Boxes below that score are left out where nothing else is said: of one that is right there are many that are not."""
UNSEEN = -1
"""In `Result.mask`, where the input shows nothing of the photograph."""


class Result:
    """What a model says of one sample.

    Coordinates are in pixels of the photograph as it is seen, upright, from its upper left corner; of arrays, in those
    of the model's input.

    Attributes:
        answer: Plain values, as ``--json`` prints them: ``top``, ``values``, ``areas``, ``points`` or ``boxes``, lists
            of rows with ``index`` and ``label``; ``outputs``, figures, where the meaning of the outputs is not known.
        outputs: All of them, each without the dimension of the batch, in the program's layout.
        size: Height and width of the photograph; None where there was none.
        learns: What the model has learned, such as ``classes``.
    """

    def __init__(
        self,
        learns: str,
        answer: dict[str, Any],
        outputs: list[np.ndarray],
        place: Placement | None = None,
        classes: np.ndarray | None = None,
    ) -> None:
        self.learns, self.answer, self.outputs = learns, answer, outputs
        self.size = None if place is None else place.source
        self._place, self._classes = place, classes

    def __getitem__(self, key: str) -> Any:
        return self.answer[key]

    def __contains__(self, key: str) -> bool:
        return key in self.answer

    def __repr__(self) -> str:
        return f"Result({self.answer!r})"

    @property
    def mask(self) -> np.ndarray | None:
        """Of a model that segments: the class of each pixel, int16 [H, W], `UNSEEN` where it was not looked."""
        if self._classes is None or self._place is None:
            return self._classes
        return self._place.mask_back(self._classes, UNSEEN)

    @property
    def picture(self) -> np.ndarray | None:
        """Of a model that makes pictures: float32 [height, width, channels], 0 to 1 where that was learned.

        As fine as it was made, in the proportions of the photograph and without what pads it.
        """
        if self.learns != "image" or self.outputs[0].ndim != 3:
            return None
        made = self.outputs[0] if self._place is None else shown_of(self.outputs[0], self._place)
        return np.ascontiguousarray(made.transpose(1, 2, 0), np.float32)


class Reader:
    """Reads the outputs of one variant.

    Args:
        folder: Of the bundle.
        manifest: Of the bundle.
        variant: Whose outputs they are.
        count: Classes that are named, the likeliest so many.
        least: Boxes and key points below that score are left out; None: boxes below `SURE`.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        variant: dict[str, Any],
        count: int = 5,
        least: float | None = None,
    ) -> None:
        self.labels = read_labels(folder)
        self.learns = str(manifest.get("learns", "classes"))
        self.decoding: Any = manifest.get("decoding")
        self._specs, self._count, self._least = variant["outputs"], count, least
        shape = manifest["inputs"][0]["shape"]
        how = manifest.get("preprocessing")
        known = len(shape) == 4 and all(isinstance(size, int) for size in shape[2:])
        self.size = (how["height"], how["width"]) if how else tuple(shape[2:]) if known else None

    def read(self, outputs: list[np.ndarray], place: Placement | None = None) -> list[Result]:
        """What is said of each sample.

        Args:
            outputs: In the program's layout, the samples first.
            place: Where the photograph lies in the input, if there is one.
        """
        if self.decoding is not None:
            return self._boxes(outputs, place)
        count = len(outputs[0]) if outputs[0].ndim else 1
        whole = any(not output.ndim or len(output) != count for output in outputs)
        if self.learns == "image" and outputs[0].ndim == 4 and not whole:
            return [self._picture([output[i] for output in outputs], place) for i in range(count)]
        if whole or not self._is_known(outputs[0]):
            rows = [summarise_output(*pair) for pair in zip(self._specs, outputs)]
            return [Result(self.learns, {"outputs": rows}, outputs, place)]
        return [self._sample([output[i] for output in outputs], place) for i in range(count)]

    @property
    def draws(self) -> bool:
        """Whether what is said can be drawn on a photograph."""
        return self.decoding is not None or self.learns in DRAWN

    def _is_known(self, first: np.ndarray) -> bool:
        if self.learns in ("segmentation", "heatmaps"):
            return first.ndim == 4
        return self.learns in LISTS and (first.ndim == 2 or (first.ndim == 4 and first.shape[2:] == (1, 1)))

    def _sample(self, outputs: list[np.ndarray], place: Placement | None) -> Result:
        first, classes = outputs[0], None
        if self.learns == "segmentation":
            classes = class_map(first, self.size)
            seen = classes if place is None else classes[place.window()[1]]
            answer = areas(seen, len(first), self.labels, self._count)
        elif self.learns == "heatmaps":
            rows = [{**_named(i, self.labels), **row} for i, row in enumerate(self._points(first, place))]
            answer = {"points": [row for row in rows if self._least is None or row["score"] >= self._least]}
        else:
            answer = interpret(first.reshape(-1), self.learns, self.labels, self._count)
        rest = [summarise_output(*pair) for pair in zip(self._specs[1:], outputs[1:])]
        return Result(self.learns, {**answer, **({"other_outputs": rest} if rest else {})}, outputs, place, classes)

    def _picture(self, outputs: list[np.ndarray], place: Placement | None) -> Result:
        _finite(outputs[0])
        rows = [summarise_output(*pair) for pair in zip(self._specs, outputs)]
        return Result(self.learns, {"outputs": rows}, outputs, place)

    def _boxes(self, outputs: list[np.ndarray], place: Placement | None) -> list[Result]:
        for output in outputs:
            _finite(output)
        try:
            samples = decode_boxes(outputs, self.decoding)
        except ValueError as error:
            raise RunnerError(f"the outputs are not as the manifest's decoding describes them: {error}") from error
        results = []
        for i, found in enumerate(samples):
            rows = []
            for each in found:
                if each["score"] < (SURE if self._least is None else self._least):
                    continue
                box = np.array(each["box"], np.float64)
                if place is not None:
                    box = place.boxes_back(box, clip=True)
                    if not (box[2] > box[0] and box[3] > box[1]):  # beside the photograph, in what pads it
                        continue
                named = _named(each["index"], self.labels)
                rows.append({**named, "score": float(each["score"]), "box": [float(side) for side in box]})
            results.append(Result(self.learns, {"boxes": rows}, [output[i] for output in outputs], place))
        return results

    def _points(self, maps: np.ndarray, place: Placement | None) -> list[dict[str, float]]:
        places, scores = point_rows(_finite(maps), self.size)
        places = places if place is None else place.points_back(places)
        return [{"x": float(x), "y": float(y), "score": float(s)} for (x, y), s in zip(places, scores)]


def read_labels(folder: Path) -> list[str]:
    """The names of the outputs, as far as they are known."""
    path = folder / "labels.txt"
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise RunnerError(f"cannot read {path}: {error}") from error


def interpret(scores: np.ndarray, learns: str, labels: list[str], count: int) -> dict[str, Any]:
    """What one sample's first output [K] says.

    Args:
        scores: The numbers.
        learns: ``classes``: softmax, unless they are probabilities already; ``multi-label``: the logistic function of
            each; ``regression``: the numbers themselves.
        labels: Their names.
        count: The likeliest so many; all of a regression.
    """
    values = _finite(scores)
    if learns == "regression":
        return {"values": [{**_named(i, labels), "value": float(value)} for i, value in enumerate(values)]}
    if learns == "multi-label":
        odds = np.exp(-np.logaddexp(0.0, -values))
    elif (values >= 0).all() and abs(values.sum() - 1) < 1e-3:  # the model ends in a softmax of its own
        odds = values
    else:
        odds = np.exp(values - values.max())
        odds /= odds.sum()
    top = [int(index) for index in np.argsort(-odds, kind="stable")[:count]]
    rows = [{**_named(index, labels), "probability": float(odds[index])} for index in top]
    if learns == "multi-label":
        rows = [{**row, "present": row["probability"] >= 0.5} for row in rows]
    return {"top": rows}


def class_map(scores: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """The class of each place: of the largest score, once the scores have the input's size (bilinear, as in training).

    Args:
        scores: [classes, h, w].
        size: Of the input; None leaves them as they are.

    Returns:
        int16 [height, width], or int32 where that does not hold them.
    """
    finite = _finite(scores)
    finite = finite if size is None else resized_maps(finite, size)
    made: np.ndarray = finite.argmax(0).astype(np.int16 if len(scores) < 1 << 15 else np.int32)
    return made


def areas(classes: np.ndarray, among: int, labels: list[str], count: int) -> dict[str, Any]:
    """How much each class covers.

    Args:
        classes: Of each place.
        among: So many classes.
        labels: Their names.
        count: The largest so many of the classes that are there.
    """
    found = np.bincount(classes.reshape(-1), minlength=among)
    largest = [int(index) for index in np.argsort(-found, kind="stable")[:count] if found[index]]
    return {"areas": [{**_named(index, labels), "share": float(found[index] / found.sum())} for index in largest]}


def _named(index: int, labels: list[str]) -> dict[str, Any]:
    return {"index": index, "label": labels[index] if index < len(labels) else str(index)}


def _finite(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise RunnerError("the outputs are not finite")
    return scores.astype(np.float64)


def summarise_output(spec: dict[str, Any], array: np.ndarray) -> dict[str, Any]:
    """An output that is no list of scores, in figures; None for one that is no number."""
    row = {"output": spec["name"], "shape": " x ".join(str(size) for size in array.shape)}
    if array.size and array.dtype.kind in "iuf":
        figures = {key: float(getattr(array, key)()) for key in ("min", "max", "mean")}
        row.update({key: value if math.isfinite(value) else None for key, value in figures.items()})
    return row


def percent(share: float) -> str:
    """A share for people: what is there is never 0%."""
    return f"{share:.0%}" if share >= 0.005 or not share else "<1%"


def brief(result: Result) -> str:
    """What is said of one sample, in a line."""
    answer = result.answer
    if "top" in answer:
        rows = [row for row in answer["top"] if row.get("present", True)]
        return ", ".join(f"{row['label']} {percent(row['probability'])}" for row in rows) or "none"
    if "values" in answer:
        return ", ".join(f"{row['label']} {row['value']:.4g}" for row in answer["values"])
    if "areas" in answer:
        return ", ".join(f"{row['label']} {percent(row['share'])}" for row in answer["areas"])
    if "points" in answer:
        return ", ".join(f"{row['label']} ({row['x']:.0f}, {row['y']:.0f})" for row in answer["points"])
    if "boxes" in answer:
        rows = [
            f"{row['label']} {percent(row['score'])} at {[round(side) for side in row['box']]}"
            for row in answer["boxes"]
        ]
        return "; ".join(rows) or "none"
    return ", ".join(f"{row['output']} of {row['shape']}" for row in answer["outputs"])


def together(results: list[Result]) -> dict[str, Any]:
    """What is said of several samples of one file, in one table: each row with its ``sample``."""
    if len(results) == 1:
        return results[0].answer
    key = next(iter(results[0].answer))
    rows = [{"sample": i, **row} for i, result in enumerate(results) for row in result.answer[key]]
    return {key: rows}
