"""Operators that move, copy or drop elements without changing them.

Most need no rule of their own: the very same operator is run on an integer tensor of labels, broadcast over the
unlabelled dimensions so that no activation is materialised, and the labels are read off the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgespa.graph.labels import Block, Labels, Value
from edgespa.graph.rules.registry import Call, resolve, rule


@rule(
    "permute", "transpose", "t", "numpy_T", "unsqueeze", "squeeze", "select", "slice", "split", "split_with_sizes",
    "chunk", "unbind", "narrow", "movedim", "swapaxes", "swapdims", "tensor_split", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "mT", "moveaxis", "select_copy", "slice_copy", "permute_copy", "transpose_copy",
)  # fmt: skip
def run_on_labels(call: Call) -> Value | list[Value]:
    """Views: the operator runs on the labels themselves, with stride 0 along unlabelled dimensions."""
    source = "self" if "self" in call.arguments else next(iter(call.arguments))
    x = call.value(source)
    if "dim" in call.arguments and call.name not in {"unsqueeze", "squeeze"}:
        merged = {call.dim("dim", len(x.shape))} & call.batch_dims(source)
        if call.name in {"slice", "slice_copy"} and takes_all(*(call.number(key) for key in ("start", "end", "step"))):
            return Value(call.shape, x.blocks, x.dead)
        x = call.labels.pin(x, merged, IN_BATCH)
    return _run(call, x, source)


def takes_all(start: int | None, end: int | None, step: int) -> bool:
    """Whether a slice takes everything whatever the size, as the ``:`` of ``x[:, 1]`` does."""
    return not start and (end is None or end >= _MOST) and step == 1


_MOST = (1 << 63) - 1  # what ``:`` is traced to

IN_BATCH = "picked by position in a dimension that the batch is merged into"


@rule("roll", "flip", "index_select", "repeat_interleave", "tile", "repeat")
def run_where_labelled(call: Call) -> Value | list[Value]:
    """Copies along named dimensions: blocks elsewhere pass unchanged, so that nothing large is built."""
    x = call.value("self")
    if call.name in {"repeat", "tile"}:
        return _repeat(call, x)
    if call.name == "repeat_interleave" and not isinstance(call.number("repeats"), int):
        return unknown(call, "repeats that depend on data")
    if call.name == "index_select" and _constant(call, "index") is None:
        touched: set[int] = {call.dim("dim", len(x.shape))}
        return Value(call.shape, call.labels.pin(x, touched, "indexed by data").blocks, x.dead)
    if call.name == "index_select":
        call.labels.fix_value(call.value("index"), "used as an index")
    name = "dims" if call.name in {"roll", "flip"} else "dim"
    given = call.number(name)
    if given is None or given == []:
        if len(x.shape) > 1:
            return unknown(call, "acts on the flattened tensor")
        given = 0
    touched = {int(dim) % len(x.shape) for dim in (given if isinstance(given, list) else [given])}
    if call.name in {"roll", "index_select"}:
        x = call.labels.pin(x, touched & call.batch_dims("self"), IN_BATCH)
    passing = tuple(block for block in x.blocks if not set(block.dims) & touched)
    acting = tuple(block for block in x.blocks if set(block.dims) & touched)
    result = _run(call, Value(x.shape, acting, x.dead), "self") if acting else Value(call.shape, (), x.dead)
    assert isinstance(result, Value)
    return Value(call.shape, passing + result.blocks, x.dead)


def _run(call: Call, x: Value, source: str) -> Value | list[Value]:
    shapes = call.shapes
    many = isinstance(call.node.meta["val"], list | tuple)
    outputs: list[list[Block]] = [[] for _ in shapes]
    if any(0 in shape for shape in shapes) and len(shapes) == 1:  # nothing is taken; the other dimensions stay tied
        dim = call.dim("dim", len(x.shape))
        return Value(shapes[0], tuple(block for block in x.blocks if dim not in block.dims), x.dead)
    for block in x.blocks:
        results = apply(call, source, expanded(block, x.shape))
        seen = []
        for index, result in enumerate(results):
            compact = compress(result)
            if compact is None:
                left = result.reshape(-1)[:1].numpy()
                call.labels.fix(left, f"read at a fixed position ({call.name})")
            else:
                outputs[index].append(compact)
                seen.append(compact)
    values = [Value(shape, tuple(blocks), x.dead) for shape, blocks in zip(shapes, outputs, strict=True)]
    return values if many else values[0]


def expanded(block: Block, shape: tuple[int, ...]) -> Tensor:
    """The block's labels as a tensor of the value's full shape, without memory for the unlabelled dimensions."""
    sizes = [shape[dim] if dim in block.dims else 1 for dim in range(len(shape))]
    return torch.from_numpy(np.require(block.labels, requirements=("C", "W"))).reshape(sizes).expand(shape)


def apply(call: Call, source: str, labels: Tensor) -> list[Tensor]:
    """The results of the call's operator with ``labels`` for its argument ``source``."""
    schema = call.node.target._schema  # type: ignore[union-attr]

    def plain(name: str, argument: Any) -> Any:
        if name == source:
            return labels
        if isinstance(argument, fx.Node) and argument in call.constants:
            return call.constants[argument]
        if isinstance(argument, list | tuple):
            return [plain("", item) for item in argument]
        return resolve(argument)

    positional = [plain(a.name, call.arguments[a.name]) for a in schema.arguments if not a.kwarg_only]
    keywords = {a.name: plain(a.name, call.arguments[a.name]) for a in schema.arguments if a.kwarg_only}
    result = call.node.target(*positional, **keywords)  # type: ignore[operator]
    return list(result) if isinstance(result, list | tuple) else [result]


