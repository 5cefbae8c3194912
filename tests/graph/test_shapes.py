"""Shapes that compaction writes to the nodes are those that symbolic inference finds, the batch's symbol included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from edgespa.graph.program import assign, concrete, refresh
from edgespa.graph.shapes import follow
from edgespa.graph.surgery import compact


def described(module: torch.fx.GraphModule) -> dict[str, list[Any]]:
    found = {}
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]
        found[node.name] = [
            (tuple(concrete(s) for s in v.shape), [isinstance(s, torch.SymInt) for s in v.shape], v.dtype, v.device)
            for v in values
        ]
    return found


@pytest.mark.law(40)
def test_as_symbolic_inference(traced: Any, select: Any) -> None:
    small = compact(traced.program, traced.groups, select(traced.groups, 6))
    quick = described(small.module)
    refresh(small.module)
    assert quick == described(small.module)


@pytest.mark.parametrize("name", ["residual", "attention", "lstm"])
def test_tensors_that_do_not_fit(zoo: Any, name: str) -> None:
    program = zoo(name).program.copy()
    tensor = next(tensor for key, tensor in program.tensors() if key.endswith("weight") and tensor.dim() > 1)
    first = next(key for key, value in program.tensors() if value is tensor)
    assign(program.module, first, tensor.detach()[:, :-1].clone())
    with pytest.raises((RuntimeError, ValueError)):
        follow(program.module, {})


def test_vectors_of_a_norm_that_do_not_fit(zoo: Any) -> None:
    program = zoo("residual").program.copy()
    assign(program.module, "n.running_var", torch.ones(7))
    with pytest.raises((RuntimeError, ValueError)):
        follow(program.module, {})
