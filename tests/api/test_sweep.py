"""Many tasks over one base: what is done, what is left as it was, and what fails. Real networks, but no clock."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from workers_here import Here

import edgespa as es
from edgespa.api import sweep_stages
from edgespa.api.documents import problems
from edgespa.api.held import held
from edgespa.api.shell import current
from edgespa.api.sweep_file import REFUSED, known_to, read_sweep
from edgespa.api.sweep_results import SweepResult, Swept
from edgespa.errors import (
    ConfigError,
    DeviceError,
    ExportError,
    OutputExistsError,
    UnfinishedError,
    UntrustedError,
)
from edgespa.objectives.measures import ACCURACY
from edgespa.tasks import base as base_module
from edgespa.trials.swept import SweepRecord
from edgespa.workers import Failure

HEAD = """
version = 1

[base]
model = "net.py:other"
input-shape = "1,3,8,8"

[defaults]
density = 0.5
epochs = 1
batch-size = 16
mean = 0.4
std = 0.3
precision = "fp32"
format = ["onnx"]
"""
TWO = """
[tasks.all]
data = "colours.npz"
eval-data = "others.npz"

[tasks.two]
data = "two.npz"
rank = 2
"""


def names(here: Here) -> list[str]:
    """Of the jobs since this was last asked."""
    found = [job.name for job in here.done]
    here.done.clear()
    return found


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    found = Here(1, queue=True, newest_first=False)

    @contextlib.contextmanager
    def opened(**_: Any) -> Iterator[Here]:
        found.forget()
        yield found

    monkeypatch.setattr("edgespa.workers.open_workers", opened)
    return found


@pytest.fixture(scope="module")
def images(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its images, a part of them, and others of the same kind."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("net.py", "colours.npz"):
        shutil.copyfile(toy_folder / name, folder / name)
    with np.load(folder / "colours.npz") as found:
        some = found["labels"] < 2
        np.savez(folder / "two.npz", images=found["images"][some], labels=found["labels"][some])
        np.savez(folder / "others.npz", images=255 - found["images"][:30], labels=found["labels"][:30])
    return folder


@pytest.fixture
def call(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepResult]:
    """A sweep of a text; the current folder is not that of the file."""
    folder = tmp_path / "files"
    shutil.copytree(images, folder)
    monkeypatch.chdir(tmp_path)

    def sweep(text: str, **changes: Any) -> SweepResult:
        (folder / "tasks.toml").write_text(text)
        keywords: dict[str, Any] = {"output": "out", "trust": True, "progress": False}
        return es.sweep(folder / "tasks.toml", **{**keywords, **changes})

    return sweep


class Made:
    """`adapt`, `prune`, `export` and `profile` that take no time; what only checks is the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refused: dict[str, Exception] = {}
        for name in ("adapt", "prune", "export", "profile", "latencies"):
            monkeypatch.setattr(es, name, self._call(name, getattr(es, name)))
        monkeypatch.setattr("edgespa.api.sweep_plan._is_whole", lambda path, found: path.is_dir())

    def _call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)  # what a file may say is read off the signature
        def made(first: Any, **keywords: Any) -> Any:
            if current().only_check:
                return real(first, **keywords)
            self.calls.append((name, {"first": str(first), **keywords}))
            output = Path(str(keywords.get("output", "")))
            for word, error in self.refused.items():
                if word in (name, output.stem, keywords.get("device")):
                    raise error
            return getattr(self, name)(Path(str(first)), output, keywords)

        return made

    def adapt(self, first: Path, output: Path, keywords: dict[str, Any]) -> Any:
        output.write_text(json.dumps(keywords, default=str))
        metrics = {
            "validation_accuracy": 0.5,
            "base_test_accuracy": 0.1,
            "test_accuracy": 0.75,
            "test_accuracy_int8": 0,
        }
        if "eval_data" not in keywords:
            metrics = {"validation_accuracy": 0.5}
        return SimpleNamespace(size_bytes=1000, parameters=5, base_parameters=9, macs=1, base_macs=2, metrics=metrics)

    prune = adapt

    def export(self, first: Path, output: Path, keywords: dict[str, Any]) -> Any:
        output.mkdir(exist_ok=True)
        (output / "manifest.json").write_text(json.dumps([str(first), keywords], default=str))
        variant = SimpleNamespace(name="onnx-fp32", size_bytes=4096, accuracy=None)
        return SimpleNamespace(manifest=SimpleNamespace(variants=[variant], measure=ACCURACY), left_out=[])

    def profile(self, first: Path, output: Path, keywords: dict[str, Any]) -> Any:
        rows = [
            SimpleNamespace(bundle=first.name, variant=f"v{ms}", p50_ms=ms, runtime="r", clean=True, threads=1)
            for ms in (3.0, 2.0, 4.0)
        ]
        return SimpleNamespace(measured=SimpleNamespace(results=rows))

    def latencies(self, first: Path, output: Path, keywords: dict[str, Any]) -> None:
        pass

    def told(self, name: str) -> list[dict[str, Any]]:
        return [keywords for call, keywords in self.calls if call == name]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


