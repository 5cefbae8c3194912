"""The program on samples: as many runs as its batch and the memory ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgespa.data import Prepared
from edgespa.data.inputs import arguments
from edgespa.exporting.samples import Array
from edgespa.graph.program import Program
from edgespa.models.interface import runs_whole

_RUN_BYTES = 2 << 20
"""Of the inputs of one run; what a network holds in between is ten times as much and more."""


def samples_of(program: Program, data: Prepared, places: Array) -> list[Tensor]:
    """Some samples of data as a program's files take them: along the first dimension of each input.

    Args:
        program: With plain inputs.
        data: The samples.
        places: Which.
    """
    return samples_in_front(program, data, arguments(data.tensor(places)))


def samples_in_front(program: Program, data: Prepared, inputs: Sequence[Tensor]) -> list[Tensor]:
    """A batch of data as a program's files take it, see `samples_of`.

    Args:
        program: With plain inputs; a batch of 1 where the data's is not first in all of them.
        data: Where the batch is from.
        inputs: All inputs, as `edgespa.data.Prepared.batches` gives them.
    """
    found = []
    for tensor, axis, spec in zip(inputs, data.axes, program.inputs, strict=True):
        first = tensor.movedim(axis, 0)
        # A sample is all of a run, see `_samples_first`; where a run's first size is 1 that is the sample's.
        found.append(first.unsqueeze(axis + 1) if axis and spec.shape[0] != 1 else first)
    return found


@torch.no_grad()
def run_program(program: Program, inputs: Sequence[Tensor]) -> list[Array]:
    """The program's outputs, as a flat list; a fixed batch that is not full is filled with its last sample.

    Of a program that `runs_whole` the samples are along one more dimension, where a tensor's first size is not 1.
    """
    return in_batches(lambda *part: as_arrays(tree_leaves(program(*part))), program, inputs) or []


def runs_of(program: Program, inputs: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    """What the program takes of some samples, run by run; the last ones, where they do not fill a batch, are left out.

    Args:
        program: With plain inputs.
        inputs: As for `run_program`.
        most: Samples of a run, where the program takes any number.
    """
    inputs = samples_first(program, inputs)
    count = len(inputs[0])
    size = fixed_batch(program) or min(most, count)
    return [arguments_of(program, inputs, start, size) for start in range(0, count - size + 1, size)] if size else []


def in_batches(
    run: Callable[..., list[Array] | None], program: Program, inputs: Sequence[Tensor]
) -> list[Array] | None:
    """What `run` gives of each run, joined; None as soon as it gives that."""
    inputs = samples_first(program, inputs)
    count = len(inputs[0])
    size = fixed_batch(program) or max(1, min(count, _RUN_BYTES * count // max(1, sum(each.nbytes for each in inputs))))
    results = []
    for start in range(0, count, size):
        result = run(*arguments_of(program, inputs, start, size))
        if result is None:
            return None
        results.append([_as_sample(array) for array in result] if runs_whole(program) else result)
    return [np.concatenate([result[i] for result in results])[:count] for i in range(len(results[0]))]


def samples_first(program: Program, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Inputs of one run as those of one sample; others as they are."""
    if not runs_whole(program):
        return inputs
    return [
        _as_sample(tensor) if tensor.dim() == len(spec.shape) and spec.shape[0] != 1 else tensor
        for tensor, spec in zip(inputs, program.inputs, strict=True)
    ]


def _as_sample(tensor: Any) -> Any:
    """A tensor or an array of one run with its sample first."""
    return tensor if tensor.shape[:1] == (1,) else tensor[None]


def arguments_of(program: Program, inputs: Sequence[Tensor], at: int, size: int) -> list[Tensor]:
    """What a run takes of some samples."""
    if runs_whole(program):
        pairs = zip(inputs, program.inputs, strict=True)
        return [tensor[at] if tensor.dim() > len(spec.shape) else tensor[at : at + 1] for tensor, spec in pairs]
    return [tensor[torch.arange(at, at + size).clamp(max=len(tensor) - 1)] for tensor in inputs]


def fixed_batch(program: Program) -> int | None:
    """The only number of samples that a program takes at a time; None if it takes any."""
    return None if program.dynamic_batch else 1 if runs_whole(program) else int(program.inputs[0].shape[0])


def as_arrays(tensors: Sequence[Tensor]) -> list[Array]:
    """Tensors of the CPU as arrays, over the same memory."""
    return [tensor.numpy() for tensor in tensors]
