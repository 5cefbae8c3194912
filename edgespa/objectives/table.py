"""One of several classes, any of several labels, or numbers: one row of a table for each image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.errors import DataError
from edgespa.models.interface import output_tensors
from edgespa.objectives.base import Objective, require_same_shape, shapes_of, softened
from edgespa.objectives.measures import ACCURACY, R2
from edgespa.selection.relevance import begun_at

if TYPE_CHECKING:
    from edgespa.data import Prepared


class _Table(Objective):
    """Outputs ``[N, K]``, of several tensors the first: a number per class, or per column of targets."""

    answers = "table"

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Tensor:
        """See `Objective.take`: ``[N, K]``."""
        found = output_tensors(output)
        if data is None and found:
            return found[0]
        assert data is not None
        wanted = len(data.classes)
        flat = bool(found) and found[0].dim() == 2
        more = self.name == "classes" and not own  # it may know more of them
        if flat and (found[0].shape[1] == wanted or (more and found[0].shape[1] > wanted)):
            return found[0]
        what = "classes" if self.name == "classes" else f"columns of {self.name} targets"
        others = f"give data of the network's own {what}, or leave them out"
        none = "leave labelled data out: outputs other than [N, K], such as boxes and maps, have no accuracy here"
        raise DataError(
            f"the network gives {shapes_of(output)}, and {data.name} has {wanted} {what}: they cannot be compared",
            others if flat else none,
        )


class Classes(_Table):
    """One of several classes: cross-entropy; the share that is right."""

    name = "classes"
    measures = (ACCURACY,)
    smooths = weighs = True

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`."""
        return nn.functional.cross_entropy(outputs, targets, weight=weights, label_smoothing=smoothing)

    def mass(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: samples, or the weights of their classes."""
        return float(len(targets)) if weights is None else float(weights[targets].sum())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A mark and the number of samples."""
        return _counted((outputs.argmax(1) == targets).sum(), len(targets))

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        return (_mean(sums),)

    def blind(self, sums: Tensor, table: Tensor | None) -> float | None:
        """See `Objective.blind`."""
        return None if table is None else float(torch.bincount(table).max()) / len(table)

    def guess(self, targets: Tensor, outputs: int) -> float:
        """See `Objective.guess`."""
        return math.log(outputs)

    def relevance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.relevance`: 1 at each sample's class."""
        return begun_at(outputs.gather(1, targets[:, None]))

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`."""
        return softened(outputs, wanted, temperature)


class MultiLabel(_Table):
    """Any of several labels: binary cross-entropy; the share of decisions that are right, above 0 being yes."""

    name = "multi-label"
    measures = (ACCURACY,)
    smooths = weighs = True

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`."""
        wanted = targets * (1 - smoothing) + 0.5 * smoothing if smoothing else targets
        return nn.functional.binary_cross_entropy_with_logits(outputs, wanted, pos_weight=weights)

    def mass(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: decisions."""
        return float(targets.numel())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A mark and the number of samples."""
        return _counted(((outputs > 0) == (targets > 0.5)).double().mean(1).sum(), len(targets))

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        return (_mean(sums),)

    def blind(self, sums: Tensor, table: Tensor | None) -> float | None:
        """See `Objective.blind`."""
        if table is None:
            return None
        yes = (table > 0.5).double().mean(0)
        return float(torch.maximum(yes, 1 - yes).mean())

    def guess(self, targets: Tensor, outputs: int) -> float:
        """See `Objective.guess`."""
        return math.log(2)

    def relevance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.relevance`: 1 at each label that a sample has."""
        return begun_at(outputs[targets > 0.5])

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`."""
        require_same_shape(outputs, wanted)
        yes = torch.sigmoid(wanted / temperature)
        return nn.functional.binary_cross_entropy_with_logits(outputs / temperature, yes) * temperature**2


class Regression(_Table):
    """Numbers: squared error; the coefficient of determination, each column about its own mean."""

    name = "regression"
    measures = (R2,)
    standardised = True

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`."""
        return nn.functional.mse_loss(outputs, targets)

    def mass(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: numbers."""
        return float(targets.numel())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A mark and the number of samples."""
        return _counted((outputs.double() - targets.double()).square().sum(), len(targets))

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        assert table is not None  # its answers are one
        spread = float((table.double() - table.double().mean(0)).square().sum())
        return (1 - float(sums[0]) / max(spread, 1e-30),)

    def blind(self, sums: Tensor, table: Tensor | None) -> float:
        """See `Objective.blind`."""
        return 0.0

    def guess(self, targets: Tensor, outputs: int) -> float:
        """See `Objective.guess`."""
        return float((targets - targets.mean(0)).square().mean())

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`."""
        require_same_shape(outputs, wanted)
        return nn.functional.mse_loss(outputs, wanted)


def _counted(mark: Tensor, count: int) -> Tensor:
    return torch.stack([mark.double(), torch.tensor(float(count), dtype=torch.float64, device=mark.device)])


def _mean(sums: Tensor) -> float:
    return float(sums[0]) / float(sums[1])