def compress(labels: Tensor) -> Block | None:
    """The block that a full tensor of labels amounts to: only dimensions along which labels vary are kept.

    Returns:
        The block, or None if all labels are the same (then no dimension is left that could shrink).
    """
    array = labels.numpy()
    dims = []
    for dim in range(array.ndim):
        if array.shape[dim] == 1:
            continue
        first = array[(slice(None),) * dim + (slice(0, 1),)]
        if array.strides[dim] == 0 or np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
        else:
            dims.append(dim)
    if not dims:
        return None
    kept = array.reshape([array.shape[dim] for dim in dims])
    return Block(tuple(dims), np.ascontiguousarray(kept))


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_copy", "ravel", "view_as", "reshape_as")
def view(call: Call) -> Value:
    """Regroup dimensions. Only the labels of dimensions that are split or merged are rearranged."""
    x = call.value("self")
    return Value(call.shape, _regroup(call, x, call.shape), x.dead)


def _regroup(call: Call, x: Value, shape: tuple[int, ...]) -> tuple[Block, ...]:
    parts = _partition(x.shape, shape)
    part_of = {dim: index for index, (old, _) in enumerate(parts) for dim in old}
    clusters: list[tuple[set[int], list[Block]]] = []
    for block in x.blocks:
        touched = {part_of[dim] for dim in block.dims}
        blocks = [block]
        for known in [cluster for cluster in clusters if cluster[0] & touched]:
            clusters.remove(known)
            touched |= known[0]
            blocks += known[1]
        clusters.append((touched, blocks))
    result = []
    for touched, blocks in clusters:
        if len(blocks) > 1:  # two labelled dimensions are merged: only one of them can go, the one that more hangs on
            blocks.sort(key=lambda block: (call.labels.weight(block.labels), block.labels.size), reverse=True)
            for block in blocks[1:]:
                call.labels.fix(block.labels.ravel(), "merged with another dimension that can shrink")
        block = blocks[0]
        old = sorted(dim for index in touched for dim in parts[index][0])
        new = sorted(dim for index in touched for dim in parts[index][1])
        sizes = [x.shape[dim] for dim in old]
        local = Block(tuple(old.index(dim) for dim in block.dims), block.labels)
        compact = compress(expanded(local, tuple(sizes)).reshape([shape[dim] for dim in new]))
        if compact is None:
            call.labels.fix(block.labels.ravel(), "reshaped to a single element")
        else:
            result.append(Block(tuple(new[dim] for dim in compact.dims), compact.labels))
    return tuple(result)


