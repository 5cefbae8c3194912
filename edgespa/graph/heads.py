"""The attention of a program: which rows of which weights make its queries, keys and values, head by head.

What is looked at is `scaled_dot_product_attention`, and a softmax between two matrix products of activations. From
there the way leads back to the linear layers that write queries, keys and values, and on to the one that reads what the
heads attended to. Where nothing but layout lies on the way (and a number that is multiplied), a head is rows of those
weights, and may be given others: `edgespa.selection.heads`. Where anything else does (positions that are rotated into
them, a norm), it is said.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgespa.graph.program import Program, concrete, shape_of
from edgespa.graph.rules.registry import named_arguments, operator_name

ATTENTION = "scaled_dot_product_attention"
Rows = NDArray[np.int64]
"""Of each head the rows (or columns) of a weight, ``[heads, width]``."""

_LAYOUT = frozenset(
    (
        "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "contiguous", "clone",
        "select", "unbind", "split", "split_with_sizes", "chunk", "slice", "squeeze", "unsqueeze", "expand", "movedim",
        "swapaxes", "repeat_interleave", "t", "alias", "detach", "dropout", "narrow",
    )
)  # fmt: skip
_SCALED = frozenset(("mul", "div"))


@dataclasses.dataclass(frozen=True)
class Side:
    """The layer that writes queries, keys or values, or reads what was attended to.

    Attributes:
        node: The linear operator.
        weight: Its weight.
        bias: Its bias, if it has one.
        rows: Of each head the rows of the weight; of the layer that reads, its columns.
    """

    node: str
    weight: str
    bias: str | None
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Attention:
    """One attention operator. A part that cannot be changed has the reason in words in the place of its sides.

    Attributes:
        node: The operator.
        name: The path of the module that it is in, or the node.
        width: Of a head, of queries and keys.
        value_width: Of a head, of values.
        query: Who writes the queries; of each head that is compared, one row of ``rows``.
        key: Who writes the keys, row by row to those of ``query``; heads that share a key have the same rows.
        value: Who writes the values, with as many rows of ``rows`` as there are heads.
        output: Who reads what was attended to.
        why_not: Of ``"query-key"`` and ``"value-output"``, why that product stays as it is.
    """

    node: str
    name: str
    width: int
    value_width: int
    query: Side | None = None
    key: Side | None = None
    value: Side | None = None
    output: Side | None = None
    why_not: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _NoWayError(Exception):
    """What is between a weight and attention that cannot be seen through, in words."""


def find_attentions(program: Program) -> tuple[Attention, ...]:
    """All attention of a program, in its order.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
    """
    uses: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] = uses.get(str(node.target), 0) + len(node.users)
    found = [_operands(node) for node in program.graph.nodes]
    return tuple(_attention(each, uses) for each in found if each is not None)


@dataclasses.dataclass(frozen=True)
class _Operands:
    """What attention is made of, at the operator that gives what was attended to."""

    node: fx.Node
    query: fx.Node
    key: fx.Node
    value: fx.Node
    turned: bool = False  # the key's last two dimensions are the other way round
    repeated: bool = False


def _operands(node: fx.Node) -> _Operands | None:
    name = operator_name(node)
    if name == ATTENTION:
        given = named_arguments(node)
        return _Operands(
            node, given["query"], given["key"], given["value"], repeated=bool(given.get("enable_gqa", False))
        )
    pair = _product(node)
    if pair is None:
        return None
    softmax = _back(pair[0], ("softmax", "_softmax"), ("dropout", "contiguous", "clone", "to", "type_as"))
    if softmax is None:
        return None
    scores = _back(softmax, _PRODUCTS, _ON_SCORES, skip=True)
    compared = None if scores is None else _product(scores)
    return None if compared is None else _Operands(node, compared[0], compared[1], pair[1], turned=True)


_PRODUCTS = ("matmul", "bmm", "baddbmm")
_ON_SCORES = (
    "add", "sub", "mul", "div", "masked_fill", "where", "view", "reshape", "contiguous", "clone", "to", "float",
    "dropout", "softmax", "_softmax",
)  # fmt: skip


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The operands of a product of two activations with leading dimensions."""
    if operator_name(node) not in _PRODUCTS:
        return None
    given = named_arguments(node)
    pairs = (("batch1", "batch2"), ("self", "other"), ("self", "mat2"))
    one, other = next((given[a], given[b]) for a, b in pairs if a in given and b in given)
    if not all(isinstance(each, fx.Node) and each.op == "call_function" for each in (one, other)):
        return None
    ranks = {len(shape_of(each.meta["val"])) for each in (one, other)}
    return (one, other) if len(ranks) == 1 and min(ranks) >= 3 else None


