"""From a network and a board to a bundle: stages, candidates, and going on. Clocks are made up, all else is real."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import edgespa as es
from edgespa.api import compressing
from edgespa.api.compressing import MOST_ROUNDS
from edgespa.api.shell import adding
from edgespa.errors import BudgetError, ConfigError, DataError, ModelError, OutputExistsError, UnfinishedError
from edgespa.tasks.base import Base

SHARE = {"onnx-fp32": 1.0, "onnx-int8": 0.6}


class Clock:
    """A board whose time is the MACs, and what was measured on it."""

    def __init__(self, overhead_ms: float = 0.0) -> None:
        self.overhead_ms = overhead_ms
        self.measured: list[str] = []

    def of(self, macs: int, variant: str) -> float:
        return macs / 1e4 * SHARE[variant]

    def profile(self, bundle: Any, *, against: Any = None, runtimes: Any = None, **_: Any) -> Any:
        self.measured.append(bundle.path.name)
        rows = []
        # Another runtime is twice as fast there, or its numbers are coarser: what cuts knows nothing of it.
        ways = (1.0,) if runtimes == () else (1.0, 0.5)
        for each in [bundle] if against is None else [bundle, against]:
            added = self.overhead_ms if each.path.name.startswith("files") else 0.0
            for variant in each.manifest.variants:
                value = self.of(each.manifest.compaction.macs, variant.name) + added
                for way in ways:
                    rounds = [SimpleNamespace(p50_ms=way * busy * value, min_ms=way * value) for busy in (3.0, 1.0)]
                    rows.append(SimpleNamespace(bundle=each.path.name, variant=variant.name, rounds=rounds))
        return SimpleNamespace(measured=SimpleNamespace(results=rows, device="local"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, told_by_macs: None) -> Clock:
    found = Clock()
    monkeypatch.setattr(es, "profile", found.profile)
    monkeypatch.setattr(
        "edgespa.latency.stopwatch.Stopwatch.latency_ms",
        lambda self, program, macs, size_bytes: found.of(macs, self.budget.variant),
    )
    return found


@pytest.fixture
def call(toy_folder: Path, tmp_path: Path) -> Callable[..., es.Compression]:
    def compress(**changes: Any) -> es.Compression:
        keywords: dict[str, Any] = {
            "images": str(toy_folder / "colours.npz"), "output": tmp_path / "small", "input_shape": (1, 3, 8, 8),
            "formats": ("onnx",), "precisions": ("fp32",), "heal_steps": 3, "progress": False,
        }  # fmt: skip
        return es.compress(f"{toy_folder / 'net.py'}:other", **{**keywords, **changes})

    return compress


def test_it_becomes_as_fast_as_asked(call: Any, clock: Clock, tmp_path: Path) -> None:
    stages: list[str] = []
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(12) % 4)
    with adding(stage=stages.append):
        found = call(speedup=2, save_task=tmp_path / "small.spa", eval_data=str(tmp_path / "test.npz"))
    assert found.speedup >= 1.96
    assert found.before.latency_ms == clock.of(found.before.macs, "onnx-fp32")
    assert found.after.macs < found.before.macs
    assert found.after.variant == found.before.variant == "onnx-fp32"
    assert len(found.rounds) == 1
    assert stages[0] == "the network as it is"
    assert stages[-1] == "the bundle: onnx-fp32"
    bundle = es.open_bundle(found.bundle)
    assert [each.name for each in bundle.manifest.variants] == ["onnx-fp32"]
    assert bundle.manifest.compaction.macs == found.after.macs
    assert es.verify(bundle).passed
    task = es.open_task(tmp_path / "small.spa")
    assert task.macs == found.after.macs
    assert not (tmp_path / "small.resume").exists()
    assert json.loads(json.dumps(found.to_dict()))["speedup"] == found.speedup
    assert "2." in repr(found)
    assert found.before.measure == found.after.measure == "accuracy"
    assert found.after.quality is not None
    assert f"| accuracy | {found.before.quality} | {found.after.quality} |" in " ".join(found.to_markdown().split(" "))


def test_healing_is_one_run_of_trackers_named_by_the_bundle(call: Any, clock: Clock, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("mlflow")
    call(speedup=2, tensorboard=tmp_path / "runs", mlflow=str(tmp_path / "mine"))
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "small-healed-1"
    read = events.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert {"train/loss", "validation/relative_error"} & set(read.Tags()["scalars"])
    (run,) = (each.parent for each in (tmp_path / "mine").glob("*/*/metrics"))
    meta = (run / "meta.yaml").read_text()
    assert "run_name: small-healed-1" in meta
    assert "status: 3" in meta  # finished
    assert (run / "metrics" / "train" / "loss").is_file()


@pytest.mark.parametrize(("error", "method"), [(0.5, "heal"), (2.0, "prune")])
def test_what_healing_makes_worse_is_left_as_it_was_cut(
    error: float, method: str, call: Any, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heal, prune, spared = es.heal, es.prune, list[float]()

    def as_if(*given: Any, **keywords: Any) -> Any:
        made = heal(*given, **keywords)
        metrics = {**made.metrics, "validation_error": error, "unhealed_validation_error": 1.0}
        return dataclasses.replace(made, metrics=metrics)

    def noted(*given: Any, **keywords: Any) -> Any:
        spared.append(keywords["spare"])
        return prune(*given, **keywords)

    monkeypatch.setattr(es, "heal", as_if)
    monkeypatch.setattr(es, "prune", noted)
    shown = repr(call(speedup=2, save_task=tmp_path / "small.spa"))
    assert ("unhealed validation relative error: 1" in shown) == (method == "heal")
    assert f"\nvalidation relative error: {min(error, 1.0):g}" in shown  # of what is shipped
    assert "number of images not recorded" not in shown
    assert ("answers little like the original" in shown) == (method == "prune")
    found = es.open_task(tmp_path / "small.spa").task.header.provenance
    assert (found["method"] == "heal") == (method == "heal")
    assert spared == [0.1]  # what healing holds out


def test_nothing_is_removed_where_a_smaller_precision_is_enough(call: Any, clock: Clock) -> None:
    found = call(speedup=1.5, precisions=("fp32", "int8"), int8_max_loss=None)
    assert found.after.variant == "onnx-int8"
    assert found.rounds == ()
    assert found.after.macs == found.before.macs
    assert "nothing was removed" in repr(found)


def test_what_takes_longer_than_it_was_cut_for_is_cut_again(
    call: Any, clock: Clock, toy_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clock.of(toy_base.whole_cost.macs, "onnx-fp32")
    clock.overhead_ms = 0.35 * whole
    found = call(latency_ms=0.6 * whole, heal=False, heal_steps=1000)
    assert len(found.rounds) >= 2
    assert found.rounds[1].asked_ms < found.rounds[0].asked_ms
    assert found.after.latency_ms <= 1.02 * found.target_ms
    assert len(found.rounds) <= MOST_ROUNDS
    monkeypatch.setattr(compressing, "MOST_ROUNDS", 2)
    clock.overhead_ms = whole
    with pytest.raises(BudgetError, match=r"not reached|cannot be reached"):
        call(latency_ms=0.6 * whole, heal=False, heal_steps=1000, overwrite=True)


def test_what_was_cut_while_the_device_was_busy_is_cut_again(
    call: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as slow while the first candidate is cut, which loses half more than it has to."""
    quiet = call(speedup=1.5, heal_steps=1)
    prune, busy = es.prune, iter([2.0, 1.0, 1.0])

    def slowed(*given: Any, **keywords: Any) -> Any:
        by = next(busy)
        monkeypatch.setattr(
            "edgespa.latency.stopwatch.Stopwatch.latency_ms",
            lambda self, program, macs, size_bytes: by * clock.of(macs, self.budget.variant),
        )
        return prune(*given, **keywords)

    monkeypatch.setattr(es, "prune", slowed)
    found = call(speedup=1.5, heal_steps=1, overwrite=True)
    first, second = found.rounds
    assert first.times_ms["onnx-fp32"] < 0.75 * first.target_ms
    assert first.asked_ms == second.asked_ms
    assert found.after.macs == quiet.after.macs


