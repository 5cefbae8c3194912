"""The learning rate that an adaptation begins with, where none is given: the kind's own, unless that is too high.

A kind's own rate was measured on networks with batch norms; others do not bear it, and training destroys what they
knew in its first steps. That shows at once, so a few steps at that rate, and at lower ones, tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from edgespa.errors import AdapterError

STEPS, FEWEST_STEPS = 24, 8
SHARE = 20  # one trial is at most this part of the training, if that is as many steps as the fewest
WARM_UP = 0.3  # fraction of a trial's steps
JUDGED = 1 / 3  # fraction of a trial's steps whose losses count: its last ones
_LOWER = 10**-0.5
_CANDIDATES = 5
_ENOUGH, _CLEARLY = 0.6, 0.15


class Found(NamedTuple):
    """A learning rate, and what was tried for it.

    Attributes:
        rate: The one to train with.
        losses: By rate, in the order of trial; infinite where the training broke off.
    """

    rate: float
    losses: dict[float, float]


def trial_steps(total: int) -> int:
    """Training steps of one trial.

    Args:
        total: Those of the training.
    """
    return min(total, STEPS, max(FEWEST_STEPS, total // SHARE))


def find_rate(first: float, loss_at: Callable[[float], float], guess: float) -> Found:
    """The highest of some rates that no lower one clearly beats.

    Few steps flatter low rates where much is known already, and high ones elsewhere. So a rate that comes to 0.6 times
    the loss of a guess is good enough, and a lower one has to be better by 0.15 times that loss. Lower ones are tried
    until one is not, once anything was learned.

    Args:
        first: The highest rate.
        loss_at: The loss after a short training at a rate; `AdapterError` where it comes to no number.
        guess: The loss of an answer that does not depend on the input.
    """
    losses: dict[float, float] = {}
    best = first
    for index in range(_CANDIDATES):
        rate = float(f"{first * _LOWER**index:.2g}")
        try:
            losses[rate] = loss_at(rate)
        except AdapterError:
            losses[rate] = math.inf
        if losses[rate] < losses[best] - _CLEARLY * guess:
            best = rate
        elif index and losses[best] < guess:
            break
        if losses[best] < _ENOUGH * guess:
            break
    return Found(best, losses)
