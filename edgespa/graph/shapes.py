"""Shapes of a graph whose tensors have shrunk: checked by running it without data, and written to its nodes.

`edgespa.graph.program.refresh` does both with symbolic sizes, which takes most of the time of a compaction. Here the
graph runs once on sizes that are plain numbers; symbols of the batch, which removing channels does not touch, are taken
over from the values before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from edgespa.graph.program import concrete, fake_mode, fetch, refresh, shape_of

Shapes = Mapping[str, list[tuple[int, ...]]]


def follow(module: fx.GraphModule, expected: Shapes) -> None:
    """Set ``meta["val"]`` of every node to its new shape.

    Args:
        module: The graph with its new tensors; ``meta["val"]`` are the values before.
        expected: New sizes of every result of the nodes that were there before.

    Raises:
        RuntimeError, TypeError, ValueError, IndexError: If the graph does not run; shapes that run and differ from the
            expected ones are left for the caller to find.
    """
    try:
        found = _run(module)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, KeyError):
        refresh(module)  # an operator that does not run without data, or an error that this names better
        return
    if any(name in expected and shapes != expected[name] for name, shapes in found.items()):
        refresh(module)
        return
    known: dict[Any, FakeTensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and "val" not in node.meta:  # an index that compaction has added
            index = fetch(module, str(node.target))
            node.meta["val"] = fake_mode(module).from_tensor(index, static_shapes=True)
        old = node.meta.get("val")
        sources = [old] if isinstance(old, Tensor) else list(old) if isinstance(old, list | tuple) else []
        if node.op == "output" or not sources:
            continue
        try:
            new = [_resized(value, shape, known) for value, shape in zip(sources, found[node.name], strict=True)]
        except _SymbolShrinks:
            refresh(module)
            return
        node.meta["val"] = new[0] if isinstance(old, Tensor) else type(old)(new)


class _SymbolShrinks(Exception):
    """Channels are removed from a dimension that they share with the batch."""


def _resized(old: Any, shape: tuple[int, ...], known: dict[Any, FakeTensor]) -> Any:
    if not isinstance(old, FakeTensor) or shape_of(old) == shape:
        return old
    sizes: list[Any] = []
    before: tuple[Any, ...] = old.shape
    for size, new in zip(before, shape, strict=True):
        if isinstance(size, torch.SymInt) and concrete(size) != new:
            raise _SymbolShrinks
        sizes.append(size if isinstance(size, torch.SymInt) else new)
    key = (tuple(str(size) for size in sizes), old.dtype, old.device)
    if key not in known:
        known[key] = FakeTensor(old.fake_mode, torch.empty(sizes, dtype=old.dtype, device="meta"), old.device)
    return known[key]


@torch.no_grad()
def _run(module: fx.GraphModule) -> dict[str, list[tuple[int, ...]]]:
    """Sizes of all results of every node, from a run on tensors without data."""
    env: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            env[node] = torch.empty(shape_of(value), dtype=value.dtype, device="meta")
        elif node.op == "get_attr":
            tensor = fetch(module, str(node.target))
            env[node] = torch.empty_like(tensor, device="meta") if isinstance(tensor, Tensor) else tensor
        elif node.op == "call_function":
            env[node] = _call(node, env)
    return {node.name: _shapes(value) for node, value in env.items()}


def _call(node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    target = node.target
    if target is torch.ops.aten.batch_norm.default:  # decomposed in Python otherwise, at a hundred times the cost
        x, *vectors = (env[item] for item in node.args[:5] if isinstance(item, fx.Node))
        channels = {vector.shape for vector in vectors}
        if channels - {torch.Size([x.shape[1]])}:
            raise RuntimeError(f"{node.name}: {tuple(x.shape)} is normalised with vectors of {channels}")
        return torch.empty_like(x)
    value = node.meta.get("val")
    if (
        _is_pointwise(target) and len(node.all_input_nodes) == 1 and isinstance(value, Tensor)
    ):  # many are decomposed too
        (source,) = node.all_input_nodes
        return torch.empty_like(env[source], dtype=value.dtype)
    arguments, keywords = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
    if keywords.get("device") is not None:
        keywords = {**keywords, "device": torch.device("meta")}
    return target(*arguments, **keywords)  # type: ignore[operator]


def _is_pointwise(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _shapes(value: Any) -> list[tuple[int, ...]]:
    items = value if isinstance(value, list | tuple) else [value]
    return [tuple(item.shape) for item in items if isinstance(item, Tensor)]
