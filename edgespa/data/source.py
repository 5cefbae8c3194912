"""Where the pixels of a data set come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgespa.errors import DataError


class Examined(NamedTuple):
    """An image and what its file says beside its pixels.

    Attributes:
        pixels: uint8 [H, W, C], as it is seen.
        format: Of the file, such as JPEG; empty where there is none.
        turned: It is stored turned, by its EXIF orientation.
    """

    pixels: NDArray[np.uint8]
    format: str = ""
    turned: bool = False


class UnusableError(DataError):
    """What is said of some images of a data set (boxes, masks, the pictures wanted) cannot be used."""


class LeftOut(NamedTuple):
    """A file that was left out of a data set, as was asked for.

    Attributes:
        file: Its path below the data set's.
        why: It cannot be used.
    """

    file: str
    why: str


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

    def name(self, index: int) -> str:
        """What an image is called for people: the path of its file below the data set's, else its number."""
        return f"item {index}"

    def examined(self, index: int) -> Examined:
        """One image, and what its file says.

        Raises:
            DataError: It cannot be read; the message names it.
        """
        return Examined(self.image(index))

    def fault(self, index: int) -> str | None:
        """Which image cannot be used and why, as far as that is seen without decoding it; None where nothing is."""
        return None

    def tensor(self, index: int) -> Tensor:
        """One preprocessed item as float32 [C, H, W]; only if `preprocessed`."""
        raise NotImplementedError("this source has images, not tensors")

    def tensors(self, index: int) -> Any:
        """One item that is no image, in order or by the names of a model's inputs; only if `preprocessed`."""
        return (self.tensor(index),)
