"""``edgespa heal`` and ``edgespa prune --heal``, as a user types them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgespa as es
from edgespa.adaptation.heal import heal
from edgespa.adaptation.state import Keeper
from edgespa.tasks.task import Task
from tests.cli.typed import result_of, run

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
"""
PRUNE = (
    "prune", "net.py:build", "--input-shape", "1,3,8,8", "--density", "0.5", "--round-to", "1", "--mean", "0.4",
    "--std", "0.3", "--calibration", "colours.npz", "--method", "l1", "--no-reweight", "-o",
)  # fmt: skip
HEAL = ("heal", "cut.spa", "--calibration", "colours.npz", "--steps", "25", "--batch-size", "16", "--lr", "0.01", "-o")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 90, (90, 8, 8, 3), dtype=np.uint8)
    images[np.arange(90), :, :, labels] += 140
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    np.savez(tmp_path / "pictures.npz", images=images)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "share"))
    return tmp_path


def leave(monkeypatch: pytest.MonkeyPatch, at: int, *arguments: str) -> str:
    """What a command says that is interrupted after some training steps."""
    real, calls = Keeper.pause, iter(range(1, 1000))

    def pause(self: Keeper) -> None:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "pause", pause)
        return run(*arguments, code=130).stderr


def content(path: str) -> Any:
    task = Task.load(Path(path))
    header = task.header.model_dump(mode="json") | {"created": ""}
    return header, {key: tensor.tolist() for key, tensor in task.factors.flat().items()}


def test_a_cut_task_is_healed_and_exported(place: Path) -> None:
    run(*PRUNE, "cut.spa")
    said = run(*HEAL, "healed.spa", "--eval-data", "colours.npz", "--log", "log.jsonl").stdout
    for words in ("unhealed validation relative error (9 images)", "validation agreement", "unhealed test accuracy"):
        assert words in " ".join(said.split()), said
    assert "edgespa export healed.spa" in said
    healed, cut = es.open_task("healed.spa"), es.open_task("cut.spa")
    assert (healed.parameters, healed.macs) == (cut.parameters, cut.macs)
    found = healed.metrics
    assert found["validation_error"] < found["unhealed_validation_error"]
    assert {"base_test_accuracy", "test_accuracy"} <= set(found)
    assert [json.loads(line)["event"] for line in (place / "log.jsonl").read_text().splitlines()][-1] == "epoch"
    assert healed.task.header.provenance["start"]["method"] == "prune"
    assert healed.task.header.preprocess == cut.task.header.preprocess
    run("export", "healed.spa", "--format", "onnx", "--output", "bundle")
    run("verify", "bundle")


def test_prune_heals_in_one_go(place: Path) -> None:
    """The same as in two steps; images without labels do. What healing is judged by is new to pruning, too."""
    words = [each if each != "colours.npz" else "pictures.npz" for each in (PRUNE[0], "--bn-reestimate", *PRUNE[1:])]
    found = result_of(*words, "one.spa", "--heal", "--heal-steps", "8")
    assert found["metrics"]["validation_error"] < found["metrics"]["unhealed_validation_error"]
    run(*words, "cut.spa", "--spare", "0.1")
    run("heal", "cut.spa", "--calibration", "pictures.npz", "--steps", "8", "-o", "two.spa")
    run(*words, "all.spa")
    assert content("all.spa")[1] != content("cut.spa")[1]  # all images count there
    one, two = content("one.spa"), content("two.spa")
    assert one[1] == two[1]
    assert one[0]["metrics"] == two[0]["metrics"]
    assert sorted(each.name for each in place.glob("one.spa*")) == ["one.spa"]


@pytest.mark.parametrize(
    "arguments", [HEAL, (*PRUNE[:-1], "--heal", "--heal-steps", "25", "-o")], ids=["heal", "prune"]
)
def test_what_is_left_goes_on(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    if arguments is HEAL:
        run(*PRUNE, "cut.spa")
    said = leave(monkeypatch, 7, *arguments, "a.spa")
    name = arguments[0]
    assert f"go on with: edgespa {name} --resume a.spa.resume" in said, said
    if name == "prune":  # and what was pruned is not pruned again
        with monkeypatch.context() as patch:
            patch.setattr("edgespa.api.tasks.prune", None)
            run(name, "--resume", "a.spa.resume")
    else:
        run(name, "--resume", "a.spa.resume")
    run(*arguments, "b.spa")
    assert content("a.spa") == content("b.spa")
    assert sorted(each.name for each in place.glob("a.spa*")) == ["a.spa"]


def test_what_healing_makes_worse_is_written_as_it_was_pruned(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    def worse(*given: Any, **keywords: Any) -> Task:
        return heal(*given, **keywords).with_metrics(validation_error=9.0)

    monkeypatch.setattr("edgespa.api.healing.heal", worse)
    done = run(*PRUNE, "one.spa", "--heal", "--heal-steps", "8", "--eval-data", "colours.npz")
    assert "written as it was pruned" in " ".join(done.stderr.split())
    run(*PRUNE, "cut.spa", "--eval-data", "colours.npz")
    one, cut = es.open_task("one.spa"), es.open_task("cut.spa")
    assert content("one.spa")[1] == content("cut.spa")[1]
    assert one.metrics["validation_error"] < 9
    assert one.metrics["validation_images"] == 9
    of_tests = ({name: each for name, each in task.metrics.items() if "test" in name} for task in (one, cut))
    assert next(of_tests) == next(of_tests)


def test_a_pruned_task_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    leave(monkeypatch, 7, *PRUNE, "a.spa", "--heal", "--heal-steps", "25")
    (place / "a.spa.cut").unlink()
    assert "a.spa.cut" in run("prune", "--resume", "a.spa.resume", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ((*PRUNE, "cut.spa", "--heal-steps", "5"), "--heal-steps is of --heal", 2),
        (("prune", *PRUNE[1:3], "1,3,8,8", "--density", "0.5", "--heal", "-o", "x.spa"), "healing needs images", 1),
        ((*PRUNE, "x.spa", "--spare", "0.001"), "too few to spare", 1),
        (("prune", *PRUNE[1:4], "--density", "0.5", "--spare", "0.1", "-o", "x.spa"), "there are none", 1),
        (("heal", "none.spa", "--calibration", "colours.npz", "-o", "x.spa"), "none.spa", 1),
        (("heal", "net.py", "--calibration", "colours.npz", "-o", "x.spa"), "net.py", 1),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], said: str, code: int) -> None:
    assert said in " ".join(run(*arguments, code=code).stderr.split())


def test_in_python(place: Path, request: pytest.FixtureRequest) -> None:
    from torch import nn

    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    build: Callable[[], nn.Module] = namespace["build"]
    images = np.load(place / "pictures.npz")["images"]
    cut = es.prune(build().eval(), density=0.5, input_shape=(1, 3, 8, 8), output="cut.spa", progress=False)
    data = (images, np.zeros(len(images), dtype=np.int64))
    own = es.heal(cut, calibration=data, steps=10, batch_size=16, lr=1e-2, output="own.spa", progress=False)
    assert own.metrics["validation_error"] < own.metrics["unhealed_validation_error"]
    assert "validation relative error" in str(own)
    with pytest.raises(es.EdgespaError, match="step"):
        es.heal(cut, calibration=data, output="x.spa", step=10)