def test_a_run_that_was_interrupted_goes_on(
    call: Any, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(es, "heal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(speedup=2)
    assert clock.measured == ["whole", "cut-files-1"]
    assert (tmp_path / "small.resume" / "cut-1.spa").is_file()
    assert not (tmp_path / "small").exists()
    with pytest.raises(UnfinishedError, match="another run") as told:
        call(speedup=3)
    assert "--fresh" in str(told.value.hint)
    pruned: list[Any] = []
    prune = es.prune
    monkeypatch.setattr(es, "prune", lambda *a, **k: (pruned.append(k), prune(*a, **k))[1])
    found = call(speedup=2)
    assert pruned == []
    assert clock.measured == ["whole", "cut-files-1", "files-1", "small"]
    assert found.speedup >= 1.96
    again = call(speedup=3, fresh=True, overwrite=True)
    assert again.speedup > found.speedup


def test_a_module_in_memory(clock: Clock, toy_folder: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("of_memory", toy_folder / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = es_images(toy_folder)
    found = es.compress(
        module.other().eval(), images=data, output=tmp_path / "small", input_shape=(1, 3, 8, 8), formats="onnx",
        precisions="fp32", heal_steps=3, speedup=1.5, progress=False,
    )  # fmt: skip
    assert found.speedup >= 1.47


def es_images(folder: Path) -> Any:
    images = np.load(folder / "colours.npz")["images"]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, ConfigError),
        ({"speedup": 2, "latency_ms": 3}, ConfigError),
        ({"speedup": 1}, ConfigError),
        ({"latency_ms": 0}, ConfigError),
        ({"latency_ms": float("nan")}, ConfigError),
        ({"speedup": 2, "threads": 0}, ConfigError),
        ({"speedup": 2, "formats": ("onxx",)}, ConfigError),
        ({"speedup": 2, "precisions": ()}, ConfigError),
        ({"speedup": 2, "heal": False, "heal_steps": 7}, ConfigError),
        ({"speedup": 2, "images": "none.zip"}, DataError),
        ({"speedup": 2, "weights": "none.pt"}, ModelError),
        ({"speedup": 2, "resize": "streched"}, ConfigError),
        ({"speedup": 2, "device": "no such board"}, es.EdgespaError),
    ],
)
def test_what_is_asked_wrongly_is_told_before_anything_is_done(
    changes: dict[str, Any], error: type[Exception], call: Any, tmp_path: Path
) -> None:
    with pytest.raises(error) as told:
        call(**changes)
    assert getattr(told.value, "hint", None) or "should be" in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(call: Any, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine.txt").write_text("mine")
    with pytest.raises((OutputExistsError, es.EdgespaError)):
        call(speedup=2)
    assert (tmp_path / "small" / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_no_state_is_never_removed(call: Any, tmp_path: Path) -> None:
    (tmp_path / "small.resume").mkdir()
    (tmp_path / "small.resume" / "mine.txt").write_text("mine")
    with pytest.raises(UnfinishedError, match="in the way"):
        call(speedup=2, fresh=True)
    assert (tmp_path / "small.resume" / "mine.txt").read_text() == "mine"


def test_a_task_file_is_no_network(call: Any, toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task file"):
        es.compress("cut.spa", images=str(toy_folder / "colours.npz"), output=tmp_path / "small", speedup=2)
