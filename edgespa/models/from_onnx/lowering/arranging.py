"""Operators that arrange values: reshapes, slices, transpositions, and what repeats or joins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgespa.models.from_onnx.lowering.place import Made, Place, Step, tensor

_ENDLESS = 1 << 60


def reshaped(x: Tensor, sizes: Sequence[int | None], source: int) -> Tensor:
    """``x`` in other sizes; None stands for its size along ``source``."""
    return x.reshape([x.shape[source] if size is None else size for size in sizes])


def selected(x: Tensor, axis: int, index: int) -> Tensor:
    """One slice of ``x``."""
    return x.select(axis, index)


def cut(x: Tensor, slices: tuple[slice, ...], flipped: tuple[int, ...]) -> Tensor:
    """Slices of ``x``, turned around along some dimensions first."""
    return (torch.flip(x, flipped) if flipped else x)[slices]


def joined(*tensors: Tensor, axis: int) -> Tensor:
    """Tensors behind one another."""
    return torch.cat(tensors, axis)


def unsqueezed(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Dimensions of size 1 put in, where they are in the end."""
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def widened(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """``x`` repeated along dimensions of size 1; -1 leaves a dimension as it is."""
    return x.expand(*sizes)


def widened_like(x: Tensor, source: Tensor, sizes: Sequence[int | None]) -> Tensor:
    """The same, with the batch of ``source`` where a size is None."""
    return x.expand([source.shape[0] if size is None else size for size in sizes])


class Picked(nn.Module):
    """Slices of a tensor by their numbers.

    Args:
        axis: Along this dimension.
        index: Numbers, of any shape.
    """

    index: Tensor

    def __init__(self, axis: int, index: Any) -> None:
        super().__init__()
        self.axis, self.shape = axis, tuple(index.shape)
        self.register_buffer("index", tensor(index.astype(np.int64).ravel()))

    def forward(self, x: Tensor) -> Tensor:
        """Pick."""
        found = x.index_select(self.axis, self.index)
        if len(self.shape) == 1:
            return found
        return found.reshape([*x.shape[: self.axis], *self.shape, *x.shape[self.axis + 1 :]])


def identity(place: Place) -> Made:
    """What does nothing once a model is trained."""
    return Made(None, place.inputs[:1])


def reshape(place: Place) -> Made:
    """To sizes that are known, with the batch where it comes out."""
    one, other = place.sizes(place.node.output[0])
    given, given_other = place.sizes(place.inputs[0])
    if (one, other) == (given, given_other):
        return identity(place)
    free = [index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(free) > 1:
        raise place.refusal(f"{len(free)} of the sizes that it makes depend on the batch")
    if not free and math.prod(one) != math.prod(given_other):
        raise place.refusal("it makes a fixed size of the batch")
    sizes: list[int | None] = [int(size) for size in one]
    source = 0
    if free:
        at = free[0]
        pair = (one[at], other[at])
        alike = [index for index, each in enumerate(zip(given, given_other, strict=True)) if each == pair]
        sizes[at] = None if alike else -1
        source = alike[0] if alike else 0
    return Made(Step(reshaped, tuple(sizes), source), place.inputs[:1])


def transpose(place: Place) -> Made:
    """Dimensions in another order; without one, turned around."""
    order = place.attributes.get("perm") or list(range(len(place.shape())))[::-1]
    return Made(Step(torch.permute, tuple(int(axis) for axis in order)), place.inputs[:1])


def squeeze(place: Place) -> Made:
    """Dimensions of size 1 left out."""
    one, other = place.sizes(place.inputs[0])
    axes = place.numbers(1, "axes")
    if axes is None:
        axes = [index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a == b == 1]
    return Made(Step(torch.squeeze, tuple(sorted(axis % len(one) for axis in axes))), place.inputs[:1])


def unsqueeze(place: Place) -> Made:
    """Dimensions of size 1 put in."""
    rank = len(place.sizes(place.node.output[0])[0])
    axes = tuple(axis % rank for axis in place.numbers(1, "axes") or [])
    return Made(Step(unsqueezed, axes), place.inputs[:1])


def expand(place: Place) -> Made:
    """Repeated to sizes that are known; along the batch as many as there are samples."""
    one, other = place.sizes(place.node.output[0])
    given, given_other = place.sizes(place.inputs[0])
    if (one, other) == (given, given_other):
        return identity(place)
    more = len(one) - len(given)
    sizes: list[int | None] = []
    for index, pair in enumerate(zip(one, other, strict=True)):
        own = (given[index - more], given_other[index - more]) if index >= more else None
        if own == pair:
            sizes.append(-1)
        elif pair[0] == pair[1]:
            sizes.append(pair[0])
        else:
            sizes.append(None)
    if None not in sizes:
        return Made(Step(widened, tuple(int(size or 0) for size in sizes)), place.inputs[:1])
    batch = place.sizes(place.source)
    wanted = [pair for pair, size in zip(zip(one, other, strict=True), sizes, strict=True) if size is None]
    if any(pair != (batch[0][0], batch[1][0]) for pair in wanted):
        raise place.refusal("it makes a size of the batch that is not that of the input")
    return Made(Step(widened_like, tuple(sizes)), (place.inputs[0], place.source))


def tile(place: Place) -> Made:
    """Repeated so often."""
    repeats = place.numbers(1)
    assert repeats is not None
    return Made(Step(torch.Tensor.repeat, tuple(repeats)), place.inputs[:1])


def concat(place: Place) -> Made:
    """Behind one another."""
    if len(place.inputs) == 1:
        return identity(place)
    axis = int(place.attributes.get("axis", 1)) % len(place.shape())
    return Made(Step(joined, axis=axis), place.inputs)


def slice_(place: Place) -> Made:
    """Ranges along some dimensions; along the batch only all of it."""
    one, other = place.sizes(place.inputs[0])
    rank = len(one)
    starts, ends = (_ends(place, index, name) for index, name in ((1, "starts"), (2, "ends")))
    axes = place.numbers(3, "axes") or list(range(len(starts)))
    steps = place.numbers(4) or [1] * len(axes)
    slices, flipped, whole = [slice(None)] * rank, [], True
    for start, end, given_axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = given_axis % rank
        size, second = one[axis], other[axis]
        if step == 0:
            raise place.refusal("a step of 0")
        found = range(*slice(start[0], _end(end[0], step), step).indices(size))
        at_other = range(*slice(start[1], _end(end[1], step), step).indices(second))
        if size != second or found != at_other:
            if list(found) == list(range(size)) and list(at_other) == list(range(second)):
                continue
            raise place.refusal("it takes some of the samples of a batch", "export it for batches of one size")
        if step < 0:
            flipped.append(axis)
            slices[axis] = slice(
                size - 1 - found.start, size - found[-1] if len(found) else size - 1 - found.start, -step
            )
            whole = False
        elif list(found) != list(range(size)):
            slices[axis] = slice(found.start, min(found.stop, size), step)
            whole = False
    return identity(place) if whole else Made(Step(cut, tuple(slices), tuple(flipped)), place.inputs[:1])


def _ends(place: Place, index: int, attribute: str) -> list[tuple[int, int]]:
    if attribute in place.attributes:
        return [(int(each), int(each)) for each in place.attributes[attribute]]
    one, other = place.values(index)
    if one is None or other is None:
        raise place.refusal("it takes a range that depends on the values of the inputs")
    return list(zip(map(int, one.ravel()), map(int, other.ravel()), strict=True))


def _end(end: int, step: int) -> int | None:
    """The end of a slice, where one before the first is written as a large negative number."""
    if step < 0 and end <= -_ENDLESS // (1 << 30):
        return None
    return end


def split(place: Place) -> Made:
    """Parts along a dimension, as large as they come out."""
    axis = int(place.attributes.get("axis", 0)) % len(place.shape())
    one, other = ([sizes[side][axis] for sizes in map(place.sizes, filter(None, place.node.output))] for side in (0, 1))
    if one != other or len(one) != len(place.node.output):
        raise place.refusal("it splits the batch, or leaves out a part")
    return Made(Step(torch.split, one, axis), place.inputs[:1])


def gather(place: Place) -> Made:
    """Slices by their numbers, which are constants; or rows of a table by an input."""
    rank = len(place.shape())
    axis = int(place.attributes.get("axis", 0)) % rank
    index = place.constant(1)
    if rank == 1 and all(
        each is not None and np.array_equal(each.ravel(), np.arange(sizes[0]))
        for each, sizes in zip(place.values(1), place.sizes(place.inputs[0]), strict=True)
    ):
        return reshape(place)  # all of it, in order: what is left of a view with strides
    if index is None:
        table = place.constant(0)
        if table is None or table.ndim != 2 or axis:
            raise place.refusal("it picks by numbers that depend on the inputs")
        return Made(Step(F.embedding), (place.inputs[1], place.inputs[0]))
    one, other = place.sizes(place.inputs[0])
    if one[axis] != other[axis]:
        raise place.refusal("it picks samples of a batch", "export it for batches of one size")
    if index.ndim == 0:
        return Made(Step(selected, axis, int(index) % one[axis]), place.inputs[:1])
    numbers = index % one[axis]
    if index.ndim == 1 and list(numbers) == list(range(one[axis])):
        return identity(place)
    return Made(Picked(axis, numbers), place.inputs[:1])


def space_to_depth(place: Place) -> Made:
    """Blocks of pixels as channels."""
    return Made(Step(blocks_as_channels, int(place.attributes["blocksize"])), place.inputs[:1])


def blocks_as_channels(x: Tensor, block: int) -> Tensor:
    """[N, C, H, W] to [N, block * block * C, H / block, W / block], the place in a block in front of the channel."""
    n, c, height, width = x.shape
    parts = x.reshape(n, c, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block * block, height // block, width // block)


ARRANGING: Mapping[str, Callable[[Place], Made]] = MappingProxyType(
    {
        "Identity": identity,
        "Dropout": identity,
        "Reshape": reshape,
        "Flatten": reshape,
        "Transpose": transpose,
        "Squeeze": squeeze,
        "Unsqueeze": unsqueeze,
        "Expand": expand,
        "Tile": tile,
        "Concat": concat,
        "Slice": slice_,
        "Split": split,
        "Gather": gather,
        "SpaceToDepth": space_to_depth,
    }
)
