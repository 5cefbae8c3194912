"""To see alike what the base sees alike: an embedding that points where the base's own does, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.errors import DataError
from edgespa.objectives.base import Objective, first_tensor, projected, shapes_of
from edgespa.objectives.measures import COSINE

if TYPE_CHECKING:
    from edgespa.data import Prepared


class Embedding(Objective):
    """Outputs ``[N, D]``, of several tensors the first; targets the base's own. The loss is 1 - cosine."""

    name = "embedding"
    answers = "none"
    measures = (COSINE,)
    of_base = True

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Tensor:
        """See `Objective.take`: ``[N, D]``."""
        found = first_tensor(output)
        if found.dim() != 2 or found.shape[1] < 2 or not found.is_floating_point():
            raise DataError(
                f"the network gives {shapes_of(output)}: no embedding, [N, numbers]",
                "take the objective match, which takes any outputs, or give a model whose first output is an embedding",
            )
        return found

    def wanted(self, outputs: Tensor, some: Tensor) -> Tensor:
        """See `Objective.wanted`."""
        return outputs.detach()

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`."""
        return (1 - nn.functional.cosine_similarity(outputs, targets, dim=1)).mean()

    def scored(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.scored`: `projected`, of the direction."""
        return projected(nn.functional.normalize(outputs, dim=1)).mean()

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cosines and the number of samples."""
        found = nn.functional.cosine_similarity(outputs.double(), targets.double(), dim=1)
        return torch.stack([found.sum(), found.new_tensor(float(len(found)))])

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        return (float(sums[0] / sums[1]),)
