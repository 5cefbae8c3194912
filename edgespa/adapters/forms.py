"""The two forms of a program: evaluation, and training with its flags and the operators that stand in for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.distributed.processes import synced_batch_norm
from edgespa.graph.program import shape_of
from edgespa.graph.rules.registry import named_arguments, resolve

_BATCH_NORM = torch.ops.aten.batch_norm.default
_CONV = torch.ops.aten.conv2d.default
_TRAINING_FLAGS: dict[Callable[..., Any], int] = {
    _BATCH_NORM: 5,
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
}


class Forms:
    """What of a graph differs between evaluation and training.

    Flags of batch norm and dropout are arguments of their nodes. A node whose flag is on in evaluation too, such as a
    batch norm without running statistics, is left as it is.

    Args:
        graph: In evaluation form.
    """

    def __init__(self, graph: fx.Graph) -> None:
        flags = [(node, _TRAINING_FLAGS[node.target]) for node in graph.nodes if node.target in _TRAINING_FLAGS]
        self._flags = [(node, position) for node, position in flags if not node.args[position]]
        self._depthwise = [node for node in graph.nodes if node.target is _CONV and _is_slow_in_bf16(node)]

    def switch(self, training: bool, *, freeze_norms: bool = False, synced: bool = False) -> bool:
        """Change the nodes; returns whether any was changed.

        Args:
            training: The form.
            freeze_norms: Leave batch norms in evaluation form.
            synced: Statistics of batch norms in training form are over the batches of all processes.
        """
        changed = False
        for node, position in self._flags:
            norm = node.target in (_BATCH_NORM, synced_batch_norm)
            flag = training and not (freeze_norms and norm)
            arguments = list(node.args)
            arguments[position] = flag
            target = (synced_batch_norm if synced and flag else _BATCH_NORM) if norm else node.target
            changed |= _set(node, target, arguments)
        for node in self._depthwise:
            changed |= _set(node, depthwise_in_float32 if training else _CONV, node.args)
        return changed


def _set(node: fx.Node, target: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    if node.target is target and list(node.args) == list(arguments):
        return False
    node.target, node.args = target, tuple(arguments)
    return True


def _is_slow_in_bf16(node: fx.Node) -> bool:
    """Whether a convolution is depthwise and not of the one form that has fast bfloat16 kernels on a CPU.

    Measured with torch 2.13 and AVX-512: the gradient by the input of a 3 x 3 kernel of stride 2 (batch 64, 96
    channels, 48 x 48) takes 145 ms in bfloat16 and 12 ms in float32, of stride 1 less in bfloat16. Larger kernels,
    dilation and several outputs of a channel (batch 32, 24 x 24) take 1.3 to 2.3 times as long in bfloat16.
    """
    arguments = {name: resolve(value) for name, value in named_arguments(node).items()}
    sizes = shape_of(arguments["weight"])
    depthwise = sizes[1] == 1 and arguments["groups"] > 1
    plain = sizes[0] == arguments["groups"] and max(sizes[2:]) <= 3
    return depthwise and not (plain and set(arguments["stride"]) == {1} and set(arguments["dilation"]) == {1})


def depthwise_in_float32(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution that is computed in float32 where bfloat16 is asked for on a CPU.

    Stands in for ``aten.conv2d``, with its arguments; the result has the type that it would have, too.

    Args:
        inputs: ``[N, C, H, W]``.
        weight: ``[C_out, 1, kH, kW]``.
        bias: ``[C_out]``.
        stride: Of the kernel.
        padding: With zeros, on both sides.
        dilation: Of the kernel.
        groups: C.
    """
    settings = (stride, padding, dilation, groups)
    result: Tensor
    if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or inputs.dtype == torch.float64:
        result = _CONV(inputs, weight, bias, *settings)
        return result
    with torch.autocast("cpu", enabled=False):
        result = _CONV(inputs.float(), weight.float(), None if bias is None else bias.float(), *settings)
    return result.to(torch.get_autocast_dtype("cpu"))
