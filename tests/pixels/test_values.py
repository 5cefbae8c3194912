"""Pixels to numbers and back, in every scale, in numpy and in torch and inside of a file: the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.exporting.lowering.pixels import FromPixels
from edgespa.pixels.values import SCALINGS, normalised, to_pixels

ALL = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)


@pytest.fixture
def all_pixels(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    path = tmp_path_factory.mktemp("all") / "all.npz"
    np.savez(path, images=ALL)
    return load_data(str(path), labelled=False)


def how(scale: str) -> Preprocess:
    mean, std = {
        "0-1": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "-1-1": ((0.1, -0.2, 0.3), (0.5, 0.7, 0.9)),
        "0-255": ((103.94, 116.78, 123.68), (58.8, 57.1, 57.4)),
    }[scale]
    return Preprocess(height=16, width=16, channels=3, mean=mean, std=std, scale=scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALINGS)
class TestEveryPixel:
    def test_by_hand(self, scale: str) -> None:
        plain = Preprocess(height=1, width=3, channels=1, mean=(0.0,), std=(1.0,), scale=scale)  # type: ignore[arg-type]
        found = normalised(np.array([[[[0, 51, 255]]]], np.uint8), plain.model_dump()).ravel()
        wanted = {"0-1": [0, 0.2, 1], "-1-1": [-1, -0.6, 1], "0-255": [0, 51, 255]}[scale]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)

    def test_torch_and_numpy(self, scale: str, all_pixels: ImageData) -> None:
        found = prepare(all_pixels, how(scale)).tensor([0]).numpy()
        np.testing.assert_array_equal(found, normalised(ALL.transpose(0, 3, 1, 2), how(scale).model_dump()))

    def test_and_back(self, scale: str) -> None:
        values = how(scale).model_dump()
        np.testing.assert_array_equal(to_pixels(normalised(ALL.transpose(0, 3, 1, 2), values), values),
                                      ALL.transpose(0, 3, 1, 2))  # fmt: skip

    def test_inside_of_a_file(self, scale: str) -> None:
        made = FromPixels(torch.nn.Identity(), how(scale))(torch.from_numpy(ALL)).numpy()
        wanted = normalised(ALL.transpose(0, 3, 1, 2), how(scale).model_dump())
        np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=2e-6)
