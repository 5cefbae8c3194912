"""To give what the base gives: every output like the base's own, for any network, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.errors import DataError
from edgespa.graph.inner import Beside, picked
from edgespa.models.interface import output_tensors
from edgespa.objectives.base import Objective, projected, shapes_of
from edgespa.objectives.measures import AGREEMENT, ERROR, Measure

if TYPE_CHECKING:
    from edgespa.data import Prepared

_LEAST = 1e-12


class Match(Objective):
    """Outputs: all floating-point tensors that the network gives. Targets: ``{"outputs": the base's, "scales": ...}``.

    The loss is, per sample, the sum over outputs of ``mean((y - t)**2) / mean(t**2)``, the latter over some of the data
    and the same for every batch; and of each output that is a list, ``[N, K]``, ``KL(softmax(t) || softmax(y))``
    besides: of scores it is what decides, of other numbers it is least at the same place. The relative error is the
    mean over outputs of ``sqrt(sum((y - t)**2) / sum(t**2))``, over all samples.

    With streams, inner values of both networks come behind the outputs, and each adds a term as an output's, at the
    units that both have. They are no part of the measures.

    Args:
        streams: Inner values of a cut network and of the base that it was cut from, see `edgespa.graph.inner`.
        scores: How much the KL counts. What few samples say of scores is soon learned by heart.
        agreement: The first output is a list ``[N, K]``, of which it is measured, too, how often its largest number is
            at the same place.
    """

    name = "match"
    answers = "none"
    measures: tuple[Measure, ...] = (ERROR,)  # type: ignore[misc]
    of_base = True

    def __init__(self, streams: Sequence[Beside] = (), *, scores: float = 1.0, agreement: bool = False) -> None:
        self.streams = tuple(streams)
        self.scores = scores
        self.measures = (ERROR, AGREEMENT) if agreement else (ERROR,)

    @property
    def inner(self) -> tuple[str, ...]:
        """See `Objective.inner`."""
        return tuple(each.ours for each in self.streams)

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> list[Tensor]:
        """See `Objective.take`: the tensors that hold numbers."""
        found = [each for each in output_tensors(output) if each.is_floating_point() and each.dim()]
        if not found:
            raise DataError(
                f"the network gives {shapes_of(output)}: no numbers that could be matched",
                "give a model that returns scores, maps or features",
            )
        return found

    def of_some(self, some: list[Tensor]) -> list[Tensor]:
        """See `Objective.of_some`: per output ``mean(t**2)``."""
        return [each.square().mean().clamp(min=_LEAST) for each in self._at_units(some)]

    def wanted(self, outputs: list[Tensor], some: list[Tensor]) -> dict[str, list[Tensor]]:
        """See `Objective.wanted`."""
        return {"outputs": [each.detach() for each in self._at_units(outputs)], "scales": some}

    def loss(
        self, outputs: list[Tensor], targets: Any, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """See `Objective.loss`."""
        own, inner = self._parted(outputs)
        inner = [picked(each, stream.of_ours) for each, stream in zip(inner, self.streams, strict=True)]
        terms = [
            (given - wanted).square().mean() / scale
            for given, wanted, scale in zip([*own, *inner], targets["outputs"], targets["scales"], strict=True)
        ]
        for given, wanted in zip(own, targets["outputs"], strict=False):
            if given.dim() == 2 and given.shape[1] > 1:
                given, wanted = (nn.functional.log_softmax(each, 1) for each in (given, wanted))
                terms.append(self.scores * nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True))
        return torch.stack(terms).sum()

    def _parted(self, values: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs, and inner values."""
        count = len(values) - len(self.streams)
        return values[:count], values[count:]

    def _at_units(self, values: list[Tensor]) -> list[Tensor]:
        """What the base gives, its inner values at the units that the cut network has too."""
        own, inner = self._parted(values)
        return [*own, *(picked(each, stream.of_theirs) for each, stream in zip(inner, self.streams, strict=True))]

    def mass(self, targets: Any, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: samples."""
        return float(len(targets["outputs"][0]))

    def scored(self, outputs: list[Tensor], targets: Any) -> Tensor:
        """See `Objective.scored`: `projected`, each output on its scale."""
        terms = [
            projected(own).mean() / (scale * max(1, own[0].numel())).sqrt()
            for own, scale in zip(self._parted(outputs)[0], targets["scales"], strict=False)
        ]
        return torch.stack(terms).sum()

    def sums(self, outputs: list[Tensor], targets: Any) -> Tensor:
        """Of each output the squared error and the squares of what is wanted; then samples that agree, and all."""
        found = []
        plain, rights = self._parted(outputs)[0], self._parted(targets["outputs"])[0]
        for own, wanted in zip(plain, rights, strict=True):
            if own.shape != wanted.shape:
                raise DataError(
                    f"an output is {list(own.shape)}, and the base's {list(wanted.shape)}",
                    "match a network whose outputs all have the batch first, or leave out --objective match here",
                )
            found += [(own.double() - wanted.double()).square().sum(), wanted.double().square().sum()]
        if len(self.measures) > 1:
            same = plain[0].argmax(1) == rights[0].argmax(1)
            found += [same.double().sum(), same.new_tensor(len(same), dtype=torch.float64)]
        return torch.stack(found)

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        pairs = sums.reshape(-1, 2)
        of_outputs = pairs[:-1] if len(self.measures) > 1 else pairs
        error = float((of_outputs[:, 0] / of_outputs[:, 1].clamp(min=_LEAST)).sqrt().mean())
        return (error, float(pairs[-1, 0] / pairs[-1, 1])) if len(self.measures) > 1 else (error,)
