"""What rewrites ask of a node."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from edgespa.graph.program import Program


def attribute(argument: Any) -> str:
    """The name of the tensor that an argument is; empty if it is something else."""
    return str(argument.target) if isinstance(argument, fx.Node) and argument.op == "get_attr" else ""


def rank(argument: Any) -> int | None:
    """Number of dimensions of the tensor that an argument is; None if it is something else."""
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else None


def free_name(program: Program, name: str) -> str:
    """A name for a new tensor, like this one, that no other has."""
    taken = {each for each, _ in program.tensors()}
    while name in taken:
        name += "_"
    return name
