"""Numbers to predict, in their own units outside and standardised where they are learned.

Adam moves every weight by about the learning rate in a step, whatever the loss: targets in the hundreds are out of the
reach of a head that begins near zero. So training sees ``(y - mean) / std`` per column, and the last layer of what is
kept has the units in it: ``W' = W std``, ``b' = b std + mean``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from edgespa.graph.surgery import head_tensors
from edgespa.tasks.base import Base

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The units of numbers to predict.

    Attributes:
        mean: Of the training data, ``[K]``; zero where the last layer has no bias to take it up.
        std: ``[K]``; one for a column that is constant.
        weight: Name of the last layer's weight ``[K, in]``.
        bias: Name of its bias ``[K]``, if it has one.
    """

    mean: Tensor
    std: Tensor
    weight: str
    bias: str | None

    @classmethod
    def of(cls, targets: Tensor, base: Base) -> Units:
        """The units of some training data.

        Args:
            targets: ``[N, K]``.
            base: Ends in a linear layer.
        """
        weight, *biases = head_tensors(base.program)
        wide = targets.double()
        mean = wide.mean(0) if biases else torch.zeros(wide.shape[1], dtype=torch.float64)
        std = (wide - mean).square().mean(0).sqrt()
        if not biases:
            log.warning("the last layer of %s has no bias: targets are scaled, but not centred", base.spec)
        std = torch.where(std > 1e-6 * wide.abs().amax(0), std, 1.0)  # of a constant rounding is left
        return cls(mean.float(), std.float(), weight, biases[0] if biases else None)

    def standard(self, values: Tensor) -> Tensor:
        """Numbers as training sees them.

        Args:
            values: ``[N, K]``.
        """
        return (values - self.mean.to(values.device)) / self.std.to(values.device)

    def raw(self, values: Tensor) -> Tensor:
        """The inverse of `standard`."""
        return values * self.std.to(values.device) + self.mean.to(values.device)

    def inside(self, base: Base) -> Base:
        """The base with a last layer that gives standardised numbers, if it has one for these numbers at all."""
        if base.outputs() != len(self.std):
            return base
        state = base.program.state()
        return base.with_state(self.tensors_inside({name: state[name] for name in self._names}))

    def tensors_inside(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of which the last layer's give standardised numbers, where they gave them in their own units.

        Args:
            tensors: By name; others than the last layer's stay as they are.
        """
        return self._changed(tensors, 1 / self.std.double(), -self.mean.double() / self.std.double())

    def tensors_outside(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `tensors_inside`."""
        return self._changed(tensors, self.std.double(), self.mean.double())

    def record(self) -> dict[str, list[float]]:
        """Mean and std as plain values."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @property
    def _names(self) -> list[str]:
        return [self.weight, *([self.bias] if self.bias is not None else [])]

    def _changed(self, tensors: Mapping[str, Tensor], scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
        changed = dict(tensors)
        for name in self._names:
            if name in tensors:
                own = tensors[name].double()
                value = own * scale[:, None] if name == self.weight else own * scale + shift
                changed[name] = value.to(tensors[name].dtype)
        return changed
