"""What a program takes and gives, made plain: tensors one after the other, in float32 where files need it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree

from edgespa.graph.program import Program, concrete
from edgespa.graph.trace import from_exported
from edgespa.system.quiet import quiet


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors in what a program gives, in order, whatever they are wrapped in; None and numbers are left out."""
    return [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def input_and_output_names(program: Program) -> tuple[list[str], list[str]]:
    """Names for what a program takes and gives, all different and none that of a tensor of the program.

    Args:
        program: As it was traced: with its own nesting of outputs.

    Returns:
        of the inputs: ``input``, or of several the names of the arguments; of the output tensors: the keys of dicts and
        of dataclasses, joined where they are nested, ``output_0`` where there is a place and no key, ``output`` for a
        single tensor.
    """
    outputs = _tree_info(program).out_spec
    node = next(node for node in program.graph.nodes if node.op == "output")
    leaves = _pytree.tree_leaves(node.args[0])
    tree = _pytree.tree_unflatten(leaves, outputs)
    try:
        paths = [path for path, leaf in _pytree.tree_flatten_with_path(tree)[0] if _is_tensor(leaf)]
    except ValueError:  # a class that has no names for its parts
        paths = [()] * sum(map(_is_tensor, leaves))
    if any(isinstance(key, _pytree.MappingKey | _pytree.GetAttrKey) for path in paths for key in path):
        given = ["_".join(map(_key_name, path)) for path in paths]
    else:
        given = ["output"] if len(paths) == 1 else [f"output_{index}" for index in range(len(paths))]
    taken = {name for name, _ in program.tensors()}
    inputs = ["input"] if len(program.inputs) == 1 else [spec.name for spec in program.inputs]
    return [_another(name, "input", taken) for name in inputs], [_another(name, "output", taken) for name in given]


def _key_name(key: Any) -> str:
    value = getattr(key, "key", None) if isinstance(key, _pytree.MappingKey) else getattr(key, "name", None)
    return re.sub(r"\W+", "_", str(value)) if value is not None else str(getattr(key, "idx", 0))


def _another(name: str, prefix: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken; it is then."""
    wanted = name if not name[:1].isdigit() and name else f"{prefix}_{name}"
    while wanted in taken:
        wanted = f"{prefix}_{wanted}"
    taken.add(wanted)
    return wanted


def with_plain_inputs(program: Program) -> Program:
    """A program that is called with one tensor per input, as ``program.inputs`` lists them.

    A saved program may want them in a dict, a tuple or by name.

    Args:
        program: Not changed; returned itself if it is called so already.
    """
    plain = _pytree.tree_structure((tuple(0 for _ in program.inputs), {}))
    if _tree_info(program).in_spec == plain:
        return program
    result = program.copy()
    names = [spec.name for spec in program.inputs]
    _set_tree_info(result, orig_args=names, in_spec=plain)
    result.module._forward_pre_hooks.clear()  # they check the arguments against their former nesting
    return result


def with_plain_outputs(program: Program) -> Program:
    """A program that gives its one output tensor, or a tuple of its output tensors.

    Args:
        program: Not changed; may give dicts, dataclasses, None, numbers, nested at will.
    """
    result = program.copy()
    node = next(node for node in result.graph.nodes if node.op == "output")
    leaves = _pytree.tree_leaves(node.args[0])
    tensors = tuple(leaf for leaf in leaves if _is_tensor(leaf))
    node.args = (tensors,)
    _set_tree_info(result, out_spec=_pytree.tree_structure(0 if len(tensors) == 1 else tuple(0 for _ in tensors)))
    return result


def outputs_like(program: Program) -> Callable[[Sequence[Tensor]], Any]:
    """What puts output tensors into the nesting that a program gives them in: a dict, a dataclass, a tuple.

    Args:
        program: As it was traced. Its outputs that are no tensors are put where they were.
    """
    structure = _tree_info(program).out_spec
    node = next(node for node in program.graph.nodes if node.op == "output")
    leaves = _pytree.tree_leaves(node.args[0])

    def nested(tensors: Sequence[Tensor]) -> Any:
        rest = iter(tensors)
        return _pytree.tree_unflatten([next(rest) if _is_tensor(leaf) else leaf for leaf in leaves], structure)

    return nested


def nested_outputs(program: Program, leaves: Sequence[Any]) -> Any:
    """Any values in the nesting that a program gives its outputs in.

    Args:
        program: As it was traced.
        leaves: One for each of its outputs, whether a tensor or not.
    """
    return _pytree.tree_unflatten(list(leaves), _tree_info(program).out_spec)


def with_batch_first(program: Program) -> Program:
    """A program whose samples can be put together and taken apart along the first dimensions.

    Where a free batch is not the first dimension of every input and output, as of outputs [T, N, C] or of a state
    [2, N, H], samples are no rows of what goes in or comes out. Such a program is given a batch of 1: each run is one
    sample, whole.

    Args:
        program: Of one input tensor per placeholder; returned itself if all is well.
    """
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder"]
    if not program.dynamic_batch or all(map(_first, [*shapes, *(tuple(each.shape) for each in _outputs(program))])):
        return program
    copy = program.copy()
    copy.module._forward_pre_hooks.clear()  # they ask for the sizes at the export
    with quiet("torch.export"):
        exported = torch.export.export(copy.module, program.example_inputs(1))
    return from_exported(exported)


def output_shapes(program: Program) -> tuple[tuple[int | None, ...], ...]:
    """Sizes of a program's output tensors, None for a free batch."""
    return tuple(
        tuple(None if _is_free(size) else concrete(size) for size in value.shape) for value in _outputs(program)
    )


def runs_whole(program: Program) -> bool:
    """Whether each run of a program is one sample: its batch is fixed, and not all that it takes and gives begins so.

    Arrays of several samples then have one more dimension in front, but for tensors whose first size is 1.
    """
    firsts = {spec.shape[0] for spec in program.inputs} | {shape[0] if shape else 1 for shape in output_shapes(program)}
    return not program.dynamic_batch and len(firsts) > 1


def _outputs(program: Program) -> list[Tensor]:
    node = next(node for node in program.graph.nodes if node.op == "output")
    return [leaf.meta["val"] for leaf in _pytree.tree_leaves(node.args[0]) if _is_tensor(leaf)]


def _is_free(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _first(shape: tuple[Any, ...]) -> bool:
    """Whether a free batch is the first size of a shape, and no other."""
    free = [_is_free(size) for size in shape]
    return bool(shape) and free[0] and not any(free[1:]) and bool(shape[0].node.expr.is_symbol)


def in_float32(program: Program) -> Program:
    """A program that computes in float32 throughout: its tensors, inputs, and element types that the graph asks for.

    Args:
        program: Of any element type; returned itself if nothing in it has another one with fractions.
    """
    types = {each.dtype for each in program.inputs} | {tensor.dtype for tensor in program.state().values()}
    if not any(_is_other_float(dtype) for dtype in types):
        return program
    result = program.copy()
    result.module.float()
    for node in result.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _as_float32)
    result.module.recompile()
    return Program(
        result.module, tuple(dataclasses.replace(each, dtype=_as_float32(each.dtype)) for each in program.inputs)
    )


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, fx.Node) and isinstance(leaf.meta["val"], Tensor)


def _is_other_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype != torch.float32


def _as_float32(argument: Any) -> Any:
    return torch.float32 if isinstance(argument, torch.dtype) and _is_other_float(argument) else argument


def _tree_info(program: Program) -> Any:
    return program.graph._codegen.pytree_info  # type: ignore[attr-defined]  # of every exported graph


def _set_tree_info(program: Program, **changes: Any) -> None:
    program.graph._codegen.pytree_info = _tree_info(program)._replace(**changes)  # type: ignore[attr-defined]
    program.module.recompile()
