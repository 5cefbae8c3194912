"""Rewrites of a program that converters need: the same function, written so that little is left to convert."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgespa.config import Preprocess
from edgespa.graph.program import Program, assign, drop_unread, fetch

aten = torch.ops.aten
_SPATIAL = (2, 3)
_REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default}


class FromPixels(nn.Module):
    """A module whose input are pixels, [N, H, W, C] in uint8, instead of normalised images.

    ``(p / 255 - mean) / std`` as one multiplication and one addition: ``p * 1 / (255 std) - mean / std``.

    Args:
        module: Takes one input [N, C, H, W] in float32.
        how: Mean and std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, how: Preprocess) -> None:
        super().__init__()
        self.module = module
        mean, std = np.array(how.mean, dtype=np.float64), np.array(how.std, dtype=np.float64)
        # The channels are the last dimension until the images are made of them.
        self.register_buffer("scale", torch.tensor(1 / (255 * std), dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(-mean / std, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Any:
        """Outputs of the module.

        Args:
            pixels: [N, H, W, C], uint8.
        """
        return self.module((pixels.to(torch.float32) * self.scale + self.shift).permute(0, 3, 1, 2))


def pixels_of(program: Program, how: Preprocess, batch: int) -> Tensor:
    """Example pixels for a program that is wrapped in `FromPixels`.

    Args:
        program: Takes images.
        how: Their size.
        batch: Where the program is free to take any.
    """
    count = batch if program.dynamic_batch else int(program.inputs[0].shape[0])
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, how.height, how.width, how.channels), generator=generator, dtype=torch.uint8)


def channels_last(program: Program) -> Program:
    """A program that a converter can turn to NHWC without transpositions at its spatial reductions and flattenings.

    Where images end, they are turned to channels last in so many words, which cancels what the converter would insert:

    - a mean, sum, maximum or minimum over exactly height and width;
    - what is flattened into linear layers is flattened in the order (H, W, C), with the columns of the layers' weights
      in that order too.

    Args:
        program: Not changed. Only with the batch first; other graphs are left as they are.
    """
    result = program.copy()
    for node in list(result.graph.nodes):
        if node.op == "call_function" and not node._erased:
            _reduce_last(result, node)
            _flatten_last(result, node)
    result.graph.lint()
    result.module.recompile()
    drop_unread(result.module)
    return result


def _reduce_last(program: Program, node: fx.Node) -> None:
    """``mean(x, (2, 3))`` -> ``mean(permute(x, (0, 2, 3, 1)), (1, 2))``; so a flattened pooling to 1 x 1."""
    pooled = node.target is aten.adaptive_avg_pool2d.default
    if not (pooled or node.target in _REDUCTIONS) or len(node.args) < 2 or _rank(node.args[0]) != 4 or node.kwargs:
        return
    dims: Any = node.args[1] if isinstance(node.args[1], list | tuple) else [node.args[1]]
    ends = [node]
    if pooled:
        ends = list(node.users)
        if list(dims) not in ([1], [1, 1]) or not ends or not all(_flattens(user) for user in ends):
            return
    elif tuple(sorted(int(dim) % 4 for dim in dims)) != _SPATIAL or any(node.args[2:]):
        return
    operator = aten.mean.dim if pooled else node.target
    with program.graph.inserting_before(node):
        turned = program.graph.call_function(aten.permute.default, (node.args[0], [0, 2, 3, 1]))
        reduced = program.graph.call_function(operator, (turned, [1, 2]))  # type: ignore[arg-type]
    for end in ends:
        end.replace_all_uses_with(reduced)
        program.graph.erase_node(end)
    if pooled:
        program.graph.erase_node(node)


def _flatten_last(program: Program, node: fx.Node) -> None:
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or _rank(source) != 4 or not _flattens(node):
        return
    channels, height, width = (size for size in source.meta["val"].shape[1:])
    linears = _consumers(node)
    if not linears or not all(isinstance(size, int) for size in (channels, height, width)) or height * width == 1:
        return
    order = torch.arange(channels * height * width).reshape(channels, height, width).permute(1, 2, 0).flatten()
    for linear in linears:
        target = _attribute(linear.args[1])
        weight, name = fetch(program.module, target), f"{target}_channels_last"
        assign(program.module, name, weight.detach()[:, order].contiguous())
        with program.graph.inserting_before(linear):
            column = program.graph.get_attr(name)
        linear.args = (linear.args[0], column, *linear.args[2:])
    with program.graph.inserting_before(node):
        turned = program.graph.call_function(aten.permute.default, (source, [0, 2, 3, 1]))
    node.args = (turned, *node.args[1:])


def without_batch_norms(program: Program) -> Program:
    """A program whose batch norms beside linear layers are in their weights, also with a reshape between the two.

    Those of convolutions are left to the converters, which know them.

    Args:
        program: In evaluation form; not changed.
    """
    result = program.copy()
    for node in list(result.graph.nodes):
        if node.target is aten.batch_norm.default and node.args[5] is False and _rank(node.args[0]) == 2:
            _into_linear_before(result, node) or _into_linears_after(result, node)
    result.graph.eliminate_dead_code()
    result.module.recompile()
    drop_unread(result.module)
    return result


def _into_linear_before(program: Program, node: fx.Node) -> bool:
    source = node.args[0]
    while isinstance(source, fx.Node) and len(_readers(source)) == 1 and _keeps_last(source):
        source = source.args[0]
    if not isinstance(source, fx.Node) or not _is_linear(source) or len(_readers(source)) != 1:
        return False
    scale, shift = _scale_and_shift(program, node)
    weight, bias = _of_linear(program, source)
    _set_linear(program, source, weight * scale[:, None], bias * scale + shift)
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return True


def _into_linears_after(program: Program, node: fx.Node) -> bool:
    if not node.users or not all(_is_linear(user) and user.args[0] is node for user in node.users):
        return False
    scale, shift = _scale_and_shift(program, node)
    for user in list(node.users):
        weight, bias = _of_linear(program, user)
        _set_linear(program, user, weight * scale, bias + weight @ shift)
        user.args = (node.args[0], *user.args[1:])
    return True


# Of their second argument they read the shape alone.
_SHAPED_AS = {aten.reshape_as.default, aten.view_as.default, aten.expand_as.default}


def _readers(node: fx.Node) -> list[fx.Node]:
    """Who reads the values of a node, and not just its shape."""
    return [
        user
        for user in node.users
        if user.target is not aten.sym_size.int and not (user.target in _SHAPED_AS and user.args[0] is not node)
    ]


def _keeps_last(node: fx.Node) -> bool:
    """Whether a node only puts leading dimensions together or apart."""
    if node.target not in (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int):
        return False
    before, after = node.args[0].meta["val"].shape[-1], node.meta["val"].shape[-1]  # type: ignore[union-attr]
    return isinstance(before, int) and before == after


def _is_linear(node: fx.Node) -> bool:
    constants = node.args[1:3] if len(node.args) > 2 and node.args[2] is not None else node.args[1:2]
    return node.target is aten.linear.default and all(map(_attribute, constants))


def _of_linear(program: Program, node: fx.Node) -> tuple[Tensor, Tensor]:
    weight = fetch(program.module, _attribute(node.args[1])).detach().double()
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, fetch(program.module, _attribute(bias)).detach().double()


def _set_linear(program: Program, node: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """Under names of their own: other nodes may read the same tensors."""
    taken = {name for name, _ in program.tensors()}
    names = []
    for name, value in ((_attribute(node.args[1]), weight), (f"{_attribute(node.args[1])}_b", bias)):
        new = f"{name}_"
        while new in taken:
            new += "_"
        assign(program.module, new, value.float())
        taken.add(new)
        names.append(new)
    with program.graph.inserting_before(node):
        node.args = (node.args[0], *(program.graph.get_attr(name) for name in names))


def _scale_and_shift(program: Program, node: fx.Node) -> tuple[Tensor, Tensor]:
    """A batch norm as ``x * scale + shift``."""
    weight, bias, mean, variance = (
        None if each is None else fetch(program.module, _attribute(each)).detach().double() for each in node.args[1:5]
    )
    assert mean is not None
    assert variance is not None
    scale = (variance + node.args[7]).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _flattens(node: fx.Node) -> bool:
    """Whether a node makes [N, C*H*W] of [N, C, H, W]."""
    if node.target is aten.flatten.using_ints:
        return tuple(node.args[1:]) in ((1,), (1, -1), (1, 3))
    if node.target not in (aten.view.default, aten.reshape.default):
        return False
    source, value = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return value.dim() == 2 and str(value.shape[0]) == str(source.shape[0])


# What does the same to each element, in whatever order they come.
_ELEMENTWISE = {aten.dropout.default, aten.relu.default, aten.clone.default, aten.contiguous.default}


def _consumers(node: fx.Node) -> list[fx.Node]:
    """The linear layers that a flattened value ends in, all of them; empty if it goes anywhere else."""
    found: list[fx.Node] = []
    for user in node.users:
        if user.target in _ELEMENTWISE:
            inner = _consumers(user)
            if not inner:
                return []
            found += inner
        elif user.target is aten.linear.default and user.args[0] is node and _attribute(user.args[1]):
            found.append(user)
        else:
            return []
    return found


def _attribute(argument: Any) -> str:
    """The name of the tensor that an argument is; empty if it is something else."""
    return str(argument.target) if isinstance(argument, fx.Node) and argument.op == "get_attr" else ""


def _rank(argument: Any) -> int | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else None
