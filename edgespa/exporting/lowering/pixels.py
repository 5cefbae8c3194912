"""Pixels in: the normalisation of images as the first layer of a program."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgespa.config import Preprocess
from edgespa.graph.program import Program
from edgespa.pixels.values import SCALINGS


class FromPixels(nn.Module):
    """A module whose input are pixels, [N, H, W, C] in uint8, instead of normalised images.

    ``(p / 255 - mean) / std`` as one multiplication and one addition: ``p * 1 / (255 std) - mean / std``; other scales
    likewise.

    Args:
        module: Takes one input [N, C, H, W] in float32.
        how: Scale, mean and std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, how: Preprocess) -> None:
        super().__init__()
        self.module = module
        by, less = SCALINGS[how.scale]
        mean, std = np.array(how.mean, dtype=np.float64) + less, np.array(how.std, dtype=np.float64)
        # The channels are the last dimension until the images are made of them.
        self.register_buffer("scale", torch.tensor(1 / (by * std), dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(-mean / std, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Any:
        """Outputs of the module.

        Args:
            pixels: [N, H, W, C], uint8.
        """
        return self.module((pixels.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2))


def pixels_of(program: Program, how: Preprocess, batch: int) -> Tensor:
    """Example pixels for a program that is wrapped in `FromPixels`.

    Args:
        program: Takes images.
        how: Their size.
        batch: Where the program is free to take any.
    """
    count = batch if program.dynamic_batch else int(program.inputs[0].shape[0])
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, how.height, how.width, how.channels), generator=generator, dtype=torch.uint8)
