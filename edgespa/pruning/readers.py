"""Operators that read channels through a weight: what a group is judged by, and what is given new weights.

A linear layer, a convolution or a product with a parameter computes ``Y = B W`` (plus a bias) from rows ``B`` of its
input: one per image for a linear layer, one per image and output place for a convolution, whose columns are (channel,
tap). A grouped convolution is several such products side by side, its *parts*. Depthwise convolutions do not mix
channels: they belong to the chain between writer and reader, and are no readers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from edgespa.graph.groups import Group, Groups, Mask, Slot
from edgespa.graph.program import Program, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name, resolve

CHUNK_BYTES = 16 << 20
Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """How a convolution looks at its input, per spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]  # a transposed convolution first puts zeros between the inputs

    def patches(self, x: Tensor) -> Tensor:
        """Patches of ``[N, C, ...]`` as a strided view ``[C, taps..., N, places...]``."""
        if any(step > 1 for step in self.spread):
            wide = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.spread, strict=True)))
            wide[(slice(None), slice(None), *(slice(None, None, step) for step in self.spread))] = x
            x = wide
        if any(before or after for before, after in self.padding):
            x = F.pad(x, [amount for pair in reversed(self.padding) for amount in pair])
        x = x.contiguous()
        inner = x.stride()[2:]
        places = [
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(x.shape[2:], self.kernel, self.stride, self.dilation, strict=True)
        ]
        taps = [step * dilation for step, dilation in zip(inner, self.dilation, strict=True)]
        moves = [step * stride for step, stride in zip(inner, self.stride, strict=True)]
        return x.as_strided((x.shape[1], *self.kernel, x.shape[0], *places), (x.stride(1), *taps, x.stride(0), *moves))


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """One operator that reads through a weight.

    Attributes:
        node: Name of its node.
        source: Name of the node that gives its input.
        weight: Name of its weight.
        bias: Name of its bias; None if it has none.
        axis: Dimension of the weight that is contracted.
        columns: Per part the unit id of every column of ``B``; 0 where the input is fixed.
        outputs: Per part the unit id of every column of ``Y``.
        window: For a convolution.
        transposed: For a transposed convolution.
    """

    node: str
    source: str
    weight: str
    bias: str | None
    axis: int
    columns: tuple[Ids, ...]
    outputs: tuple[Ids, ...]
    window: Window | None = None
    transposed: bool = False

    @property
    def parts(self) -> int:
        """Number of products side by side; more than one for a grouped convolution."""
        return len(self.columns)

    @property
    def layer(self) -> str:
        """The module that holds the weight."""
        return self.weight.rpartition(".")[0] or self.weight

    @property
    def channels(self) -> Ids:
        """Unit id of every channel of the input."""
        return np.concatenate([ids[:: self._taps] for ids in self.columns])

    @property
    def _taps(self) -> int:
        """Columns per channel of the input."""
        return int(np.prod(self.window.kernel, dtype=np.int64)) if self.window is not None else 1

    def there(self, alive: Mask) -> tuple[Tensor | None, Tensor | None]:
        """Which channels of the input and of the output are alive; None for all, also where there are several parts."""
        found = []
        for ids in (self.channels, self.outputs[0]):
            own = np.flatnonzero(alive[ids])
            found.append(torch.from_numpy(own) if self.parts == 1 and 0 < len(own) < len(ids) else None)
        return found[0], found[1]

    def columns_of(self, channels: Tensor) -> Tensor:
        """The columns of some channels of the input, where there is one part."""
        return (channels.unsqueeze(1) * self._taps + torch.arange(self._taps)).flatten()

    def narrowed(self, inputs: Tensor | None, outputs: Tensor | None) -> Reader:
        """The reader of a narrower input, or with a narrower output: of the channels from `there`."""
        columns, targets = self.columns, self.outputs
        if inputs is not None:
            columns = (columns[0][self.columns_of(inputs).numpy()],)
        if outputs is not None:
            targets = (targets[0][outputs.numpy()],)
        return dataclasses.replace(self, columns=columns, outputs=targets)

    def rows(self, x: Tensor) -> Iterator[list[Tensor]]:
        """Rows of ``B`` in chunks: per part ``[columns, m]``, a *column* of ``B`` per row.

        Args:
            x: The input, ``[N, C, ...]`` for a convolution, else ``[..., in]``.
        """
        width = sum(len(ids) for ids in self.columns)
        if self.window is None:
            flat = x.reshape(-1, x.shape[-1])
            for chunk in torch.split(flat, max(1, CHUNK_BYTES // (8 * width))):
                yield [chunk.T]
            return
        for images in torch.split(x, _chunk(self.window.patches(x[:1]))):
            patches = self.window.patches(images)
            yield list(patches.reshape(self.parts, width // self.parts, -1))

    @property
    def slides(self) -> int:
        """Lines that the windows of a convolution look at, if they move on by one line; else 0."""
        window = self.window
        if window is None or window.stride[0] != 1 or window.dilation[0] != 1 or window.kernel[0] == 1:
            return 0
        return window.kernel[0]

    def slabs(self, x: Tensor, y: Tensor | None = None) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        """The same rows as lines that windows slide over, in chunks: per part ``[c, m, lines, n]`` and its targets.

        Args:
            x: The input, ``[N, C, ...]``; where `slides`.
            y: The output.

        Yields:
            Per part what `edgespa.selection.reconstruct.Moments.add_sliding` takes; targets are None without an output.
        """
        assert self.window is not None
        line = dataclasses.replace(self.window, kernel=(1, *self.window.kernel[1:]))
        rank, size = len(line.kernel), _chunk(line.patches(x[:1]))
        outputs = torch.split(y, size) if y is not None else ()
        for index, images in enumerate(torch.split(x, size)):
            wide = line.patches(images.to(torch.float64)).movedim(rank + 1, rank + 2)  # lines before images
            shape = self.parts, wide.shape[0] // self.parts, math.prod(line.kernel), wide.shape[rank + 1], -1
            mates: list[Tensor | None] = [None] * self.parts
            if y is not None:
                output = outputs[index].movedim(0, 2)  # [O, lines, N, ...]
                mates = list(output.reshape(self.parts, output.shape[0] // self.parts, output.shape[1], -1))
            yield list(zip(wide.reshape(shape), mates, strict=True))

    def targets(self, y: Tensor) -> list[Tensor]:
        """An output as ``[outputs, m]`` per part, its places in the order of `rows`.

        Args:
            y: ``[N, C, ...]`` for a convolution, else ``[..., out]``.
        """
        if self.window is None:
            return [y.reshape(-1, y.shape[-1]).T]
        return list(y.transpose(0, 1).reshape(self.parts, y.shape[1] // self.parts, -1))

    def matrices(self, weight: Tensor) -> list[Tensor]:
        """``W`` of every part, ``[columns, outputs]``, float64."""
        weight = weight.detach().to(torch.float64)
        if self.window is None:
            return [weight if self.axis == 0 else weight.T]
        own = weight.reshape(self.parts, weight.shape[0] // self.parts, *weight.shape[1:])
        if self.transposed:
            return list(own.flip(tuple(range(3, own.dim()))).movedim(2, -1).flatten(1, -2))
        return list(own.flatten(2).transpose(1, 2))

    def tensor(self, matrices: list[Tensor], like: Tensor) -> Tensor:
        """The inverse of `matrices`, in the shape and type of a weight."""
        if self.window is None:
            return (matrices[0] if self.axis == 0 else matrices[0].T).to(like.dtype).contiguous()
        stacked = torch.stack(matrices)
        if self.transposed:
            inputs = like.shape[0] // self.parts
            own = stacked.reshape(self.parts, inputs, *like.shape[2:], like.shape[1]).movedim(-1, 2)
            own = own.flip(tuple(range(3, own.dim())))
        else:
            own = stacked.transpose(1, 2)
        return own.reshape(like.shape).to(like.dtype).contiguous()

    def units_table(self, part: int, ids: Ids) -> Tensor | None:
        """``[units, b]``: the columns of each unit in a part, -1 where it has fewer; None if it has none of them."""
        own = self.columns[part]
        found = [np.flatnonzero(own == unit) for unit in ids]
        width = max((len(columns) for columns in found), default=0)
        if not width:
            return None
        table = np.full((len(ids), width), -1, dtype=np.int64)
        for row, columns in zip(table, found, strict=True):
            row[: len(columns)] = columns
        return torch.from_numpy(table)


def _chunk(one: Tensor) -> int:
    """How many images may be taken at once, by the patches of one of them."""
    return max(1, CHUNK_BYTES // (8 * max(1, one.numel())))


def find_readers(program: Program, groups: Groups) -> dict[str, Reader]:
    """The operators that read units through a weight, by node name, in the order of the graph.

    Left out are operators whose weight or bias is computed, or read by another one too: new ones have no place.
    """
    uses: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] += len(node.users)
    tensors = dict(program.tensors())
    found = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            reader = _reader(node, groups, tensors, uses)
            if reader is not None and any(ids.any() for ids in reader.columns):
                found[node.name] = reader
    return found


def readers_of(group: Group, readers: dict[str, Reader]) -> list[Reader]:
    """The readers of a group's units, in the order of the graph."""
    return [reader for reader in readers.values() if any(np.isin(ids, group.ids).any() for ids in reader.columns)]


_OPERANDS = {"linear": ("input", "weight", "bias"), "addmm": ("mat1", "mat2", "self"), "mm": ("self", "mat2", "")}
_OPERANDS["matmul"] = ("self", "other", "")


def _reader(node: fx.Node, groups: Groups, tensors: dict[str, Tensor], uses: Counter[str]) -> Reader | None:
    name = operator_name(node)
    is_convolution = name.startswith("conv")
    if not is_convolution and name not in _OPERANDS:
        return None
    arguments = named_arguments(node)
    source_key, weight_key, bias_key = ("input", "weight", "bias") if is_convolution else _OPERANDS[name]
    source, weight = arguments[source_key], _own(arguments[weight_key], uses)
    if weight is None or source.op == "get_attr" or not tensors[weight].is_floating_point():
        return None
    bias = _own(arguments.get(bias_key), uses)
    if arguments.get(bias_key) is not None and bias is None:
        return None
    if name == "addmm" and (arguments["beta"] != 1 or arguments["alpha"] != 1 or (bias and tensors[bias].dim() != 1)):
        return None
    if not is_convolution:
        if tensors[weight].dim() != 2:
            return None
        axis = 1 if name == "linear" else 0
        ids = _ids(groups, weight, axis, tensors), _ids(groups, weight, 1 - axis, tensors)
        return Reader(node.name, source.name, weight, bias, axis, (ids[0],), (ids[1],))
    return _convolution(node, arguments, groups, tensors, Reader(node.name, source.name, weight, bias, 1, (), ()))


def _convolution(
    node: fx.Node, arguments: dict[str, Any], groups: Groups, tensors: dict[str, Tensor], plain: Reader
) -> Reader | None:
    name = operator_name(node)
    shape = tensors[plain.weight].shape
    kernel = tuple(shape[2:])
    rank = len(kernel)
    if len(shape_of(arguments["input"].meta["val"])) != rank + 2:
        return None
    transposed = "transpose" in name or arguments.get("transposed") is True
    parts = int(resolve(arguments["groups"]))
    stride, dilation = _each(arguments["stride"], rank), _each(arguments["dilation"], rank)
    padding = _padding(arguments["padding"], kernel, dilation)
    spread = (1,) * rank
    if transposed:
        more = _each(arguments["output_padding"], rank)
        padding = tuple(
            (d * (k - 1) - before, d * (k - 1) - before + extra)
            for (before, _), k, d, extra in zip(padding, kernel, dilation, more, strict=True)
        )
        spread, stride = stride, spread
    first, second = (_ids(groups, plain.weight, dim, tensors) for dim in (0, 1))
    taps = int(np.prod(kernel, dtype=np.int64))
    if transposed:
        columns = tuple(np.repeat(ids, taps) for ids in np.split(first, parts))
        outputs = (second,) * parts
    else:
        columns = (np.repeat(second, taps),) * parts
        outputs = tuple(np.split(first, parts))
    if parts > 1 and transposed:
        # Units of the first dimension are whole groups, or a place in every group. Whole ones take their outputs along.
        produced = groups.axes.get(node.name, [{}])[0].get(1)
        if produced is not None and np.isin(first[first > 0], produced).any():
            return None
    window = Window(kernel, stride, dilation, padding, spread)
    return dataclasses.replace(
        plain, axis=0 if transposed else 1, columns=columns, outputs=outputs, window=window, transposed=transposed
    )


def _own(argument: Any, uses: Counter[str]) -> str | None:
    """The tensor that an argument is, if nothing else reads it."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr" and uses[str(argument.target)] == 1:
        return str(argument.target)
    return None


def _ids(groups: Groups, name: str, dim: int, tensors: dict[str, Tensor]) -> Ids:
    ids = groups.units.get(Slot(name, dim))
    return np.zeros(tensors[name].shape[dim], dtype=np.int64) if ids is None else ids


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = [int(item) for item in resolve(value)] if isinstance(value, list | tuple) else [int(resolve(value))]
    return tuple(values * rank) if len(values) == 1 else tuple(values)


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if isinstance(value, str):
        totals = [d * (k - 1) if value == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in _each(value, len(kernel)))