def _back(node: fx.Node, wanted: tuple[str, ...], through: tuple[str, ...], skip: bool = False) -> fx.Node | None:
    """The first operator of some kinds before a node, behind none but others."""
    for _ in range(_FAR):
        name = operator_name(node)
        if name in wanted and not skip:
            return node
        if name not in through and not skip:
            return None
        skip = False
        sources = [each for each in node.all_input_nodes if each.op == "call_function"]
        if not sources:
            return None
        node = next((each for each in sources if operator_name(each) in (*wanted, *through)), sources[0])
    return None


_FAR = 12


def _attention(given: _Operands, uses: Mapping[str, int]) -> Attention:
    found: dict[str, Any] = {}
    why: dict[str, str] = {}
    sizes = shape_of(given.node.meta["val"])
    heads = int(np.prod(sizes[1:-2])) if len(sizes) > 3 else 0
    try:
        query, key = _writer(given.query, uses), _writer(given.key, uses, turned=given.turned)
        heads = heads or _period(query[1])
        found["query"], found["key"] = (_side(each, heads, given.repeated) for each in (query, key))
    except _NoWayError as reason:
        why["query-key"] = str(reason)
    try:
        value = _writer(given.value, uses)
        heads = heads or _period(value[1])
        own = _side(value, heads, given.repeated)
        found["output"] = _reader(given.node, uses, heads)
        found["value"] = own
    except _NoWayError as reason:
        why["value-output"] = str(reason)
    width, value_width = (shape_of(each.meta["val"])[-1] for each in (given.query, given.value))
    return Attention(given.node.name, _path(given.node), width, value_width, why_not=why, **found)


def _period(rows: Rows) -> int:
    """After how many rows they begin anew: the heads, where those of all samples follow each other."""
    count = len(rows)
    return next(size for size in range(1, count + 1) if count % size == 0 and _repeats(rows, size))


def _repeats(rows: Rows, size: int) -> bool:
    return bool((rows.reshape(-1, size, rows.shape[1]) == rows[:size]).all())


