"""Runs that are left and gone on with on the command line: nothing is lost unasked, and the state alone is enough."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgespa.adaptation.state import Keeper
from edgespa.tasks.task import Task
from edgespa.tasks.unfinished import Unfinished, state_path
from tests.cli.typed import run

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
"""
SAID = ("net.py:build", "--input-shape", "1,3,8,8", "--data", "colours.npz", "--batch-size", "16", "--rank", "2")
ADAPT = ("adapt", *SAID, "--epochs", "3", "--density", "0.6", "--lr", "0.01", "--round-to", "1")
Leave = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 90, (90, 8, 8, 3), dtype=np.uint8)
    images[np.arange(90), :, :, labels] += 140
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    np.savez(tmp_path / "more.npz", images=images[:30], labels=labels[:30])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "share"))
    return tmp_path


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Leave:
    """Runs a command that gets a signal after some training steps."""

    def call(*arguments: str, at: int = 7, number: int = signal.SIGINT, code: int = 130) -> Any:
        real, calls = Keeper.pause, iter(range(1, 1000))

        def pause(self: Keeper) -> None:
            if next(calls) == at:
                signal.raise_signal(number)
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "pause", pause)
            return run(*arguments, code=code)

    return call


def content(path: Path) -> Any:
    task = Task.load(path)
    header = task.header.model_dump(mode="json")
    del header["created"]
    return header, {key: tensor.tolist() for key, tensor in task.factors.flat().items()}


def test_the_state_alone_goes_on_and_comes_to_the_same(place: Path, leave: Leave) -> None:
    said = leave(*ADAPT, "--augment", "flip,crop", "--keep", "0", "--log", "log.jsonl", "-o", "a.spa", "-v").stderr
    assert "state saved in a.spa.resume, 1 of 3 epochs and 1 step of the next are done" in said
    how = said.strip().splitlines()[-1].partition("go on with: ")[2]
    assert how == "edgespa adapt --resume a.spa.resume"
    again = run(*shlex.split(how)[1:], "--json", "-vv", "--debug")
    assert json.loads(again.stdout)
    assert "going on: edgespa adapt net.py:build" in again.stderr
    assert "edgespa.adaptation" in again.stderr  # -vv says who says it
    assert "verbose" not in again.stderr.partition("going on: ")[2].splitlines()[0]
    assert not state_path(place / "a.spa").exists()
    run(*ADAPT, "--augment", "flip,crop", "--keep", "0", "-o", "b.spa")
    assert content(place / "a.spa") == content(place / "b.spa")
    events = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3]


def test_a_run_that_is_gone_on_with_saves_all_of_its_recipe(
    place: Path, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(*ADAPT, "-o", "a.spa", "--save-recipe", "first.toml")
    assert not (place / "first.toml").exists()
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    run("adapt", "--resume", "../a.spa.resume", "--save-recipe", "all.toml")
    found = tomllib.loads((place / "below" / "all.toml").read_text())
    assert found["folder"] == ".."
    told = found["adapt"]
    assert (told["model"], told["data"], told["epochs"], told["output"]) == ("net.py:build", "colours.npz", 3, "a.spa")
    run("run", str(place / "below" / "all.toml"), "--overwrite", "--dry-run")


def test_a_state_is_not_overwritten_unasked(place: Path, leave: Leave) -> None:
    leave(*ADAPT, "-o", "a.spa")
    before = state_path(place / "a.spa").read_bytes()
    said = run(*ADAPT, "-o", "a.spa", code=1).stderr
    assert "1 of 3 epochs" in said
    assert "edgespa adapt --resume a.spa.resume" in said
    assert "--fresh" in said
    assert run(*ADAPT, "-o", "a.spa", "--overwrite", code=1).stderr == said
    assert state_path(place / "a.spa").read_bytes() == before
    run(*ADAPT, "-o", "a.spa", "--fresh")
    assert not state_path(place / "a.spa").exists()


def test_a_file_in_the_way_that_is_no_state_is_not_overwritten_either(place: Path) -> None:
    (place / "a.spa.resume").write_text("my notes")
    assert "--fresh" in run(*ADAPT, "-o", "a.spa", code=1).stderr
    assert (place / "a.spa.resume").read_text() == "my notes"


@pytest.mark.parametrize("words", [(), ("--resume",), ("--fresh",)])
def test_a_run_that_is_going_on_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """The same command in a second terminal, once the first one trains."""
    real, said = Keeper.pause, []

    def pause(self: Keeper) -> None:
        if not said:
            said.append(run(*ADAPT, "-o", "a.spa", *words, code=1).stderr)
        real(self)

    monkeypatch.setattr(Keeper, "pause", pause)
    run(*ADAPT, "-o", "a.spa")
    assert "a.spa.resume is the state of a run that is going on now" in said[0]


def test_nothing_to_go_on_with_is_told_and_what_there_is(place: Path, leave: Leave) -> None:
    leave(*ADAPT, "-o", "a.spa")
    for typed in (("--resume", "aa.spa.resume"), (*ADAPT, "-o", "aa.spa", "--resume"), ("--resume", "-o", "aa.spa")):
        words = typed if typed[0] == "adapt" else ("adapt", *typed)
        said = run(*words, code=1).stderr
        assert "there is no state to go on with: aa.spa.resume" in said
        assert "a.spa.resume" in said.partition("Hint")[2]
    assert not (place / "aa.spa").exists()


def test_the_output_or_the_flag_name_the_state_too(place: Path, leave: Leave) -> None:
    for words in (("--resume", "a.spa"), ("--resume", "-o", "a.spa"), ("--resume=a.spa.resume", "--epochs", "3")):
        leave(*ADAPT, "-o", "a.spa", "--overwrite")
        run("adapt", *words, "--overwrite")
        assert (place / "a.spa").exists()
        assert not state_path(place / "a.spa").exists()


def test_the_old_way_goes_on_and_needs_no_option_again(place: Path, leave: Leave) -> None:
    leave(*ADAPT, "-o", "a.spa")
    run("adapt", "--resume", "net.py:build", "--data", "colours.npz", "-o", "a.spa")
    run(*ADAPT, "-o", "b.spa")
    assert content(place / "a.spa") == content(place / "b.spa")


@pytest.mark.law(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "5"), "--epochs is 5 here, and 3 in a.spa.resume"),
        (("--data", "more.npz"), "--data is more.npz here, and colours.npz in a.spa.resume"),
        (("--augment", "flip"), "--augment is flip here, and nothing in a.spa.resume"),
        (("--keep", "0"), "--keep is 0 here, and nothing in a.spa.resume"),
        (("-o", "b.spa"), "--output is b.spa here, and a.spa in a.spa.resume"),
        (("--freeze-norms",), "--freeze-norms is True here, and False in a.spa.resume"),
        (("other.py:build",), "MODEL is other.py:build here, and net.py:build in a.spa.resume"),
    ],
)
def test_what_is_said_otherwise_is_named(place: Path, leave: Leave, words: tuple[str, ...], said: str) -> None:
    leave(*ADAPT, "-o", "a.spa")
    told = " ".join(run("adapt", "--resume", "a.spa.resume", *words, code=2).stderr.split())
    assert said in told.replace("[MODEL]", "MODEL").replace("'", "")
    assert state_path(place / "a.spa").exists()


