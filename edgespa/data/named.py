"""Named arrays of an ``.npz`` that are a program's inputs, the samples along their first dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.data.source import ImageSource
from edgespa.errors import DataError

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev")


class NamedSource(ImageSource):
    """Samples of several arrays.

    Args:
        arrays: By name, each ``[N, ...]``.
        where: For messages.

    Raises:
        DataError: They are of different lengths, empty, or no numbers.
    """

    preprocessed = True

    def __init__(self, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
        for name, array in arrays.items():
            if array.dtype.kind not in "iufb" or array.ndim == 0:
                raise DataError(
                    f"{where}: array '{name}' of shape {array.shape} and type {array.dtype} is no input",
                    "give numbers, the samples along the first dimension",
                )
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"{where}: the arrays are of different lengths: {listed}", "give as many of each")
        if not all(lengths.values()):
            raise DataError(f"{where}: no samples", "give at least one")
        self._arrays = dict(arrays)
        self._where = where

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def image(self, index: int) -> NDArray[np.uint8]:
        """There are none; see `ImageSource.image`."""
        raise DataError(f"{self._where} has arrays of numbers, not images", "give images as uint8: images=...")

    def tensor(self, index: int) -> Tensor:
        """One sample for a model that takes one image; see `ImageSource.tensor`."""
        if len(self._arrays) > 1:
            listed = ", ".join(self._arrays)
            raise DataError(f"{self._where} has the inputs {listed}, and the model takes one", "leave out the others")
        (array,) = self._arrays.values()
        return torch.from_numpy(np.asarray(array[index], dtype=np.float32))

    def tensors(self, index: int) -> Mapping[str, NDArray[Any]]:
        """One sample by the names of its inputs; see `ImageSource.tensors`."""
        return {name: array[index] for name, array in self._arrays.items()}


def inputs_by_split(keys: Sequence[str], others: Sequence[str]) -> dict[str, dict[str, str]]:
    """Which arrays are inputs: split -> name of the input -> key.

    Args:
        keys: Of all arrays.
        others: Keys of labels, targets and names of classes.
    """
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if key in others:
            continue
        split, name = "", key
        for word in SPLITS:
            if key.endswith(f"_{word}"):
                split, name = word, key.removesuffix(f"_{word}")
            elif key.startswith(f"{word}_"):
                split, name = word, key.removeprefix(f"{word}_")
        found.setdefault(split, {})[name] = key
    return found
