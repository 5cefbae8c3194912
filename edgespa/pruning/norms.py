"""Batch-norm statistics taken anew on calibration images, front to back."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from edgespa.graph.program import Program
from edgespa.pruning.images import Images
from edgespa.pruning.sweep import Shelf, Sweep


def reestimate(program: Program, images: Images) -> dict[str, Tensor]:
    """Mean and variance of the inputs of every batch norm, each in the network whose earlier norms are done already.

    The variance is the unbiased one, as training accumulates it.

    Args:
        program: A compact program in evaluation form.
        images: Calibration images.

    Returns:
        New tensors by name; empty for a network without batch norms that have statistics of their own.
    """
    state: dict[str, Tensor] = {}
    with Shelf() as shelf:
        sweep = Sweep(program, images.batches, images.batch, shelf, state)
        for node in program.graph.nodes:
            if node.target is not torch.ops.aten.batch_norm.default or node.args[5]:
                continue
            names = [str(item.target) for item in node.args[3:5] if isinstance(item, fx.Node) and item.op == "get_attr"]
            if len(names) != 2:
                continue
            tensors = dict(program.tensors())
            count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
            centre = tensors[names[0]].double()  # sums about the old mean, so that nothing cancels
            for x, _ in sweep.until(node.name, node.args[0].name):
                flat = x.transpose(0, 1).flatten(1).double() - centre[:, None]
                count += flat.shape[1]
                total = total + flat.sum(1)
                squares = squares + flat.square().sum(1)
            mean = total / count
            variance = (squares - count * mean.square()).clamp_min(0) / max(count - 1, 1)
            for name, value in zip(names, (mean + centre, variance), strict=True):
                state[name] = value.to(tensors[name].dtype)
    return state
