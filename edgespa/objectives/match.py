"""To give what the base gives: every output like the base's own, for any network, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.errors import DataError
from edgespa.models.interface import output_tensors
from edgespa.objectives.base import Objective, projected, shapes_of
from edgespa.objectives.measures import ERROR

if TYPE_CHECKING:
    from edgespa.data import Prepared

_LEAST = 1e-12


class Match(Objective):
    """Outputs: all floating-point tensors that the network gives. Targets: ``{"outputs": the base's, "scales": ...}``.

    The loss is, per sample, the sum over outputs of ``mean((y - t)**2) / mean(t**2)``, the latter over some of the data
    and the same for every batch; and of each output that is a list, ``[N, K]``, ``KL(softmax(t) || softmax(y))``
    besides: of scores it is what decides, of other numbers it is least at the same place. The relative error is the
    mean over outputs of ``sqrt(sum((y - t)**2) / sum(t**2))``, over all samples.
    """

    name = "match"
    answers = "none"
    measures = (ERROR,)
    of_base = True

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> list[Tensor]:
        """See `Objective.take`: the tensors that hold numbers."""
        found = [each for each in output_tensors(output) if each.is_floating_point() and each.dim()]
        if not found:
            raise DataError(
                f"the network gives {shapes_of(output)}: no numbers that could be matched",
                "give a model that returns scores, maps or features",
            )
        return found

    def wanted(self, outputs: list[Tensor], some: list[Tensor]) -> dict[str, list[Tensor]]:
        """See `Objective.wanted`: scales are per output ``mean(t**2)``."""
        scales = [each.square().mean().clamp(min=_LEAST) for each in some]
        return {"outputs": [each.detach() for each in outputs], "scales": scales}

    def loss(
        self, outputs: list[Tensor], targets: Any, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """See `Objective.loss`."""
        terms = []
        for own, wanted, scale in zip(outputs, targets["outputs"], targets["scales"], strict=True):
            terms.append((own - wanted).square().mean() / scale)
            if own.dim() == 2 and own.shape[1] > 1:
                own, wanted = (nn.functional.log_softmax(each, 1) for each in (own, wanted))
                terms.append(nn.functional.kl_div(own, wanted, reduction="batchmean", log_target=True))
        return torch.stack(terms).sum()

    def mass(self, targets: Any, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: samples."""
        return float(len(targets["outputs"][0]))

    def scored(self, outputs: list[Tensor], targets: Any) -> Tensor:
        """See `Objective.scored`: `projected`, each output on its scale."""
        terms = [
            projected(own).mean() / (scale * max(1, own[0].numel())).sqrt()
            for own, scale in zip(outputs, targets["scales"], strict=True)
        ]
        return torch.stack(terms).sum()

    def sums(self, outputs: list[Tensor], targets: Any) -> Tensor:
        """Of each output the squared error and the squares of what is wanted."""
        found = []
        for own, wanted in zip(outputs, targets["outputs"], strict=True):
            if own.shape != wanted.shape:
                raise DataError(
                    f"an output is {list(own.shape)}, and the base's {list(wanted.shape)}",
                    "match a network whose outputs all have the batch first, or leave out --objective match here",
                )
            found += [(own.double() - wanted.double()).square().sum(), wanted.double().square().sum()]
        return torch.stack(found)

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        pairs = sums.reshape(-1, 2)
        return (float((pairs[:, 0] / pairs[:, 1].clamp(min=_LEAST)).sqrt().mean()),)
