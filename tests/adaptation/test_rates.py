"""The learning rate: the kind's own, unless a few steps show that the network does not bear it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgespa.adaptation import learn as learn_module
from edgespa.adaptation import rates
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.rates import FEWEST_STEPS, STEPS, Found, find_rate, trial_steps
from edgespa.adaptation.run import Run
from edgespa.adaptation.state import Keeper
from edgespa.adapters import kinds
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.distributed.processes import Processes
from edgespa.errors import AdapterError
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import Task

GUESS = math.log(10)
Learn = Callable[..., Task]


@pytest.fixture
def learn(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path) -> Learn:
    def call(**options: Any) -> Task:
        keywords = {key: options.pop(key) for key in ("checkpoint", "resume", "start") if key in options}
        given = {"rank": 3, "density": 0.5, "epochs": 2, "batch_size": 16, "round_to": 1, **options}
        return adapt(toy_base, toy_data, toy_preprocess, AdaptConfig(**given), tmp_path, **keywords)

    return call


def assert_same_factors(one: Task, other: Task) -> None:
    mine, theirs = one.factors.flat(), other.factors.flat()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
    assert one.header.metrics == other.header.metrics


# Much like those of MobileNetV2 and ResNet-56, and others by hand.
@pytest.mark.parametrize(
    ("losses", "rate", "tried"),
    [
        ({0.02: 4.24, 0.0063: 1.79, 0.002: 1.16, 0.00063: 0.5}, 0.002, 3),
        ({0.01: 2.9, 0.0032: 2.1, 0.001: 1.4, 0.00032: 1.09}, 0.001, 4),
        ({0.02: 0.86, 0.0063: 0.3}, 0.02, 1),  # good enough
        ({0.01: 1.7, 0.0032: 1.5}, 0.01, 2),  # not clearly better
        ({0.01234: 2.4, 0.0039: 1.3}, 0.0039, 2),  # the first one is taken as it is
        ({0.02: math.inf, 0.0063: 1.4, 0.002: 1.3}, 0.0063, 3),
        ({0.02: 2.31, 0.0063: 2.32, 0.002: 2.3, 0.00063: 2.31, 0.0002: 2.33}, 0.02, 5),  # nothing learns
        ({0.02: 2.4, 0.0063: 2.4, 0.002: 1.5, 0.00063: 1.4}, 0.002, 4),  # the first two destroy
    ],
)
def test_the_highest_rate_that_no_lower_one_clearly_beats(losses: dict[float, float], rate: float, tried: int) -> None:
    def loss_at(rate: float) -> float:
        if math.isinf(losses[rate]):
            raise AdapterError("the loss is not a number in epoch 1")
        return losses[rate]

    found = find_rate(next(iter(losses)), loss_at, GUESS)
    assert found.rate == rate
    assert list(found.losses.items()) == list(losses.items())[:tried]


def test_a_trial_is_a_small_part_of_the_training() -> None:
    assert [trial_steps(total) for total in (3, 10, 200, 400, 10_000)] == [3, FEWEST_STEPS, 10, 20, STEPS]


@pytest.mark.law(1)
@pytest.mark.parametrize("kind", ["splora", "splopa", "full"])
def test_trials_leave_everything_as_it_was(learn: Learn, kind: str) -> None:
    found, given = learn(adapter=kind), learn(adapter=kind, lr=kinds.default_lr(kind))
    assert found.header.provenance["lr"] == given.header.provenance["lr"] == kinds.default_lr(kind)
    assert_same_factors(found, given)


@pytest.mark.parametrize("own", [50.0, 1e30])  # destroys; comes to no number
def test_a_rate_that_does_harm_is_lowered(learn: Learn, monkeypatch: pytest.MonkeyPatch, own: float) -> None:
    tried = []
    loss_after = rates._loss_after

    def spy(run: Run, steps: int, rate: float, keeper: Keeper) -> float:
        tried.append(rate)
        return loss_after(run, steps, rate, keeper)

    monkeypatch.setattr(kinds, "FULL_LR", own)
    monkeypatch.setattr(rates, "_LOWER", 0.02 / own)
    monkeypatch.setattr(rates, "_loss_after", spy)
    task = learn(adapter="full")
    assert task.header.provenance["lr"] == 0.02
    assert tried[:2] == [own, 0.02]
    assert_same_factors(task, learn(adapter="full", lr=0.02))


def test_a_loss_that_is_no_number_in_another_process_is_one_here_too(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "totals", lambda _, values: [math.nan] * len(values))
    with pytest.raises(AdapterError, match="the loss is not a number"):
        learn(lr=0.01)


def test_a_rate_that_is_given_is_not_tried(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_module, "settle_rate", None)
    assert learn(lr=0.013).header.provenance["lr"] == 0.013


def test_a_resumed_run_has_the_rate_that_was_found(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    save = Checkpoint.save

    def killed(self: Checkpoint, path: Path) -> None:
        save(self, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rates, "find_rate", lambda *_: Found(0.004, {0.02: math.inf, 0.004: 1.0}))
        whole = learn()
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            learn(checkpoint=state)
    monkeypatch.setattr(learn_module, "settle_rate", None)  # not again
    resumed = learn(checkpoint=state, resume=True)
    assert resumed.header.provenance["lr"] == 0.004
    assert resumed.header.provenance["lr_trials"] == {"0.02": None, "0.004": 1.0}
    assert resumed.header.provenance == whole.header.provenance
    assert_same_factors(resumed, whole)


@pytest.mark.law(1)
@pytest.mark.parametrize(("said", "taken"), [(0.003, 0.003), ("much", 0.02), (-1.0, 0.02), (True, 0.02)])
def test_a_task_that_is_gone_on_with_keeps_its_rate(learn: Learn, said: Any, taken: float) -> None:
    first = learn(density=0.7, epochs=1, lr=0.02)
    header = first.header.model_copy(update={"provenance": {**first.header.provenance, "lr": said}})
    start = dataclasses.replace(first, header=header)
    assert learn(start=start, epochs=1).header.provenance["lr"] == taken
    assert learn(start=start, epochs=1, lr=0.001).header.provenance["lr"] == 0.001
