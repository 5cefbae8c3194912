"""Batch norms beside linear layers and behind convolutions, in the weights of those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgespa.exporting.lowering.nodes import attribute, free_name, rank
from edgespa.graph.program import Program, assign, drop_unread, fetch

aten = torch.ops.aten
_TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
_PLAIN = {
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
}
_GROUPS_AT = 6


def without_batch_norms(program: Program, *, convolutions: bool = False) -> Program:
    """A program whose batch norms beside linear layers are in their weights, also with a reshape between the two.

    Those behind transposed convolutions as well.

    Args:
        program: In evaluation form; not changed.
        convolutions: Those behind plain ones too, which converters know and are left.
    """
    result = program.copy()
    for node in list(result.graph.nodes):
        if node.target is not aten.batch_norm.default or node.args[5] is not False:
            continue
        if rank(node.args[0]) == 2:
            _into_linear_before(result, node) or _into_linears_after(result, node)
        else:
            _into_convolution_before(result, node, {*_TRANSPOSED, *(_PLAIN if convolutions else ())})
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
    weight, bias = _weights(program, source, len(scale))
    _set_weights(program, source, weight * scale[:, None], bias * scale + shift)
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return True


def _into_convolution_before(program: Program, node: fx.Node, kinds: set[Any]) -> None:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.target not in kinds or len(_readers(source)) != 1:
        return
    if not _has_constants(source):
        return
    scale, shift = _scale_and_shift(program, node)
    weight, bias = _weights(program, source, len(scale))
    if source.target in _TRANSPOSED:  # [C_in, C_out / groups, ...]
        groups: Any = source.args[_GROUPS_AT] if len(source.args) > _GROUPS_AT else 1
        weight = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        weight = weight.flatten(0, 1)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    _set_weights(program, source, weight, bias * scale + shift)
    node.replace_all_uses_with(source)


def _into_linears_after(program: Program, node: fx.Node) -> bool:
    if not node.users or not all(_is_linear(user) and user.args[0] is node for user in node.users):
        return False
    scale, shift = _scale_and_shift(program, node)
    for user in list(node.users):
        weight, bias = _weights(program, user, int(user.meta["val"].shape[-1]))
        _set_weights(program, user, weight * scale, bias + weight @ shift)
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
    return node.target is aten.linear.default and _has_constants(node)


def _has_constants(node: fx.Node) -> bool:
    """Whether weight and bias of a layer are tensors of the program."""
    constants = node.args[1:3] if len(node.args) > 2 and node.args[2] is not None else node.args[1:2]
    return all(map(attribute, constants))


def _weights(program: Program, node: fx.Node, channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with so many output channels."""
    weight = fetch(program.module, attribute(node.args[1])).detach().double()
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is None:
        return weight, weight.new_zeros(channels)
    return weight, fetch(program.module, attribute(bias)).detach().double()


def _set_weights(program: Program, node: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """Under names of their own: other nodes may read the same tensors."""
    names = []
    for name, value in ((attribute(node.args[1]), weight), (f"{attribute(node.args[1])}_b", bias)):
        new = free_name(program, f"{name}_")
        assign(program.module, new, value.float())
        names.append(new)
    with program.graph.inserting_before(node):
        node.args = (node.args[0], *(program.graph.get_attr(name) for name in names), *node.args[3:])


def _scale_and_shift(program: Program, node: fx.Node) -> tuple[Tensor, Tensor]:
    """A batch norm as ``x * scale + shift``."""
    weight, bias, mean, variance = (
        None if each is None else fetch(program.module, attribute(each)).detach().double() for each in node.args[1:5]
    )
    assert mean is not None
    assert variance is not None
    scale = (variance + node.args[7]).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale
