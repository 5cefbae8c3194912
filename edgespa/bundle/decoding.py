"""How a detector's outputs are read, as a bundle's manifest and everything else that decodes them has it.

`edgespa.pixels.boxes` does what is described here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from edgespa.bundle.limits import MAX_ELEMENTS, MAX_TENSORS
from edgespa.config import Strict

MAX_CANDIDATES = 1 << 16
MAX_GRIDS = 64
MAX_CELLS = 256
LARGEST_DELTA = math.log(1000 / 16)
_Side = Annotated[int, Field(ge=1, le=1 << 15)]
_Number = Annotated[float, Field(ge=-1e6, le=1e6)]


class _Part(Strict):
    model_config = ConfigDict(allow_inf_nan=False)


class Columns(_Part):
    """Some columns of an output.

    Attributes:
        output: Its index.
        first: The first column.
        count: How many; None for all that follow.
        rows: They are rows instead: the output is ``[N, columns, A]``, not ``[N, A, columns]``.
    """

    output: int = Field(ge=0, lt=MAX_TENSORS)
    first: int = Field(default=0, ge=0, le=MAX_ELEMENTS)
    count: int | None = Field(default=None, ge=1, le=MAX_ELEMENTS)
    rows: bool = False


class Grid(_Part):
    """Anchors that lie in rows and columns, several in each place.

    Attributes:
        rows: Rows.
        columns: Columns.
        stride: From one row and one column to the next, in pixels.
        offset: Of the first row and the first column, in strides.
        cells: The anchors of a place: x1, y1, x2, y2 from there, in pixels.
    """

    rows: _Side
    columns: _Side
    stride: tuple[_Number, _Number]
    offset: tuple[_Number, _Number] = (0.0, 0.0)
    cells: tuple[tuple[_Number, _Number, _Number, _Number], ...] = Field(min_length=1, max_length=MAX_CELLS)

    @property
    def count(self) -> int:
        """Anchors."""
        return self.rows * self.columns * len(self.cells)


class Decoding(_Part):
    """From outputs to boxes with a class and a score.

    Attributes:
        size: Height and width of the input.
        scores: Of the classes.
        activation: What makes a score of 0 to 1 of them.
        background: Which of the classes is none.
        boxes: Four numbers for each place.
        coding: What they are: ``deltas`` and ``distances`` from anchors; ``corners`` x1, y1, x2, y2; ``centres`` x, y,
            width, height.
        unit: Of corners and centres: pixels, or the input is 1 x 1.
        weights: What deltas are divided by.
        largest: The largest delta of a width or height, after that.
        anchors: In the order of the outputs.
        centerness: The logit that each score is the geometric mean with.
        classes: Where each entry says its class: the column.
        clip: Boxes are cut off at the edges of the input.
        threshold: Only scores above it count.
        candidates: At most so many of them, the best,
        pool: of each ``class``, of each ``grid`` of anchors, or of the ``image``.
        only_best: Of each place only the best class.
        overlap: Largest intersection over union of two boxes of a class that both stay; None: all stay.
        most: At most so many boxes, the surest.
    """

    size: tuple[_Side, _Side]
    scores: Columns
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    background: Literal["first", "last"] | None = None
    boxes: Columns
    coding: Literal["deltas", "distances", "corners", "centres"] = "corners"
    unit: Literal["pixels", "input"] = "pixels"
    weights: tuple[_Number, _Number, _Number, _Number] = (1.0, 1.0, 1.0, 1.0)
    largest: _Number = LARGEST_DELTA
    anchors: tuple[Grid, ...] = Field(default=(), max_length=MAX_GRIDS)
    centerness: Columns | None = None
    classes: Columns | None = None
    clip: bool = True
    threshold: float = Field(default=0.05, ge=0, le=1)
    candidates: int = Field(default=1000, ge=1, le=MAX_CANDIDATES)
    pool: Literal["class", "grid", "image"] = "image"
    only_best: bool = False
    overlap: float | None = Field(default=0.5, ge=0, le=1)
    most: int = Field(default=100, ge=1, le=MAX_CANDIDATES)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        from_anchors = self.coding in ("deltas", "distances")
        if from_anchors != bool(self.anchors):
            raise ValueError(f"boxes as {self.coding} {'need' if from_anchors else 'have no'} anchors")
        if self.pool == "grid" and not self.anchors:
            raise ValueError("candidates of each grid, and there is none")
        if self.only_best and self.pool != "image":
            raise ValueError("the best class of each place is chosen in the whole image")
        if 0 in self.weights:
            raise ValueError("deltas cannot be divided by 0")
        if sum(grid.count for grid in self.anchors) > MAX_ELEMENTS:
            raise ValueError("more anchors than outputs may have")
        return self

    def problem(self, shapes: Sequence[Sequence[int | str]]) -> str | None:
        """Why these are not the outputs that are described, in words; None if they are.

        Args:
            shapes: Of all outputs, the samples first; a size that is free is a word.
        """
        places = set()
        for part in (self.scores, self.boxes, self.centerness, self.classes):
            if part is None:
                continue
            if part.output >= len(shapes):
                return f"the decoding reads output {part.output} of {len(shapes)}"
            shape = [*shapes[part.output]]
            if len(shape) not in (2, 3):
                return f"the decoding reads output {part.output} of {len(shape)} dimensions"
            place, columns = (shape[2], shape[1]) if part.rows and len(shape) == 3 else (*shape[1:], 1)[:2]
            if isinstance(columns, int) and part.first + (part.count or 1) > columns:
                return f"the decoding reads columns of output {part.output} that are not there"
            places |= {place} if isinstance(place, int) else set()
        anchors = sum(grid.count for grid in self.anchors)
        if len(places) > 1 or (self.anchors and places and places != {anchors}):
            there = ", ".join(str(place) for place in sorted(places))
            return f"the decoding reads outputs of {there} places{f' with {anchors} anchors' if anchors else ''}"
        return None