def _side(found: tuple[tuple[str, str, str | None], Rows], heads: int, repeated: bool) -> Side:
    """The rows of each head; heads that share a key or a value have the same."""
    (node, weight, bias), rows = found
    if repeated:
        own = _period(rows)
        rows = np.repeat(rows[:own], heads // own, axis=0)
    if len(rows) % heads or not _repeats(rows, heads):
        raise _NoWayError("its rows are not the same in all samples")
    return Side(node, weight, bias, rows[:heads])


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return paths[-1] if paths and paths[-1] else node.name


def _writer(end: fx.Node, uses: Mapping[str, int], *, turned: bool = False) -> tuple[tuple[str, str, str | None], Rows]:
    """The linear layer whose rows are what attention reads; and which rows, of each head of each sample."""
    way: list[fx.Node] = [end]
    while operator_name(way[-1]) != "linear":
        node = way[-1]
        if node.target is not operator.getitem and not _passes(node):
            raise _NoWayError(f"there is {_called(node)} between its weight and attention")
        way.append(_source(node))
    layer = way.pop()
    weight, bias = _parts(layer, uses)
    return (layer.name, weight, bias), _follow(layer, list(reversed(way)), turned)


def _reader(node: fx.Node, uses: Mapping[str, int], heads: int) -> Side:
    """The linear layer whose columns read what was attended to."""
    way: list[fx.Node] = []
    last = node
    while True:
        users = list(last.users)
        if len(users) != 1:
            raise _NoWayError(f"what was attended to is read {len(users)} times")
        if operator_name(users[0]) == "linear":
            break
        if not _passes(users[0]) or operator_name(users[0]) in _SCALED:
            raise _NoWayError(f"there is {_called(users[0])} between attention and the weight that reads it")
        last = users[0]
        way.append(last)
    layer = users[0]
    if named_arguments(layer).get("input") is not last:
        raise _NoWayError("what was attended to is used as a weight")
    weight, bias = _parts(layer, uses)
    sizes = shape_of(node.meta["val"])
    width, samples = sizes[-1], int(np.prod(sizes[:-2])) // heads
    numbers = torch.arange(heads * width).reshape(1, heads, 1, width).expand(samples, heads, sizes[-2], width)
    columns = _constant_but_last(_run(node, numbers.reshape(sizes), way)).numpy()
    if sorted(columns.tolist()) != list(range(heads * width)):
        raise _NoWayError("the layer behind attention does not read each value of the heads once")
    return Side(layer.name, weight, bias, np.argsort(columns, kind="stable").reshape(heads, width))


def _passes(node: fx.Node) -> bool:
    name = operator_name(node)
    if name in _SCALED:
        return not isinstance(named_arguments(node).get("other"), fx.Node)
    return name in _LAYOUT


def _called(node: fx.Node) -> str:
    name = operator_name(node) or str(node.target)
    return _WORDS.get(name, name if node.op == "call_function" else "an input")


_WORDS = {
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "batch_norm"), "a norm"),
    **dict.fromkeys(("mul", "add"), "arithmetic (such as positions that are rotated in)"),
    "cat": "a concatenation",
}


def _source(node: fx.Node) -> fx.Node:
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        raise _NoWayError("it is not written by a linear layer")
    return first


def _parts(layer: fx.Node, uses: Mapping[str, int]) -> tuple[str, str | None]:
    arguments = named_arguments(layer)
    weight, bias = arguments.get("weight"), arguments.get("bias")
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        raise _NoWayError("its weight is computed")
    if bias is not None and bias.op != "get_attr":
        raise _NoWayError("its bias is computed")
    for each in (weight, bias):
        if each is not None and uses[str(each.target)] > 1:
            raise _NoWayError(f"{each.target} is used more than once")
    return str(weight.target), None if bias is None else str(bias.target)


def _follow(layer: fx.Node, way: list[fx.Node], turned: bool) -> Rows:
    """Rows of the layer's weight as they come to the end of the way, of each head of each sample."""
    sizes = shape_of(layer.meta["val"])
    result = _run(layer, torch.arange(sizes[-1]).expand(sizes), way)
    if result.dim() < 3:
        raise _NoWayError("there are no heads")
    if turned:
        result = result.mT
    first = result[..., :1, :]
    if bool((result != first).any()):
        raise _NoWayError("its rows are not the same at all places")
    return np.ascontiguousarray(first.reshape(-1, result.shape[-1]).numpy()).astype(np.int64)


def _run(start: fx.Node, value: Tensor, way: list[fx.Node]) -> Tensor:
    """What layout operators make of a tensor that stands for the result of a node, with the sizes of the trace."""
    known: Any = value
    last = start
    for node in way:
        before, previous = known, last

        def plain(argument: fx.Node, before: Any = before, previous: fx.Node = previous) -> Any:
            return before if argument is previous else _number(argument)

        if operator_name(node) not in (*_SCALED, "dropout"):
            arguments, keywords = fx.node.map_arg((node.args, node.kwargs), plain)
            known = node.target(*arguments, **keywords)  # type: ignore[operator]
        last = node
    assert isinstance(known, Tensor)
    return known


def _number(node: fx.Node) -> Any:
    value = node.meta["val"]
    if isinstance(value, Tensor):
        raise _NoWayError(f"{node.name} decides where its rows go")
    return concrete(value)


def _constant_but_last(value: Tensor) -> Tensor:
    flat = value.reshape(-1, value.shape[-1])
    if bool((flat != flat[:1]).any()):
        raise _NoWayError("the layer behind attention does not read the same at all places")
    return flat[0]
