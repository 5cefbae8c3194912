"""What an objective is: the answers that it takes from a network, their loss against what is right, and its measures.

An objective has no state: it is made without arguments, and one serves training, scoring, evaluation and export alike.
Losses and sums are of the samples of a batch; batches are put together by mass and by addition, so that accumulated
batches and several processes come to what one large batch would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from edgespa.errors import ConfigError, DataError
from edgespa.models.interface import output_tensors
from edgespa.objectives.measures import Measure

if TYPE_CHECKING:
    from edgespa.bundle.decoding import Decoding
    from edgespa.data import Prepared
    from edgespa.models.detectors import Detector

Known = Literal["table", "masks", "boxes", "points", "images", "items", "none"]
"""What is known of each sample: a class or numbers; a class for each pixel; objects (a batch of targets is a list of
`edgespa.data.boxes.Objects`); key points (`edgespa.data.points.Points`); a picture; whatever a data set
gives; nothing."""


class Objective(ABC):
    """Something that a network can be trained to do.

    A subclass says what is right in `loss`, and how well it is done in `sums` and `values`. Optional is `distance`,
    without which nothing can be distilled; `blind` and `guess`, by which it is seen that nothing was learned, and that
    a head is of no use.

    Attributes:
        name: As data sets, task files and manifests call it.
        answers: What has to be known of each sample.
        measures: How well it is done; the first decides which epoch is the best.
        standardised: The answers are numbers that are learned without their units, see `edgespa.adaptation.units`.
        smooths: Whether labels can be smoothed.
        weighs: Whether classes can count differently in the loss.
        gathers: Whether what batches add are rows, which are put one below the other, instead of sums; see `sums`.
        of_base: What is right is made of the base's own outputs for the same inputs, see `wanted`: no labels are read.
    """

    name: ClassVar[str]
    answers: ClassVar[Known] = "items"
    measures: ClassVar[tuple[Measure, ...]]
    standardised: ClassVar[bool] = False
    smooths: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    gathers: ClassVar[bool] = False

    @property
    def decoding(self) -> Decoding | None:
        """How boxes are read off the outputs; None where there are none."""
        return None

    def bound(self, detector: Detector | None) -> Objective:
        """The same for one network, for an objective that has to know more of it than its outputs.

        Args:
            detector: What there is to know of a detector; None for any other network.
        """
        return self

    of_base: ClassVar[bool] = False

    def decoded_by(self, decoding: Decoding) -> Objective:
        """The same, measured on outputs that are read otherwise than the network's own.

        Args:
            decoding: How: of a graph in which boxes are read off already.
        """
        return self

    @property
    def measure(self) -> Measure:
        """The one that decides."""
        return self.measures[0]

    def require(self) -> None:  # noqa: B027
        """Refuse what cannot be measured on this machine, before anything long begins.

        Raises:
            MissingExtraError: A package that it is measured with is not installed.
        """

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Any:
        """The part of what a program gives that is an answer.

        Args:
            output: What the program gives.
            data: What it is given for, for its classes and for messages; None where that was looked at before.
            own: The answers have to be to the data's classes and no others.

        Raises:
            DataError: If there is none; the message says what was found.
        """
        return output

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """What training makes small: a mean, see `mass`.

        Args:
            outputs: From `take`.
            targets: Of the same samples, as `edgespa.data.Prepared.batches` gives them.
            weights: ``[classes]``, where the classes count differently; None where an objective has none.
            smoothing: Share of each label that is spread over all classes.
        """

    @property
    def inner(self) -> tuple[str, ...]:
        """Names of nodes whose values a network in training has to give behind its outputs."""
        return ()

    def of_some(self, some: Any) -> Any:
        """What `wanted` has to know of the base's outputs for a part of the data; found once.

        Args:
            some: Those outputs, from `take`.
        """
        return some

    def wanted(self, outputs: Any, some: Any) -> Any:
        """What is right, where that is told by the base; see `of_base`.

        Args:
            outputs: The base's for some samples, from `take`.
            some: From `of_some`, the same for every batch: what scales can be taken from.
        """
        raise NotImplementedError(f"{self.name} is not learned from the base")

    def scored(self, outputs: Any, targets: Any) -> Tensor:
        """The number whose gradients say which units matter: the loss, where that has any at its least value."""
        return self.loss(outputs, targets)

    def relevance(self, outputs: Any, targets: Any) -> Tensor:
        """Where layer-wise relevance propagation begins, as a sum: here each output with its own size.

        Args:
            outputs: From `take`.
            targets: Of the same samples.
        """
        found = [each.abs().sum() for each in output_tensors(outputs) if each.is_floating_point()]
        return torch.stack(found).sum()

    def mass(self, targets: Any, weights: Tensor | None = None) -> float:
        """How much `loss` is the mean of: by default samples. The loss of several batches is their mean by mass."""
        return float(len(targets) if self.answers == "boxes" else len(_pytree.tree_leaves(targets)[0]))

    @abstractmethod
    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """What a batch adds to the measures: float64 ``[n]``, of the same n for every batch.

        Of an objective that `gathers`: float64 ``[rows, n]``, of as many rows as the batch has; the first number of a
        row is that of its sample in the batch, and afterwards that of the sample among all.

        Args:
            outputs: From `take`.
            targets: Of the same samples.
        """

    @abstractmethod
    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """The measures, from the sums over all samples.

        Args:
            sums: float64 ``[n]``; ``[rows, n]`` of an objective that `gathers`.
            table: All targets ``[N]`` or ``[N, K]``, where they are a table.
        """

    def blind(self, sums: Tensor, table: Tensor | None) -> float | None:
        """The first measure of the best answers that do not depend on the input; None where nobody knows.

        Args:
            sums: As `values` gets them.
            table: Likewise.
        """
        return None

    def guess(self, targets: Any, outputs: int) -> float | None:
        """The loss of an answer that does not depend on the input; None where nobody knows.

        Args:
            targets: Of some samples.
            outputs: Width of the last layer.
        """
        return None

    def distance(self, outputs: Any, wanted: Any, temperature: float) -> Tensor:
        """How far a student's answers are from a teacher's, mean over samples.

        Args:
            outputs: The student's, from `take`.
            wanted: The teacher's, likewise.
            temperature: Softens both, where they are scores.

        Raises:
            ConfigError: If the objective has no distance, or the teacher gives something else.
        """
        raise ConfigError(f"the objective {self.name} has no distance to a teacher", "leave out --distill")


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a program gives.

    Raises:
        DataError: There is none.
    """
    found = output_tensors(output)
    if not found:
        raise DataError("the network gives no tensor", "give a model that returns one")
    return found[0]


