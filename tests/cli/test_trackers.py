"""``--tensorboard`` and ``--mlflow``: what is told is read back by their own readers, and costs no training."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.adaptation import tracking
from edgespa.adaptation.in_mlflow import MLflow, without_password
from edgespa.adaptation.in_tensorboard import TensorBoard
from edgespa.adaptation.state import Keeper
from edgespa.adaptation.tracking import Row, Trackers
from edgespa.errors import ConfigError
from edgespa.tasks.task import Task
from edgespa.tasks.unfinished import state_path
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
SAID = ("net.py:build", "--input-shape", "1,3,8,8")
ADAPT = (
    "adapt", *SAID, "--data", "colours.npz", "--batch-size", "16", "--rank", "2", "--epochs", "3", "--density", "0.6",
    "--lr", "0.01", "--round-to", "1",
)  # fmt: skip
PRUNE = (
    "prune", *SAID, "--density", "0.5", "--round-to", "1", "--calibration", "colours.npz", "--method", "l1",
    "--no-reweight",
)  # fmt: skip
BOTH = ("--tensorboard", "runs", "--mlflow", "sqlite:///m.db")
EPOCH = {"train/loss": "loss", "train/lr": "lr", "validation/accuracy": "validation", "network/macs": "macs"}
tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*")  # of MLflow's own tables


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 90, (90, 8, 8, 3), dtype=np.uint8)
    images[np.arange(90), :, :, labels] += 140
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs: to make its tables takes a second."""
    path = tmp_path_factory.mktemp("mlflow") / "m.db"
    client(path).search_experiments()
    return path


@pytest.fixture
def store(place: Path, database: Path) -> Path:
    shutil.copy(database, place / "m.db")
    return place / "m.db"


def client(path: Path) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{path}")


def left(monkeypatch: pytest.MonkeyPatch, at: int, *arguments: str) -> str:
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


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = tensorboard.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def in_mlflow(path: Path) -> list[tuple[Any, dict[str, list[tuple[int, float]]]]]:
    """Each run, and its figures."""
    found = client(path)
    experiment = found.get_experiment_by_name("edgespa")
    runs = found.search_runs([experiment.experiment_id]) if experiment else []
    return [
        (
            each,
            {
                tag: [(m.step, m.value) for m in found.get_metric_history(each.info.run_id, tag)]
                for tag in each.data.metrics
            },
        )
        for each in runs
    ]


def logged(path: Path, key: str) -> list[float]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event[key] for event in events if event["event"] == "epoch"]


def test_what_the_log_says_is_told(place: Path, store: Path) -> None:
    run(*ADAPT, "--eval-data", "colours.npz", "--log", "log.jsonl", *BOTH, "-o", "fruit.spa")
    told = in_tensorboard(place / "runs" / "fruit")
    ((one, figures),) = in_mlflow(store)
    steps = 5  # 81 images in batches of 16, the rest left out
    for tag, key in EPOCH.items():
        wanted = logged(place / "log.jsonl", key)
        assert len(wanted) == 3
        got = dict(told[tag])
        assert [got[steps * epoch] for epoch in (1, 2, 3)] == pytest.approx(wanted)
        got = dict(figures[tag])
        assert [got[steps * epoch] for epoch in (1, 2, 3)] == pytest.approx(wanted)
    assert told["result/test_accuracy"] == [
        (15, pytest.approx(Task.load(Path("fruit.spa")).header.metrics["test_accuracy"]))
    ]
    assert len(told["network/density"]) > 3  # pruning steps, too
    assert (one.info.run_name, one.info.status) == ("fruit", "FINISHED")
    assert (one.data.params["epochs"], one.data.params["rank"]) == ("3", "2")
    assert "time/epoch_seconds" in told
    read = tensorboard.EventAccumulator(str(place / "runs" / "fruit")).Reload()
    (text,) = read.Tensors("config")
    assert '"rank": 2' in text.tensor_proto.string_val[0].decode()
    run(*ADAPT, "-o", "plain.spa", "--eval-data", "colours.npz")
    assert content("fruit.spa") == content("plain.spa")  # and it changes nothing


def test_a_run_that_is_gone_on_with_is_one_run(place: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 8, *ADAPT, *BOTH, "-o", "a.spa")
    ((one, _),) = in_mlflow(store)
    assert one.info.status == "KILLED"
    monkeypatch.chdir(place.parent)
    run("adapt", "--resume", str(place / "a.spa.resume"))
    assert [each.name for each in (place / "runs").iterdir()] == ["a"]
    ((again, figures),) = in_mlflow(store)
    assert (again.info.run_id, again.info.status) == (one.info.run_id, "FINISHED")
    told = in_tensorboard(place / "runs" / "a")
    for tag in EPOCH:
        steps = [step for step, _ in set(told[tag])]
        assert len(steps) == len(set(steps)), tag  # one value a step
        assert {5, 10, 15} <= set(steps)
        assert sorted(figures[tag]) == sorted(set(figures[tag]))
    assert [step for step, _ in figures["train/loss"]] == [step for step, _ in told["train/loss"]] == [5, 10, 15]


