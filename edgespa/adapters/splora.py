"""SPLoRA: a structured pruning low-rank adapter.

Hedegaard, Alok, Jose, Iosifidis: Structured Pruning Adapters, 2022, https://arxiv.org/abs/2211.10155, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgespa.adapters.base import Adapter
from edgespa.errors import AdapterError

UP_BOUND = 1e-4
KERNELS = ("centre", "full")


class SPLoRA(Adapter):
    """``delta = up @ down`` (eq. 6), ``up: [out, r]``, ``down: [r, in]``.

    Rows of ``up`` and columns of ``down`` go with the channels (eq. 7); the rank never does. For a convolution weight
    ``[out, in / groups, kH, kW]`` the published form adds the product to the centre tap of the kernel
    (``kernel="centre"``; index ``k // 2`` for even kernels); ``kernel="full"`` gives every tap its own column,
    ``down: [r, in / groups * kH * kW]``.

    Initial values: ``down`` Kaiming-uniform, ``up`` uniform in +-1e-4, so that training starts near the base.
    Deviation from the published code: the adapter is sliced with the weight, so removed channels cannot come back.
    """

    kind = "splora"

    def __init__(self, up: Tensor, down: Tensor, shape: tuple[int, ...], kernel: str) -> None:
        super().__init__()
        self.up = nn.Parameter(up)
        self.down = nn.Parameter(down)
        self.shape = tuple(shape)
        self.kernel = kernel

    @classmethod
    def for_weight(cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator) -> Self | None:
        """See `Adapter.for_weight`. Options: ``rank`` (an upper bound) and ``kernel``.

        The rank is capped at the lesser side of the factors' product, above which it adds nothing, and where the
        factors would hold as many elements as the weight. A weight with a single column,
        as that of a depthwise convolution, has nothing of low rank and gets none.
        """
        kernel = str(options["kernel"])
        if kernel not in KERNELS:
            raise AdapterError(f"unknown SPLoRA kernel '{kernel}'", f"choose one of: {', '.join(KERNELS)}")
        if weight.dim() < 2 or weight.shape[1] == 1:
            return None
        out, columns = weight.shape[0], _columns(tuple(weight.shape), kernel)
        rank = min(int(options["rank"]), out, columns, (weight.numel() - 1) // (out + columns))
        if rank < 1:
            return None
        bound = 1 / math.sqrt(columns)  # Kaiming-uniform with a = sqrt(5), as torch initialises a linear layer
        down = _uniform((rank, columns), bound, weight, generator)
        up = _uniform((out, rank), UP_BOUND, weight, generator)
        return cls(up, down, tuple(weight.shape), kernel)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], options: Mapping[str, Any], shape: tuple[int, ...]) -> Self:
        """See `Adapter.from_tensors`."""
        kernel = str(options.get("kernel", "centre"))
        up, down = tensors.get("up"), tensors.get("down")
        if up is None or down is None:
            raise AdapterError("a SPLoRA adapter needs the tensors 'up' and 'down'")
        if kernel not in KERNELS:
            raise AdapterError(f"unknown SPLoRA kernel '{kernel}'", "update edgespa")
        fits = len(shape) >= 2 and up.dim() == 2 and up.is_floating_point() and up.dtype == down.dtype
        if not fits or up.shape[0] != shape[0] or down.shape != (up.shape[1], _columns(shape, kernel)):
            raise AdapterError(
                f"SPLoRA factors {tuple(up.shape)} and {tuple(down.shape)} do not fit a weight of shape {shape}"
            )
        return cls(up, down, shape, kernel)

    def delta(self) -> Tensor:
        """See `Adapter.delta`."""
        product = self.up @ self.down
        if self.kernel == "full" or len(self.shape) == 2:
            return product.reshape(self.shape)
        space = self.shape[2:]
        product = product.reshape(*self.shape[:2], *(1 for _ in space))
        padding = [amount for size in reversed(space) for amount in (size // 2, size - 1 - size // 2)]
        return nn.functional.pad(product, padding) if any(padding) else product

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """See `Adapter.sliced`."""
        shape = list(self.shape)
        shape[dim] = len(indices)
        up, down = self.up.detach(), self.down.detach()
        if dim == 0:
            up = up.index_select(0, indices)
        elif dim == 1:
            grid = down.reshape(down.shape[0], self.shape[1], -1)
            down = grid.index_select(1, indices).reshape(down.shape[0], -1)
        else:
            raise AdapterError(f"a SPLoRA adapter cannot be sliced along kernel dimension {dim}")
        return type(self)(up, down, tuple(shape), self.kernel)


def _columns(shape: tuple[int, ...], kernel: str) -> int:
    return math.prod(shape[1:]) if kernel == "full" else shape[1]


def _uniform(shape: tuple[int, int], bound: float, like: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.rand(shape, generator=generator, dtype=torch.float32) * 2 - 1
    return (values * bound).to(device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
