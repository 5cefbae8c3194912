"""Transformers in small: every way to write attention that one meets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SIZE, HEADS = 24, 3


class Fused(nn.Module):
    """One weight for queries, keys and values, as timm has it; by the operator, or written out as Swin does."""

    def __init__(self, *, written_out: bool = False, bias: bool = True, norm: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(SIZE, 3 * SIZE, bias=bias)
        self.proj = nn.Linear(SIZE, SIZE)
        self.norm = nn.LayerNorm(SIZE // HEADS) if norm else nn.Identity()
        self.shift = nn.Parameter(torch.randn(HEADS, 16, 16)) if written_out else None

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.norm(q), self.norm(k)
        if self.shift is not None:
            attention = (q * (SIZE // HEADS) ** -0.5) @ k.transpose(-2, -1) + self.shift
            out = attention.softmax(-1) @ v
        else:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, -1))


class Apart(nn.Module):
    """A weight for each, as in transformers; keys and values that heads share; values of another width; rotations."""

    def __init__(
        self, *, shared: int = 1, how: str = "enable", value: int = 8, rotate: bool = False, cross: bool = False
    ) -> None:
        super().__init__()
        self.width, self.value, self.shared, self.how = SIZE // HEADS, value, shared, how
        self.heads = 2 * shared if shared > 1 else HEADS
        inner = self.heads // shared
        self.q = nn.Linear(SIZE, self.heads * self.width)
        self.k = nn.Linear(SIZE, inner * self.width, bias=False)
        self.v = nn.Linear(SIZE, inner * value)
        self.o = nn.Linear(self.heads * value, SIZE, bias=False)
        self.angles = nn.Parameter(torch.randn(16, self.width)) if rotate else None
        self.cross = cross

    def _rotated(self, x: Tensor) -> Tensor:
        if self.angles is None:
            return x
        one, other = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-other, one], -1) * self.angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        inner = self.heads // self.shared
        other = x.flip(1) * 0.5 if self.cross else x
        q = self._rotated(self.q(x).view(batch, tokens, self.heads, self.width).transpose(1, 2))
        k = self._rotated(self.k(other).view(batch, tokens, inner, self.width).transpose(1, 2))
        v = self.v(other).view(batch, tokens, inner, self.value).transpose(1, 2)
        if self.how == "repeat" and self.shared > 1:
            k, v = (each.repeat_interleave(self.shared, 1) for each in (k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "enable" and self.shared > 1)
        return self.o(out.transpose(1, 2).flatten(2))


class Torch(nn.Module):
    """``nn.MultiheadAttention``, whose heads are a part of the batch where weights are asked for."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias, std=0.5)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=self.weights)[0]
        return out


class Network(nn.Module):
    """Two layers of attention on the patches of an image."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, SIZE, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(SIZE) for _ in range(2))
        self.layers = nn.ModuleList(make() for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(SIZE, 2 * SIZE), nn.GELU(), nn.Linear(2 * SIZE, SIZE))
        self.head = nn.Linear(SIZE, 5)
        for name, tensor in self.named_parameters():
            if "norm" in name:
                nn.init.uniform_(tensor, 0.3, 1.2)
            elif tensor.dim() == 2:
                nn.init.normal_(tensor, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head((x + self.mlp(x)).mean(1))


BOTH: dict[str, Callable[[], nn.Module]] = {
    "fused": Fused,
    "fused, no bias": lambda: Fused(bias=False),
    "fused, written out": lambda: Fused(written_out=True),
    "apart": Apart,
    "apart, wide values": lambda: Apart(value=12),
    "shared keys": lambda: Apart(shared=2),
    "shared keys, repeated": lambda: Apart(shared=2, how="repeat"),
    "cross": lambda: Apart(cross=True),
    "torch": lambda: Torch(weights=False),
    "torch, with weights": lambda: Torch(weights=True),
}
"""Networks whose heads can be narrower in both products."""

VALUES: dict[str, Callable[[], nn.Module]] = {"rotated": lambda: Apart(rotate=True)}
"""Networks that compare rotated queries and keys."""

NONE: dict[str, Callable[[], nn.Module]] = {"fused, normed": lambda: Fused(norm=True)}
"""One weight, one width, and a norm between."""


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Network(make).eval()
