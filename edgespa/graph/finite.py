"""Tensors of a program that hold values which are not finite, and where an infinite one is meant.

A mask of minus infinity is added to scores before a softmax, or chosen by a ``where``: there it is an entry that is not
looked at. A weight that is multiplied with is never meant to be infinite, and nothing is ever meant to be NaN.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from edgespa.graph.program import Program
from edgespa.graph.rules.registry import named_arguments, operator_name

_PRODUCTS = {
    "linear", "matmul", "mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "addbmm", "einsum", "convolution", "mul",
    "div", "prelu", "embedding", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
}  # fmt: skip
_MOVES = {
    "view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "expand_as", "slice", "select",
    "to", "type_as", "clone", "contiguous", "flatten", "unflatten", "alias", "detach", "repeat", "index", "cat",
}  # fmt: skip


def not_finite(program: Program, trainable: Collection[str]) -> dict[str, int]:
    """How many values of each tensor are not finite, where they are not meant to be.

    Args:
        program: The program.
        trainable: Names of the tensors that the model means to be trained: they are no masks.

    Returns:
        By name; tensors without such values are left out.
    """
    readers = {str(node.target): node for node in program.graph.nodes if node.op == "get_attr"}
    found = {}
    for name, tensor in program.tensors():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            meant = name not in trainable and not torch.isnan(tensor).any() and not _is_factor(readers[name])
            if not meant:
                found[name] = int((~torch.isfinite(tensor)).sum())
    return found


def _is_factor(node: fx.Node) -> bool:
    """Whether a value is multiplied with something, as it is or moved about."""
    for user in node.users:
        name = operator_name(user)
        if name == "scaled_dot_product_attention":
            if named_arguments(user)["attn_mask"] is not node:
                return True
        elif name in _PRODUCTS or name.startswith("conv") or (name in _MOVES and _is_factor(user)):
            return True
    return False
