"""Task files of a folder, and how two differ: by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.errors import BaseMismatchError, TaskFileError
from edgespa.tasks.base import Base
from edgespa.tasks.folder import Entry, Family, compare, read_folder
from edgespa.tasks.task import Task


@pytest.fixture(scope="module")
def task(
    toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory
) -> Task:
    config = AdaptConfig(rank=2, density=0.5, epochs=1, batch_size=16, round_to=1)
    return adapt(toy_base, toy_data, toy_preprocess, config, tmp_path_factory.mktemp("tasks"))


def entry(size: int, alternative: int) -> Entry:
    return Entry("t.spa", size, "splora", 0.5, 0.3, 0.2, None, None, alternative)


def test_the_break_even_by_hand() -> None:
    family = Family("net", "sha256:0", 1000, (entry(50, 200), entry(150, 300)))
    assert (family.shared_bytes, family.separate_bytes) == (1200, 500)
    assert family.break_even == 7  # 150 saved per task: 6 save 900, 7 save 1050
    assert Family("net", "", 900, family.entries).break_even == 6
    assert Family("net", "", 1000, (entry(200, 200),)).break_even is None
    assert Family("net", "", 1000, (entry(300, 200),)).break_even is None


def other_base(task: Task) -> Task:
    return dataclasses.replace(task, header=task.header.model_copy(update={"digest": "sha256:other"}))


def test_a_folder_is_listed_by_base(task: Task, tmp_path: Path) -> None:
    task.save(tmp_path / "b.spa")
    task.stored_as("int8").with_metrics(test_accuracy=0.5, test_images=40).save(tmp_path / "a.spa")
    other_base(task).save(tmp_path / "c.spa")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "folder.spa").mkdir()
    families = read_folder(tmp_path).families
    assert {f.digest: [e.file for e in f.entries] for f in families} == {
        task.header.digest: ["a.spa", "b.spa"],
        "sha256:other": ["c.spa"],
    }
    first, second = families[0].entries
    figures = task.header.figures
    assert (first.adapter, second.adapter) == ("splora int8", "splora")
    assert first.test is not None
    assert (first.test.value, first.test.images) == (0.5, 40)
    for each in (first, second):  # in a column of its own
        assert each.validation is not None
        assert each.validation.value == task.header.metrics["validation_accuracy"]
        assert each.validation.images == task.header.metrics["validation_images"]
    assert second.test is None
    assert second.size_bytes == (tmp_path / "b.spa").stat().st_size
    assert second.alternative_bytes == 4 * figures.parameters
    assert second.mac_density == figures.macs / figures.base_macs
    assert families[0].base_bytes == 4 * figures.base_parameters


def test_a_folder_without_tasks_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(TaskFileError, match="no task files"):
        read_folder(tmp_path)


def test_a_damaged_file_does_not_hide_the_others(task: Task, tmp_path: Path) -> None:
    task.save(tmp_path / "good.spa")
    (tmp_path / "bad.spa").write_bytes(b"bad")
    found = read_folder(tmp_path)
    assert [entry.file for family in found.families for entry in family.entries] == ["good.spa"]
    assert ["bad.spa" in error.message for error in found.errors] == [True]


def test_a_task_does_not_differ_from_itself(task: Task) -> None:
    found = compare(task, task)
    assert found.same
    assert not found.fields
    assert found.equal == len(task.factors.flat())
    assert found.units_both == sum(int(mask.sum()) for mask in task.kept.values())


def test_differences_by_hand(task: Task) -> None:
    tensors = {**task.tensors, "fc.bias": task.tensors["fc.bias"] * 1.5, "conv1.bias": torch.zeros(99)}
    kept = {name: mask.copy() for name, mask in task.kept.items()}
    mask = next(iter(kept.values()))
    was = int(mask.sum())
    mask[mask.argmin()] = True  # one more
    changed = dataclasses.replace(task, kept=kept, tensors=tensors).with_metrics(extra=1.0)
    found = compare(task, changed)
    assert not found.same
    assert found.fields == {"metrics.extra": (None, 1.0)}
    assert found.tensors == {"tensor/fc.bias": pytest.approx(0.5)}
    assert found.unlike == 1
    assert found.equal == len(task.factors.flat()) - 2
    assert (found.units_one, found.units_other) == (0, 1)
    assert found.units_both >= was


def test_tasks_of_different_bases_are_not_compared(task: Task) -> None:
    with pytest.raises(BaseMismatchError, match="sha256:other") as caught:
        compare(task, other_base(task))
    assert task.header.digest in str(caught.value)
    units = task.header.model_copy(update={"units": {"x": 3}})
    with pytest.raises(TaskFileError, match="differently"):
        compare(task, dataclasses.replace(task, header=units))
