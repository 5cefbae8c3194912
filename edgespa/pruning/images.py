"""Calibration images as a traced program takes them, checked before anything long begins."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.data import Prepared
from edgespa.data.inputs import Inputs, arguments
from edgespa.errors import ConfigError, DataError
from edgespa.graph.program import BATCH, Program, shape_of
from edgespa.objectives.base import Objective
from edgespa.objectives.evaluate import objective_for, require_answers
from edgespa.tasks.base import Base

MOST_IMAGES = 128
_BATCH_ELEMENTS = 6_000_000  # of the largest activation: larger blocks are given back to the system after every use


class Images:
    """Batches by their index.

    Attributes:
        data: The images.

    Args:
        base: The model.
        data: The images.

    Raises:
        ConfigError: If the model takes others.
        DataError: If there are fewer than two images, they are all the same, or a value is not finite.
    """

    def __init__(self, base: Base, data: Prepared) -> None:
        shape, how = base.program.inputs[0].shape, data.preprocess
        wanted = (how.channels, how.height, how.width) if how is not None else tuple(shape[1:])
        if tuple(shape[1:]) != wanted:
            raise ConfigError(
                f"{base.spec} takes inputs of {list(shape[1:])}, the images are {list(wanted)}", "correct --input-shape"
            )
        self.data = data
        self._program = base.program
        self._detector = base.detector
        self._types = [spec.dtype for spec in base.program.inputs]
        self._rows: NDArray[np.int64] | None = None  # of the data, where they are a part of them
        free = shape[0] == BATCH
        most = _BATCH_ELEMENTS // _largest(base.program)
        self.batch_size = min(MOST_IMAGES, max(4, most)) if free else int(shape[0])
        self.batches = -(-len(data) // self.batch_size) if free else len(data) // self.batch_size
        self.count = len(data) if free else self.batches * self.batch_size
        if self.count < 2:
            raise DataError(
                f"{data.name}: too few calibration images ({len(data)}) to say anything about a network",
                "give at least 2; a few hundred are enough for most",
            )
        self._check()

    def _check(self) -> None:
        first = self._typed(self.data.tensor([0]))
        same = True
        for index in range(self.batches):
            for inputs, axis, one in zip(self.batch(index), self.data.axes, first, strict=True):
                finite = torch.isfinite(inputs).movedim(axis, 0).flatten(1).all(1)
                if not finite.all():
                    bad = index * self.batch_size + int((~finite).nonzero()[0])
                    raise DataError(
                        f"{self.data.name}: image {bad} has values that are not finite", "leave it out, or correct it"
                    )
                same = same and bool((inputs == one).all())
        if same:
            raise DataError(
                f"{self.data.name}: all {self.count} calibration images are the same",
                "give images as the network will see them",
            )

    def batch(self, index: int) -> tuple[Tensor, ...]:
        """Images as the program takes them, ``[N, C, H, W]``; or what else it takes, all inputs of a run."""
        return self._typed(self.data.tensor(self._places(index * self.batch_size, self.batch_size)))

    def _places(self, start: int, size: int) -> range | NDArray[np.int64]:
        """Where some of the samples are in the data."""
        stop = min(start + size, self.count)
        return range(start, stop) if self._rows is None else self._rows[start:stop]

    def some(self, count: int) -> Images:
        """So many of the first samples, to whole batches where the program takes no other number.

        Args:
            count: How many.
        """
        few = copy.copy(self)
        few.batch_size = min(self.batch_size, count) if self._program.dynamic_batch else self.batch_size
        few.batches = min(-(-self.count // few.batch_size), -(-count // few.batch_size))
        few.count = min(self.count, few.batches * few.batch_size)
        return few

    def parted(self, most: int, least: int, seed: int) -> tuple[Images, Images]:
        """Two parts at random: what is fitted on, and a fifth to judge that on.

        Args:
            most: To judge on.
            least: To judge on; with fewer images, and where the program takes no other number than its own, both parts
                are all of them.
            seed: Which.
        """
        judged = min(most, self.count // 5)
        if judged < least or not self._program.dynamic_batch:
            return self, self
        places = np.random.RandomState(seed).permutation(self.count)
        places = places if self._rows is None else self._rows[places]
        return self._of(np.sort(places[judged:])), self._of(np.sort(places[:judged]))

    def _of(self, rows: NDArray[np.int64]) -> Images:
        part = copy.copy(self)
        part._rows, part.count = rows, len(rows)
        part.batches = -(-part.count // part.batch_size)
        return part

    def first(self, count: int) -> tuple[Tensor, ...]:
        """Some of the first samples, or a batch where the program takes no other number.

        Args:
            count: How many.
        """
        size = min(count, self.batch_size) if self._program.dynamic_batch else self.batch_size
        return self._typed(self.data.tensor(self._places(0, size)))

    def _typed(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return tuple(each.to(dtype) for each, dtype in zip(arguments(inputs), self._types, strict=True))

    def targets(self, index: int) -> Any:
        """What is right for them, as `edgespa.data.Prepared.batches` gives it."""
        return self.data.targets.of(torch.as_tensor(self._places(index * self.batch_size, self.batch_size)))

    @property
    def table(self) -> Tensor | None:
        """All of it, where it is rows of a table."""
        rows = self.data.targets.table
        return None if rows is None else rows[torch.as_tensor(self._places(0, self.count))]

    def require_answers(self, what: str) -> None:
        """Refuse images of which it is not known what is right, or which the network gives no answers to.

        Args:
            what: That needs them, in words.

        Raises:
            DataError: With what is missing.
        """
        if not self.data.answered:
            raise DataError(
                f"{self.name} has neither classes nor targets, and {what} needs them",
                "give labelled images, or take another method",
            )
        require_answers(self._program, self.data, self.objective)

    @property
    def objective(self) -> Objective:
        """What the data are for."""
        return objective_for(self.data, self._detector)

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.name


def _largest(program: Program) -> int:
    """Elements per image of the largest activation."""
    values = [node.meta.get("val") for node in program.graph.nodes if node.op in ("placeholder", "call_function")]
    return max(1, *(math.prod(shape_of(value)[1:]) for value in values if isinstance(value, Tensor) and value.dim()))
