"""The state of a training: written inside of epochs, and gone on with bit for bit, however often it was left."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.adaptation import rates, state
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.teacher import load_teacher
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.errors import ConfigError, UnfinishedError
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import Task
from edgespa.tasks.unfinished import Unfinished

Adapt = Callable[..., Task]
QUICK: dict[str, Any] = {"rank": 4, "density": 0.5, "epochs": 3, "batch_size": 16, "prune_steps": 4, "round_to": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "splora": {"augment": ("flip", "crop", "colour")},
    "all at once": {
        "accumulate": 2, "label_smoothing": 0.1, "class_weights": "balanced", "augment": ("crop",), "lr_restart": True,
        "schedule": "stepwise", "prune_fraction": 0.2, "recovery_epochs": 0.4, "group_sparsity": 0.01,
    },
    "full": {"adapter": "full"},
    "bf16": {"mixed_precision": "bf16"},
    "convpass": {"adapter": "convpass", "adapter_settings": {"dim": 4}},
    "block masks": {
        "adapter": "splopa",
        "adapter_settings": {"block": 4, "prototypes": 2, "mask": "movement", "block_density": 0.5},
    },
    "lrp": {"criterion": "lrp"},
}  # fmt: skip


class KilledError(Exception):
    """Ends a run at once, as a kill would."""


@pytest.fixture
def run(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path) -> Adapt:
    def call(data: ImageData = toy_data, **options: Any) -> Task:
        names = ("checkpoint", "resume", "progress", "teacher", "log_file", "facts")
        keywords = {key: options.pop(key) for key in names if key in options}
        return adapt(toy_base, data, toy_preprocess, AdaptConfig(**{**QUICK, **options}), tmp_path, **keywords)

    return call


def assert_equal(one: Task, other: Task) -> None:
    assert all(np.array_equal(one.kept[name], other.kept[name]) for name in one.kept)
    first, second = one.factors.flat(), other.factors.flat()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert one.header.metrics == other.header.metrics
    assert one.header.provenance == other.header.provenance


def leaving_at(step: int, how: Callable[[], None]) -> Callable[..., None]:
    def progress(done: float, total: float | None, text: str) -> None:
        if done == step and not text.startswith("trying"):
            how()

    return progress


def kill() -> None:
    raise KilledError


def ask(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


@pytest.mark.law(1)
@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_run_left_again_and_again_inside_of_epochs_is_the_whole_run(
    run: Adapt, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a state by time, and asked to end: dropout, augmentation, moments, pruning, schedule go on."""
    path, log, options = tmp_path / "state", tmp_path / "log.jsonl", OPTIONS[name]
    whole = run(**options, log_file=tmp_path / "whole.jsonl")
    monkeypatch.setattr(state, "SECONDS", 0.0)
    monkeypatch.setattr(state, "SHARE", 0.0)
    seen = []
    for step, how, error in (
        (1, kill, KilledError),
        (2, ask(signal.SIGINT), KeyboardInterrupt),
        (4, kill, KilledError),
        (5, ask(signal.SIGTERM), SystemExit),
        (7, ask(signal.SIGHUP), SystemExit),
    ):
        with pytest.raises(error):
            run(**options, checkpoint=path, resume=True, progress=leaving_at(step, how), log_file=log)
        facts = Unfinished.read(path).facts
        seen.append(facts["epoch"] * 6 + facts["steps_done"])
    assert len(set(seen)) == len(seen)
    assert any(Unfinished.read(path).facts["steps_done"] for _ in seen)
    assert_equal(whole, run(**options, checkpoint=path, resume=True, log_file=log))
    events = [[json.loads(line) for line in each.read_text().splitlines()] for each in (log, tmp_path / "whole.jsonl")]
    for each in (*events[0], *events[1]):
        each.pop("seconds", None), each.pop("cpu_seconds", None)
    assert events[0] == events[1]


def test_the_state_is_there_from_the_beginning_and_says_how_far_it_is(run: Adapt, tmp_path: Path) -> None:
    path = tmp_path / "t.spa.resume"

    def look(done: float, total: float | None, text: str) -> None:
        if done == 1 and not text.startswith("trying"):
            assert Unfinished.read(path).progress == "0 of 3 epochs are done"
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, progress=look, facts={"command": {"name": "adapt"}})
    found = Unfinished.read(path)
    assert found.progress == "0 of 3 epochs and 2 steps of the next are done"
    assert found.how == f"edgespa adapt --resume {path}"


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_what_a_launcher_passes_on_is_no_second_request(run: Adapt, tmp_path: Path, first: int, second: int) -> None:
    path = tmp_path / "state"

    def both() -> None:
        signal.raise_signal(first)
        signal.raise_signal(second)

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, progress=leaving_at(2, both))
    assert Checkpoint.load(path).facts["steps_done"] == 3


