"""Boxes: how well they are found, whoever's loss they are learned by."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgespa.bundle.decoding import Decoding
from edgespa.data.boxes import Objects
from edgespa.errors import DataError
from edgespa.models.interface import output_tensors
from edgespa.objectives.average_precision import COLUMNS, average_precisions, require_library
from edgespa.objectives.base import Objective, shapes_of
from edgespa.objectives.measures import MAP, MAP50
from edgespa.pixels.boxes import detections

if TYPE_CHECKING:
    from edgespa.data import Prepared


class Boxes(Objective):
    """An objective whose targets are a list of `edgespa.data.boxes.Objects`, measured by mean average precision.

    A subclass says what is right in `loss`, over outputs as the network gives them, and how boxes are read off those in
    `decoding`: with that, the measures of the program and of every exported file, and what ``run.py`` prints.
    """

    answers = "boxes"
    measures = (MAP, MAP50)
    gathers = True

    @property
    @abstractmethod
    def decoding(self) -> Decoding:
        """From outputs to boxes, for the network as it is."""

    _read: Decoding | None = None

    def decoded_by(self, decoding: Decoding) -> Boxes:
        """See `Objective.decoded_by`."""
        result = copy.copy(self)
        result._read = decoding
        return result

    @property
    def reading(self) -> Decoding:
        """How the outputs are read that are measured: as `decoding` says, unless a graph does that itself."""
        return self._read or self.decoding

    def require(self) -> None:
        """See `Objective.require`."""
        require_library()

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Any:
        """See `Objective.take`: all outputs, of which the decoding says what they are.

        Raises:
            DataError: They are not what the decoding reads.
        """
        if data is not None:
            problem = self.reading.problem([each.shape for each in output_tensors(output)])
            if problem is not None:
                raise DataError(
                    f"the network gives {shapes_of(output)}: {problem}",
                    f"correct the decoding of the objective {self.name}",
                )
        return output

    def sums(self, outputs: Any, targets: Sequence[Objects]) -> Tensor:
        """A row for each object there is and for each that is found, see `edgespa.objectives.average_precision`."""
        how = self.reading.model_dump()
        arrays = [each.detach().cpu().numpy() for each in output_tensors(outputs)]
        rows = [np.zeros((0, COLUMNS))]
        for index, objects in enumerate(targets):
            there = np.column_stack(
                [
                    np.full(len(objects), index),
                    np.zeros(len(objects)),
                    objects.labels.cpu().numpy(),
                    objects.boxes.double().cpu().numpy().reshape(-1, 4),
                    objects.ignored.cpu().numpy(),
                ]
            )
            corners, classes, scores = detections([each[index] for each in arrays], how)
            found = np.column_stack([np.full(len(scores), index), np.ones(len(scores)), classes, corners, scores])
            rows += [there, found]
        return torch.from_numpy(np.concatenate(rows))

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """mAP@50:95 and mAP@50."""
        return average_precisions(sums.cpu().numpy())
