"""Operators that pick or replace elements by their positions."""

from __future__ import annotations

from edgespa.graph.labels import Block, Value
from edgespa.graph.rules.layout import IN_BATCH, apply, compress, expanded, unknown
from edgespa.graph.rules.registry import Call, rule


@rule("index")
def index(call: Call) -> Value | list[Value]:
    """Advanced indexing with one index tensor of known content; otherwise the indexed dimensions are pinned."""
    x = call.value("self")
    indices = list(call.arguments["indices"])
    touched = {dim for dim, index in enumerate(indices) if index is not None}
    why = "indexed along several dimensions"
    if len(touched) == 1:
        table = call.constants.get(indices[next(iter(touched))])
        why = "indexed by data" if table is None else "indexed by a table" if table.dim() != 1 else ""
        why = IN_BATCH if touched & call.batch_dims("self") else why
    for value in call.list_of("indices"):
        call.labels.fix_value(value, "used as an index")
    if why:
        rest = call.labels.pin(x, touched, why)
        if rest.blocks and len(touched) > 1:
            return unknown(call, "indexed along several dimensions")
        x = rest
    dim = next(iter(touched))
    extra = len(call.shape) - len(x.shape)  # the index tensor's dimensions stand in the place of the indexed one
    blocks = []
    for block in x.blocks:
        if dim in block.dims:
            compact = compress(apply(call, "self", expanded(block, x.shape))[0])
            if compact is None:
                call.labels.fix(block.labels.ravel(), "read at a fixed position (index)")
            else:
                blocks.append(compact)
        else:
            blocks.append(Block(tuple(d + extra if d > dim else d for d in block.dims), block.labels))
    return Value(call.shape, tuple(blocks), x.dead)


@rule("slice_scatter", "select_scatter")
def scatter(call: Call) -> Value | list[Value]:
    """``self`` with a part replaced by ``src``: the part's labels are those of both, the rest is as it was.

    The replaced indices of ``self`` are tied to those of ``src`` too, so that both lose the same number.
    """
    x, source = call.value("self"), call.value("src")
    if call.number("step", 1) != 1:
        return unknown(call, "with a stride")
    dim = call.dim("dim", len(x.shape))
    if dim in call.batch_dims("self"):
        x = call.labels.pin(x, {dim}, IN_BATCH)
    if call.name == "select_scatter":
        shifted = tuple(Block(tuple(d + (d >= dim) for d in block.dims), block.labels) for block in source.blocks)
        source = Value((*source.shape[:dim], 1, *source.shape[dim:]), shifted, source.dead, source.why)
        index = int(call.number("index")) % x.shape[dim]
        part = slice(index, index + 1, 1)
    else:
        part = slice(*slice(call.number("start"), call.number("end"), call.number("step")).indices(x.shape[dim]))
    labels = call.labels.axis(x, dim, "replaced in part")
    inside = None if labels is None else labels[part]
    written = call.labels.axis(source, dim, "written to a part")
    if inside is not None and written is None:
        call.labels.fix(inside, f"replaced by {source.why}" if len(inside) > 1 else "written at a fixed position")
    elif written is not None and inside is None:
        call.labels.fix(written, f"written to {x.why}")
    elif written is not None and inside is not None:
        call.labels.unite(inside, written)
    rest = [
        Value(tuple(1 if d == dim else size for d, size in enumerate(value.shape)), other, value.dead, value.why)
        for value, other in ((v, tuple(b for b in v.blocks if dim not in b.dims)) for v in (x, source))
    ]
    shape = tuple(1 if d == dim else size for d, size in enumerate(x.shape))
    blocks = call.labels.merge(rest, shape, "written together")
    own = () if labels is None else (Block((dim,), labels),)
    return Value(call.shape, (*blocks, *own), x.dead if x.dead == source.dead or not source.blocks else None)


@rule("gather")
def gather(call: Call) -> Value | list[Value]:
    """``x[i, index[i, j], j]`` for ``dim`` 1: along the other dimensions the channels are those of ``x`` and ``index``.

    Positions along ``dim`` depend on data, so both are pinned there.
    """
    x, index = call.value("self"), call.value("index")
    dim = call.dim("dim", len(x.shape))
    cut = {d for d, size in enumerate(index.shape) if d != dim and size != x.shape[d]}
    x = call.labels.pin(x, {dim, *cut}, "indexed by data")
    index = call.labels.pin(index, {dim, *cut}, "used as an index")
    sizes = tuple(1 if d == dim or d in cut else size for d, size in enumerate(call.shape))
    values = [Value(sizes, value.blocks, value.dead, value.why) for value in (x, index)]
    return Value(call.shape, call.labels.merge(values, sizes, "gathered together"), x.dead)