def shapes_of(output: Any) -> str:
    """The shapes of what a program gives, in words: ``[N, 10]``, or several of them."""
    sizes = [["N", *map(str, each.shape[1:])] if each.dim() else [] for each in output_tensors(output)]
    return ", ".join(f"[{', '.join(each)}]" for each in sizes) or "no tensor"


def require_same_shape(outputs: Tensor, wanted: Tensor) -> None:
    """Refuse a teacher that answers something else.

    Raises:
        ConfigError: With both shapes.
    """
    if outputs.shape != wanted.shape:
        raise ConfigError(
            f"the teacher's outputs have the shape {tuple(wanted.shape)}, the task's {tuple(outputs.shape)}",
            "distill from a task with the same classes (--distill TASK.spa)",
        )


def softened(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(softmax(wanted / T) || softmax(outputs / T))``, mean over samples and places.

    Args:
        outputs: The student's logits ``[N, classes, ...]``.
        wanted: The teacher's.
        temperature: T.

    Raises:
        ConfigError: If the teacher has another number of outputs.
    """
    require_same_shape(outputs, wanted)
    student = nn.functional.log_softmax(outputs / temperature, 1)
    teacher = nn.functional.log_softmax(wanted / temperature, 1)
    places = max(1, outputs[0, 0].numel()) if len(outputs) else 1
    divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (divergence if places == 1 else divergence / places) * temperature**2


def on_device(targets: Any, device: torch.device) -> Any:
    """Targets on the device that a network runs on, whatever they are wrapped in."""
    return _pytree.tree_map_only(Tensor, lambda each: each.to(device), targets)


def projected(outputs: Tensor) -> Tensor:
    """``sum_j r_j y_j`` per sample with random signs r, the same for every batch: ``[N]``.

    The distance to one's own outputs has its least value at the start, and no gradient there. What removing a unit with
    the activations ``a`` does to it is ``||J a||**2`` to the second order, J the outputs' derivative; and with random
    signs the mean of ``(r^T J a)**2`` is just that (Hutchinson 1990, "A stochastic estimator of the trace of the
    influence matrix", equation 2.1). Deviation: criteria add ``r^T J a`` over the samples of a batch before they take
    its size, whose signs are drawn for each place in the batch.

    Args:
        outputs: ``[N, ...]``.
    """
    generator = torch.Generator().manual_seed(len(outputs))
    signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs.device, outputs.dtype) * 2 - 1
    return (outputs * signs).flatten(1).sum(1)
