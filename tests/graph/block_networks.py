"""Small networks with residual blocks of every make, for the tests of block removal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 12


class Attention(nn.Module):
    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).reshape(n, tokens, width))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH))


class PreNorm(nn.Module):
    """Pre-norm, with layer scale and a drop path that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = Attention(), mlp()
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.7))
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma * self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class PostNorm(nn.Module):
    """The norm comes after the addition, as in the first transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = Attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class ResPostNorm(nn.Module):
    """The branch is normalised before it is added, as in Swin V2; with a bias from a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = Attention(), mlp()
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("index", torch.arange(9).repeat(9).view(9, 9) % 9)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.view(-1)].view(9, 9, 2).permute(2, 0, 1)
        x = x + self.norm1(self.attn(x, bias.unsqueeze(0)))
        return x + self.norm2(self.mlp(x))


class Parallel(nn.Module):
    """Attention and MLP side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attns = nn.ModuleList([Attention(), Attention()])
        self.mlp = mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + torch.stack([attn(y) for attn in self.attns]).sum(0) + self.mlp(y)


class Tokens(nn.Module):
    """Patches, a class token, blocks, a head on the class token."""

    def __init__(self, block: Callable[[], nn.Module], depth: int = 4, token: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4) if token else nn.Conv2d(3, WIDTH, 8, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH)) if token else None
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.cls is not None else x.mean(1))


class Basic(nn.Module):
    """A block of a residual network; the shortcut may be a projection, and a ReLU follows the addition."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(Basic(8, 8, 1), Basic(8, 8, 1))
        self.layer2 = nn.Sequential(Basic(8, 12, 2), Basic(12, 12, 1), Basic(12, 12, 1))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(torch.relu(self.stem(x)))).mean((2, 3)))


class Next(nn.Module):
    """A ConvNeXt block: channels last inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Staged(nn.Module):
    """Two stages of the same blocks at two sizes, with what halves the image between them."""

    def __init__(self, block: Callable[[int], nn.Module] = Next) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for given, channels, depth in ((3, 6, 2), (6, WIDTH, 3)):
            stage = nn.Module()
            stage.down = nn.Conv2d(given, channels, 2, 2)
            stage.blocks = nn.Sequential(*(block(channels) for _ in range(depth)))
            self.stages.append(stage)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage.blocks(stage.down(x))
        return self.head(x.mean((2, 3)))


class Window(nn.Module):
    """A Swin block on [N, H, W, C]: windows, shifted in every second block, with a mask that is a buffer."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.shift = shift
        if shift:
            self.register_buffer("mask", torch.randn(1, 4, 4))

    def attend(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(n, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) * channels**-0.5
        scores = scores + self.mask if self.shift else scores
        x = self.proj(scores.softmax(-1) @ v)
        x = x.view(n, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, height, width, channels)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Merging(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, 2)
        self.layers = nn.ModuleList()
        for channels, depth in ((6, 2), (12, 4)):
            layer = nn.Module()
            layer.blocks = nn.ModuleList(Window(channels, index % 2) for index in range(depth))
            layer.downsample = Merging(channels) if channels == 6 else None
            self.layers.append(layer)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x)
            if layer.downsample is not None:
                x = layer.downsample(x)
        return self.head(self.norm(x).mean((1, 2)))


class Plus(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class TokenMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(17, 20), nn.Linear(20, 17)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)


def mixer_block() -> nn.Module:
    """A block of two residual parts that are numbered themselves, and are no blocks."""
    return nn.Sequential(Plus(TokenMixing()), Plus(mlp()))


class Pairs(nn.Module):
    """Blocks that are never called: a list of lists, and the network itself adds."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        pair = [nn.Sequential(nn.LayerNorm(WIDTH), mlp()) for _ in range(2)]
        self.layers = nn.ModuleList(nn.ModuleList([Attention(), _copy(pair)]) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for attention, feed in self.layers:
            x = attention(x) + x
            x = feed(x) + x
        return self.head(x.mean(1))


def _copy(pair: list[nn.Module]) -> nn.Module:
    return nn.Sequential(*pair)


class Outside(nn.Module):
    """Called modules whose residual addition the network makes, as in many a MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()) for _ in range(3))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


class Leaky(nn.Module):
    """The second block's inside is read by the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.ModuleList(Peek() for _ in range(3))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = x
        for index, block in enumerate(self.blocks):
            x, y = block(x)
            inner = y if index == 1 else inner
        return self.fc(torch.cat([x, inner], 1).mean((2, 3)))


class Peek(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.conv(x))
        return x + y, y


class CrossBlock(nn.Module):
    """Reads a memory beside its own stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.memory = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return x + self.conv(x) * self.memory(memory)


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.plain = nn.ModuleList(Same() for _ in range(3))
        self.blocks = nn.ModuleList(CrossBlock() for _ in range(3))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        memory = x = self.stem(x)
        for block in self.plain:
            x = block(x)
        for block in self.blocks:
            x = block(x, memory)
        return self.fc(x.mean((2, 3)))


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Named(nn.Module):
    """Blocks under names that end in a number, as torchvision's vision transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.layer_0, self.layer_1, self.layer_2 = PreNorm(), PreNorm(), PreNorm()
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.layer_2(self.layer_1(self.layer_0(x))).mean(1))


class Plain(nn.Module):
    """Repeated modules without a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, 1, 1) for _ in range(4)))
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean((2, 3)))


def images() -> tuple[Tensor]:
    return (torch.randn(2, 3, 16, 16),)


def _vit(block: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Tokens(block)


# name -> (network, stages with the names of their blocks, which of them can be removed)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, list[str]], set[str] | None]] = {
    "pre-norm": (_vit(PreNorm), {"blocks": [f"blocks.{i}" for i in range(4)]}, None),
    "post-norm": (_vit(PostNorm), {"blocks": [f"blocks.{i}" for i in range(4)]}, None),
    "res-post-norm": (
        lambda: Tokens(ResPostNorm, token=False),
        {"blocks": [f"blocks.{i}" for i in range(4)]},
        None,
    ),
    "parallel": (_vit(Parallel), {"blocks": [f"blocks.{i}" for i in range(4)]}, None),
    "mixer": (_vit(mixer_block), {"blocks": [f"blocks.{i}" for i in range(4)]}, None),
    "resnet": (
        Residual,
        {"layer1": ["layer1.0", "layer1.1"], "layer2": ["layer2.0", "layer2.1", "layer2.2"]},
        {"layer1.0", "layer1.1", "layer2.1", "layer2.2"},
    ),
    "convnext": (
        Staged,
        {
            "stages.0.blocks": ["stages.0.blocks.0", "stages.0.blocks.1"],
            "stages.1.blocks": [f"stages.1.blocks.{i}" for i in range(3)],
        },
        None,
    ),
    "swin": (
        Swin,
        {
            "layers.0.blocks": ["layers.0.blocks.0", "layers.0.blocks.1"],
            "layers.1.blocks": [f"layers.1.blocks.{i}" for i in range(4)],
        },
        None,
    ),
    "named": (Named, {"layer": ["layer_0", "layer_1", "layer_2"]}, None),
    "pairs": (Pairs, {"layers": ["layers.0", "layers.1", "layers.2"]}, None),
    "outside": (Outside, {"blocks": ["blocks.0", "blocks.1", "blocks.2"]}, set()),
    "leaky": (Leaky, {"blocks": ["blocks.0", "blocks.1", "blocks.2"]}, {"blocks.0", "blocks.2"}),
    "crossed": (Crossed, {"plain": ["plain.0", "plain.1", "plain.2"]}, None),
    "plain": (Plain, {}, None),
}