@pytest.fixture
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task files say when they were written; here it is always the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")


def states(found: SweepResult) -> dict[str, str]:
    return {each.name: each.state for each in found.all}


def whys(found: SweepResult) -> dict[str, str]:
    return {each.name: each.why for each in found.all}


@pytest.mark.slow
def test_many_tasks_over_one_base(
    call: Any, here: Here, one_time: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes out is what single calls give; the base is opened once; what is there is not made again."""
    opened: list[str] = []
    open_program = base_module.open_program
    monkeypatch.setattr(
        base_module, "open_program", lambda spec, *rest: (opened.append(spec), open_program(spec, *rest))[1]
    )
    text = HEAD + TWO + '[tasks.gone]\ndata = "gone.npz"\n[tasks.cut]\ndata = "two.npz"\nprune = { density = 0.7 }\n'
    found = call(text)
    assert len(set(opened)) == 1
    assert len(opened) == 1
    assert names(here) == ["base", "all", "two", "gone", "cut"]
    assert states(found) == {"base": "made", "all": "made", "two": "made", "gone": "failed", "cut": "made"}
    assert "gone.npz does not exist" in str(found.failed[0].error)
    assert not found.done
    out = tmp_path / "out"
    for name in ("all", "two", "cut"):
        task = es.open_task(out / "tasks" / f"{name}.spa")
        assert es.open_bundle(out / "bundles" / name).manifest.variants[0].name == "onnx-fp32"
        assert task.size_bytes == next(each.task_bytes for each in found.tasks if each.name == name)
    assert es.verify(out / "bundles" / "two").passed
    assert es.verify(out / "base").passed
    (whole,) = [each for each in found.tasks if each.name == "all"]
    assert whole.of == "test"
    assert whole.quality == es.open_task(out / "tasks" / "all.spa").metrics["test_accuracy"]
    assert problems("sweep", found.to_dict()) == []
    record = SweepRecord.read(out / "sweep.json")
    assert [(each.name, each.state) for each in record.all] == [(each.name, each.state) for each in found.all]

    files = tmp_path / "files"
    (tmp_path / "one/tasks").mkdir(parents=True)  # the way to the base is recorded, from the file
    single = es.adapt(
        f"{files / 'net.py'}:other", data=str(files / "two.npz"), output=tmp_path / "one/tasks/single.spa",
        input_shape="1,3,8,8", density=0.5, epochs=1, batch_size=16, mean=0.4, std=0.3, rank=2, progress=False,
    )  # fmt: skip
    assert (out / "tasks" / "two.spa").read_bytes() == single.path.read_bytes()

    again = call(text.replace('[tasks.gone]\ndata = "gone.npz"\n', ""))
    assert names(here) == []
    assert set(states(again).values()) == {"unchanged"}
    assert again.done
    assert opened[1:] == [opened[0]]  # of the single call

    (out / "bundles" / "two" / "model.onnx").write_bytes(b"damaged")
    (out / "tasks" / "cut.spa").unlink()
    with np.load(files / "colours.npz") as before:
        fewer = {name: before[name][:60] for name in ("images", "labels")}
    np.savez(files / "colours.npz", **fewer)
    third = call(text.replace('[tasks.gone]\ndata = "gone.npz"\n', ""))
    assert whys(third) == {
        "base": "calibration changed", "all": "data changed", "two": "its bundle is gone, or damaged",
        "cut": "its file is gone, or another one",
    }  # fmt: skip
    assert [job.arguments["making"] is None for job in here.done] == [True, False, True, False]
    assert third.done
    page = es.report(out, output=tmp_path / "page.html", examples=0, progress=False)
    assert {kind: count for kind, count in page.counts.items() if count} == {"sweeps": 1, "tasks": 3, "bundles": 4}


@pytest.mark.slow
def test_a_task_that_is_ended_goes_on(
    call: Any, here: Here, one_time: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends what runs; what was done is kept, what was begun goes on, and the same file comes of it."""
    text = HEAD.replace("epochs = 1", "epochs = 3") + "export = false\n" + TWO
    whole = call(text, output="whole")
    assert set(states(whole)) == {"all", "two"}  # nothing is exported, the base neither
    here.done.clear()
    adapt, resumed = es.adapt, []

    def left(model: Any, **keywords: Any) -> Any:
        if current().only_check:
            return adapt(model, **keywords)
        resumed.append((keywords["output"].stem, bool(keywords.get("resume")), bool(keywords.get("fresh"))))

        def leave(done: float, total: float | None, text: str) -> None:
            if done == 4 and keywords["output"].stem == "two" and not (resumed[-1][1] or resumed[-1][2]):
                signal.raise_signal(signal.SIGINT)

        return adapt(model, **{**keywords, "progress": leave})

    monkeypatch.setattr(es, "adapt", left)
    with pytest.raises(KeyboardInterrupt):
        call(text)
    out = tmp_path / "out"
    record = json.loads((out / "sweep.json").read_text())
    assert {each["name"]: each["state"] for each in record["tasks"]} == {"all": "made", "two": "waiting"}
    assert record["done"] is False
    assert call(text).done
    assert resumed == [("all", False, False), ("two", False, False), ("two", True, False)]
    for name in ("all", "two"):
        assert (out / "tasks" / f"{name}.spa").read_bytes() == (tmp_path / f"whole/tasks/{name}.spa").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        call(text, again=["two"])
    assert call(text.replace("rank = 2", "rank = 3")).done  # what was begun is of another recipe
    assert resumed[-2:] == [("two", False, False), ("two", False, True)]


def test_it_is_done_again_where_something_changed_and_says_why(
    call: Any, here: Here, made: Made, tmp_path: Path
) -> None:
    text = HEAD + TWO
    assert whys(call(text)) == {"base": "no bundle yet", "all": "new", "two": "new"}
    first = names(here)
    assert first == ["base", "all", "two"]
    cases: list[tuple[str, dict[str, str]]] = [
        (text, {}),
        (text.replace("density = 0.5", "density = 0.5  # as it was"), {}),
        (text + "tensorboard = 'runs'\nmlflow = 'sqlite:///m.db'", {}),
        (text.replace("rank = 2", "rank = 4"), {"two": "rank changed"}),
        (text.replace("rank = 2", "rank = 4") + "adapter = 'lora'", {"two": "adapter changed"}),
        (text.replace("epochs = 1", "epochs = 2"), {"all": "epochs changed", "two": "epochs, rank, adapter changed"}),
        (
            text.replace('"fp32"', '["fp32"]'),
            {"base": "precisions changed", "all": "epochs changed", "two": "epochs changed"},
        ),
        (text.replace('["onnx"]', '["tflite"]'), dict.fromkeys(("base", "all", "two"), "formats, precisions changed")),
        (text + "export = false", dict.fromkeys(("base", "all"), "formats changed")),
        (text, {"two": "formats changed"}),
    ]  # fmt: skip
    for changed, wanted in cases:
        found = call(changed)
        left = {name: why for name, why in whys(found).items() if why}
        assert left == wanted, changed
        assert names(here) == list(wanted)
        assert found.done
    (tmp_path / "files/net.py").write_text((tmp_path / "files/net.py").read_text() + "\n# another\n")
    assert set(whys(call(text)).values()) == {"base changed"}
    names(here)
    assert whys(call(text, again="two")) == {"base": "", "all": "", "two": "asked for"}
    assert names(here) == ["two"]
    task = tmp_path / "out/tasks/two.spa"
    for change in (lambda: task.write_bytes(task.read_bytes() + b"x"), task.unlink):
        change()
        assert whys(call(text)) == {"base": "", "all": "", "two": "its file is gone, or another one"}
        assert names(here) == ["two"]
    shutil.move(tmp_path / "files", tmp_path / "moved")
    assert es.sweep(tmp_path / "moved/tasks.toml", output="out", progress=False).done  # and no word is needed
    assert names(here) == []


def test_what_is_said_goes_to_the_call_that_knows_it(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    more = """
[tasks.cut]
data = "two.npz"
held-out = "others.npz"
int8-tolerance = 0.5
seed = 3
devices = ["local"]
seconds = 1
profile = { threads = 2 }
[tasks.cut.prune]
method = "l2"
[tasks.cut.export]
calibration = "others.npz"
precision = "fp32,fp16"
"""
    call(HEAD + "resize = 'stretch'\n" + TWO + more)
    files = str(tmp_path / "files")
    (whole, two), (cut,) = made.told("adapt"), made.told("prune")
    look = {"mean": 0.4, "std": 0.3, "resize": "stretch"}
    assert whole == {
        "first": f"{files}/net.py:other", "output": tmp_path / "out/tasks/all.spa", "overwrite": True,
        "progress": False, "input_shape": "1,3,8,8", "data": f"{files}/colours.npz",
        "eval_data": f"{files}/others.npz", "density": 0.5,
        "epochs": 1, "batch_size": 16, **look,
    }  # fmt: skip
    assert (two["rank"], "eval_data" in two) == (2, False)
    assert {name: cut.get(name) for name in ("calibration", "held_out", "method", "seed", "density", "epochs")} == {
        "calibration": f"{files}/two.npz", "held_out": f"{files}/others.npz", "method": "l2", "seed": 3,
        "density": 0.5, "epochs": None,
    }  # fmt: skip
    base, one, _, last = made.told("export")
    assert base == {
        "first": f"{files}/net.py:other", "output": tmp_path / "out/base", "overwrite": True, "progress": False,
        "input_shape": "1,3,8,8", "precisions": ["fp32"], "formats": ["onnx"],
        "calibration": f"{files}/colours.npz", **look,
    }  # fmt: skip
    assert (one["base"], one["eval_data"]) == (f"{files}/net.py:other", f"{files}/others.npz")
    assert (last["calibration"], last["precisions"], last["int8_tolerance"]) == (
        f"{files}/others.npz", ["fp32", "fp16"], 0.5,
    )  # fmt: skip
    told = [{**each, "first": Path(each["first"]).name} for each in made.told("profile")]
    assert told == [
        {"first": name, "device": "local", "progress": False, "seconds": 1, "threads": 2} for name in ("base", "cut")
    ]


def test_this_machine_measures_last_and_tables_are_made_once(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    budget = "budget = 'latency_ms=2.5'\ndevices = 'local'\n"
    text = HEAD.replace("density = 0.5", budget) + TWO
    found = call(text)
    order = ["latency table of local", "base", "all", "two", "base on local", "all on local", "two on local"]
    devices = [job.device for job in here.done]
    assert names(here) == order
    assert devices == ["local", None, *["local"] * 5]
    assert len(made.told("latencies")) == 1
    assert {each["latency_ms"] for each in made.told("adapt")} == {2.5}
    (asked,) = read_sweep(tmp_path / "files/tasks.toml").tasks[:1]
    assert asked.making["device"] == "local"  # the first of its devices is what it has to be fast on
    several = HEAD.replace("density = 0.5", "budget = 'latency_ms=2.5'\ndevices = ['pi-5', 'local']") + TWO
    (tmp_path / "files/several.toml").write_text(several)
    assert {each.making["device"] for each in read_sweep(tmp_path / "files/several.toml").tasks} == {"pi-5"}
    assert [each.times["local"]["ms"] for each in found.all] == [2.0] * 3  # the fastest
    assert "ms local" in str(found)
    assert call(text).done
    assert names(here) == []
    call(text + "runs = 7\n")
    assert names(here) == ["two on local"]
    call(text + "runs = 7\n", again="two")
    assert names(here) == ["latency table of local", "two", "two on local"]


def test_a_task_that_fails_stops_no_other(call: Any, here: Here, made: Made) -> None:
    made.refused = {"all": ExportError("it does not compute", "try another")}
    text = HEAD + TWO
    found = call(text)
    assert states(found) == {"base": "made", "all": "failed", "two": "made"}
    assert (found.failed[0].error, found.failed[0].hint) == ("it does not compute", "try another")
    assert "all: it does not compute (try another)" in str(found)
    names(here)
    made.refused = {"export": ExportError("no file"), "latencies": DeviceError("away")}
    found = call(text.replace("density = 0.5", "latency_ms = 3"))
    assert names(here) == ["latency table of local", "all", "two"]
    assert {each.error for each in found.tasks} == {"no file"}
    assert all(each.task is not None for each in found.tasks)  # that much is done
    made.refused = {}
    calls = len(made.told("adapt"))
    assert call(text.replace("density = 0.5", "latency_ms = 3")).done
    assert len(made.told("adapt")) == calls  # and stays so
    here.before = lambda job: Failure("its worker process has ended", lost=True) if job.name == "two" else None
    found = call(text)
    assert states(found) == {"base": "unchanged", "all": "made", "two": "failed"}


def test_a_device_that_is_away_fails_its_measurement_alone(call: Any, here: Here, made: Made) -> None:
    made.refused = {"profile": DeviceError("it is away")}
    found = call(HEAD + "devices = ['local']\n" + TWO)
    assert {each.error for each in found.all} == {"it is away"}
    assert all(each.bundle is not None for each in found.all)
    made.refused = {}
    names(here)
    assert call(HEAD + "devices = ['local']\n" + TWO).done
    assert names(here) == ["base on local", "all on local", "two on local"]


def test_looking_does_nothing(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    found = call(HEAD + TWO, dry_run=True, trust=False)
    assert whys(found) == {"base": "no bundle yet", "all": "new", "two": "new"}
    assert "3 to do" not in str(found)
    assert "2 to do" in str(found)
    assert not (tmp_path / "out").exists()
    assert made.calls == []


def test_progress_counts_tasks(call: Any, here: Here, made: Made) -> None:
    seen: list[tuple[float, float | None, str]] = []
    call(HEAD + TWO, progress=lambda *each: seen.append(each))
    assert seen[-1][:2] == (3, 3)
    assert {"base", "all", "two"} <= {text for _, _, text in seen}


def test_what_only_the_user_may_say_is_asked_for(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    (tmp_path / "files/net.py").write_text("unseen = True")
    text = (
        HEAD.replace("density = 0.5", "latency_ms = 3")
        + TWO
        + "objective = 'own.py:make'\ndevice = 'pi-4b'\ndevices = ['pi-5']\n"
    )
    with pytest.raises(UntrustedError) as caught:
        call(text + "[tasks.code]\ndata = 'reads.py:images'\n", trust=False)
    words = caught.value.message
    for each in ("base.model", "tasks.two.objective", "tasks.two.device", "tasks.two.devices", "tasks.code.data"):
        assert f"{each} = " in words
    assert made.calls == []
    told = HEAD + "mlflow = 'http://ann:secret@host:5000'\n" + TWO + "tensorboard = '/elsewhere/runs'\n"
    with pytest.raises(UntrustedError) as caught:
        call(told, trust=False)
    assert "defaults.mlflow = 'http://host:5000': it is told how the training goes" in caught.value.message
    assert "tasks.two.tensorboard = '/elsewhere/runs': files are written there" in caught.value.message
    with pytest.raises(UntrustedError) as caught:
        call(HEAD + TWO + "tensorboard = 'runs'\n", trust=False)  # below the folder of the file
    assert "tensorboard" not in caught.value.message
    call(told, trust=True)
    notes = list((tmp_path / "out" / "stages").rglob("*.json"))
    assert notes
    assert not any("secret" in each.read_text() for each in notes)
    call(HEAD + TWO, trust=True)
    call(HEAD + TWO, trust=False)  # nothing is to be done
    # What nothing is to be done for is not asked about.
    own = HEAD + TWO + "devices = ['pi-5']\n[tasks.other]\ndata = 'two.npz'\n"
    call(own, trust=True)
    with pytest.raises(UntrustedError) as caught:
        call(own + "rank = 3\nobjective = 'own.py:make'\n", trust=False)
    assert "tasks.other.objective" in caught.value.message
    assert "tasks.two" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = 2", "version is 2"),
        ("version = 1\n[base]\nmodel = 'a'", "there are no tasks"),
        ("version = 1\n[tasks.a]\ndata = 'b'", "there is no base"),
        ("version = 1\n[base]\nweights = 'w'\n[tasks.a]\ndata = 'b'", "base.model is missing"),
        ("version = 1\n[base]\nmodel = 'a.spa'\n[tasks.a]\ndata = 'b'", "base.model is a task file"),
        ("version = 1\n[base]\nmodell = 'a'\n[tasks.a]\ndata = 'b'", "base.modell: is not known"),
        ("version = 1\n[basis]\nmodel = 'a'", "basis: is not known"),
        (HEAD + "[tasks.a]\nrank = 2", "tasks.a.data is missing"),
        (HEAD + "[tasks.'a/b']\ndata = 'c'", "a/b: no name of a task"),
        (HEAD + "[tasks.a]\ndata = 'c'\n[tasks.A]\ndata = 'c'", "two tasks are named 'a'"),
        (HEAD + "[tasks.a]\ndata = 'c'\nrnak = 2", "tasks.a.rnak: is not known"),
        (HEAD + "dansity = 1\n[tasks.a]\ndata = 'c'", "defaults.dansity: is not known"),
        (HEAD + "[tasks.a]\ndata = 'c'\nexport = { densty = 1 }", "tasks.a.export.densty: is not known"),
        (HEAD + "[tasks.a]\ndata = 'c'\nexport = 3", "tasks.a.export: no table"),
        (HEAD + "[tasks.a]\ndata = 'c'\noutput = 'd'", "tasks.a.output: a sweep says that itself"),
        (HEAD + "[tasks.a]\ndata = 'c'\nmodel = 'd'", "tasks.a.model: all tasks have one base"),
        (HEAD + "[tasks.a]\ndata = 'c'\ndevices = 3", "tasks.a.devices: no names"),
        (HEAD + "[tasks.a]\ndata = 'c'\ndevices = 'local'\nexport = false", "nothing is exported, and devices"),
        (HEAD + "[tasks.a]\ndata = 'c'\nadapt = {}\nprune = {}", "has both adapt and prune"),
        (HEAD + "[tasks.a]\ndata = 'c'\nbatch_size = 1\nbatch-size = 1", "batch-size is said twice"),
        (HEAD + "[tasks.a]\ndata = 'c'\nbudget = 'latency_ms=1e'", "tasks.a.budget: 1e is no number"),
    ],
)
def test_mistakes_in_the_file_are_of_use(call: Any, here: Here, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(text)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("rank = 'many'", "tasks.two.adapt: "),
        ("density = 7", "tasks.two.adapt: "),
        ("mean = 'x'", "mean: 'x' is no numbers"),
        ("latency_ms = 3", "tasks.two.adapt: "),  # beside a density
        ("export = { int8-tolerance = -1 }", "tasks.two.export: "),
        ("devices = ['local']\nprofile = { cooldown = 0 }", "tasks.two.profile: cooldown must be positive"),
    ],
)
def test_values_are_looked_at_before_anything_is_done(call: Any, made: Made, here: Here, more: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(f"{HEAD}{TWO}".replace("rank = 2\n", "") + more)
    assert words in caught.value.message
    assert here.done == []
    with pytest.raises(DeviceError, match=r"tasks.two.export: there is no device 'nowhere'"):
        call(HEAD + TWO + "devices = ['nowhere']")


def test_a_folder_of_something_else_is_left_alone(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="is no sweep"):
        call(HEAD + TWO, output="mine")
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out"), pytest.raises(UnfinishedError, match="a sweep is running there"):
        call(HEAD + TWO)
    assert made.calls == []
    for changes, words in (
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"jobs": 2, "ray": "auto"}, "exclude each other"),
        ({"again": "three"}, "there is no task 'three'"),
    ):
        with pytest.raises(ConfigError, match=words):
            call(HEAD + TWO, **changes)


def test_every_word_is_one_that_a_file_may_say_or_may_not() -> None:
    """What names a key, or a file to be written, is not for a file to say."""
    asked = {"data", "eval_data", "validation_data", "calibration", "held_out", "objective", "device"}
    for verb in ("adapt", "prune", "export"):
        known = set(known_to(verb))
        assert not known & set(REFUSED)
        assert asked & known
        odd = {each for each in known if "sign" in each or "trust" in each or "log" in each or "output" in each}
        assert not odd, odd


def test_trackers_begin_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "tasks.toml").write_text(HEAD + TWO + "tensorboard = 'runs'\nmlflow = 'sqlite:///m.db'\n")
    making = read_sweep(tmp_path / "tasks.toml").tasks[1].making
    assert making["tensorboard"] == str(tmp_path / "runs")
    assert making["mlflow"] == f"sqlite:///{tmp_path}/m.db"