def test_it_goes_on_from_another_folder_and_after_the_folder_was_moved(
    place: Path, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = place / "work"
    (work / "out").mkdir(parents=True)
    for name in ("net.py", "colours.npz"):
        shutil.copy(place / name, work)
    monkeypatch.chdir(work)
    leave(*ADAPT, "-o", "out/a.spa")
    monkeypatch.chdir(place)
    work.rename(place / "moved")
    said = leave("adapt", "--resume", "moved/out/a.spa.resume", "--epochs", "3", at=2).stderr
    how = said.strip().splitlines()[-1].partition("go on with: edgespa ")[2]
    monkeypatch.chdir(place)
    run(*shlex.split(how))
    assert (place / "moved" / "out" / "a.spa").exists()


def test_what_a_state_of_somebody_else_names_is_not_run(
    place: Path, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state may name code: it is taken only where this user's key marks it."""
    leave(*ADAPT, "-o", "a.spa")
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "another"))
    (place / "net.py").write_text(NET + "\nopen('ran', 'w').close()\n")
    said = run("adapt", "--resume", "a.spa.resume", code=1).stderr
    assert "not written by you on this machine" in said
    assert not (place / "ran").exists()
    (place / "net.py").write_text(NET)
    run(*ADAPT, "-o", "a.spa", "--resume")  # all of it said: that is asked for
    assert (place / "a.spa").exists()


def test_a_state_whose_command_was_changed_is_not_taken(place: Path, leave: Leave) -> None:
    leave(*ADAPT, "-o", "a.spa")
    state = state_path(place / "a.spa")
    state.write_bytes(state.read_bytes().replace(b"net.py:build", b"bad.py:build"))
    (place / "bad.py").write_text("open('ran', 'w').close()\n")
    assert Unfinished.read(state).command is None
    assert "is not taken" in run("adapt", "--resume", "a.spa.resume", code=1).stderr
    assert not (place / "ran").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_requests_to_end_say_what_is_kept_too(place: Path, leave: Leave, number: int, code: int) -> None:
    said = leave(*ADAPT, "-o", "a.spa", number=number, code=code).stderr
    assert "Ended by a signal; state saved in a.spa.resume" in said
    assert sorted(path.name for path in place.glob(".*")) == []


def test_an_interrupt_before_anything_is_done_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgespa.api.tasks.adapt", interrupted)
    assert "nothing was kept" in run(*ADAPT, "-o", "a.spa", code=130).stderr
    monkeypatch.undo()


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(("left", "code", "word"), [(KeyboardInterrupt(), 130, "Interrupted"),
                                                    (SystemExit(143), 143, "Ended by a signal")])  # fmt: skip
def test_compress_says_that_the_same_command_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, left: BaseException, code: int, word: str
) -> None:
    def ended(*_: Any, output: Path, **__: Any) -> None:
        if begun:
            state_path(Path(output)).mkdir()
        raise left

    monkeypatch.setattr("edgespa.compress", ended)
    typed = ("compress", "net.py:build", "--images", "d.npz", "--budget", "speedup=2", "-o", "small")
    said = run(*typed, code=code).stderr
    assert word in said
    assert ("small.resume keeps the stages that are done: the same command goes on" in said) == begun


