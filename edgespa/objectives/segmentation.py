"""A class for each pixel: cross-entropy over pixels, the mean intersection over union, and the share that is right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.data.answers import IGNORED
from edgespa.errors import DataError
from edgespa.objectives.base import Objective, first_tensor, shapes_of, softened
from edgespa.objectives.measures import MIOU, PIXEL_ACCURACY
from edgespa.selection.relevance import begun_at

if TYPE_CHECKING:
    from edgespa.data import Prepared


class Segmentation(Objective):
    """Outputs ``[N, classes, h, w]``, of several tensors the first; targets ``[N, H, W]`` of class indices.

    Scores of another size than the masks are resized to them (bilinear), as the networks' authors do. Pixels of the
    index `edgespa.data.answers.IGNORED` count nowhere. The mean intersection over union is over the classes that are
    in the masks or in the answers (Everingham et al. 2015, section 3.5, with all images as one).
    """

    name = "segmentation"
    answers = "masks"
    measures = (MIOU, PIXEL_ACCURACY)
    smooths = weighs = True

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Tensor:
        """See `Objective.take`: ``[N, classes, h, w]``."""
        scores = first_tensor(output)
        if data is None or (scores.dim() == 4 and scores.shape[1] == len(data.classes)):
            return scores
        raise DataError(
            f"the network gives {shapes_of(output)}, and {data.name} has masks of {len(data.classes)} classes: they "
            "cannot be compared",
            "give a network with a map of scores for each class, [N, classes, height, width]",
        )

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`: a mean over pixels."""
        if not bool((targets != IGNORED).any()):
            return outputs.sum() * 0.0  # a mean over nothing is no number
        return nn.functional.cross_entropy(
            _resized(outputs, targets), targets, weight=weights, ignore_index=IGNORED, label_smoothing=smoothing
        )

    def mass(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: pixels, or the weights of their classes."""
        counted = targets[targets != IGNORED]
        return float(counted.numel()) if weights is None else float(weights[counted].sum())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The confusion matrix, row by row: ``[true class, answer]`` over pixels."""
        classes = outputs.shape[1]
        answers = _resized(outputs, targets).argmax(1)
        known = targets != IGNORED
        pairs = targets[known] * classes + answers[known]
        return torch.bincount(pairs, minlength=classes * classes).double()

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        counts = _square(sums)
        return _mean_iou(counts), float(counts.diagonal().sum() / counts.sum().clamp(min=1))

    def blind(self, sums: Tensor, table: Tensor | None) -> float:
        """Of the class that most pixels have."""
        true = _square(sums).sum(1)
        answers = torch.zeros_like(_square(sums))
        answers[:, int(true.argmax())] = true
        return _mean_iou(answers)

    def guess(self, targets: Tensor, outputs: int) -> float:
        """See `Objective.guess`."""
        return math.log(outputs)

    def relevance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.relevance`: 1 at each pixel's class."""
        known = targets != IGNORED
        chosen = _resized(outputs, targets).gather(1, targets.where(known, 0)[:, None])[:, 0]
        return begun_at(chosen[known])

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`: a mean over pixels."""
        return softened(outputs, wanted, temperature)


def _resized(scores: Tensor, targets: Tensor) -> Tensor:
    if scores.shape[2:] == targets.shape[1:]:
        return scores
    return nn.functional.interpolate(scores, targets.shape[1:], mode="bilinear", align_corners=False)


def _square(sums: Tensor) -> Tensor:
    size = math.isqrt(sums.numel())
    return sums.reshape(size, size)


def _mean_iou(counts: Tensor) -> float:
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    present = either > 0
    return float((both[present] / either[present]).mean()) if bool(present.any()) else 0.0
