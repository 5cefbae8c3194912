"""RepAdapter: a linear adapter before a layer, re-parameterised into it.

Luo et al.: Towards Efficient Visual Adaption via Structural Re-parameterization, 2023,
https://arxiv.org/abs/2302.08106, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgespa.adapters.base import PLAIN, Adapter, Place, Tensors, uniform
from edgespa.errors import AdapterError


class RepAdapter(Adapter):
    """``W (x + s * up @ down @ x)`` (eq. 6 and 7), hence ``W_task = W + s * W @ up @ down``, ``down: [r, n]``.

    ``n`` are the input channels. ``up`` is group-wise (eq. 5): with g groups it is block-diagonal, so only
    ``[n, r / g]`` are stored; channel j belongs to the block ``j * g // n``, and keeps it when others are removed
    (``block``, present where g > 1). ``up`` starts at zero, ``down`` Kaiming-uniform. Before a convolution the adapter
    is a 1 x 1 convolution, and the sum runs over input channels at every tap, which is exact at padded borders because
    it has no biases.

    Deviations: no biases (their effect is ``W`` times a constant, which the layer's own trained bias covers); one
    adapter per weight, where the paper puts one before several projections of the same input. When an input channel is
    removed, its row of ``up`` and its column of ``down`` go, so the adapter neither reads nor writes it.
    """

    kind = "repadapter"
    defaults = MappingProxyType({"rank": 8, "scale": 1.0, "groups": 2})
    default_lr = 2e-2
    unfit = "frozen"

    def __init__(self, up: Tensor, down: Tensor, block: Tensor | None, scale: float, in_dim: int) -> None:
        super().__init__()
        self.up = nn.Parameter(up)
        self.down = nn.Parameter(down)
        self.block: Tensor | None
        self.register_buffer("block", block)
        self.scale = scale
        self.in_dim = in_dim

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See `Adapter.check_options`."""
        rank, groups = int(options.get("rank", 8)), int(options.get("groups", 1))
        if rank < 1 or groups < 1 or rank % groups:
            raise AdapterError(
                f"a RepAdapter of rank {rank} cannot have {groups} groups",
                "give a rank that is a multiple of the groups: --rank 8 --adapter-option groups=2",
            )

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Self | None:
        """See `Adapter.for_weight`. A layer that is smaller than its adapter, or grouped, gets none."""
        cls.check_options(options)
        if place.operator == "embedding" or place.groups > 1 or weight.dim() < 2:
            return None
        rank, groups, count = int(options["rank"]), int(options["groups"]), weight.shape[place.in_dim]
        if count < groups or count * (rank + rank // groups) >= weight.numel():
            return None
        down = uniform((rank, count), 1 / math.sqrt(count), weight, generator)
        block = (torch.arange(count) * groups // count).to(device=weight.device, dtype=torch.uint8)
        up = torch.zeros(count, rank // groups, dtype=down.dtype, device=weight.device)
        return cls(up, down, block if groups > 1 else None, float(options["scale"]), place.in_dim)

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Self:
        """See `Adapter.from_tensors`."""
        up, down, block = tensors.get("up"), tensors.get("down"), tensors.get("block")
        if up is None or down is None:
            raise AdapterError("a RepAdapter needs the tensors 'up' and 'down'")
        count = shape[place.in_dim] if len(shape) >= 2 else -1
        fits = up.dim() == down.dim() == 2 and up.is_floating_point() and up.dtype == down.dtype
        fits = fits and up.shape[0] == down.shape[1] == count and down.shape[0] % max(up.shape[1], 1) == 0
        groups = down.shape[0] // max(up.shape[1], 1) if fits else 0
        if groups > 1:
            fits = block is not None and tuple(block.shape) == (count,) and not block.is_floating_point()
            fits = fits and (not count or int(torch.as_tensor(block).max()) < groups)
        if not fits:
            raise AdapterError(
                f"RepAdapter factors {tuple(up.shape)} and {tuple(down.shape)} do not fit a weight of shape {shape}"
            )
        scale = float(options.get("scale", cls.defaults["scale"]))
        return cls(up, down, block if groups > 1 else None, scale, place.in_dim)

    def changed(self, weight: Tensor) -> Tensor:
        """See `Adapter.changed`."""
        wide = weight.to(self.up.dtype).movedim(self.in_dim, -1)
        change = (wide @ self._whole_up()) @ self.down * self.scale
        return weight + change.movedim(-1, self.in_dim).to(weight.dtype)

    def _whole_up(self) -> Tensor:
        """``up`` with the zeros of its blocks, ``[n, r]``."""
        if self.block is None:
            return self.up
        groups = self.down.shape[0] // self.up.shape[1]
        own = nn.functional.one_hot(self.block.long(), groups).to(self.up.dtype)
        return (own[:, :, None] * self.up[:, None, :]).flatten(1)

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """See `Adapter.sliced`: only input channels matter."""
        up, down, block = self.up.detach(), self.down.detach(), self.block
        if dim == self.in_dim:
            up, down = up.index_select(0, indices), down.index_select(1, indices)
            block = None if block is None else block.index_select(0, indices)
        return type(self)(up, down, block, self.scale, self.in_dim)
