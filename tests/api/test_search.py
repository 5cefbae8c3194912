"""A search from a network to a front: waves, and going on. What stages give is made up, but for one whole search."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from workers_here import Here

import edgespa as es
from edgespa.api import search_foretold, search_front, search_stages, search_verb
from edgespa.api.documents import problems
from edgespa.api.held import held
from edgespa.api.search_asked import few_epochs
from edgespa.api.search_results import SearchResult
from edgespa.errors import (
    ConfigError,
    DataError,
    DeviceError,
    EdgespaError,
    ExportError,
    MissingExtraError,
    OutputExistsError,
    UnfinishedError,
)
from edgespa.tasks.unfinished import state_path
from edgespa.trials.record import Search
from edgespa.workers import Failure, Job

SPACE = {"density": [0.5, 0.75, 1.0], "rank": [2, 4], "precision": ["fp32", "int8"]}
SHARE = {"onnx-fp32": 1.0, "onnx-int8": 0.5}


def stages(here: Here) -> list[str]:
    """Of the jobs that were done."""
    return [str(job.arguments["stage"]) for job in here.done]


class Board:
    """What stages and a device give in no time: the more is kept the better, the larger and the slower."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.factor = 1.0
        self.clean: bool | None = True
        self.refused = ""

    def stage(self, name: str) -> Callable[..., dict[str, Any]]:
        def done(folder: Path, **asked: Any) -> dict[str, Any]:
            if name == self.refused:
                raise ExportError("it does not compute")
            if name == "file":
                before = json.loads((Path(asked["task"]).parent / "made.json").read_text())
                variant = f"{asked['exporting']['formats'][0]}-{asked['exporting']['precisions'][0]}"
                (folder / "bundle").mkdir()
                (folder / "bundle" / "manifest.json").write_text(json.dumps({**before, "variant": variant}))
                lost = 0.01 if variant.endswith("int8") else 0.0
                size = int(before["size"] * SHARE[variant])
                return {"quality": before["quality"] - lost, "measure": MEASURE, "size_bytes": size}
            said = asked["pruning"] if name == "cut" else asked["training"]
            kept, rank = said["density"], said.get("rank", 8)
            size = int(1000 * kept) + rank
            made = {"parameters": size, "macs": size, "size": size, "measure": MEASURE}
            made["quality"] = round(min(0.9, kept) - 1 / (10 + rank) - 0.1 / said.get("epochs", 1), 6)
            (folder / "task.spa").write_text("task")
            (folder / "made.json").write_text(json.dumps(made))
            return {"error": 1 - kept, "parameters": size, "macs": size} if name == "cut" else made

        return done

    def profile(self, bundle: Any, **_: Any) -> Any:
        self.measured.append(Path(bundle).parent.name)
        made = json.loads((Path(bundle) / "manifest.json").read_text())
        took = self.factor * SHARE[made["variant"]] * made["parameters"] / 1e3
        row = SimpleNamespace(p50_ms=took, clean=self.clean, steady=True, runtime="onnxruntime")
        other = SimpleNamespace(p50_ms=took / 2, clean=True, steady=True, runtime="openvino")
        (Path(bundle) / "profile.json").write_text(str(took))
        return SimpleNamespace(measured=SimpleNamespace(results=[other, row]))


MEASURE = {"name": "accuracy", "title": "accuracy", "percent": True, "rises": True}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    found = Here(2, queue=False, newest_first=True)

    @contextlib.contextmanager
    def opened(**_: Any) -> Iterator[Here]:
        yield found

    monkeypatch.setattr("edgespa.workers.open_workers", opened)
    return found


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    found = Board()
    monkeypatch.setattr(search_stages, "STAGES", {name: found.stage(name) for name in ("cut", "few", "full", "file")})
    monkeypatch.setattr(es, "profile", found.profile)
    monkeypatch.setattr(search_front, "_page", lambda *_: None)

    def foretold(self: Any, folder: Path) -> dict[str, float]:
        made = json.loads((folder / "made.json").read_text())
        return {name: each * made["parameters"] / 1e3 for name, each in SHARE.items()}

    monkeypatch.setattr(search_foretold.Foreteller, "_foretold", foretold)
    return found


