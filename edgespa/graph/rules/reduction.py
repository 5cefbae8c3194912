"""Operators that look at several elements at once: norms, softmax, reductions, pooling, resizing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from torch import Tensor

from edgespa.graph.labels import Block, Value
from edgespa.graph.rules.contraction import drop, sum_over
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import Call, rule


def affine(call: Call, x: Value, names: tuple[str, ...], dim: int) -> Value:
    """Tie per-channel vectors (weight, bias, running statistics) to one dimension of a normalised value."""
    rank = len(x.shape)
    vectors = []
    for name in names:
        vector = call.maybe(name)
        if vector is not None:
            shape = (1,) * dim + vector.shape + (1,) * (rank - dim - 1)
            vectors.append(Value(shape, tuple(Block((dim,), block.labels) for block in vector.blocks)))
    blocks = call.labels.merge([x, *vectors], x.shape, f"scaled per channel ({call.name})")
    dead = {name: vector.dead for name in names if (vector := call.maybe(name)) is not None}
    scaled = dead.get("weight") == 0.0 or (x.dead == 0.0 and dead.get("running_mean", 0.0) == 0.0)
    zero = scaled and dead.get("bias", 0.0) == 0.0 and all(dim in block.dims for block in blocks)
    return Value(call.shape, blocks, 0.0 if zero else None)


@rule("batch_norm", "instance_norm", "native_batch_norm")
def batch_norm(call: Call) -> Value | list[Value]:
    """Statistics are per channel, so channels may go; weight, bias and running statistics go with them."""
    if call.name == "native_batch_norm":
        return unknown(call)
    x = call.value("input")
    if call.name == "instance_norm":
        x = call.labels.pin(x, range(2, len(x.shape)), "instance norm statistics")
    return affine(call, x, ("weight", "bias", "running_mean", "running_var"), 1)


@rule("group_norm")
def group_norm(call: Call) -> Value:
    """Statistics are over the channels of a group: whole groups may go; with one group, nothing."""
    x = call.value("input")
    groups = int(call.number("num_groups"))
    if groups == 1:
        x = call.labels.pin(x, range(1, len(x.shape)), "group norm with one group: statistics over all channels")
    else:
        x = call.labels.pin(x, range(2, len(x.shape)), "group norm statistics")
        labels = call.labels.axis(x, 1, "group norm statistics")
        if labels is not None:
            call.labels.unite_along(labels.reshape(groups, -1), (1,))
            x = Value(x.shape, (*(b for b in x.blocks if 1 not in b.dims), Block((1,), labels)), x.dead)
    return affine(call, x, ("weight", "bias"), 1)


@rule("rms_norm")
def rms_norm(call: Call) -> Value | list[Value]:
    """Zeros add nothing to the sum of squares, and its divisor is kept: channels may go, but no part of each head."""
    x = call.value("input")
    dim = len(x.shape) - 1
    block = x.block(dim)
    if x.dead != 0.0 or block is None or len(block.dims) > 1 or len(call.number("normalized_shape")) > 1:
        return layer_norm(call)
    return affine(call, x, ("weight",), dim)


@rule("layer_norm", "native_layer_norm")
def layer_norm(call: Call) -> Value | list[Value]:
    """Statistics run over the last dimensions: removing channels there is not the same as zeroing them."""
    x = call.value("input")
    count = len(call.number("normalized_shape"))
    last = tuple(range(len(x.shape) - count, len(x.shape)))
    reason = f"{call.name.removeprefix('native_')} statistics over the channels"
    x = call.labels.pin(x, last, reason)
    for name in ("weight", "bias"):
        vector = call.maybe(name)
        if vector is not None:
            call.labels.fix_value(vector, reason)
    if call.name == "native_layer_norm":
        shapes = call.shapes
        return [Value(shapes[0], x.blocks, None), *(Value(shape, (), None) for shape in shapes[1:])]
    return Value(call.shape, x.blocks, None)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp", "cumsum", "cumprod", "sort", "topk", "argsort")
def softmax(call: Call) -> Value | list[Value]:
    """All elements along the dimension matter to each other."""
    x = call.value("self")
    over = call.dims("dim", len(x.shape)) if call.name == "logsumexp" else (call.dim("dim", len(x.shape), -1),)
    x = call.labels.pin(x, over, f"{call.name} over the dimension")
    if call.name == "logsumexp":
        return _reduced(call, Value(x.shape, x.blocks, None))
    values = [Value(shape, x.blocks, None) for shape in call.shapes]
    return values if isinstance(call.node.meta["val"], list | tuple) else values[0]


@rule("sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "std_mean", "norm",
      "linalg_vector_norm", "prod", "any", "all", "median", "numel")  # fmt: skip
def reduce(call: Call) -> Value | list[Value]:
    """A sum or a norm over zeros is exact, and a mean once its divisor is kept; other statistics fix the dimension."""
    if "other" in call.arguments and call.maybe("other") is not None:  # the two-operand spelling of max and min
        from edgespa.graph.rules.pointwise import pointwise

        return pointwise(call)
    x = call.value("self")
    over = call.dims("dim", len(x.shape))
    if call.name in {"sum", "mean"} or (x.dead == 0.0 and _sums_magnitudes(call)):
        summed = sum_over(call, x, over)
        return _reduced(call, dataclasses.replace(summed, dead=x.dead) if call.name == "mean" else summed)
    reason = f"{call.name} over the channels: a statistic over all of them"
    dead = x.dead if call.name in _KEEP_CONSTANT or (x.dead == 0.0 and call.name in _KEEP_ZERO) else None
    x = call.labels.pin(x, over, reason)
    return _reduced(call, Value(x.shape, x.blocks, dead))


def _sums_magnitudes(call: Call) -> bool:
    """Whether zeros add nothing: a norm of any order from 0 to infinity."""
    order = call.number("ord" if call.name == "linalg_vector_norm" else "p", 2)
    return call.name in {"norm", "linalg_vector_norm"} and (order is None or float(order) >= 0.0)


_KEEP_CONSTANT = {"amax", "amin", "max", "min", "median"}
_KEEP_ZERO = {"norm", "linalg_vector_norm", "prod", "var", "std"}


def _reduced(call: Call, value: Value) -> Value | list[Value]:
    """The result of a reduction, with or without the reduced dimensions, for one or several outputs."""
    rank = len(value.shape)
    over = call.dims("dim", rank)
    shapes = call.shapes
    keeps = len(shapes[0]) == rank if shapes else True
    flat = value if keeps else drop(value, over)
    results = [Value(shape, flat.blocks, value.dead if index == 0 else None) for index, shape in enumerate(shapes)]
    return results if isinstance(call.node.meta["val"], list | tuple) else results[0]


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
      "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
      "max_pool2d_with_indices", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d",
      "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
      "_adaptive_avg_pool2d")  # fmt: skip
def spatial(call: Call) -> Value | list[Value]:
    """Acts on space, channel by channel: dimensions from the third on stay."""
    x = call.value("input" if "input" in call.arguments else "self")
    count = {"1d": 1, "2d": 2, "3d": 3}.get(next((s for s in ("1d", "2d", "3d") if s in call.name), "2d"), 2)
    x = call.labels.pin(x, range(len(x.shape) - count, len(x.shape)), f"{call.name} over space")
    values = [Value(shape, x.blocks, 0.0 if x.dead == 0.0 else None) for shape in call.shapes]
    return values if isinstance(call.node.meta["val"], list | tuple) else values[0]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(call: Call) -> Value:
    """As `spatial`; the grid, ``[N, H, W, 2]``, has a part for each sample of the input, and these go together."""
    x = call.labels.pin(call.value("input"), range(2, len(call.shape)), "grid_sampler over space")
    grid = call.labels.pin(call.value("grid"), range(1, len(call.shape)), "used as a grid")
    samples = Value((x.shape[0],) + (1,) * (len(x.shape) - 1), grid.blocks, grid.dead, grid.why)
    blocks = call.labels.merge([x, samples], x.shape, "sampled at the places of a grid")
    return Value(call.shape, blocks, 0.0 if x.dead == 0.0 else None)


@rule("im2col")
def im2col(call: Call) -> Value:
    """Patches: ``[N, C, H, W] -> [N, C * k * k, L]``, a channel becomes k * k rows."""
    x = call.value("self")
    x = call.labels.pin(x, range(2, len(x.shape)), "patches move space into channels")
    size = math.prod(call.number("kernel_size"))
    labels = call.labels.axis(x, 1, "patches")
    others = tuple(block for block in x.blocks if 1 not in block.dims)
    own = () if labels is None else (Block((1,), np.repeat(labels, size)),)
    return Value(call.shape, (*others, *own), 0.0 if x.dead == 0.0 else None)


@rule("col2im")
def col2im(call: Call) -> Value:
    """Patches summed into an image: ``[N, C * k * k, L] -> [N, C, H, W]``, the k * k rows of a channel go together."""
    x = call.value("self")
    x = call.labels.pin(x, range(2, len(x.shape)), "patches move space into channels")
    size = math.prod(call.number("kernel_size"))
    labels = call.labels.axis(x, 1, "patches")
    others = tuple(block for block in x.blocks if 1 not in block.dims)
    own = () if labels is None else (Block((1,), call.labels.unite_along(labels.reshape(-1, size), (1,))),)
    return Value(call.shape, (*others, *own), 0.0 if x.dead == 0.0 else None)


@rule("triu", "tril")
def triangle(call: Call) -> Value:
    """The last two dimensions have places that matter."""
    x = call.value("self")
    x = call.labels.pin(x, (len(x.shape) - 2, len(x.shape) - 1), call.name)
    return Value(call.shape, x.blocks, None)


@rule("unfold")
def unfold(call: Call) -> Value:
    """Sliding windows along one dimension, appended as the last one."""
    x = call.value("self")
    x = call.labels.pin(x, (call.dim("dimension", len(x.shape)),), "windows along the dimension")
    return Value(call.shape, x.blocks, x.dead)


@rule("arange", "rand", "randn", "eye", "linspace", "scalar_tensor", "bernoulli", "rand_like", "randn_like")
def made(call: Call) -> Value | list[Value]:
    """Made from nothing, with places that matter."""
    for value in call.tensors():
        call.labels.fix_value(value, f"{call.name} of its shape")
    return Value(call.shape, (), None) if isinstance(call.node.meta.get("val"), Tensor) else []


@rule("l1_loss", "cosine_similarity", "cdist", "pairwise_distance")
def distance(call: Call) -> Value | list[Value]:
    """Statistics over the compared dimension."""
    return unknown(call, "a statistic over the compared dimension")
