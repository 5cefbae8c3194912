"""Regions of a traced graph that run under a context of their own, put into the graph itself.

``torch.export`` traces ``with torch.autocast(..., enabled=False)`` and ``with torch.no_grad()`` as a sub-graph behind
one higher-order operator. Outside of autocast, where a program always runs, the sub-graph computes the same without it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_hops = torch.ops.higher_order


def inline_regions(module: fx.GraphModule) -> None:
    """Replace calls of sub-graphs under no context that matters by the nodes of the sub-graph."""
    graph = module.graph
    while regions := [node for node in graph.nodes if _region(node) is not None]:
        for node in regions:
            _inline(module, node)
    for name in [name for name, child in module.named_children() if isinstance(child, fx.GraphModule)]:
        if not any(node.op == "get_attr" and node.target == name for node in graph.nodes):
            delattr(module, name)


def _region(node: fx.Node) -> tuple[fx.Node, tuple[Any, ...]] | None:
    """The sub-graph that a node calls and its arguments, if it may be inlined."""
    if node.op != "call_function":
        return None
    if node.target is _hops.wrap_with_set_grad_enabled:
        _, called, *arguments = node.args
    elif node.target is _hops.wrap_with_autocast and node.args[2] is False:
        _, _, _, _, called, *arguments = node.args
    else:
        return None
    return (called, tuple(arguments)) if isinstance(called, fx.Node) and called.op == "get_attr" else None


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    region = _region(node)
    assert region is not None
    called, arguments = region
    inner = getattr(module, str(called.target))
    inputs = [item for item in inner.graph.nodes if item.op == "placeholder"]
    env: dict[fx.Node, Any] = dict(zip(inputs, arguments, strict=True))
    results: Any = ()
    with module.graph.inserting_before(node):
        for item in inner.graph.nodes:
            if item.op == "output":
                results = fx.node.map_arg(item.args[0], env.__getitem__)
            elif item.op != "placeholder":
                env[item] = module.graph.node_copy(item, env.__getitem__)
                if item.op == "get_attr":
                    setattr(module, str(env[item].target), getattr(inner, str(item.target)))
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(results[0] if isinstance(results, tuple | list) else results)
    module.graph.erase_node(node)
    if not called.users:
        module.graph.erase_node(called)
