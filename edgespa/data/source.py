"""Where the pixels of a data set come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class ImageSource(ABC):
    """Where the pixels of a data set come from. Reading is allowed from several threads at once.

    Attributes:
        array: All images as uint8 [N, H, W, C] if they are in memory and of one size, else None.
        preprocessed: True if the items are float tensors that go to the model as they are.
        in_files: True if each image is a file: one that is damaged says nothing about the others.
    """

    array: NDArray[np.uint8] | None = None
    preprocessed: bool = False
    in_files: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """One image as uint8 [H, W, C] with C of 1 (grey), 3 (RGB) or 4 (RGBA).

        Raises:
            DataError: It cannot be read; the message names it.
        """

    def fault(self, index: int) -> str | None:
        """Which image cannot be used and why, as far as that is seen without decoding it; None where nothing is."""
        return None

    def tensor(self, index: int) -> Tensor:
        """One preprocessed item as float32 [C, H, W]; only if `preprocessed`."""
        raise NotImplementedError("this source has images, not tensors")

    def tensors(self, index: int) -> Any:
        """One item that is no image, in order or by the names of a model's inputs; only if `preprocessed`."""
        return (self.tensor(index),)
