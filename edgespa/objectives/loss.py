"""What training makes small: the task's loss, and the distance to a teacher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.data import Kind
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import ConfigError
from edgespa.objectives.targets import plain_loss
from edgespa.objectives.units import Units


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Whose outputs are distilled.

    Attributes:
        name: What it is, for the record.
        run: From inputs to logits ``[N, classes]``, in evaluation form.
        of_base: Whether it is the base, with the base's own classes.
    """

    name: str
    run: Callable[[Tensor], Any]
    of_base: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
    """``(1 - w) * task + w * T**2 * KL(teacher || student)``, or the task's loss alone.

    The task's loss is the cross-entropy, with smoothed labels and class weights; for multi-label data the binary one;
    for regression the squared error of standardised numbers, as the student gives them (`edgespa.objectives.units`),
    where the distance to a teacher is that, too. Distillation: Hinton, Vinyals, Dean
    2015, arXiv 1503.02531, section 2, with the distributions softened by the temperature T.

    Attributes:
        label_smoothing: Share of each label that is spread over all classes.
        class_weights: ``[classes]``, or None. Of the images of a class; for multi-label data of its yeses.
        teacher: Whose outputs are distilled, or None.
        distill_weight: w.
        temperature: T.
        kind: What the data ask for.
        processes: Those that share a batch: a weighted mean is over the weights of all of them.
        units: Of numbers to predict: labels and what a teacher says come in them; None if they are learned as they are.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    teacher: Teacher | None = None
    distill_weight: float = 0.5
    temperature: float = 2.0
    kind: Kind = "classes"
    processes: Processes = ALONE
    units: Units | None = None

    @property
    def teacher_name(self) -> str | None:
        """The teacher, for the record."""
        return self.teacher.name if self.teacher else None

    def task_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The task's loss alone.

        Args:
            outputs: Logits ``[N, classes]``.
            labels: Class indices ``[N]``, or targets ``[N, K]``.
        """
        if self.kind == "regression":
            return plain_loss(self.kind, outputs, self.standard(labels))
        if self.kind == "multi-label":
            wanted = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return nn.functional.binary_cross_entropy_with_logits(outputs, wanted, pos_weight=self.class_weights)
        loss = nn.functional.cross_entropy(
            outputs, labels, weight=self.class_weights, label_smoothing=self.label_smoothing
        )
        return loss if self.class_weights is None else loss * self.processes.share(self.class_weights[labels].sum())

    def plain(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The task's loss without smoothing and class weights: what criteria differentiate.

        Args:
            outputs: As `task_loss`.
            labels: As `task_loss`.
        """
        return plain_loss(self.kind, outputs, self.standard(labels))

    def standard(self, values: Tensor) -> Tensor:
        """Labels, or what a teacher says, as the student should give them; the same unless there are units.

        Args:
            values: ``[N]``, or ``[N, K]`` in the units of the data.
        """
        return values if self.units is None else self.units.standard(values)

    def raw(self, outputs: Tensor) -> Tensor:
        """The inverse of `standard`: the student's outputs in the units of the data."""
        return outputs if self.units is None else self.units.raw(outputs)

    def __call__(self, outputs: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        """The whole objective.

        Args:
            outputs: The student's logits ``[N, classes]``.
            labels: Class indices ``[N]``, or targets ``[N, K]``.
            inputs: What the student was given; the teacher is given the same.
        """
        loss = self.task_loss(outputs, labels)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = self.teacher.run(inputs)
        return (1 - self.distill_weight) * loss + self.distill_weight * self._distance(outputs, wanted)

    def _distance(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if self.kind == "classes":
            return distance(outputs, wanted, self.temperature)
        _require_same_shape(outputs, wanted)
        if self.kind == "regression":
            return nn.functional.mse_loss(outputs, self.standard(wanted))
        yes = torch.sigmoid(wanted / self.temperature)
        loss = nn.functional.binary_cross_entropy_with_logits(outputs / self.temperature, yes)
        return loss * self.temperature**2

    def guess(self, labels: Tensor, classes: int) -> float:
        """The task's loss of outputs that do not depend on the input, the best ones for numbers, else undecided ones.

        Args:
            labels: Class indices ``[N]``, or targets ``[N, K]``.
            classes: Number of outputs.
        """
        if self.kind == "regression":
            labels = self.standard(labels)
            return float((labels - labels.mean(0)).square().mean())
        return math.log(2 if self.kind == "multi-label" else classes)


def distance(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(softmax(wanted / T) || softmax(outputs / T))``, mean over samples.

    Args:
        outputs: The student's logits ``[N, classes]``.
        wanted: The teacher's.
        temperature: T.

    Raises:
        ConfigError: If the teacher has another number of outputs.
    """
    _require_same_shape(outputs, wanted)
    student = nn.functional.log_softmax(outputs / temperature, 1)
    teacher = nn.functional.log_softmax(wanted / temperature, 1)
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _require_same_shape(outputs: Tensor, wanted: Tensor) -> None:
    if outputs.shape != wanted.shape:
        raise ConfigError(
            f"the teacher's outputs have the shape {tuple(wanted.shape)}, the task's {tuple(outputs.shape)}",
            "distill from a task with the same classes (--distill TASK.spa)",
        )
