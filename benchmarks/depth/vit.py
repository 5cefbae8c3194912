"""The network of this benchmark: a vision transformer for 32 x 32 images, in plain PyTorch.

`vit` gives it with the weights that `pretrain.py` left, so `benchmarks/depth/vit.py:vit` is a model spec. Nothing of
edgespa is needed: it stands for a user's own model file.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

DEPTH = 12
WIDTH = 192
HEADS = 3
PATCH = 4
SIDE = 32


class Attention(nn.Module):
    """Multi-head self-attention: [N, T, C] to [N, T, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """Two layers with GELU between: [N, T, C] to [N, T, C]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: [N, T, C] to [N, T, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, pre-norm blocks, a linear head on the class token.

    Args:
        depth: Number of blocks.
        width: Channels of a token.
        heads: Attention heads.
        side: Height and width of the images.
        patch: Height and width of a patch.
        classes: Outputs.
    """

    def __init__(
        self,
        depth: int = DEPTH,
        width: int = WIDTH,
        heads: int = HEADS,
        side: int = SIDE,
        patch: int = PATCH,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, side, side] to logits [N, classes]."""
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def weights_path() -> Path:
    """Where `pretrain.py` leaves the weights: ``$EDGESPA_DEPTH_OUT``, else ``out`` beside this file."""
    return Path(os.environ.get("EDGESPA_DEPTH_OUT", Path(__file__).resolve().parent / "out")) / "vit.safetensors"


def vit() -> nn.Module:
    """The network with its weights, in evaluation form."""
    model = VisionTransformer()
    model.load_state_dict(load_file(weights_path()))
    return model.eval()
