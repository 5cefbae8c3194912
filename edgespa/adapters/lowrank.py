"""The product of two factors as a change of a weight: what SPLoRA and LoRA have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from edgespa.adapters.base import PLAIN, AdditiveAdapter, Place, Tensors, require_choice, uniform
from edgespa.errors import AdapterError

KERNELS = ("centre", "full")


class LowRank(AdditiveAdapter):
    """``delta = scale * up @ down``, ``up: [n0, r]``, ``down: [r, n1]``, for a weight ``[n0, n1, ...]``.

    Rows of ``up`` go with indices of the weight's first dimension, columns of ``down`` with those of the second; the
    rank never shrinks. Which of the two is the output does not matter: a transposed convolution's weight is
    ``[in, out / groups, kH, kW]``, a matrix that is multiplied from the right ``[in, out]``. In a grouped convolution
    the second dimension is that of one group, and the groups share ``down``.

    With kernel taps ``[n0, n1, kH, kW]`` the product is added to the *centre tap* (``kernel="centre"``; index
    ``k // 2`` for even kernels), or every tap has its own column (``kernel="full"``), ``down: [r, n1 * kH * kW]``.

    ``down`` starts Kaiming-uniform, ``up`` uniform in +- `up_bound`, so that training starts at the base.

    As channels go, the factors may come to hold more than the product that they make. A task then keeps the product
    (`settled`): there is no ``up``, and ``down: [n0, n1]`` or ``[n0, n1 * kH * kW]`` is the change itself. That is a
    deviation from the published form, which stores both factors at any width.
    """

    up_bound: ClassVar[float] = 0.0

    def __init__(
        self, up: Tensor | None, down: Tensor, shape: tuple[int, ...], kernel: str, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.up = nn.Parameter(up) if up is not None else None
        self.down = nn.Parameter(down)
        self.shape = tuple(shape)
        self.kernel = kernel
        self.scale = scale

    @classmethod
    def kernel_of(cls, options: Mapping[str, Any]) -> str:
        """The kernel form that the options ask for."""
        return str(options.get("kernel", cls.defaults.get("kernel", "full")))

    @classmethod
    def scale_of(cls, options: Mapping[str, Any], rank: int) -> float:
        """What the product is multiplied by."""
        return 1.0

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        require_choice(f"{cls.__name__} kernel", cls.kernel_of(options), KERNELS)
        if int(options.get("rank", 1)) < 1:
            raise AdapterError(f"the rank must be at least 1, got {options['rank']}", "give a larger --rank")

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Self | None:
        """See `Adapter.for_weight`. ``rank`` is an upper bound.

        The rank is capped at the lesser side of the factors' product, above which it adds nothing, and where the
        factors would hold as many elements as the weight. A weight with a single column,
        as that of a depthwise convolution, has nothing of low rank and gets none.
        """
        cls.check_options(options)
        kernel = cls.kernel_of(options)
        if weight.dim() < 2 or weight.shape[1] == 1:
            return None
        rows, columns = weight.shape[0], _columns(tuple(weight.shape), kernel)
        rank = min(int(options["rank"]), rows, columns, (weight.numel() - 1) // (rows + columns))
        if rank < 1:
            return None
        # Kaiming-uniform with a = sqrt(5), as torch initialises a linear layer
        down = uniform((rank, columns), 1 / math.sqrt(columns), weight, generator)
        up = uniform((rows, rank), cls.up_bound, weight, generator)
        return cls(up, down, tuple(weight.shape), kernel, cls.scale_of(options, rank))

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Self:
        """See `Adapter.from_tensors`."""
        name, kernel = cls.__name__, cls.kernel_of(options)
        up, down = tensors.get("up"), tensors.get("down")
        if down is None:
            raise AdapterError(f"a {name} adapter needs the tensor 'down', and 'up' unless 'down' is their product")
        if kernel not in KERNELS:
            raise AdapterError(f"unknown {name} kernel '{kernel}'", "update edgespa")
        given = [factor for factor in (up, down) if factor is not None]
        fits = len(shape) >= 2 and all(
            each.dim() == 2 and each.is_floating_point() and each.dtype == down.dtype for each in given
        )
        rank = shape[0] if up is None or not fits else up.shape[1]
        if not fits or given[0].shape[0] != shape[0] or down.shape != (rank, _columns(shape, kernel)):
            sizes = " and ".join(str(tuple(factor.shape)) for factor in given)
            raise AdapterError(f"{name} factors {sizes} do not fit a weight of shape {shape}")
        return cls(up, down, shape, kernel, cls.scale_of(options, rank) if up is not None else 1.0)

    def delta(self) -> Tensor:
        """See `AdditiveAdapter.delta`."""
        product = self._product()
        if self.kernel == "full" or len(self.shape) == 2:
            return product.reshape(self.shape)
        return at_centre(product.reshape(*self.shape[:2], *(1 for _ in self.shape[2:])), self.shape[2:])

    def _product(self) -> Tensor:
        if self.up is None:
            return self.down
        product = self.up @ self.down
        return product if self.scale == 1.0 else product * self.scale

    def settled(self) -> Self:
        """See `Adapter.settled`: the product, where it has fewer elements than the factors."""
        if self.up is None or self.up.shape[0] * self.down.shape[1] >= self.up.numel() + self.down.numel():
            return self
        return type(self)(None, self._product().detach(), self.shape, self.kernel)

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """See `Adapter.sliced`."""
        shape = list(self.shape)
        shape[dim] = len(indices)
        up, down = self.up.detach() if self.up is not None else None, self.down.detach()
        if dim == 0 and up is not None:
            up = up.index_select(0, indices)
        elif dim == 0:
            down = down.index_select(0, indices)
        elif dim == 1:
            grid = down.reshape(down.shape[0], self.shape[1], -1)
            down = grid.index_select(1, indices).reshape(down.shape[0], -1)
        else:
            raise AdapterError(f"a {type(self).__name__} adapter cannot be sliced along kernel dimension {dim}")
        return type(self)(up, down, tuple(shape), self.kernel, self.scale)


def at_centre(values: Tensor, space: tuple[int, ...]) -> Tensor:
    """Values of one tap, ``[n0, n1, 1, ...]``, at the centre of a kernel that is zero elsewhere."""
    padding = [amount for size in reversed(space) for amount in (size // 2, size - 1 - size // 2)]
    return nn.functional.pad(values, padding) if any(padding) else values


def _columns(shape: tuple[int, ...], kernel: str) -> int:
    return math.prod(shape[1:]) if kernel == "full" else shape[1]
