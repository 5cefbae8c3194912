"""What a program takes of each sample, where that is no image: tensors of any shape, one or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.errors import DataError
from edgespa.graph.program import BATCH, Program

Inputs = Tensor | tuple[Tensor, ...]
"""Of a batch: of a program with several inputs all of them, in its order."""

_ALONE = ("input", "inputs", "x")  # what the only input may be called
_NUMBERS = "iufb"


def arguments(inputs: Inputs) -> tuple[Tensor, ...]:
    """What a program is called with."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def samples_in(inputs: Inputs) -> int:
    """How many samples a batch has; along the first dimension of the first input, see `takes_of`."""
    return len(arguments(inputs)[0])


def moved(inputs: Inputs, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Inputs:
    """A batch on a device.

    Args:
        inputs: The batch.
        device: Where.
        memory_format: Of tensors with four dimensions.
    """
    found = [
        each.to(device, memory_format=memory_format if each.dim() == 4 else torch.preserve_format)
        for each in arguments(inputs)
    ]
    return tuple(found) if isinstance(inputs, tuple) else found[0]


@dataclasses.dataclass(frozen=True)
class Taken:
    """One input of a program.

    Attributes:
        name: As ``forward`` has it.
        shape: Of one sample, without the dimension of the batch.
        dtype: Its element type.
        axis: Along which the samples of a batch are: 0, but for the state of a recurrent layer ``[layers, N, H]``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int = 0

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} of {str(self.dtype).removeprefix('torch.')}"

    def fitted(self, value: Any, where: str) -> Tensor:
        """A sample's part as this input takes it.

        Args:
            value: A tensor, an array or a number.
            where: For messages.

        Raises:
            DataError: It is of another shape or kind, or not finite.
        """
        array = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value)
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in _NUMBERS:
                raise DataError(f"{where} holds {array.dtype}, no numbers", f"give {self}")
            array = torch.from_numpy(np.array(array, order="C"))
        if tuple(array.shape) != self.shape:
            raise DataError(
                f"{where} is {list(array.shape)}, and the model takes {self} for each sample",
                "cut or pad it inside the data set, or correct --input-shape",
            )
        if self.dtype.is_floating_point != array.is_floating_point():
            raise DataError(
                f"{where} is of {str(array.dtype).removeprefix('torch.')}, and the model takes {self}",
                "give floating-point numbers, normalised as in training" if self.dtype.is_floating_point
                else "give whole numbers, such as the indices of words",
            )  # fmt: skip
        if array.is_floating_point() and not bool(torch.isfinite(array).all()):
            raise DataError(f"{where} has values that are not finite", "correct or leave out this sample")
        return array.to(self.dtype)


def takes_of(program: Program) -> tuple[Taken, ...]:
    """What a program takes of each sample.

    Args:
        program: With one tensor per input.

    Raises:
        DataError: An input has no samples, or the first one has them not along its first dimension.
    """
    found = []
    for spec in program.inputs:
        free = [axis for axis, size in enumerate(spec.shape) if size == BATCH]
        if program.dynamic_batch and len(free) != 1:
            raise DataError(
                f"the model's input {spec.name} {list(spec.shape)} is not one for each sample",
                "wrap the model in a module that supplies it",
            )
        axis = free[0] if program.dynamic_batch else 0
        sizes = tuple(int(size) for place, size in enumerate(spec.shape) if place != axis)
        found.append(Taken(spec.name, sizes, spec.dtype, axis))
    if found[0].axis:
        raise DataError(
            f"the model's input {found[0].name} has its samples along dimension {found[0].axis}",
            "write the model so that the batch is first, as batch_first=True of a recurrent layer",
        )
    return tuple(found)


def matched(given: Any, takes: Sequence[Taken], where: str) -> tuple[Tensor, ...]:
    """A sample as a program takes it.

    Args:
        given: Tensors in the program's order, or by the names of its inputs, or as ``input_0``, ``input_1``.
        takes: From `takes_of`.
        where: For messages.

    Raises:
        DataError: Something is missing, too much, or of another shape.
    """
    listed = "; ".join(map(str, takes))
    if isinstance(given, Mapping):
        chosen = []
        for index, each in enumerate(takes):
            names = (each.name, f"input_{index}", *(_ALONE if len(takes) == 1 else ()))
            name = next((name for name in names if name in given), None)
            if name is None and len(takes) == len(given) == 1:
                name = next(iter(given))
            if name is None:
                raise DataError(
                    f"{where} has {', '.join(map(str, given)) or 'nothing'}, and the model takes {each}",
                    f"name its arrays as the inputs: {listed}",
                )
            chosen.append((name, given[name]))
        if len(given) > len(takes):
            more = [str(name) for name in given if name not in dict(chosen)]
            raise DataError(f"{where} has {', '.join(more)}, which the model does not take", f"it takes: {listed}")
    else:
        values = tuple(given)
        if len(values) != len(takes):
            raise DataError(f"{where} has {len(values)} inputs, and the model takes {len(takes)}", f"give: {listed}")
        chosen = [(each.name, value) for each, value in zip(takes, values, strict=True)]
    several = len(takes) > 1
    return tuple(
        each.fitted(value, f"{where}, {name}," if several else where)
        for each, (name, value) in zip(takes, chosen, strict=True)
    )
