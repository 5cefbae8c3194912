"""A traced program: the graph, its tensors by name, and what it takes in."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode

from edgespa.errors import GraphError

BATCH = "batch"


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a program.

    Attributes:
        name: Its name in the graph.
        shape: Sizes; the first is ``"batch"`` when the program takes any batch size.
        dtype: Its element type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype


class Program:
    """A graph module whose tensors keep the names that they had in the model.

    A program is never changed in place by edgespa: each step returns a new one. ``module`` runs it; parameters and
    buffers are found under the dotted names of `state`.

    Attributes:
        module: The ``torch.fx`` graph module, in evaluation form (batch norm and dropout are flags on nodes).
        inputs: What it takes.
    """

    def __init__(self, module: fx.GraphModule, inputs: tuple[InputSpec, ...]) -> None:
        self.module = module
        self.inputs = inputs

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the module."""
        return self.module(*inputs)

    @property
    def graph(self) -> fx.Graph:
        """The graph of the module."""
        return self.module.graph

    @property
    def dynamic_batch(self) -> bool:
        """Whether any batch size may be given."""
        return any(BATCH in spec.shape for spec in self.inputs)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer that the graph reads, once per name, in the order of the graph."""
        seen = set()
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.target not in seen:
                seen.add(node.target)
                value = fetch(self.module, node.target)
                if isinstance(value, Tensor):
                    yield node.target, value

    def state(self) -> dict[str, Tensor]:
        """`tensors` as a dictionary of detached tensors that share memory with the program."""
        return {name: tensor.detach() for name, tensor in self.tensors()}

    def parameter_count(self) -> int:
        """Number of elements of all floating-point parameters and buffers of the program that are parameters."""
        return sum(tensor.numel() for _, tensor in self.tensors() if isinstance(tensor, torch.nn.Parameter))

    def copy(self, state: Mapping[str, Tensor] | None = None) -> Program:
        """A program with its own graph and its own tensors.

        Args:
            state: Tensors to hold in the place of the program's own, of any shape; they are not copied.
        """
        taken: dict[int, Any] = {}
        for name, tensor in (state or {}).items():
            old = fetch(self.module, name)
            parameter = isinstance(old, torch.nn.Parameter)
            taken[id(old)] = torch.nn.Parameter(tensor, requires_grad=old.requires_grad) if parameter else tensor
        with warnings.catch_warnings():  # torch's own, of copying what it has stored with its graph
            warnings.simplefilter("ignore", FutureWarning)
            return Program(copy.deepcopy(self.module, taken), self.inputs)

    def with_state(self, state: Mapping[str, Tensor]) -> Program:
        """A copy in which the named tensors are replaced; shapes and dtypes must agree.

        Raises:
            GraphError: If a name is unknown or a shape or dtype differs.
        """
        known = dict(self.tensors())
        for name, tensor in state.items():
            if name not in known:
                raise GraphError(f"the program has no tensor named {name}")
            old = known[name]
            if old.shape != tensor.shape or old.dtype != tensor.dtype:
                raise GraphError(
                    f"{name}: expected {tuple(old.shape)} {old.dtype}, got {tuple(tensor.shape)} {tensor.dtype}"
                )
        return self.copy({name: tensor.detach().clone() for name, tensor in state.items()})

    def example_inputs(self, batch: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs of the right shapes: standard normal, or zeros for integer inputs.

        Args:
            batch: Batch size where the program is free to take any.
            seed: Seed of the generator.
        """
        generator = torch.Generator().manual_seed(seed)
        inputs = []
        for spec in self.inputs:
            shape = [batch if size == BATCH else int(size) for size in spec.shape]
            if spec.dtype.is_floating_point:
                inputs.append(torch.randn(shape, generator=generator).to(spec.dtype))
            else:
                inputs.append(torch.zeros(shape, dtype=spec.dtype))
        return tuple(inputs)


def fetch(module: torch.nn.Module, name: str) -> Any:
    """The attribute under a dotted name."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def assign(module: torch.nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor under a dotted name: a parameter where one was, else a buffer. Holders are made as needed."""
    *path, leaf = name.split(".")
    holder: torch.nn.Module = module
    for part in path:
        if not hasattr(holder, part):
            holder.add_module(part, torch.nn.Module())
        holder = getattr(holder, part)
    old = getattr(holder, leaf, None)
    if isinstance(old, torch.nn.Parameter):
        holder.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=old.requires_grad))
    elif leaf in holder._buffers or old is None:
        holder.register_buffer(leaf, tensor)
    else:
        setattr(holder, leaf, tensor)


def drop_unread(module: fx.GraphModule) -> None:
    """Drop tensors that no node reads, such as a batch norm's step counter or the second name of a tied weight."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, holder in list(module.named_modules()):
        prefix = f"{name}." if name else ""
        for store in (holder._parameters, holder._buffers):
            for leaf in list(store):
                if prefix + leaf not in read:
                    del store[leaf]


def shape_of(value: Any) -> tuple[int, ...]:
    """Concrete sizes of a fake tensor: symbolic sizes are replaced by the sizes at the trace."""
    return tuple(concrete(size) for size in value.shape)


def concrete(size: Any) -> Any:
    """The value that a symbolic number had at the trace; other values as they are."""
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return size.node.hint
    return size


def settle(program: Program) -> None:
    """Make a program whose graph was written in whole again: checked, its code made anew, its shapes computed."""
    program.graph.lint()
    program.module.recompile()
    refresh(program.module)


def refresh(module: fx.GraphModule) -> None:
    """Recompute ``meta["val"]`` (shape, dtype, symbolic batch) of every node after the graph or its tensors changed."""
    mode = fake_mode(module)
    env: dict[fx.Node, Any] = {}
    with mode, enable_python_dispatcher():  # without it, composite operators fix symbolic sizes
        for node in module.graph.nodes:
            if node.op == "placeholder":
                value = node.meta["val"]
            elif node.op == "get_attr":
                value = fetch(module, node.target)
                if isinstance(value, Tensor):
                    value = mode.from_tensor(value, static_shapes=True)
            elif node.op == "call_function":
                arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
                value = node.target(*arguments, **keywords)
            else:
                continue
            env[node] = value
            node.meta["val"] = value


def fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    """The mode of the values in ``meta["val"]``, which holds the symbols of free sizes."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and hasattr(value, "fake_mode"):
            mode: FakeTensorMode = value.fake_mode
            return mode
    raise GraphError("the program has no tensor input")
