"""The optimiser, and its running averages, which are sliced together with the parameters they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgespa.adapters.factors import Factors

MOMENTS = ("exp_avg", "exp_avg_sq")
Named = Mapping[str, nn.Parameter]
"""What is trained, by the keys of a task file."""


def fresh_optimizer(named: Named, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW without a past; the weight decay is that of matrices.

    Args:
        named: The parameters.
        lr: Learning rate of the first step.
        weight_decay: Of parameters with more than one dimension larger than 1.
    """
    parameters = named.values()
    matrices = [p for p in parameters if sum(size > 1 for size in p.shape) > 1]
    chosen = {id(p) for p in matrices}
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def averages_of(optimizer: torch.optim.AdamW, named: Named) -> dict[str, Factors]:
    """The running averages, by moment, on the CPU."""
    found = {}
    for moment in MOMENTS:
        flat = {
            key: optimizer.state[parameter][moment].cpu()
            for key, parameter in named.items()
            if moment in optimizer.state[parameter]
        }
        found[moment] = Factors.from_flat(flat)
    return found


def steps_of(optimizer: torch.optim.AdamW) -> float:
    """Steps that were taken."""
    return max((float(state["step"]) for state in optimizer.state.values() if "step" in state), default=0.0)


def give_past(optimizer: torch.optim.AdamW, named: Named, averages: Mapping[str, Factors], steps: float) -> None:
    """Let a fresh optimiser go on where another one was.

    Args:
        optimizer: The fresh one.
        named: Its parameters.
        averages: By moment; a parameter without any begins anew.
        steps: Steps that were taken.
    """
    flat = {moment: own.flat() for moment, own in averages.items()}
    for key, parameter in named.items():
        if steps and all(key in own for own in flat.values()):
            own = {moment: values[key].to(parameter.device) for moment, values in flat.items()}
            optimizer.state[parameter] = {"step": torch.tensor(steps), **own}


def read_averages(tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    """From ``MOMENT/KEY``, as a checkpoint has them, to averages by moment."""
    return {
        moment: Factors.from_flat(
            {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{moment}/")}
        )
        for moment in MOMENTS
    }
