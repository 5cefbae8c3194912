"""What every adapter is: one object per tensor that makes the task's weight from the frozen one."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from edgespa.errors import AdapterError
from edgespa.graph.program import Program

Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a weight stands in its program.

    Attributes:
        operator: What contracts it: ``linear``, ``conv``, ``conv_transpose``, ``embedding`` or ``matmul``.
        out_dim: The dimension of the weight that becomes the output's channels.
        in_dim: The dimension that meets the input's channels.
        groups: Of a convolution.
        shared: Tensors that all adapters of one model have in common, see `Adapter.shared`.
        frozen: The weight of the base in full width, for kinds that look at filters which are gone.
    """

    operator: str = "linear"
    out_dim: int = 0
    in_dim: int = 1
    groups: int = 1
    shared: Mapping[str, nn.Parameter] = dataclasses.field(default_factory=dict)
    frozen: Tensor | None = None


PLAIN = Place()
"""A linear or convolution weight: ``[out, in, ...]``."""


class Adapter(nn.Module, abc.ABC):
    """A change of one frozen weight: ``weight_task = changed(weight)``, most often ``weight + delta``.

    An adapter never sees more than its own tensor, so it can be sliced with it: when units are removed, its factors
    lose the same rows and columns. The law, for indices K that are kept along a dimension:
    ``sliced(K).changed(weight[K]) = changed(weight with the rest set to zero)[K]``.

    A kind is added by an entry point of the group ``edgespa.adapters`` that names such a class.

    Class attributes:
        kind: Its name in task files and on the command line.
        defaults: Its own options, such as the rank, with their default values.
        default_lr: Peak learning rate of AdamW that has been found to be good.
        unfit: What happens to a layer that gets no adapter: trained directly, or left frozen.
    """

    kind: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    default_lr: ClassVar[float] = 1e-2
    unfit: ClassVar[Literal["trained", "frozen"]] = "trained"

    @classmethod
    @abc.abstractmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Adapter | None:
        """A fresh adapter for a weight, or None if it does not fit or would not be smaller than the weight.

        It may be one of another kind, where this one does not fit; `why_not` says why then.

        Args:
            weight: ``[out, in, ...]`` or as `place` says, frozen.
            options: The kind's own options, such as the rank.
            generator: For the initial values, so that they do not depend on global state.
            place: Where the weight stands.
        """

    @classmethod
    @abc.abstractmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Adapter:
        """The adapter that `tensors` was taken from.

        Raises:
            AdapterError: If tensors are missing or do not fit the shape.
        """

    @classmethod
    def why_not(cls, weight: Tensor, place: Place) -> str | None:
        """Why a weight has an adapter of another kind, in words; None if it has one of this kind.

        Args:
            weight: As for `for_weight`.
            place: Where it stands.
        """
        return None

    @abc.abstractmethod
    def sliced(self, dim: int, indices: Tensor) -> Self:
        """The adapter of the weight that keeps some indices along a dimension.

        Args:
            dim: Dimension of the weight.
            indices: ``[kept]``, ascending.
        """

    @abc.abstractmethod
    def changed(self, weight: Tensor) -> Tensor:
        """The task's weight, differentiable in the factors, in the shape of the weight.

        Args:
            weight: In the dtype to compute in.
        """

    @classmethod
    def shared(cls, options: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh tensors that all adapters of one model have in common; most kinds have none."""
        return {}

    @classmethod
    def extended(cls, program: Program, options: Mapping[str, Any]) -> Program:
        """The program with the operators that the kind inserts, in a state in which they change nothing.

        Depends on nothing but the arguments, so that base and options rebuild it. Most kinds insert nothing.

        Raises:
            AdapterError: If the program has no place for them.
        """
        return program

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse options that make no sense.

        Raises:
            AdapterError: It says which, and what is allowed.
        """

    def settled(self) -> Self:
        """The adapter as a task keeps it, without what only training needs."""
        return self

    def forward(self, weight: Tensor) -> Tensor:
        """The task's weight, in the weight's dtype."""
        return self.changed(weight).to(weight.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        """The task's weight computed in float32 or wider, in the weight's dtype.

        Raises:
            AdapterError: If a value is not finite.
        """
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            result = self.changed(weight.detach().to(wide)).to(weight.dtype)
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


class AdditiveAdapter(Adapter):
    """``weight_task = weight + delta()``, where the change does not depend on the weight."""

    @abc.abstractmethod
    def delta(self) -> Tensor:
        """The change, in the shape of the weight."""

    def changed(self, weight: Tensor) -> Tensor:
        """See `Adapter.changed`."""
        return weight + self.delta().to(weight.dtype)


def require_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the known ones.

    Raises:
        AdapterError: It says which are.
    """
    if value not in known:
        raise AdapterError(f"unknown {what} '{value}'", f"choose one of: {', '.join(known)}")


def uniform(shape: tuple[int, ...], bound: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform values in +-bound, in float32 or wider, on the device of another tensor."""
    values = torch.rand(shape, generator=generator, dtype=torch.float32) * 2 - 1
    return (values * bound).to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