@pytest.fixture(scope="module")
def others(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the same kind."""
    path = tmp_path_factory.mktemp("others") / "others.npz"
    random = np.random.default_rng(1)
    labels = np.arange(30) % 3
    images = random.integers(0, 110, (30, 8, 8, 3)).astype(np.uint8)
    images[np.arange(30), :, :, labels] += 120
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def call(toy_folder: Path, others: Path, tmp_path: Path) -> Any:
    toy = f"{toy_folder / 'net.py'}:build"

    def search(model: Any, **changes: Any) -> SearchResult:
        keywords: dict[str, Any] = {
            "data": str(toy_folder / "colours.npz"), "validation_data": str(others), "output": tmp_path / "found",
            "input_shape": (1, 3, 8, 8), "space": SPACE, "epochs": 3, "batch_size": 16, "trials": 6, "bracket": 6,
            "sampler": "random", "progress": False,
        }  # fmt: skip
        return es.search(model, **{**keywords, **changes})

    return partial(search, model=toy)


def what(trials: Any) -> list[dict[str, Any]]:
    """Trials without what a clock says."""
    return [{**each.model_dump(), "seconds": 0.0} for each in trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a search that nobody disturbed found; filled by the first test that asks."""
    return {}


@pytest.mark.slow
def test_the_front_comes_out_as_files_bundles_and_a_page(
    call: Any, here: Here, others: Path, toy_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made up but the latency table, and the clock."""
    table = SimpleNamespace(base=toy_base, latency_ms=lambda kept: sum(int(mask.sum()) for mask in kept.values()) / 10)
    monkeypatch.setattr(search_verb, "_tables", lambda asked: dict.fromkeys(asked.variants(), table))
    row = SimpleNamespace(p50_ms=0.5, clean=None, steady=True, runtime=None)
    monkeypatch.setattr(es, "profile", lambda *_, **__: SimpleNamespace(measured=SimpleNamespace(results=[row])))
    space = {"density": [0.5, 1.0], "rank": [2], "precision": ["int8"], "criterion": ["taylor"]}
    found = call(eval_data=str(others), space=space, sampler="grid", trials=None, bracket=2, epochs=3)
    record = found.record
    assert stages(here) == ["cut", "cut", "few", "full", "file"]
    assert record.counts() == {"complete": 1, "stopped": 1}
    assert {each.why for each in record.trials if each.state == "stopped"} == {
        "after the cut not among the best 1 of 2"
    }
    (best,) = found.front
    assert (best.measured_ms, best.stage) == (0.5, "file")
    assert best.latency_ms is not None
    assert best.test == best.quality  # the same images
    folder = found.path / str(best.folder)
    assert es.verify(folder / "bundle").passed
    task = es.open_task(folder / "task.spa")
    assert task.metrics["validation_images"] == 30
    manifest = es.open_bundle(folder / "bundle").manifest
    assert [each.name for each in manifest.variants] == ["onnx-int8"]
    assert (best.size_bytes, best.parameters) == (manifest.variants[0].size_bytes, task.parameters)
    assert found.page is not None
    page = found.page.read_text()
    assert "every trial" in page
    assert "after the cut not among the best 1 of 2" in page
    assert Search.read(found.path / "search.json") == record
    assert json.loads(json.dumps(found.to_dict()))["trials"][0]["digest"] == record.trials[0].digest
    assert problems("search", found.to_dict()) == []
    assert re.search(r"^1 +\S+%", str(found), re.MULTILINE)


def test_only_the_front_is_measured(call: Any, here: Here, board: Board) -> None:
    found = call(trials=8, bracket=4)
    complete = [each for each in found.record.trials if each.state == "complete"]
    assert len(complete) == 3  # the best third of the best third of each wave, and the defaults
    assert [each.number for each in found.record.trials if each.defaults] == [0]
    assert complete[0].defaults
    assert len(board.measured) == len(set(board.measured)) <= 3
    for each in found.record.trials:
        assert (each.measured_ms is None) or each.state == "complete"
        assert each.front is None or each.measured_ms is not None
    call(trials=8, bracket=4)
    assert len(board.measured) == len(set(board.measured))  # nor again


def test_what_is_too_slow_is_rejected_before_anything_is_trained(call: Any, here: Here, board: Board) -> None:
    reached: list[float] = []
    found = call(latency_ms=0.6, space={**SPACE, "density": [0.25, 1.0]}, trials=8, bracket=8)
    for each in found.record.trials:
        assert each.latency_ms is not None
        slow = each.latency_ms > 0.6
        assert (each.state == "rejected") == slow
        reached += [each.latency_ms] if each.few is not None else []
        if slow:
            assert each.few is None
            assert each.why.startswith("too slow by the latency table: ")
    assert reached
    assert max(reached) <= 0.6
    assert {"complete", "rejected"} <= set(found.record.counts())


def test_where_all_is_too_slow_nothing_is_trained(call: Any, here: Here, board: Board) -> None:
    found = call(latency_ms=0.001)
    assert set(stages(here)) == {"cut"}
    assert found.record.counts() == {"rejected": 6}
    assert found.front == ()
    assert call(size_bytes=1, output=found.path.parent / "small").record.counts() == {"rejected": 6}


def test_what_is_measured_to_be_too_slow_is_not_on_the_front(call: Any, here: Here, board: Board) -> None:
    board.factor = 1e6
    found = call(latency_ms=100)
    assert found.front == ()
    told = [each.why for each in found.record.trials if each.state == "complete"]
    assert told
    assert all(each.startswith("measured: ") and each.endswith("100 are asked for") for each in told)
    assert "no trial that was fully adapted is within what was asked for" in found.record.notes
    assert not list((found.path / "front").iterdir())


def test_the_defaults_are_tried_and_go_on_in_any_case(call: Any, here: Here, board: Board) -> None:
    space = {"density": "0.2..1:0.1", "rank": [2, 8, 16], "adapter": ["lora", "splora"], "precision": ["int8", "fp32"]}
    found = call(space=space, sampler="tpe", trials=12, bracket=12)
    recipes = [each.recipe for each in found.record.trials[:4]]
    usual = {"rank": 8, "adapter": "splora"}
    assert recipes == [
        {**usual, "density": density, "precision": precision}
        for density, precision in ((0.6, "int8"), (0.8, "fp32"), (0.4, "int8"), (1.0, "fp32"))
    ]
    first = found.record.trials[0]
    assert (first.state, first.defaults) == ("complete", True)
    assert re.search(
        r"^the defaults \(splora density=0.6 int8 rank=8\): \S+%, \S+ ms, \d+ KiB; (not )?on the front$",
        str(found),
        re.MULTILINE,
    )
    assert {"few", "full", "file"} <= set(stages(here))
    # Of what has no choice that is the default the first, of a range whose default is not known the middle.
    space = {"lr": "1e-4..1e-2:log", "rank": [2, 4], "density": [0.5]}
    odd = call(space=space, output=found.path.parent / "odd", trials=1, bracket=3)
    (only,) = odd.record.trials
    assert only.recipe["rank"] == 2
    assert only.recipe["lr"] == pytest.approx(1e-3)
    assert only.state == "complete"


def test_a_device_that_does_not_answer_leaves_the_front_as_foretold(
    call: Any, here: Here, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DeviceError("it is away")

    monkeypatch.setattr(es, "profile", away)
    found = call()
    assert found.front
    assert found.front[0].measured_ms is None
    assert any("was not measured: it is away" in each for each in found.record.notes)


def test_what_was_disturbed_is_said_and_measured_again(call: Any, here: Here, board: Board) -> None:
    board.clean = False
    how = {"sampler": "grid"}  # which has no trial beside the best
    found = call(**how)
    assert board.measured == [board.measured[0]] * 2  # a second time at once
    assert found.front[0].measured_ms is not None
    assert any("was disturbed while it was measured, 2 times" in each for each in found.record.notes)
    board.clean, board.factor = True, 2.0
    again = call(**how)
    assert again.record.notes == ()
    (best,) = again.front
    assert best.measured_ms == 2 * found.front[0].measured_ms
    kept = again.path / str(best.folder) / "bundle" / "profile.json"
    assert float(kept.read_text()) == pytest.approx(best.measured_ms)  # the one of this measurement, of that runtime
    assert len(board.measured) == 3
    call(**how)
    assert len(board.measured) == 3


@pytest.mark.parametrize("number", [0, 1, 3, 5, 6])
def test_a_search_that_was_ended_goes_on_and_repeats_nothing(
    call: Any, here: Here, board: Board, whole: dict[str, Any], tmp_path: Path, number: int
) -> None:
    """Ended before any of its jobs, it finds the trials of one that was not, and no job is done twice."""
    how: dict[str, Any] = {"trials": 8, "bracket": 4, "sampler": "tpe"}
    if not whole:
        whole["trials"] = what(call(output=tmp_path / "whole", **how).record.trials)
        whole["jobs"] = len(here.done)
        here.done.clear()

    assert number < whole["jobs"]

    def end(job: Job) -> Failure | None:
        if len(here.done) == number:
            raise KeyboardInterrupt
        return None

    here.before = end
    with pytest.raises(KeyboardInterrupt):
        call(**how)
    left = Search.read(tmp_path / "found" / "search.json")
    assert not left.done
    here.forget()
    here.before = lambda job: None
    found = call(**how)
    assert what(found.record.trials) == whole["trials"]
    asked = [(job.arguments["folder"]) for job in here.done]
    assert len(asked) == len(set(asked)) == whole["jobs"]
    for path in (found.path / "stages").iterdir():
        assert (path / "result.json").is_file()
    before = len(here.done)
    again = call(**how)
    assert len(here.done) == before
    assert what(again.record.trials) == whole["trials"]


def test_more_trials_go_on_with_the_same(call: Any, here: Here, board: Board, tmp_path: Path) -> None:
    """Also where the last wave was not whole: as if more had been asked for at once."""
    space = {"density": "0.3..1:0.01", "rank": "2..32", "lr": "1e-4..1e-2:log"}  # any change of what is known is seen
    how: dict[str, Any] = {"bracket": 4, "sampler": "tpe", "goals": ("quality", "bytes"), "space": space}
    part = call(trials=6, **how)
    more = call(trials=10, **how)
    once = call(trials=10, output=tmp_path / "once", **how)
    assert [each.recipe for each in part.record.trials] == [each.recipe for each in once.record.trials[:6]]
    assert what(more.record.trials) == what(once.record.trials)
    assert board.measured == []  # nobody asked for latencies
    assert {each.latency_ms for each in more.record.trials} == {None}


def test_time_that_is_over_ends_it_and_it_goes_on(call: Any, here: Here, board: Board) -> None:
    found = call(timeout_s=1e-9)
    assert here.done == []
    assert not found.record.done
    assert found.record.notes == ("the time was over: the same command goes on with what is left",)
    assert call().record.done


def test_a_failing_trial_is_told_and_stops_no_other(call: Any, here: Here, board: Board, caplog: Any) -> None:
    here.before = lambda job: Failure("no memory", "buy some", lost=True) if len(here.done) == 1 else None
    found = call()
    assert found.record.counts()["failed"] >= 1
    assert found.record.counts()["complete"] == 2  # the best, and the defaults
    failed = [each for each in found.record.trials if each.state == "failed"]
    assert {each.why for each in failed} == {"cut: no memory"}
    here.before = lambda job: None
    assert "failed" not in call().record.counts()  # what was lost is tried again


def test_what_cannot_be_done_at_all_is_not_tried_again(call: Any, here: Here, board: Board) -> None:
    board.refused = "file"
    found = call()
    board.refused = ""
    failed = [each.why for each in found.record.trials if each.state == "failed"]
    assert failed == ["its file: it does not compute"] * 2  # of the best, and of the defaults
    assert found.front == ()
    before = len(here.done)
    assert what(call().record.trials) == what(found.record.trials)
    assert len(here.done) == before


def test_where_no_trial_can_begin_the_reason_is_the_error(call: Any, here: Here, board: Board) -> None:
    here.before = lambda job: Failure("the disk is gone", "find it")
    with pytest.raises(EdgespaError, match="the disk is gone\nfind it"):
        call()


def test_stages_that_are_alike_are_done_once(call: Any, here: Here, board: Board) -> None:
    """Trials that differ in their precision alone share their training; at one epoch, few are all."""
    found = call(space={"precision": ["fp32", "int8"]}, density=0.5, sampler="grid", trials=None, bracket=2)
    assert stages(here) == ["cut", "few", "full", "file"]
    assert len(found.record.trials) == 2
    here.done.clear()
    call(space={"rank": [2, 4]}, density=0.5, sampler="grid", bracket=2, epochs=1, output=found.path.parent / "short")
    assert stages(here).count("few") == 1
    assert "full" not in stages(here)
    assert [few_epochs(each) for each in (1, 2, 3, 10, 30)] == [1, 1, 1, 3, 10]


def test_a_training_that_was_left_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stage whose training has a state asks to resume it; one whose state is of no use begins anew."""
    asked: list[dict[str, Any]] = []
    useless = False

    def adapt(*_: Any, **keywords: Any) -> Any:
        asked.append({name: True for name in ("resume", "fresh") if keywords[name]})
        if useless and keywords["resume"]:
            raise UnfinishedError("no state")
        metrics = {"validation_accuracy": 0.75, "validation_images": 4.0, "base_validation_accuracy": 0.5}
        return SimpleNamespace(metrics=metrics, parameters=1, macs=2)

    monkeypatch.setattr(es, "adapt", adapt)
    given: dict[str, Any] = {"model": "m", "data": "d", "validation": "v", "opening": {}, "training": {}}
    assert search_stages.run("full", str(tmp_path / "new"), given)["quality"] == 0.75
    for name in ("left", "useless"):
        (tmp_path / name).mkdir()
        state_path(tmp_path / name / "task.spa").write_bytes(b"state")
        useless = name == "useless"
        search_stages.run("full", str(tmp_path / name), given)
    assert asked == [{}, {"resume": True}, {"resume": True}, {"fresh": True}]


def test_what_does_nothing_is_no_part_of_a_recipe(call: Any, here: Here, board: Board) -> None:
    space = {"density": [0.5, 1.0], "adapter": ["splora", "full"], "rank": [2, 4], "criterion": ["l1", "taylor"]}
    found = call(space=space, sampler="grid", trials=None, bracket=16, goals=("bytes",))
    recipes = [each.recipe for each in found.record.trials]
    assert len(recipes) == 9  # 2 ranks and one without, by 2 criteria and none
    for each in recipes:
        assert ("rank" in each) == (each["adapter"] != "full")
        assert ("criterion" in each) == (each["density"] < 1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"space": {"densty": [1]}}, ConfigError, r"space\.densty is not known\ndid you mean 'density'"),
        ({"space": {"adapter": "splora,lorra"}}, ConfigError, "unknown adapter 'lorra'"),
        ({"space": {"density": "0.5..1.5"}}, ConfigError, r"space: density: .*less than or equal to 1"),
        ({"space": {"precision": "fp16"}}, ConfigError, "precision: a search has no fp16"),
        ({"space": {"seed": "1,2"}}, ConfigError, r"space\.seed is not known"),
        ({"space": {}}, ConfigError, "nothing varies"),
        ({"density": 0.5}, ConfigError, r"space\.density varies, and is said to be 0\.5"),
        ({"denssity": 0.5}, ConfigError, r"denssity: is not known\ndid you mean 'density'"),
        ({"precision": "int4", "space": {"rank": "2,4"}}, ConfigError, "precision: a search has no int4"),
        ({"sampler": "cma"}, ConfigError, "unknown sampler 'cma'"),
        ({"goals": ("speed",)}, ConfigError, "unknown goal 'speed'"),
        ({"goals": ()}, ConfigError, "goals: none"),
        ({"trials": 0}, ConfigError, "trials must be at least 1, not 0"),
        ({"bracket": 1}, ConfigError, "bracket must be at least 2"),
        ({"jobs": 2, "ray": "auto"}, ConfigError, "jobs and ray exclude each other"),
        ({"latency_ms": 0}, ConfigError, "latency_ms must be positive"),
        ({"timeout_s": float("inf")}, ConfigError, "timeout_s must be positive"),
        ({"sampler": "grid", "space": {"density": "0.3..1"}}, ConfigError, "a grid has no place"),
        (
            {"sampler": "grid", "trials": None, "space": {"density": "0.3..1:0.001", "rank": "1,2"}},
            ConfigError,
            "the grid has 1,402 points",
        ),
        ({"model": "cut.spa"}, ConfigError, "a search begins with a network"),
        ({"model": "none.py:build"}, EdgespaError, r"none\.py: no such file"),
        ({"data": "none.npz"}, DataError, "does not exist"),
        ({"validation_data": "none/here"}, DataError, "does not exist"),
        ({"device": "no-such-board"}, DeviceError, "no-such-board"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(
    call: Any, here: Here, changes: Any, error: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        call(**changes)
    assert here.done == []
    assert not (tmp_path / "found").exists()


def test_what_was_given_in_python_is_refused(call: Any, here: Here) -> None:
    from torch import nn

    with pytest.raises(ConfigError, match="model was given in Python, and trials run in processes of their own"):
        call(model=nn.Linear(2, 2))
    images = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="data was given in Python"):
        call(data=(images, np.arange(4)))


def test_without_optuna_a_grid_can_be_searched(
    call: Any, here: Here, board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="search"):
        call()
    assert not (tmp_path / "found").exists()
    assert len(call(sampler="grid", space={"rank": "2,4"}, trials=None).record.trials) == 2


def test_a_folder_of_something_else_stays(call: Any, here: Here, board: Board, tmp_path: Path, others: Path) -> None:
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="and is no search"):
        call()
    with pytest.raises(OutputExistsError):
        call(fresh=True)
    (tmp_path / "found" / "mine.txt").unlink()
    found = call()
    for changes in ({"seed": 1}, {"latency_ms": 5.0}, {"epochs": 4}, {"space": {"rank": [2, 4]}}, {"bracket": 5}):
        with pytest.raises(UnfinishedError, match="asked for something else"):
            call(**changes)
    other = shutil.copy(others, tmp_path / "v.npz")
    with pytest.raises(UnfinishedError):
        call(validation_data=str(other), limit=50)
    (found.path / "mine.txt").write_text("mine")
    before = len(here.done)
    new = call(seed=1, fresh=True)
    assert new.record.seed == 1
    assert len(here.done) > before
    assert (found.path / "mine.txt").read_text() == "mine"
    call(seed=1, trials=7)  # not part of what it is


def test_two_at_once_are_refused(call: Any, here: Here, board: Board, tmp_path: Path) -> None:
    call()
    with held(tmp_path / "found"), pytest.raises(UnfinishedError, match="a search is running there"):
        call()


def test_a_stage_with_a_result_is_never_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def stage(folder: Path, **asked: Any) -> dict[str, Any]:
        calls.append(folder)
        return {"error": 0.5}

    monkeypatch.setattr(search_stages, "STAGES", {"cut": stage})
    one = search_stages.run("cut", str(tmp_path / "a"), {})
    assert search_stages.run("cut", str(tmp_path / "a"), {}) == one
    assert len(calls) == 1
    (tmp_path / "a" / "result.json").write_text('{"err')  # a kill while it was written leaves none; a torn one is none
    assert search_stages.run("cut", str(tmp_path / "a"), {})["error"] == 0.5
    assert len(calls) == 2


def test_only_what_is_on_the_front_now_lies_there(call: Any, here: Here, board: Board) -> None:
    found = call()
    old, mine = found.path / "front" / "0123456789abcdef", found.path / "front" / "mine"
    old.mkdir()
    mine.mkdir()
    again = call()
    names = {each.digest for each in again.front}
    assert {each.name for each in (found.path / "front").iterdir()} == names | {"mine"}


def test_times_of_two_kinds_are_not_compared(
    call: Any, here: Here, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that goes away after the first file: what was not measured is not on the front beside what was."""
    real = board.profile

    def profile(*args: Any, **keywords: Any) -> Any:
        if board.measured:
            raise DeviceError("it has gone")
        return real(*args, **keywords)

    monkeypatch.setattr(es, "profile", profile)
    space = {"density": [0.3, 0.9], "rank": [2, 4, 8], "precision": ["fp32"]}
    found = call(space=space, trials=6, bracket=2)
    complete = [each for each in found.record.trials if each.state == "complete"]
    assert len(complete) > 1
    assert [each.measured_ms is not None for each in found.front] == [True]


@pytest.mark.slow
def test_each_training_is_a_run_of_trackers_and_no_other_one(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at a time; what is tried, made and gone on with is what it is without them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    how: dict[str, Any] = {
        "goals": ("quality", "bytes"), "sampler": "grid", "trials": None, "bracket": 4, "epochs": 3, "jobs": 2,
        "space": {"density": [0.5, 1.0], "rank": [2, 4], "precision": ["fp32"], "criterion": ["taylor"]},
    }  # fmt: skip
    found = call(**how, tensorboard="runs", mlflow="mine", output=tmp_path / "told" / "found")
    trained = [each for each in found.record.trials if each.few is not None]
    names = {
        f"found-{each.digest}-{stage}"
        for each in trained
        for stage in ("few", "full")
        if each.stage != "few" or stage == "few"
    }
    assert len(names) >= 2
    assert {each.name for each in (tmp_path / "runs").iterdir()} == names
    steps = {}
    for name in names:
        read = events.EventAccumulator(str(tmp_path / "runs" / name), size_guidance={"scalars": 0}).Reload()
        steps[name.rpartition("-")[2]] = len(read.Scalars("train/loss"))
        assert read.Scalars("result/validation_accuracy")
    assert steps == {"few": 1, "full": 3}
    metas = [each.read_text() for each in (tmp_path / "mine").glob("*/*/meta.yaml")]
    assert {
        line[len("run_name: ") :] for each in metas for line in each.splitlines() if line.startswith("run_name: ")
    } == names
    assert all("status: 3" in each for each in metas)

    plain = call(**how, output=tmp_path / "plain" / "found")
    assert what(plain.record.trials) == what(found.record.trials)
    assert plain.record.identity == found.record.identity
    for task in plain.path.glob("stages/*/task.spa"):
        assert task.read_bytes() == (found.path / "stages" / task.parent.name / "task.spa").read_bytes()
    again = call(**how, output=found.path)  # and without them nothing is done a second time
    assert again.record.trials == found.record.trials
    assert {each.name for each in (tmp_path / "runs").iterdir()} == names


def test_trackers_are_told_of_trainings_and_repeat_nothing(
    call: Any, here: Here, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    found = call(tensorboard="runs")
    for job in here.done:
        told = job.arguments.get("trackers")
        assert told == ({"tensorboard": str(tmp_path / "runs")} if job.arguments["stage"] in ("few", "full") else None)
    done = len(here.done)
    assert call(tensorboard="others").record.trials == call().record.trials == found.record.trials
    assert len(here.done) == done


def test_trackers_that_cannot_be_written_are_told_before_anything_is_done(
    call: Any, here: Here, board: Board, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    for places, words in (
        ({"tensorboard": tmp_path / "file"}, "is a file"),
        ({"tensorboard": tmp_path / "file" / "runs"}, "--tensorboard "),
        ({"mlflow": "http://ann:secret@127.0.0.1:9"}, "--mlflow http://127.0.0.1:9: "),
    ):
        with pytest.raises(ConfigError, match=words):
            call(**places)
    assert here.done == []
    assert not (tmp_path / "found").exists()