def test_what_comes_again_after_a_kill_is_there_once(tmp_path: Path, database: Path) -> None:
    """The state is older than what was told last."""
    store = Path(shutil.copy(database, tmp_path / "m.db"))
    places = (TensorBoard(tmp_path / "runs"), MLflow(f"sqlite:///{store}"))
    first = [Row(5 * at, time.time(), {"train/loss": 1.0 / at, "time/epoch_seconds": at}) for at in (1, 2, 3)]
    again = [Row(5 * at, time.time(), {"train/loss": 1.0 / at, "time/epoch_seconds": 9 * at}) for at in (2, 3, 4)]
    for sink, other in zip(places, (TensorBoard(tmp_path / "runs"), MLflow(f"sqlite:///{store}")), strict=True):
        name = sink.begin("a", {}, None, 0)
        sink.add(first)
        sink.end("KILLED")
        assert other.begin("a", {}, name, 5) == name
        other.add(again)
        other.end("FINISHED")
    assert [step for step, _ in in_tensorboard(tmp_path / "runs" / "a")["train/loss"]] == [5, 10, 15, 20]
    ((_, figures),) = in_mlflow(store)
    assert [step for step, _ in figures["train/loss"]] == [5, 10, 15, 20]
    assert [step for step, _ in figures["time/epoch_seconds"]] == [5, 10, 15, 20]


def test_a_run_that_is_gone_begins_anew(tmp_path: Path, database: Path) -> None:
    store = Path(shutil.copy(database, tmp_path / "m.db"))
    sink = MLflow(f"sqlite:///{store}")
    assert sink.begin("a", {}, "0" * 32, 5) != "0" * 32
    board = TensorBoard(tmp_path / "runs")
    assert board.begin("a", {}, "../../elsewhere", 5) == "a"  # no name of a run
    board.end("FINISHED")
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["runs"]


def test_two_trainings_of_a_name_are_not_mixed(place: Path) -> None:
    for _ in range(2):
        run(*ADAPT, "--tensorboard", "runs", "--overwrite", "-o", "a.spa")
    assert sorted(each.name for each in (place / "runs").iterdir()) == ["a", "a-2"]
    assert len(in_tensorboard(place / "runs" / "a")["train/loss"]) == 3