def test_a_second_request_ends_at_once_and_keeps_what_there_was(
    run: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespa.system.stopping._SAME_S", 0.0)
    path = tmp_path / "state"

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, progress=leaving_at(2, twice))
    assert Checkpoint.load(path).facts["steps_done"] == 0
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_what_nohup_ignores_stays_ignored(run: Adapt) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(epochs=1, progress=leaving_at(1, ask(signal.SIGHUP))).header.metrics
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_end_during_a_validation_keeps_the_epoch(
    run: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespa.adaptation import run as module

    path, whole, real = tmp_path / "state", run(), module.evaluate

    def asked(*arguments: Any, **keywords: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", asked)
        with pytest.raises(SystemExit):
            run(checkpoint=path)
    facts = Checkpoint.load(path).facts
    assert (facts["epoch"], facts["steps_done"]) == (0, 5)
    assert_equal(whole, run(checkpoint=path, resume=True))


def test_learning_rates_that_were_tried_are_not_tried_again(
    run: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole, tried, real = tmp_path / "state", run(), [], rates._loss_after

    def spy(*arguments: Any) -> float:
        tried.append(arguments[2])
        loss = real(*arguments)
        if len(tried) == 1:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(rates, "_loss_after", spy)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path)
    assert Checkpoint.load(path).facts["settled"] is False
    assert_equal(whole, run(checkpoint=path, resume=True))
    assert len(set(tried)) == len(tried) == len(whole.header.provenance["lr_trials"])  # type: ignore[arg-type]


def test_a_teacher_and_another_one(run: Adapt, toy_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(epochs=1, density=1.0).save(tmp_path / "teacher.spa")
    options: dict[str, Any] = {"teacher": load_teacher(str(tmp_path / "teacher.spa"), toy_base)}
    with pytest.raises(KeyboardInterrupt):
        run(**options, checkpoint=path, progress=leaving_at(3, ask(signal.SIGINT)))
    with pytest.raises(ConfigError, match=r"another --distill: .* there, nothing here"):
        run(checkpoint=path, resume=True)
    assert_equal(run(**options), run(**options, checkpoint=path, resume=True))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("rank", 2, "--rank: 4 there, 2 here"),
        ("batch_size", 8, "--batch-size: 16 there, 8 here"),
        ("augment", ("flip",), r"--augment: \[\] there, \[\"flip\"\] here"),
        ("adapter_settings", {"alpha": 2.0}, "--adapter-option"),
        ("seed", 3, "--seed: 0 there, 3 here"),
    ],
)
def test_what_differs_is_named_as_the_user_says_it(
    run: Adapt, tmp_path: Path, option: str, value: Any, said: str
) -> None:
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(adapter="lora", checkpoint=path, progress=leaving_at(1, ask(signal.SIGINT)))
    with pytest.raises(ConfigError, match=said):
        run(adapter="lora", **{option: value}, checkpoint=path, resume=True)


def test_other_samples_of_the_same_name_are_refused(run: Adapt, toy_data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, progress=leaving_at(1, ask(signal.SIGINT)))
    labels = toy_data.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    with pytest.raises(ConfigError, match="another --data"):
        run(toy_data.renumbered(labels, toy_data.classes), checkpoint=path, resume=True)


def test_a_disk_that_will_be_full_is_told_before_the_training(
    run: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    path = tmp_path / "state"

    class Usage:
        free = 20_000

    monkeypatch.setattr(state.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(ConfigError, match="20,000 bytes are free there, and the states of this training need"):
        run(lr=0.01, checkpoint=path, progress=lambda done, *_: told.append(done))
    assert not told
    assert not path.exists()
    Usage.free = 10**9
    run(lr=0.01, epochs=1, checkpoint=path)


def test_of_two_that_began_at_once_the_second_is_refused(run: Adapt, tmp_path: Path) -> None:
    checkpoint = tmp_path / "t.spa.resume"
    seen: list[str] = []

    def second(done: float, total: float | None, text: str) -> None:
        if not seen:  # the first one is at its first step, and nobody has asked for its state before
            with pytest.raises(UnfinishedError, match="going on now") as failed:
                run(checkpoint=checkpoint)
            seen.append(failed.value.message)

    run(checkpoint=checkpoint, epochs=1, lr=0.02, progress=second)
    assert len(seen) == 1