def test_a_full_disk_says_what_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.tasks.checkpoint import Checkpoint

    real = Checkpoint.save

    def full(self: Checkpoint, path: Path) -> None:
        if self.facts["epoch"] == 2:
            raise OSError(28, "No space left on device", str(path))
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", full)
        said = run(*ADAPT, "-o", "a.spa", code=1).stderr
    assert "No space left on device" in said
    assert "1 of 3 epochs are done: go on with edgespa adapt --resume a.spa.resume" in said
    run("adapt", "--resume", "a.spa.resume")


def test_prune_goes_on_by_its_state(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.pruning import front

    typed = ("prune", *SAID[:3], "--calibration", "colours.npz", "--density", "0.5", "--round-to", "1",
             "--method", "asym-in-change", "-o")  # fmt: skip
    real, calls = front._at, iter(range(10))

    def at(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(front, "_at", at)
        said = run(*typed, "p.spa", code=130).stderr
    assert "state saved in p.spa.resume, 1 layer is done; go on with: edgespa prune --resume p.spa.resume" in said
    assert "--fresh" in run(*typed, "p.spa", code=1).stderr
    assert "is the state of edgespa prune" in run("adapt", "--resume", "p.spa.resume", code=1).stderr
    said = " ".join(run("prune", "--resume", "p.spa.resume", "--density", "0.4", code=2).stderr.split())
    assert "--density is 0.4 here, and 0.5 in p.spa.resume" in said
    run("prune", "--resume", "p.spa.resume")
    run(*typed, "q.spa")
    assert content(place / "p.spa") == content(place / "q.spa")


@pytest.mark.law(2)
@pytest.mark.parametrize(
    "words",
    [
        ("--method", "layer-in-change"),
        ("--method", "asym-in-change"),
        ("--method", "seq-in-change", "--allocation", "equal-error"),
        ("--method", "act-grad"),
        ("--method", "l1", "--allocation", "equal-accuracy", "--held-out", "colours.npz"),
        ("--method", "l2", "--no-reweight"),
    ],
)
def test_prune_keeps_its_plan(place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """What it took to rank and to share out is not done again."""
    from edgespa.pruning.run import Pruning

    typed = ("prune", *SAID[:3], "--calibration", "colours.npz", "--density", "0.5", "--round-to", "1", *words, "-o")

    def interrupted(*_: Any) -> Any:
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(Pruning, "_fit", interrupted)
        assert "0 layers are done" in run(*typed, "p.spa", code=143).stderr
    with monkeypatch.context() as patch:
        patch.setattr(Pruning, "_plan", None)
        run("prune", "--resume", "p.spa.resume")
    run(*typed, "q.spa")
    assert content(place / "p.spa") == content(place / "q.spa")


def test_a_density_that_was_found_by_latency_is_not_measured_again() -> None:
    from edgespa.latency.budget import LatencyFitting
    from edgespa.latency.fits import LatencyFit

    stopwatch: Any = SimpleNamespace(
        budget=SimpleNamespace(
            latency_ms=3.0, device=SimpleNamespace(name="pi", emulated=False), variant="v", threads=1
        )
    )
    fit = LatencyFit(
        stopwatch.budget, 0.4, "macs", 2.9, 7.0, False, ({"density": 0.4, "macs": 1.0, "latency_ms": 2.9},)
    )
    first, again = (LatencyFitting(None, stopwatch, None) for _ in range(2))  # type: ignore[arg-type]
    first._found = fit
    record = json.loads(json.dumps(first.record()))
    again.take(None)
    assert again.record() is None
    again.take(record)
    plain: Any = SimpleNamespace(config=SimpleNamespace(widen=False))
    assert again.density(plain) == 0.4
    assert again.record() == record


@pytest.mark.more
@pytest.mark.slow
def test_a_real_process_with_options_from_the_environment_is_killed_and_goes_on(place: Path) -> None:
    environment = {**os.environ, "EDGESPA_ADAPT_EPOCHS": "40", "EDGESPA_ADAPT_DENSITY": "0.6"}
    words = [sys.executable, "-m", "edgespa", "adapt"]
    process = subprocess.Popen(
        [*words, *SAID, "--lr", "0.01", "-o", "a.spa"], cwd=place, env=environment, stderr=subprocess.DEVNULL
    )
    state = state_path(place / "a.spa")
    while process.poll() is None and not (state.exists() and Unfinished.read(state).has_work):
        time.sleep(0.01)
    process.kill()
    process.wait()
    plain = {name: value for name, value in environment.items() if not name.startswith("EDGESPA_ADAPT")}
    subprocess.run([*words, "--resume", "a.spa.resume"], cwd=place, env=plain, check=True, capture_output=True)
    provenance: Any = Task.load(place / "a.spa").header.provenance
    assert provenance["config"]["epochs"] == 40
    assert [path.name for path in place.glob(".a.spa*")] == []