def full(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The disk is full for so many writes after the first two."""
    real, calls = TensorBoard._write, []

    def write(self: TensorBoard, events: Any) -> None:
        calls.append(1)
        if 2 < len(calls) <= 2 + times:
            assert self._file is not None
            self._file.write(b"half a rec")
            raise OSError(28, "No space left on device")
        real(self, events)

    monkeypatch.setattr(TensorBoard, "_write", write)
    return calls


def test_a_full_disk_does_not_end_the_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = full(monkeypatch, 1)
    said = run(*ADAPT, "--tensorboard", "runs", "-o", "a.spa").stderr
    assert said.count("No space left on device") == 1
    assert "the training goes on" in said
    assert "has what it did not take before" in said  # in the end it is tried once more
    assert len(calls) < 8  # not each time in between
    assert [step for step, _ in in_tensorboard(place / "runs" / "a")["train/loss"]] == [5, 10, 15]
    monkeypatch.undo()
    monkeypatch.chdir(place)
    run(*ADAPT, "-o", "b.spa")
    assert content("a.spa") == content("b.spa")


def test_what_is_missing_in_the_end_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, 1000)
    said = run(*ADAPT, "--tensorboard", "runs", "-o", "a.spa").stderr
    assert "lacks the figures of" in said
    assert Task.load(place / "a.spa")


def test_it_is_tried_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        option, place = "--mlflow", "there"

        def begin(self, *arguments: Any) -> str:
            return "x"

        def add(self, rows: Any) -> None:
            tried.append((now[0], len(rows)))
            raise ConnectionError("gone")

        def end(self, status: str) -> None:
            raise ConnectionError("gone")

    now, tried = [0.0], list[tuple[float, int]]()
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    with Trackers([Dead()], "x") as trackers:
        trackers.begin({}, steps=1, measure="accuracy")
        for epoch in range(1, 1001):
            now[0] += 1
            trackers.write("epoch", epoch=epoch, loss=1.0)
    assert [at for at, _ in tried] == [1.0, 31.0, 91.0, 211.0, 451.0, 931.0, 1000.0]
    assert tried[-1][1] == 1000  # nothing was given up


def test_a_server_that_goes_away_costs_nothing_but_its_figures(
    place: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    def gone(self: Any, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        raise ConnectionError("the server went away")

    with monkeypatch.context() as patch:
        real = MLflow.begin
        patch.setattr(
            MLflow, "begin", lambda self, *a: (real(self, *a), patch.setattr(MlflowClient, "log_batch", gone))[0]
        )
        said = run(*ADAPT, "--mlflow", "sqlite:///m.db", "-o", "a.spa").stderr
    assert said.count("the server went away") == 1
    assert Task.load(place / "a.spa")


def test_a_server_that_is_not_there_is_told_before_anything_is_trained(place: Path) -> None:
    before = time.monotonic()
    said = run(*ADAPT, "--mlflow", "http://ann:secret@127.0.0.1:9", "-o", "a.spa", code=1).stderr
    assert time.monotonic() - before < 60  # MLflow's own patience is four minutes
    assert "--mlflow http://127.0.0.1:9" in said
    assert "leave out --mlflow" in said
    assert "secret" not in said
    assert not (place / "a.spa").exists()
    assert not state_path(place / "a.spa").exists()


def test_a_folder_of_mlflow(place: Path) -> None:
    run(*ADAPT, "--mlflow", "mine", "-o", "a.spa")
    steps = [line.split()[2] for line in next(place.glob("mine/*/*/metrics/train/loss")).read_text().splitlines()]
    assert steps == ["5", "10", "15"]
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


def test_healing_is_told_and_pruning_alone_is_no_training(place: Path, store: Path) -> None:
    run(*PRUNE, "--heal", "--heal-steps", "25", *BOTH, "-o", "one.spa")
    run(*PRUNE, "-o", "cut.spa")
    run("heal", "cut.spa", "--calibration", "colours.npz", "--steps", "25", *BOTH, "-o", "two.spa")
    told = [in_tensorboard(place / "runs" / name) for name in ("one", "two")]
    assert told[0]["validation/error"] == told[1]["validation/error"]
    assert told[0]["result/unhealed_validation_error"]
    assert sorted(each.info.run_name for each, _ in in_mlflow(store)) == ["one", "two"]
    assert "--tensorboard is of --heal" in run(*PRUNE, "--tensorboard", "runs", "-o", "no.spa", code=2).stderr


@pytest.mark.parametrize(("option", "package"), [("--tensorboard", "tensorboard"), ("--mlflow", "mlflow")])
def test_an_absent_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch, option: str, package: str) -> None:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a))
    said = run(*ADAPT, option, "x", "-o", "a.spa", code=1).stderr
    assert f"{package} is not installed" in said
    assert f"[{package}]'" in said  # the extra
    assert not list(place.glob("x*"))


def test_nothing_is_loaded_where_nothing_is_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tensorboard", "mlflow")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    run(*ADAPT, "-o", "a.spa")
    assert not list(place.glob("runs"))


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ConfigError, match="is a file"):
        tracking.require_trackers(Path(__file__), None)
    with pytest.raises(ConfigError, match="--mlflow is empty"):
        tracking.require_trackers(None, " ")


def test_a_part_of_longer_work_is_named_by_it_and_goes_on_without_a_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def part() -> dict[str, str]:
        with (
            tracking.part_named("found-0-few"),
            Trackers.of(tmp_path / "runs", None, Path("stages/0/task.spa")) as trackers,
        ):
            runs = trackers.begin({}, steps=2, measure="accuracy")
            trackers.write("epoch", epoch=1, validation=0.5)
        return runs

    assert part() == {"--tensorboard": "found-0-few"}
    assert in_tensorboard(tmp_path / "runs" / "found-0-few") == {"validation/accuracy": [(2, 0.5)]}

    def gone(self: TensorBoard, *_: Any) -> str:
        raise OSError("it has gone")

    monkeypatch.setattr(TensorBoard, "begin", gone)
    assert part() == {}
    assert f"--tensorboard {tmp_path / 'runs'}: OSError: it has gone; found-0-few is not told there" in caplog.text
    with pytest.raises(ConfigError, match="it has gone"):
        Trackers.of(tmp_path / "runs", None, Path("task.spa")).begin({}, steps=2, measure="accuracy")


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    with Trackers.of(tmp_path / "runs", None, Path("a/b/we ird\n.spa")) as trackers:
        trackers.begin({"x": object()}, steps=2, measure="accuracy")
        trackers.write("epoch", epoch=1, loss=float("nan"), lr=None, validation=0.5, macs=True)
        trackers.figures({"a": float("inf")})
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "we_ird_"
    assert in_tensorboard(folder) == {"validation/accuracy": [(2, 0.5)]}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://u:p@host:5000/x", "http://host:5000/x"),
        ("sqlite:///m.db", "sqlite:///m.db"),
        ("http://[x", "that address"),
    ],
)
def test_no_password_is_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_a_recipe_does_not_tell_a_server_unasked(place: Path) -> None:
    (place / "r.toml").write_text(
        'version = 1\n[adapt]\nmodel = "net.py:build"\ninput-shape = "1,3,8,8"\ndata = "colours.npz"\n'
        'output = "a.spa"\n'
        'mlflow = "http://127.0.0.1:9"\n'
    )
    said = run("run", "r.toml", code=1).stderr
    assert "it is told how the training goes" in said
