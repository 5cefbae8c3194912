"""The table of rules, and what a rule is given: a call of an operator with its arguments by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from edgespa.graph.labels import Labeller, Value
from edgespa.graph.program import concrete, shape_of

Result = Value | list[Value]
Rule = Callable[["Call"], Result]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of the ``aten`` namespace, all overloads."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def rule_for(target: Any) -> Rule | None:
    """The rule of an operator, or None if there is none."""
    if not isinstance(target, OpOverload):
        return None
    namespace, name = target._schema.name.split("::")
    if namespace != "aten":
        return None
    if name in _RULES:
        return _RULES[name]
    if torch.Tag.pointwise in target.tags and not target._schema.is_mutable:
        return _RULES["pointwise"]
    return None


@dataclasses.dataclass(frozen=True)
class Call:
    """One operator call.

    Attributes:
        node: Its node.
        labels: Where edges and fixes are written.
        values: What is known of every earlier node.
        constants: Integer tensors whose content is known.
        arguments: Arguments by their name in the operator's schema, defaults filled in; nodes are not resolved.
    """

    node: fx.Node
    labels: Labeller
    values: Mapping[fx.Node, Any]
    constants: Mapping[fx.Node, Tensor]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload."""
        return operator_name(self.node)

    def value(self, name: str) -> Value:
        """A tensor argument that must be there."""
        value = self.maybe(name)
        if value is None:
            raise KeyError(f"{self.node.target}: no tensor argument {name}")
        return value

    def maybe(self, name: str) -> Value | None:
        """A tensor argument, or None if it is absent or None."""
        return self._value_of(self.arguments.get(name))

    def list_of(self, name: str) -> list[Value]:
        """A list of tensors."""
        values = [self._value_of(argument) for argument in self.arguments[name]]
        return [value for value in values if value is not None]

    def tensors(self) -> list[Value]:
        """All tensor arguments, those in lists included."""
        found: list[Value] = []
        for node in self.node.all_input_nodes:
            value = self.values.get(node)
            found += value if isinstance(value, list) else [value] if isinstance(value, Value) else []
        return found

    def number(self, name: str, default: Any = None) -> Any:
        """A plain argument with symbolic numbers replaced by their values at the trace."""
        return resolve(self.arguments.get(name, default))

    def dim(self, name: str, rank: int, default: int = 0) -> int:
        """A dimension argument, counted from the front."""
        value = self.number(name, default)
        return int(default if value is None else value) % max(rank, 1)

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """A list of dimensions, counted from the front; all of them if empty or None."""
        value = self.number(name)
        if value is None or value == []:
            return tuple(range(rank))
        return tuple(sorted(int(dim) % max(rank, 1) for dim in (value if isinstance(value, list | tuple) else [value])))

    def batch_dims(self, name: str) -> set[int]:
        """Dimensions of a tensor argument whose size depends on the batch, where positions cannot be rewritten."""
        argument = self.arguments.get(name)
        value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
        sizes: Iterable[Any] = value.shape if isinstance(value, Tensor) else ()
        return {dim for dim, size in enumerate(sizes) if isinstance(size, torch.SymInt)}

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the only result."""
        return shape_of(self.node.meta["val"])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Sizes of all results."""
        value = self.node.meta["val"]
        items = value if isinstance(value, list | tuple) else [value]
        return [shape_of(item) for item in items if isinstance(item, Tensor)]

    def _value_of(self, argument: Any) -> Value | None:
        if not isinstance(argument, fx.Node):
            return None
        value = self.values.get(argument)
        return value if isinstance(value, Value) else None


def resolve(argument: Any) -> Any:
    """An argument with nodes of symbolic numbers replaced by their values at the trace."""
    if isinstance(argument, fx.Node):
        return concrete(argument.meta.get("val"))
    if isinstance(argument, list | tuple):
        return [resolve(item) for item in argument]
    return concrete(argument)


def operator_name(node: fx.Node) -> str:
    """The operator's name without namespace and overload; empty for anything else."""
    target = node.target
    return str(target._schema.name.split("::")[1]) if isinstance(target, torch._ops.OpOverload) else ""


def is_pointwise(node: fx.Node) -> bool:
    """Whether it is an operator that works on each element alone."""
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator call by their schema names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    named: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        elif index < len(node.args) and not argument.kwarg_only:
            named[argument.name] = node.args[index]
        else:
            named[argument.name] = argument.default_value
    return named