def _partition(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Match runs of old and new dimensions with equal products; row-major order makes the match unique."""
    parts: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left.append(i)
            a, i = old[i], i + 1
        if j < len(new):
            right.append(j)
            b, j = new[j], j + 1
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        parts.append((left, right))
    return parts


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Value:
    """Copies along new or size-1 dimensions get labels of their own: any number of copies may be left out."""
    x = call.value("self")
    shape = call.shape
    shift = len(shape) - len(x.shape)
    blocks = [Block(tuple(dim + shift for dim in block.dims), block.labels) for block in x.blocks]
    if call.name == "expand_as":
        other = call.value("other")
        blocks += [block for block in other.blocks if all(_copied(x, shift, dim, shape) for dim in block.dims)]
        return Value(shape, tuple(blocks), x.dead if len(blocks) == len(x.blocks) else None)
    sizes = call.arguments["size"]
    for dim in range(len(shape)):
        if _copied(x, shift, dim, shape) and shape[dim] > 1 and isinstance(sizes[dim], int):
            blocks.append(Block((dim,), call.labels.fresh(shape[dim]), copies=True))
    return Value(shape, tuple(blocks), x.dead if len(blocks) == len(x.blocks) else None)


def _copied(x: Value, shift: int, dim: int, shape: tuple[int, ...]) -> bool:
    return dim < shift or (x.shape[dim - shift] == 1 and shape[dim] > 1)


def _repeat(call: Call, x: Value) -> Value:
    """Whole copies one after the other: labels repeat along their dimension; copies of one element get their own."""
    given = call.arguments["repeats" if call.name == "repeat" else "dims"]
    repeats = call.number("repeats" if call.name == "repeat" else "dims")
    shape = call.shape
    rank = len(shape)
    repeats = [1] * (rank - len(repeats)) + list(repeats)
    shift = rank - len(x.shape)
    blocks = []
    for block in x.blocks:
        dims = tuple(dim + shift for dim in block.dims)
        blocks.append(Block(dims, np.tile(block.labels, [repeats[dim] for dim in dims])))
    if len(given) == rank:
        for dim in range(rank):
            if _copied(x, shift, dim, shape) and shape[dim] > 1 and isinstance(given[dim], int):
                blocks.append(Block((dim,), call.labels.fresh(shape[dim]), copies=True))
    return Value(shape, tuple(blocks), x.dead if len(blocks) == len(x.blocks) else None)


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Value:
    """Labels are concatenated along the dimension; along the others the parts are tied."""
    values = [value for value in call.list_of("tensors") if value.shape != (0,)]
    dim = call.dim("dim", len(call.shape))
    return Value(call.shape, _join(call, values, dim), _common_dead(values))


@rule("stack")
def stack(call: Call) -> Value:
    """As `cat` after adding a dimension."""
    dim = call.dim("dim", len(call.shape))
    values = []
    for value in call.list_of("tensors"):
        blocks = tuple(Block(tuple(d + (d >= dim) for d in block.dims), block.labels) for block in value.blocks)
        values.append(Value((*value.shape[:dim], 1, *value.shape[dim:]), blocks, value.dead))
    return Value(call.shape, _join(call, values, dim, joint=True), _common_dead(values))


def _join(call: Call, values: list[Value], dim: int, joint: bool = False) -> tuple[Block, ...]:
    touching = {d for value in values for block in value.blocks if dim in block.dims or joint for d in block.dims}
    dims = tuple(sorted(touching | ({dim} if touching else set())))
    blocks: list[Block] = []
    if dims:
        parts = []
        for value in values:
            sizes = [value.shape[d] for d in dims]
            part: Labels = np.zeros(sizes, dtype=np.int32)
            for block in value.blocks:
                if set(block.dims) & set(dims):
                    if not set(block.dims) <= set(dims) or part.any():
                        call.labels.fix(block.labels.ravel(), "concatenated across two labelled dimensions")
                        continue
                    local = Block(tuple(dims.index(d) for d in block.dims), block.labels)
                    part = expanded(local, tuple(sizes)).numpy()
            parts.append(part)
        labels = np.ascontiguousarray(np.concatenate(parts, axis=dims.index(dim)))
        blocks.append(Block(dims, labels))
    rest = []
    for value in values:
        own = tuple(block for block in value.blocks if not set(block.dims) & set(dims))
        sizes = list(value.shape)
        for d in dims or (dim,):  # these are not compared here
            sizes[d] = 1
        rest.append(Value(tuple(sizes), own))
    shape = tuple(1 if d in (dims or (dim,)) else size for d, size in enumerate(call.shape))
    return (*blocks, *call.labels.merge(rest, shape, "concatenated"))


def _common_dead(values: list[Value]) -> float | None:
    dead = {value.dead for value in values if value.blocks}
    return dead.pop() if len(dead) == 1 else None


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Value:
    """Constant padding of a labelled dimension adds labels of its own, other padding pins the dimension."""
    x = call.value("self")
    amounts = call.number("pad")
    mode = call.number("mode", "constant")
    fill = float(call.number("value") or 0.0)
    shape = call.shape
    pairs = [(len(shape) - 1 - index, amounts[2 * index], amounts[2 * index + 1]) for index in range(len(amounts) // 2)]
    touched = {dim: (before, after) for dim, before, after in pairs if before or after}
    if mode != "constant":
        pinned = call.labels.pin(x, touched, f"{mode} padding")
        return Value(shape, pinned.blocks, x.dead)
    x = call.labels.pin(x, {d for d in touched if (b := x.block(d)) is not None and len(b.dims) > 1}, "padding")
    dead = x.dead if x.dead == fill or not touched else None
    blocks = [block for block in x.blocks if not set(block.dims) & set(touched)]
    for dim, (before, after) in touched.items():
        known = x.block(dim)
        if known is None and dim != 1:  # padding of unlabelled space
            continue
        inner = np.zeros(x.shape[dim], dtype=np.int32) if known is None else known.labels
        inner = inner[max(-before, 0) : len(inner) - max(-after, 0)]
        parts = [call.labels.fresh(max(before, 0)), inner, call.labels.fresh(max(after, 0))]
        blocks.append(Block((dim,), np.concatenate(parts)))
    return Value(shape, tuple(blocks), dead)


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(call: Call) -> Value:
    """Channels that become one pixel block (r * r of them) go together."""
    x = call.value("self")
    up = call.name == "pixel_shuffle"
    factor = int(call.number("upscale_factor" if up else "downscale_factor")) ** 2
    dim = len(x.shape) - 3
    x = call.labels.pin(x, (dim + 1, dim + 2), "pixel shuffle moves it into space")
    labels = call.labels.axis(x, dim, "pixel shuffle")
    others = tuple(block for block in x.blocks if dim not in block.dims)
    if labels is None:
        return Value(call.shape, others, x.dead)
    after = call.labels.unite_along(labels.reshape(-1, factor), (1,)) if up else np.repeat(labels, factor)
    return Value(call.shape, (*others, Block((dim,), after)), x.dead)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    """View as (groups, channels), transpose, flatten: the channels at one place of all groups go together."""
    x = call.value("self")
    labels = call.labels.axis(x, 1, "channel shuffle")
    others = tuple(block for block in x.blocks if 1 not in block.dims)
    if labels is None:
        return Value(call.shape, others, x.dead)
    grid = labels.reshape(int(call.number("groups")), -1)
    call.labels.unite_along(grid, (0,))
    return Value(call.shape, (*others, Block((1,), np.ascontiguousarray(grid.T).ravel())), x.dead)


@rule("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "empty", "new_empty")
def create(call: Call) -> Value:
    """A constant tensor: any part of it may be left out, so its dimensions get labels of their own."""
    shape = call.shape
    fill = call.number("fill_value", 1.0 if "ones" in call.name else 0.0)
    sizes = call.arguments["size"]
    dims = [dim for dim, size in enumerate(shape) if size > 1 and isinstance(sizes[dim], int)]
    blocks = tuple(Block((dim,), call.labels.fresh(shape[dim]), copies=True) for dim in dims)
    return Value(shape, blocks, float(fill) if isinstance(fill, int | float) else None)


def unknown(call: Call, why: str | None = None) -> Value | list[Value]:
    """Fix everything that flows in; nothing can shrink in the result."""
    reason = f"operator {call.node.target}: {why}" if why else f"operator {call.node.target} has no rule"
    for value in call.tensors():
        call.labels.fix_value(value, reason)
    values = [Value(shape, (), None) for shape in call.shapes]
    return values if isinstance(call.node.meta.get("val"), list | tuple) else values[0] if values else []


def _constant(call: Call, name: str) -> Tensor | None:
    argument = call.arguments[name]
    return call.constants.get(argument) if isinstance(argument, fx.Node) else None
