"""SSF: scaling and shifting the features.

Lian, Zhou, Feng, Wang: Scaling & Shifting Your Features, NeurIPS 2022, https://arxiv.org/abs/2210.08823, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgespa.adapters.base import PLAIN, Adapter, Place, Tensors
from edgespa.adapters.insertion import with_biases
from edgespa.errors import AdapterError
from edgespa.graph.program import Program


class SSF(Adapter):
    """``y = gamma * (W x + b) + beta`` (eq. 2), re-parameterised: weight ``gamma * W``, bias ``gamma * b + beta``.

    ``scale`` holds gamma in the shape ``[n, 1, ...]`` along the weight's output dimension (``[1, n, ...]`` for a
    transposed convolution, whose groups share it), ones at the start. The shift is the bias, trained and stored whole:
    ``gamma * b + beta`` is any vector, and as large. A layer without one gets a zero bias inserted, unless a batch norm
    follows, which has a shift. After a norm, gamma and beta are the norm's own weight and bias, trained as with every
    kind. Deviation: the paper draws gamma around 1 and beta around 0 with a deviation of 0.02; here they start at
    identity.
    """

    kind = "ssf"
    default_lr = 2e-2
    unfit = "frozen"

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    @classmethod
    def for_weight(
        cls, weight: Tensor, options: Mapping[str, Any], generator: torch.Generator, place: Place = PLAIN
    ) -> Self | None:
        """See `Adapter.for_weight`."""
        if place.operator == "embedding" or weight.dim() < 2:
            return None
        shape = [1] * weight.dim()
        shape[place.out_dim] = weight.shape[place.out_dim]
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(torch.ones(shape, dtype=wide, device=weight.device))

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, options: Mapping[str, Any], shape: tuple[int, ...], place: Place = PLAIN
    ) -> Self:
        """See `Adapter.from_tensors`."""
        scale = tensors.get("scale")
        if scale is None or not scale.is_floating_point():
            raise AdapterError("an SSF adapter needs the tensor 'scale'")
        expected = tuple(size if dim == place.out_dim else 1 for dim, size in enumerate(shape))
        if tuple(scale.shape) != expected:
            raise AdapterError(f"an SSF scale {tuple(scale.shape)} does not fit a weight of shape {shape}")
        return cls(scale)

    @classmethod
    def extended(cls, program: Program, options: Mapping[str, Any]) -> Program:
        """See `Adapter.extended`: zero biases where there is no shift."""
        return with_biases(program)

    def changed(self, weight: Tensor) -> Tensor:
        """See `Adapter.changed`."""
        return weight * self.scale.to(weight.dtype)

    def sliced(self, dim: int, indices: Tensor) -> Self:
        """See `Adapter.sliced`."""
        scale = self.scale.detach()
        return type(self)(scale.index_select(dim, indices) if scale.shape[dim] > 1 else scale)
