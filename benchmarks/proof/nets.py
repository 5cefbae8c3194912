"""Small networks of other kinds than classifiers, all for images of 64 x 64, with weights of a sensible size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in module.parameters():
            gain = (2.0 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.2
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * gain)
    return module.eval()


def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(stage(3, 16, 2), stage(16, 32, 2), stage(32, 32, 1), stage(32, 64, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.down(images)


class Detector(nn.Module):
    """Boxes in pixels of a frame of 640 and scores from 0 to 1, as one output [N, 4 + 5, 64] or as two."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined, self.trunk = joined, Trunk()
        self.box, self.score = nn.Conv2d(64, 4, 1), nn.Conv2d(64, 5, 1)
        centres = torch.arange(8.0) * 80 + 40
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y, torch.full_like(x, 120.0), torch.full_like(x, 120.0)])[None])

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.trunk(images)
        boxes = (self.box(features) * 12 + self.grid).flatten(2)
        scores = torch.sigmoid(self.score(features)).flatten(2)
        return torch.cat([boxes, scores], 1) if self.joined else (boxes, scores)


class Best(nn.Module):
    """The ten best of `Detector`'s entries, [N, 10, 5 + 1]: an end-to-end detector."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Detector(joined=False)

    def forward(self, images: Tensor) -> Tensor:
        boxes, scores = self.detector(images)
        best, index = scores.amax(1).topk(10)
        chosen = boxes.gather(2, index[:, None].expand(-1, 4, -1)).transpose(1, 2)
        return torch.cat([chosen, best[:, :, None]], 2)


class Regression(nn.Module):
    """Numbers of any size about any mean: `means` + `scales` times what the network says."""

    def __init__(self, means: list[float], scales: list[float]) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(), nn.Linear(64, len(means))
        self.register_buffer("means", torch.tensor(means))
        self.register_buffer("scales", torch.tensor(scales))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).mean((2, 3))) * self.scales + self.means


class KeyPoints(nn.Module):
    """Seventeen points [N, 17, 3]: x and y in pixels, and how sure."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(), nn.Linear(64 * 64, 51)

    def forward(self, images: Tensor) -> Tensor:
        found = self.head(self.trunk(images).flatten(1)).unflatten(1, (17, 3))
        return torch.cat([found[..., :2] * 40 + 320, found[..., 2:].sigmoid()], 2)


class Dense(nn.Module):
    """One value of each channel for each pixel: heat maps, a depth, classes of a segmentation."""

    def __init__(self, channels: int, last: nn.Module) -> None:
        super().__init__()
        self.first, self.deep = stage(3, 16, 2), nn.Sequential(stage(16, 32, 2), stage(32, 32, 1))
        self.up, self.out, self.last = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, channels, 1), last

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        return self.last(self.out(self.up(self.deep(first)).relu() + first))


def boxes_joined() -> nn.Module:
    return seeded(Detector(joined=True))


def boxes_apart() -> nn.Module:
    return seeded(Detector(joined=False))


def best_ten() -> nn.Module:
    return seeded(Best())


def gauge() -> nn.Module:
    return seeded(Regression([1013.0], [1.0]))


def unlike_numbers() -> nn.Module:
    return seeded(Regression([1e3, 0.0, -5.0], [20.0, 1.0, 1e-3]))


def key_points() -> nn.Module:
    return seeded(KeyPoints())


def heat_maps() -> nn.Module:
    return seeded(Dense(8, nn.Sigmoid()))


def depth() -> nn.Module:
    return seeded(Dense(1, nn.Softplus()))


def segmentation() -> nn.Module:
    return seeded(Dense(6, nn.Identity()))
