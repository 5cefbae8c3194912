"""What every adapter is: one object per tensor that makes the task's weight from the frozen one."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from edgespa.errors import AdapterError


class Adapter(nn.Module, abc.ABC):
    """A change of one frozen weight: ``weight_task = weight + delta()``.

    An adapter never sees more than its own tensor, so it can be sliced with it: when units are removed, its factors
    lose the same rows and columns.

    Class attributes:
        kind: Its name in task files and on the command line.
    """

    kind: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def for_weight(cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator) -> Self | None:
        """A fresh adapter for a weight, or None if it would not be smaller than the weight.

        Args:
            weight: ``[out, in, ...]``, frozen.
            options: The kind's own options, such as the rank.
            generator: For the initial values, so that they do not depend on global state.
        """

    @classmethod
    @abc.abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], options: Mapping[str, Any], shape: tuple[int, ...]) -> Self:
        """The adapter that `tensors` was taken from.

        Raises:
            AdapterError: If tensors are missing or do not fit the shape.
        """

    @abc.abstractmethod
    def delta(self) -> Tensor:
        """The change, in the shape of the weight."""

    @abc.abstractmethod
    def sliced(self, dim: int, indices: Tensor) -> Self:
        """The adapter of the weight that keeps some indices along a dimension.

        Args:
            dim: Dimension of the weight.
            indices: ``[kept]``, ascending.
        """

    def forward(self, weight: Tensor) -> Tensor:
        """The task's weight."""
        return weight + self.delta().to(weight.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        """``weight + delta`` computed in float32 or wider, in the weight's dtype.

        Raises:
            AdapterError: If a value is not finite.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        result = (weight.detach().to(wide) + self.delta().detach().to(wide)).to(weight.dtype)
        if not torch.isfinite(result).all():
            raise AdapterError(
                "merging an adapter gives values that are not finite", "train with a lower learning rate (--lr)"
            )
        return result

    def tensors(self) -> dict[str, Tensor]:
        """What has to be stored."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def size(self) -> int:
        """Stored elements."""
        return sum(tensor.numel() for tensor in self.tensors().values())