def test_a_note_that_has_trackers_is_that_of_the_same_task(call: Any, here: Here, made: Made, tmp_path: Path) -> None:
    """As older ones have."""
    call(HEAD + TWO)
    path = tmp_path / "out" / "stages" / "two" / "task.json"
    before = json.loads(path.read_text())
    before["asked"]["mlflow"] = "http://host:5000"
    path.write_text(json.dumps(before))
    assert set(states(call(HEAD + TWO)).values()) == {"unchanged"}


def test_words_are_no_paths(images: Path, tmp_path: Path) -> None:
    """What is the name of an objective, or ``base``, stays so beside files of these names."""
    for name in ("base", "classes"):
        (tmp_path / name).mkdir()
    (tmp_path / "t.toml").write_text(HEAD + "distill = 'base'\n[tasks.a]\ndata = 'd.npz'\nobjective = 'classes'\n")
    (task,) = read_sweep(tmp_path / "t.toml").tasks
    assert (task.making["distill"], task.making["objective"]) == ("base", "classes")


def test_a_note_that_is_damaged_is_none(tmp_path: Path) -> None:
    sweep_stages._write(tmp_path, "a", "task", {"x": 1}, {"y": 2})
    path = sweep_stages._note(tmp_path, "a", "task")
    assert sweep_stages.note(tmp_path, "a", "task") == {"asked": {"x": 1}, "found": {"y": 2}}
    for content in ("", "[]", "{}", '{"asked": {}}', "\0"):
        path.write_text(content)
        assert sweep_stages.note(tmp_path, "a", "task") is None


def test_the_result_shows_itself() -> None:
    row = Swept("fruit", "made", "new", quality=0.5, measure=ACCURACY, of="validation", task_bytes=2048)
    found = SweepResult(Path("out"), Path("tasks.toml"), None, (row,), 1.25, True)
    assert "out: 1 task (1 made), 1.2 s" in str(found)
    assert "50.00%" in str(found)
    assert "the best epoch was chosen on" in str(found)
    assert problems("sweep", json.loads(json.dumps(found.to_dict()))) == []
