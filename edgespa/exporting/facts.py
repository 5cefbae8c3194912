"""What a model file says of itself, whatever its format: what it does, takes and gives, and of what it was made."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from edgespa import __version__
from edgespa.bundle import Base, TensorSpec
from edgespa.bundle.decoding import Decoding
from edgespa.bundle.places import without_folders
from edgespa.config import Preprocess
from edgespa.pixels.words import steps
from edgespa.system.bounds import MAX_NAME, readable

MADE_BY = "edgespa"
Specs = tuple[TensorSpec, ...]
_DOES = {
    "classes": "tells one of several classes",
    "multi-label": "tells any of several labels",
    "regression": "gives numbers",
    "segmentation": "gives a class for each pixel",
    "detection": "finds things, each with a box, a score and a class",
    "heatmaps": "tells where key points lie",
}
_ROWS = {
    "classes": "a score for each class",
    "multi-label": "a score for each label",
    "regression": "numbers",
    "segmentation": "a score for each class at each place",
    "heatmaps": "a map for each key point",
}
_IN_ORDER = {
    "boxes": "left, top, right, bottom {unit}, the surest box first; all 0 where there are no more",
    "classes": "of each box, its number, counted from 0",
    "scores": "of each box, 0 to 1",
    "count": "of the boxes",
}
"""Outputs of `edgespa.exporting.decoding`."""
_UNITS = {"input": "as shares of the input's width and height", "pixels": "in pixels of the input"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a model when its files are written.

    Attributes:
        task: What it does, in words.
        objective: What the first output is.
        base: The model it was made from.
        classes: Names of the outputs.
        preprocess: From image to the first input; None where it is no image, or how is not known.
        decoding: From the outputs to boxes.
        version: Of the edgespa that writes it.
    """

    task: str
    objective: str
    base: Base
    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    decoding: Decoding | None = None
    version: str = __version__

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, each in one line that can be written."""
        return tuple(line(each) for each in self.classes)

    @property
    def gives_boxes(self) -> bool:
        """Its outputs are boxes, scores and classes, read off already."""
        how = self.decoding
        if how is None or how.classes is None or how.coding != "corners":
            return False
        return len({how.boxes.output, how.scores.output, how.classes.output}) == 3

    @property
    def description(self) -> str:
        """A sentence for people."""
        does = _DOES.get("detection" if self.decoding is not None else self.objective, "gives its outputs")
        count = f" ({len(self.classes)})" if self.classes else ""
        seen = " from an image" if self.preprocess is not None else ""
        return f"{line(self.task)}: {does}{count}{seen}. Made by {MADE_BY} {self.version} from {self._base}."

    @property
    def _base(self) -> str:
        return line(without_folders(self.base.spec))

    def entries(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, pixels: bool
    ) -> dict[str, str]:
        """Keys and texts, as a file has them; the same for the same model, whoever asks and when.

        Args:
            inputs: Of the file.
            outputs: Likewise.
            pixels: The file normalises by itself.
        """
        how, base = self.preprocess, self.base
        found: dict[str, str | None] = {
            "description": self.description,
            "task": line(self.task),
            "objective": self.objective,
            # As the readers of other tools' files take them: a dict by number, as Python writes it.
            "names": repr(dict(enumerate(self.names))) if self.classes else None,
            "class_names": _json(list(self.names)) if self.classes else None,
            "imgsz": _json([how.height, how.width]) if how is not None else None,
            "input": None if how is None else "pixels" if pixels else "normalised",
            "preprocessing": _json(how.model_dump(mode="json")) if how is not None else None,
            "mean": _json(list(how.mean)) if how is not None else None,
            "std": _json(list(how.std)) if how is not None else None,
            "decoding": _json(self.decoding.model_dump(mode="json")) if self.decoding is not None else None,
            "inputs": _json([_tensor(each) for each in inputs]),
            "outputs": _json([_tensor(each) for each in outputs]),
            "license": line(base.license) if base.license is not None else None,
            "base": self._base,
            "base_weights": line(without_folders(base.weights)) if base.weights is not None else None,
            "base_digest": base.digest,
            "producer": MADE_BY,
            "edgespa_version": self.version,
        }
        return {key: value for key, value in found.items() if value is not None}

    def of_input(self, index: int, spec: TensorSpec, *, pixels: bool) -> str:
        """What an input is, for people.

        Args:
            index: Its place.
            spec: Of the file.
            pixels: The file normalises by itself.
        """
        how = self.preprocess
        if how is None or index:
            return _shape(spec)
        phrases = list(steps(how))[: -1 if pixels else None]
        return f"{_shape(spec)}. An image is {'; '.join(phrases)}." + (" The file normalises it." if pixels else "")

    def of_output(self, index: int, spec: TensorSpec) -> str:
        """What an output is, for people.

        Args:
            index: Its place.
            spec: Of the file.
        """
        if self.gives_boxes:
            assert self.decoding is not None
            words: str | None = _IN_ORDER.get(spec.name, "").format(unit=_UNITS[self.decoding.unit])
        else:
            words = _ROWS.get(self.objective) if index == 0 and self.decoding is None else None
        return f"{_shape(spec)}: {words}" if words else _shape(spec)


def line(text: str) -> str:
    """A text in one line, of a length that a reader bears."""
    text = readable(text[: MAX_NAME + 1])
    return text if len(text) <= MAX_NAME else text[: MAX_NAME - 3] + "..."


def _shape(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}]" + (f" {spec.layout}" if spec.layout != "other" else "")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "layout": spec.layout}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
