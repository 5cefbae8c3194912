"""Operators that multiply and sum over a dimension: linear, matmul, einsum, convolution, attention, embedding.

All dense ones are one rule: place the operands in a common index space, tie them as a product does, and sum over the
contracted dimensions. A unit on a contracted dimension may go if its elements are zero in at least one operand.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edgespa.graph.labels import UNLABELLED, Block, Labels, Value
from edgespa.graph.rules.layout import unknown
from edgespa.graph.rules.registry import Call, rule


def place(value: Value, dims: tuple[int, ...], rank: int) -> Value:
    """A value in a larger index space: its dimension *i* becomes ``dims[i]`` (ascending or not), others have size 1."""
    shape = [1] * rank
    for size, dim in zip(value.shape, dims, strict=True):
        shape[dim] = size
    blocks = []
    for block in value.blocks:
        moved = [dims[dim] for dim in block.dims]
        order = sorted(range(len(moved)), key=moved.__getitem__)
        labels = block.labels.transpose(order) if len(order) > 1 else block.labels
        blocks.append(Block(tuple(moved[i] for i in order), np.ascontiguousarray(labels)))
    return Value(tuple(shape), tuple(blocks), value.dead, value.why)


def contract(call: Call, operands: list[Value], over: tuple[int, ...]) -> Value:
    """Multiply operands of one index space and sum over dimensions, which stay in the result with size 1.

    A removed unit's products are zero if any operand that carries the unit is zero there; an operand that does not
    carry it says nothing.
    """
    shape = tuple(max(sizes) for sizes in zip(*(value.shape for value in operands), strict=True))
    blocks = call.labels.merge(operands, shape, f"multiplied ({call.name})")
    zeros = [dim for value in operands if value.dead == 0.0 for block in value.blocks for dim in block.dims]
    return _sum(call, Value(shape, blocks), over, [block for block in blocks if not set(block.dims) & set(zeros)])


def sum_over(call: Call, value: Value, over: tuple[int, ...]) -> Value:
    """Sum over dimensions, kept with size 1: blocks wholly within need zeros at removed units, others are united."""
    return _sum(call, value, over, [] if value.dead == 0.0 else list(value.blocks))


def _sum(call: Call, value: Value, over: tuple[int, ...], nonzero: list[Block]) -> Value:
    inside = [block for block in value.blocks if set(block.dims) <= set(over)]
    outside = tuple(block for block in value.blocks if block not in inside)
    for block in inside:
        if block in nonzero:
            call.labels.fix(
                block.labels.ravel(), f"summed without weights, where removed channels are not zero ({call.name})"
            )
    rest = call.labels.pin(dataclasses.replace(value, blocks=outside), over, f"summed ({call.name})")
    shape = tuple(1 if dim in over else size for dim, size in enumerate(value.shape))
    return Value(shape, rest.blocks, None if any(block in nonzero for block in outside) else 0.0)


def drop(value: Value, dims: tuple[int, ...]) -> Value:
    """Leave out dimensions of size 1."""
    kept = [dim for dim in range(len(value.shape)) if dim not in dims]
    new = {dim: index for index, dim in enumerate(kept)}
    blocks = tuple(Block(tuple(new[dim] for dim in block.dims), block.labels) for block in value.blocks)
    return Value(tuple(value.shape[dim] for dim in kept), blocks, value.dead)


def add_bias(call: Call, value: Value, bias: Value | None, dim: int) -> Value:
    """Tie a bias vector to one dimension; units of other dimensions hold the bias afterwards."""
    if bias is None:
        return value
    placed = place(bias, (dim,), len(value.shape))
    blocks = call.labels.merge([value, placed], value.shape, f"added as the bias ({call.name})")
    zero = value.dead == 0.0 and bias.dead == 0.0 and all(dim in block.dims for block in blocks)
    return Value(value.shape, blocks, 0.0 if zero else None, value.why)


@rule("linear")
def linear(call: Call) -> Value:
    """``x [..., in] @ weight [out, in].T + bias [out]``."""
    x, weight = call.value("input"), call.value("weight")
    rank = len(x.shape) + 1  # leading dimensions, in, out
    inner, outer = rank - 2, rank - 1
    operands = [place(x, tuple(range(rank - 1)), rank), place(weight, (outer, inner), rank)]
    result = drop(contract(call, operands, (inner,)), (inner,))
    return add_bias(call, result, call.maybe("bias"), len(result.shape) - 1)


@rule("matmul", "bmm", "mm", "mv", "dot")
def matmul(call: Call) -> Value:
    """``a [..., n, k] @ b [..., k, m]`` with broadcast leading dimensions."""
    names = {"matmul": ("self", "other"), "mv": ("self", "vec"), "dot": ("self", "tensor")}
    first, second = names.get(call.name, ("self", "mat2"))
    return _matmul(call, call.value(first), call.value(second))


def _matmul(call: Call, a: Value, b: Value) -> Value:
    if call.labels.widths and len(a.shape) > 2 and len(b.shape) > 2:  # heads compare, or hand on what they attended to
        a, b = (call.labels.pin(side, range(len(side.shape) - 2), "heads, which all stay") for side in (a, b))
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    batch = max(len(a.shape) - 2, len(b.shape) - 2, 0)
    rank = batch + 3
    n, k, m = batch, batch + 1, batch + 2
    a_dims = (*range(batch - (len(a.shape) - 2), batch), n, k) if rows else (k,)
    b_dims = (*range(batch - (len(b.shape) - 2), batch), k, m) if columns else (k,)
    result = contract(call, [place(a, a_dims, rank), place(b, b_dims, rank)], (k,))
    return drop(result, (k, *(() if rows else (n,)), *(() if columns else (m,))))


@rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(call: Call) -> Value | list[Value]:
    """``beta * self + alpha * (a @ b)``."""
    if call.name == "addbmm":
        return unknown(call)
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}[call.name]
    product = _matmul(call, call.value(names[0]), call.value(names[1]))
    base = call.value("self")
    blocks = call.labels.merge([product, base], call.shape, f"added ({call.name})")
    dead = {value.dead for value in (product, base) if value.blocks}
    return Value(call.shape, blocks, 0.0 if dead == {0.0} and len(base.blocks) >= len(product.blocks) else None)


@rule("einsum")
def einsum(call: Call) -> Value | list[Value]:
    """Any equation without ellipsis and without repeated letters in one operand."""
    equation = str(call.number("equation")).replace(" ", "")
    values = call.list_of("tensors")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    if "." in equation or any(len(set(term)) < len(term) for term in terms) or len(terms) != len(values):
        return unknown(call, f"equation {equation}")
    letters = list(right) + sorted(set("".join(terms)) - set(right))
    place_of = {letter: index for index, letter in enumerate(letters)}
    operands = [
        place(value, tuple(place_of[letter] for letter in term), len(letters))
        for value, term in zip(values, terms, strict=True)
    ]
    over = tuple(range(len(right), len(letters)))
    return drop(contract(call, operands, over), over)


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: Call) -> Value | list[Value]:
    """``x [N, C, ...]``, ``weight [O, C / groups, ...]`` (transposed: ``[C, O / groups, ...]``), ``bias [O]``."""
    x, weight, bias = call.value("input"), call.value("weight"), call.maybe("bias")
    transposed = "transpose" in call.name or bool(call.number("transposed", False))
    groups = int(call.number("groups", 1))
    batched = len(x.shape) == len(weight.shape)
    if not batched:
        return unknown(call, "input without a batch dimension")
    joint = x.block(1)
    if joint is not None and 0 in joint.dims:  # heads in the batch, head size in the channels: whole heads stay units
        x = call.labels.pin(x, (1,), "channels of heads that share a kernel")
    space = tuple(range(2, len(x.shape)))
    if groups == 1 and not transposed and _is_pointwise(call, weight):
        inner, outer = 1, len(x.shape)
        operands = [
            place(x, tuple(range(outer)), outer + 1),
            place(Value(weight.shape[:2], weight.blocks, weight.dead), (outer, inner), outer + 1),
        ]
        flat = drop(contract(call, operands, (inner,)), (inner,))
        return add_bias(call, place(flat, (0, *space, 1), outer), bias, 1)
    x = call.labels.pin(x, space, "space that a convolution window slides over")
    weight = call.labels.pin(weight, space, "kernel extent")
    if groups == 1:
        into, out = (0, 1) if transposed else (1, 0)
        operands = [
            place(Value(x.shape[:2], x.blocks, x.dead, x.why), (0, 1), 3),
            place(Value(weight.shape[:2], weight.blocks, weight.dead), (1, 2) if into == 0 else (2, 1), 3),
        ]
        assert {into, out} == {0, 1}
        flat = drop(contract(call, operands, (1,)), (1,))
    else:
        flat = _grouped(call, x, weight, groups, transposed)
    result = Value(call.shape, flat.blocks, flat.dead, flat.why)
    return add_bias(call, result, bias, 1)


def _is_pointwise(call: Call, weight: Value) -> bool:
    """Whether each place of the result depends on the same place of the input alone."""
    steps = [call.number("stride", 1), call.number("padding", 0)]
    stride, padding = (set(step) if isinstance(step, list | tuple) else {step} for step in steps)
    return set(weight.shape[2:]) == {1} and stride == {1} and padding == {0}


def _grouped(call: Call, x: Value, weight: Value, groups: int, transposed: bool) -> Value:
    """A grouped convolution loses whole groups, or the same place in every group; what gives more units is chosen."""
    labels = call.labels
    into = labels.axis(x, 1, "input of a grouped convolution")
    first = _axis_or_zeros(call, weight, 0)
    second = _axis_or_zeros(call, weight, 1)
    by_group = first.reshape(groups, -1)  # the outputs, or the inputs of a transposed convolution
    inputs = None if into is None else into.reshape(groups, -1)
    shared = weight.shape[1]  # the other side's channels per group
    batch = tuple(block for block in x.blocks if 1 not in block.dims)
    whole = groups >= max(by_group.shape[1], shared)
    if whole:
        labels.fix(second, "kernel columns shared by whole groups")
        unit = labels.unite_along(by_group, (1,))
        if inputs is None:
            labels.fix(unit, f"groups over channels that cannot shrink{x.why.removeprefix(UNLABELLED)}")
        else:
            labels.unite(unit[:, None], inputs)
        outputs = np.repeat(unit, shared) if transposed else first
    else:
        place_in_group = labels.unite_along(by_group, (0,))
        if transposed:
            if inputs is None:
                labels.fix(place_in_group, "multiplied with a tensor that cannot shrink there")
            else:
                labels.unite(place_in_group[None, :], inputs)
            outputs = np.tile(second, groups)
        else:
            if inputs is None:
                labels.fix(second, "multiplied with a tensor that cannot shrink there")
            else:
                labels.unite(second[None, :], inputs)
            outputs = first
        if weight.dead != 0.0 and x.dead != 0.0:
            summed = place_in_group if transposed else second
            labels.fix(summed, f"summed without weights, where removed channels are not zero ({call.name})")
    zero = x.dead == 0.0 if batch or (whole and weight.dead != 0.0) else weight.dead == 0.0
    if whole and inputs is None:
        return Value((x.shape[0], outputs.size), batch, 0.0 if zero else None, x.why)
    return Value((x.shape[0], outputs.size), (*batch, Block((1,), outputs)), 0.0 if zero else None)


def _axis_or_zeros(call: Call, value: Value, dim: int) -> Labels:
    labels = call.labels.axis(value, dim, "weight of a grouped convolution")
    return np.zeros(value.shape[dim], dtype=np.int32) if labels is None else labels


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """``softmax(q k^T * scale + mask) v``: the leading dimensions (heads) of all three are tied.

    A head size that is labelled on its own (one head) is contracted like any other inner dimension.
    """
    query, key, value = call.value("query"), call.value("key"), call.value("value")
    rank = len(query.shape) + 2  # leading, n, m, d, e
    lead = len(query.shape) - 2
    n, m, d, e = lead, lead + 1, lead + 2, lead + 3
    if bool(call.number("enable_gqa", False)) and lead:
        key, value = (_repeat_heads(call, side, query.shape[lead - 1], lead - 1) for side in (key, value))
    if bool(call.number("is_causal", False)):
        query = call.labels.pin(query, (lead,), "causal attention, where places matter")
    heads = tuple(range(lead))
    if call.labels.widths:
        query, key, value = (call.labels.pin(side, heads, "heads, which all stay") for side in (query, key, value))
    scores = contract(call, [place(query, (*heads, n, d), rank), place(key, (*heads, m, d), rank)], (d,))
    mask = call.maybe("attn_mask")
    if mask is not None:
        shift = len(query.shape) - len(mask.shape)
        placed = place(mask, (*heads, n, m)[shift:], rank)
        scores = Value(scores.shape, call.labels.merge([scores, placed], scores.shape, "added as the attention mask"))
    scores = call.labels.pin(scores, (m,), "softmax")
    scores = Value(scores.shape, scores.blocks, None)
    result = contract(call, [scores, place(value, (*heads, m, e), rank)], (m,))
    return drop(result, (m, d))


def _repeat_heads(call: Call, value: Value, heads: int, dim: int) -> Value:
    times = heads // value.shape[dim]
    if times == 1:
        return value
    blocks = tuple(
        Block(block.dims, np.repeat(block.labels, times, axis=block.dims.index(dim))) if dim in block.dims else block
        for block in value.blocks
    )
    return Value((*value.shape[:dim], heads, *value.shape[dim + 1 :]), blocks, value.dead)


@rule("embedding")
def embedding(call: Call) -> Value:
    """``weight [rows, C]`` looked up by data: the rows stay, the columns are channels."""
    weight = call.labels.pin(call.value("weight"), (0,), "rows looked up by data")
    call.labels.fix_value(call.value("indices"), "used as an index")
    last = len(call.shape) - 1
    return Value(call.shape, tuple(Block((last,), block.labels) for block in weight.blocks), weight.dead)
