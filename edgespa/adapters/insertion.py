"""Operators and tensors that an adapter puts into a program, besides changing its weights.

Inserted tensors are parameters of the program under the prefix `INSERTED`, and statistics of inserted norms its
buffers; a task trains and stores them whole. They are put in before channel groups are found, so that compaction slices
them like any other tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from edgespa.graph.groups import Groups
from edgespa.graph.program import Program, refresh
from edgespa.graph.rules.registry import named_arguments, operator_name

INSERTED = "edgespa_adapter"

_BIASED = {"linear", *(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3))}


def is_inserted(name: str) -> bool:
    """Whether a tensor was inserted by an adapter."""
    return name.startswith(f"{INSERTED}.")


def inserted_tensors(program: Program) -> tuple[str, ...]:
    """Names of the tensors that adapters have inserted."""
    return tuple(name for name, _ in program.tensors() if is_inserted(name))


def add_parameter(module: fx.GraphModule, name: str, tensor: Tensor) -> None:
    """Put a parameter under ``INSERTED.name``; dots make holders."""
    holder, leaf = _holder(module, name)
    holder.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def add_buffer(module: fx.GraphModule, name: str, tensor: Tensor) -> None:
    """Put a buffer under ``INSERTED.name``; dots make holders."""
    holder, leaf = _holder(module, name)
    holder.register_buffer(leaf, tensor)


def _holder(module: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    *path, leaf = f"{INSERTED}.{name}".split(".")
    holder: nn.Module = module
    for part in path:
        if not hasattr(holder, part):
            holder.add_module(part, nn.Module())
        holder = getattr(holder, part)
    return holder, leaf


def read(graph: fx.Graph, name: str) -> fx.Node:
    """A node that reads an inserted parameter, at the insertion point."""
    return graph.get_attr(f"{INSERTED}.{name}")


def finish(program: Program) -> Program:
    """A program whose graph was changed, made whole again."""
    program.graph.lint()
    program.module.recompile()
    refresh(program.module)
    return program


def without_inserted(groups: Groups) -> Groups:
    """The groups of the network itself: none of the inserted tensors alone, and inserted ones neither write nor read.

    So criteria, budgets and densities are those of the network without the adapter.
    """
    own = {}
    for name, group in groups.groups.items():
        if all(is_inserted(slot.tensor) for slot in group.slots):
            continue
        writers = tuple(slot for slot in group.writers if not is_inserted(slot.tensor))
        readers = tuple(slot for slot in group.readers if not is_inserted(slot.tensor))
        own[name] = dataclasses.replace(group, writers=writers, readers=readers)
    return dataclasses.replace(groups, groups=own)


def with_biases(program: Program) -> Program:
    """The program with a zero bias in each linear or convolution layer without one that no batch norm follows."""
    result = program.copy()
    tensors = dict(result.tensors())
    graph = result.graph
    done: set[str] = set()
    for node in list(graph.nodes):
        name = operator_name(node)
        if name not in _BIASED:
            continue
        arguments = named_arguments(node)
        weight = arguments["weight"]
        if arguments["bias"] is not None or not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        if _all_normed(node.users):
            continue
        owner = str(weight.target)
        tensor = tensors[owner]
        size = tensor.shape[1] * int(arguments["groups"]) if "transpose" in name else tensor.shape[0]
        key = f"bias.{owner.removesuffix('.weight')}"
        if owner not in done:
            add_parameter(result.module, key, torch.zeros(size, dtype=tensor.dtype, device=tensor.device))
            done.add(owner)
        with graph.inserting_before(node):
            bias = read(graph, key)
        schema = [argument.name for argument in node.target._schema.arguments]
        positional = [arguments[each] for each in schema[: max(len(node.args), 3)]]
        positional[schema.index("bias")] = bias
        node.args = tuple(positional)
    return finish(result)


def _all_normed(users: Iterable[fx.Node]) -> bool:
    return all(user.target is torch.ops.aten.batch_norm.default for user in users)
