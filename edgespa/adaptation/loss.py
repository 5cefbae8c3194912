"""What training makes small: the task's loss, and the distance to a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgespa.adaptation.units import Units
from edgespa.data.inputs import Inputs, arguments
from edgespa.objectives.base import Objective
from edgespa.objectives.table import Classes


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Whose outputs are distilled.

    Attributes:
        name: What it is, for the record.
        run: From inputs to logits ``[N, classes]``, in evaluation form.
        of_base: Whether it is the base, with the base's own classes.
    """

    name: str
    run: Callable[..., Any]
    of_base: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """``(1 - w) * task + w * distance(teacher, student)``, or the loss of the objective alone.

    For classes the distance is ``T**2 * KL(teacher || student)`` with the distributions softened by the temperature T
    (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2). Numbers are compared standardised, as the student gives
    them, see `edgespa.adaptation.units`.

    Attributes:
        objective: What is learned.
        label_smoothing: Share of each label that is spread over all classes.
        class_weights: ``[classes]``, or None. Of the images or pixels of a class; for multi-label data of its yeses.
        teacher: Whose outputs are distilled, or None.
        distill_weight: w.
        temperature: T.
        units: Of numbers to predict: labels and what a teacher says come in them; None if they are learned as they are.
    """

    objective: Objective = dataclasses.field(default_factory=Classes)
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    teacher: Teacher | None = None
    distill_weight: float = 0.5
    temperature: float = 2.0
    units: Units | None = None

    @property
    def teacher_name(self) -> str | None:
        """The teacher, for the record."""
        return self.teacher.name if self.teacher else None

    def plain(self, output: Any, targets: Any) -> Tensor:
        """The objective's loss without smoothing and class weights.

        Args:
            output: What the student gives.
            targets: What is right.
        """
        return self.objective.loss(self.objective.take(output), self.standard(targets))

    def scored(self, output: Any, targets: Any) -> Tensor:
        """What criteria differentiate, see `Objective.scored`.

        Args:
            output: What the student gives.
            targets: What is right.
        """
        return self.objective.scored(self.objective.take(output), self.standard(targets))

    def relevance(self, output: Any, targets: Any) -> Tensor:
        """What relevance begins with, see `Objective.relevance`.

        Args:
            output: What the student gives.
            targets: What is right.
        """
        return self.objective.relevance(self.objective.take(output), self.standard(targets))

    def mass(self, targets: Any) -> float:
        """How much the loss of a batch counts beside that of others, see `Objective.mass`."""
        return self.objective.mass(targets, self.class_weights)

    def standard(self, values: Any) -> Any:
        """Targets, or what a teacher says, as the student should give them; the same unless there are units.

        Args:
            values: Where there are: ``[N, K]`` in the units of the data.
        """
        return values if self.units is None else self.units.standard(values)

    def raw(self, output: Any) -> Any:
        """The inverse of `standard`: what the student gives in the units of the data."""
        return output if self.units is None else self.units.raw(self.objective.take(output))

    def __call__(self, output: Any, targets: Any, inputs: Inputs) -> Tensor:
        """The whole loss.

        Args:
            output: What the student gives.
            targets: What is right.
            inputs: What the student was given; the teacher is given the same.
        """
        outputs = self.objective.take(output)
        loss = self.objective.loss(outputs, self.standard(targets), self.class_weights, self.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = self.standard(self.objective.take(self.teacher.run(*arguments(inputs))))
        distance = self.objective.distance(outputs, wanted, self.temperature)
        return (1 - self.distill_weight) * loss + self.distill_weight * distance

    def guess(self, targets: Any, outputs: int) -> float | None:
        """The loss of outputs that do not depend on the input; None where nobody knows.

        Args:
            targets: Of some samples.
            outputs: Width of the last layer.
        """
        return self.objective.guess(self.standard(targets), outputs)
