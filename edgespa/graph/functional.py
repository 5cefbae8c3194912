"""In-place operators of a traced graph, replaced by functional ones.

Labels follow values, and an in-place operator changes the value behind a node that was already labelled; so the graph
is made functional before anything reads it.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.fx.node import Argument, Target

from edgespa.graph.program import shape_of


def mutates(graph: fx.Graph) -> bool:
    """Whether any operator of the graph writes to one of its arguments."""
    return any(_is_mutable(node) for node in graph.nodes)


def make_functional(module: fx.GraphModule) -> bool:
    """Replace in-place operators on values that no view shares, and on slices of such values.

    Returns:
        False if an in-place operator writes through another view; the graph is then left for ``run_decompositions``,
        which rewrites those too.
    """
    graph = module.graph
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _is_mutable(node):
            continue
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        replacement = _functional_overload(node.target)
        base = node.args[0] if node.args else None
        if replacement is None or not isinstance(base, fx.Node) or not _keeps_dtype(node):
            return False
        windows = _windows(base)
        root = windows[0].args[0] if windows else base
        if not isinstance(root, fx.Node) or root.op != "call_function" or is_view(root):
            return False
        if any(_is_read_later(view, order, order[node], windows) for each in (root, *windows) for view in each.users):
            return False
        with graph.inserting_before(node):
            functional = graph.call_function(replacement, node.args, node.kwargs)
        functional.meta = dict(node.meta)
        written = _write_back(graph, node, functional, windows)
        inserted = functional
        while inserted is not node:
            order[inserted] = order[node]
            inserted = inserted.next
        for old, new in {base: functional, **written}.items():
            for user in list(old.users):
                if order[user] > order[node]:
                    user.replace_input_with(old, new)
        node.replace_all_uses_with(written.get(base, functional))
        graph.erase_node(node)
    return True


# What writes back what was read from a part of a tensor; the other arguments are the same.
_SCATTER: dict[Target, Target] = {
    torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
}


def _write_back(graph: fx.Graph, node: fx.Node, part: fx.Node, windows: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Put a part's new value where its windows were read from, and read the windows again.

    Returns:
        for the whole and for each window the node with its new value. That of a window is a view of the new whole,
        so that a later write through either is seen in both, or refused.
    """
    written: dict[fx.Node, fx.Node] = {}

    def insert(target: Target, args: tuple[Argument, ...], like: fx.Node, of: fx.Node) -> fx.Node:
        with graph.inserting_before(node):
            made = graph.create_node("call_function", target, args, dict(like.kwargs))
        made.meta = {**node.meta, "val": of.meta["val"]}
        return made

    for window in reversed(windows):
        source = window.all_input_nodes[0]
        part = insert(_SCATTER[window.target], (source, part, *window.args[1:]), window, source)
    for window in windows:
        written[window.all_input_nodes[0]] = part
        part = insert(window.target, (part, *window.args[1:]), window, window)
        written[window] = part
    return written


def _windows(node: fx.Node) -> list[fx.Node]:
    """The slices and single indices that lead to a value, the outermost first."""
    found: list[fx.Node] = []
    while node.target in _SCATTER and isinstance(node.args[0], fx.Node):
        found.insert(0, node)
        node = node.args[0]
    return found


def _is_read_later(view: fx.Node, order: dict[fx.Node, int], now: int, known: list[fx.Node]) -> bool:
    """Whether a view from before a moment, or a view of it, is read after it: it would miss what is written then."""
    if view in known or order[view] >= now or not is_view(view):
        return False
    return any(order[user] > now or _is_read_later(user, order, now, known) for user in view.users)


def _is_mutable(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _changes_nothing(node: fx.Node) -> bool:
    """Whether it is a dropout that is switched off, for which a view need not be taken apart."""
    in_place = node.target._schema.name.endswith("dropout_")  # type: ignore[union-attr]
    return in_place and node.args[2:] == (False,) and isinstance(node.args[0], fx.Node)


def is_view(node: fx.Node) -> bool:
    """Whether the node's result may share memory with an argument."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and is_view(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = node.target._schema.name
    may_alias = name in {
        "aten::contiguous",
        "aten::reshape",
        "aten::to",
        "aten::flatten",
        "aten::dropout",
        "aten::feature_dropout",
        "aten::alpha_dropout",
        "aten::type_as",
        "aten::ravel",
    }
    return may_alias or any(
        a.alias_info is not None and not a.alias_info.is_write for a in node.target._schema.arguments
    )


def _functional_overload(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    name = target._schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    overload = getattr(packet, target._overloadname, None)
    return overload if overload is not None and not overload._schema.is_mutable else None


def _keeps_dtype(node: fx.Node) -> bool:
    """Whether all operands have the result's dtype: ``half += float`` stays half, ``half + float`` does not."""
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()}
    return len(dtypes) <= 1


def plain_products(graph: fx.Graph) -> None:
    """Products that few know, by those that everything knows, in place.

    - ``linear`` with a vector for its weight -> ``matmul``: its result has one dimension less.
    - ``bilinear(x, y, weight [out, i, j])`` -> ``einsum``.

    Their biases are added.
    """
    for node in list(graph.nodes):
        if node.target not in (torch.ops.aten.linear.default, torch.ops.aten.bilinear.default):
            continue
        *operands, weight, bias = (*node.args, None)[: 3 if node.target is torch.ops.aten.linear.default else 4]
        rank = len(shape_of(weight.meta["val"])) if isinstance(weight, fx.Node) else 0
        if rank not in (1, 3):
            continue
        target, arguments = torch.ops.aten.matmul.default, (*operands, weight)
        if rank == 3:
            places = "abcdefgh"[: len(shape_of(operands[0].meta["val"])) - 1]
            target = torch.ops.aten.einsum.default
            arguments = (f"{places}i,oij,{places}j->{places}o", [operands[0], weight, operands[1]])
        meta = {key: value for key, value in node.meta.items() if key != "val"}
        with graph.inserting_before(node):
            plain = graph.call_function(target, arguments)
            plain.meta = dict(meta)
            if bias is not None:
                plain = graph.call_function(torch.ops.aten.add.Tensor, (plain, bias))
                plain.meta = dict(meta)
        node.replace_all_uses_with(plain)
        graph.erase_node(node)


def plain_batch_norms(graph: fx.Graph) -> None:
    """``_native_batch_norm_legit_no_training(...)[0]`` -> ``batch_norm``, whose training flag can be set."""
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._native_batch_norm_legit_no_training.default:
            continue
        x, weight, bias, mean, var, momentum, eps = node.args
        with graph.inserting_before(node):
            plain = graph.call_function(
                torch.ops.aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False)
            )
        plain.meta = {key: value for key, value in node.meta.items() if key != "val"}
        for user in list(node.users):
            user.replace_all_uses_with(plain)
            graph.erase_node(user)
        graph.erase_node(node)
