"""What is drawn from under a kernel, beside torch's own convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgespa.quantisation.patches import gram, patches

CASES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Any, tuple[int, ...], int]] = [
    ((9,), (3,), (2,), (1,), (1,), 1),
    ((8, 7), (3, 2), (2, 1), (1, 0), (1, 2), 1),
    ((8, 7), (4, 2), (1, 1), "same", (1, 1), 1),
    ((8, 7), (3, 3), (1, 1), "valid", (1, 1), 2),
    ((8, 7), (3, 3), (1, 1), (1, 1), (1, 1), 4),
    ((4, 5, 6), (2, 3, 1), (1, 2, 2), (1, 1, 0), (1, 1, 1), 1),
]


@pytest.mark.filterwarnings("ignore:Using padding")  # an even kernel pads more behind than before
@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation", "groups"), CASES)
def test_all_places_make_the_convolution(
    size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> None:
    images, weight = torch.randn(2, 4, *size), torch.randn(8, 4 // groups, *kernel)
    drawn = patches(images, kernel, stride, padding, dilation, 10_000, torch.Generator())
    rows = drawn.reshape(2, groups, 4 // groups, *drawn.shape[2:]).permute(1, 0, 3, 2, 4).flatten(3)
    own = torch.einsum("gnpk,gok->ngop", rows, weight.reshape(groups, 8 // groups, -1)).flatten(1, 2)
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    wanted = run(images, weight, None, stride, padding, dilation, groups)
    torch.testing.assert_close(own, wanted.flatten(2), rtol=1e-4, atol=1e-5)
    found = gram(drawn, groups)
    flat = rows.reshape(groups, -1, rows.shape[-1])
    torch.testing.assert_close(found, (flat.mT @ flat).double(), rtol=1e-4, atol=1e-4)


def test_some_places_are_of_all_of_the_image_and_the_same_for_the_same_seed() -> None:
    images = torch.arange(400.0).reshape(1, 1, 20, 20)

    def drawn(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return patches(images, (1, 1), (1, 1), (0, 0), (1, 1), 50, generator).flatten()

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert len(drawn(0).unique()) == 50
    assert float(drawn(0).min()) < 60
    assert float(drawn(0).max()) > 340
