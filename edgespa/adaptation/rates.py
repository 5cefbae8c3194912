"""The learning rate that an adaptation begins with, where none is given: the kind's own, unless that is too high.

A kind's own rate was measured on networks with batch norms; others do not bear it, and training destroys what they
knew in its first steps. That shows at once, so a few steps at that rate, and at lower ones, tell.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from edgespa.adaptation.run import Progress, Run
from edgespa.adaptation.state import Keeper, restore, snapshot
from edgespa.errors import AdapterError

log = logging.getLogger(__name__)

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
        rate = float(f"{first * _LOWER**index:.2g}") if index else first
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


def settle_rate(run: Run, keeper: Keeper, progress: Progress | None = None) -> None:
    """Lower the learning rate of a run where short trainings show that it is too high; then all else is as before.

    Args:
        run: Before its first epoch; trials that it has behind are not made again.
        keeper: Keeps the trials; an end that is asked for is one here, too.
        progress: Told ``(done, total, text)``.
    """
    begin = snapshot(run)
    known = {float(rate): math.inf if loss is None else loss for rate, loss in run.lr_trials.items()}
    _, labels = next(run.batches.plain(1))
    guess = run.loss.guess(labels, len(run.classes)) or run.loss_now()
    steps = trial_steps(run.timeline.total)

    def loss_at(rate: float) -> float:
        if rate in known:
            return known[rate]
        if progress:
            progress(0, run.timeline.total, f"trying the learning rate {rate:g}")
        try:
            known[rate] = _loss_after(run, steps, rate, keeper)
        except AdapterError:
            known[rate] = math.inf
        finally:
            restore(run, begin)
            run.lr_trials = _recorded(known)
        keeper.pause()
        return known[rate]

    try:
        found = find_rate(run.timeline.peak, loss_at, guess)
    except (KeyboardInterrupt, SystemExit):
        keeper.save()
        raise
    trials = _recorded(found.losses)
    log.info("learning rate %g; loss after %d steps: %s", found.rate, steps, trials)
    run.settle_rate(found.rate, trials)


def _recorded(losses: Mapping[float, float]) -> dict[str, float | None]:
    return {str(rate): loss if math.isfinite(loss) else None for rate, loss in losses.items()}


def _loss_after(run: Run, steps: int, rate: float, keeper: Keeper) -> float:
    """Mean loss of the last of some training steps; what is trained changes."""
    run.set_training(True)
    torch.manual_seed(run.config.seed + 7_919_333 * run.processes.index)
    batches, losses = run.batches.endless(), []
    for step in range(steps):
        group = list(itertools.islice(batches, run.config.accumulate))
        losses.append(run.learn(group, rate * min(1.0, (step + 1) / (WARM_UP * steps))))
        if keeper.stop.asked is not None and run.processes.count == 1:
            keeper.stop.end()
    last = losses[-round(JUDGED * steps) :]
    return run.processes.totals([sum(last)])[0] / len(last) / run.processes.count
