"""The task file: replayed = saved, and nothing but errors of one kind from a damaged one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.errors import BaseMismatchError, ModelError, TaskFileError
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks import sealed
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task, is_task_file

QUICK = AdaptConfig(rank=3, density=0.5, epochs=2, batch_size=16, prune_steps=2, round_to=1, prune_from=0.0)


@pytest.fixture(scope="module")
def adapted(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, toy_folder: Path) -> Task:
    return adapt(toy_base, toy_data, toy_preprocess, QUICK, toy_folder)


@pytest.fixture(scope="module")
def pruned(toy_base: Base, toy_folder: Path) -> Task:
    return prune(toy_base, PruneConfig(density=0.5), toy_folder)


def assert_same_program(one: Task, base: Base, other: Task, other_base: Base) -> None:
    first, second = one.program(base), other.program(other_base)
    assert first.module.code == second.module.code
    state = second.state()
    assert first.state().keys() == state.keys()
    for name, tensor in first.state().items():
        assert torch.equal(tensor, state[name]), name
    inputs = first.example_inputs(batch=3)
    with torch.no_grad():
        assert torch.equal(first(*inputs), second(*inputs))


@pytest.mark.parametrize("kind", ["adapted", "pruned"])
def test_replayed_is_saved_also_from_elsewhere_and_after_a_move(
    request: pytest.FixtureRequest,
    toy_base: Base,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    task: Task = request.getfixturevalue(kind)
    path = toy_folder / f"{kind}.spa"
    assert task.save(path) == path.stat().st_size
    loaded = Task.load(path)
    assert loaded.header == task.header
    assert_same_program(task, toy_base, loaded, loaded.open_base(toy_folder))
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(path, there)
    (there / "net.py").write_text((toy_folder / "net.py").read_text())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    moved = Task.load(there / path.name)
    # The old place is gone, as after a move: nothing but what lies beside the task file is left.
    gone = {**moved.header.base, "spec_absolute": f"{tmp_path / 'gone' / 'net.py'}:build", "spec": "net.py:build"}
    moved = dataclasses.replace(moved, header=moved.header.model_copy(update={"base": gone}))
    base = moved.open_base(there)
    assert str(there) in base.spec
    assert_same_program(task, toy_base, moved, base)


def test_saving_twice_gives_the_same_bytes(adapted: Task, tmp_path: Path) -> None:
    adapted.save(tmp_path / "a.spa")
    assert Task.load(tmp_path / "a.spa").to_bytes() == (tmp_path / "a.spa").read_bytes()


def test_the_file_holds_what_the_reference_says(adapted: Task, tmp_path: Path) -> None:
    adapted.save(tmp_path / "a.spa")
    text, tensors = sealed.read(tmp_path / "a.spa", "edgespa")
    values = json.loads(text)
    assert values["format_version"] == 1
    assert values["outputs"] == 3
    assert values["classes"] == ["0", "1", "2"]
    assert values["units"] == {"conv1": 16, "conv2": 24}
    assert values["figures"]["stored_parameters"] == sum(
        tensor.numel() for key, tensor in tensors.items() if not key.startswith("kept/")
    )
    assert tensors["kept/conv2"].shape == (3,)
    bits = [int(bit) for byte in tensors["kept/conv2"].tolist() for bit in f"{byte:08b}"]
    assert bits == adapted.kept["conv2"].astype(int).tolist()
    assert tensors["adapter/conv2.weight/up"].shape == (sum(bits), 3)
    assert tensors["tensor/fc.weight"].shape == (3, adapted.kept["conv1"].sum())


def test_another_base_is_refused_with_both_digests(adapted: Task, toy_base: Base, toy_folder: Path) -> None:
    other = f"{toy_folder / 'net.py'}:other"
    with pytest.raises(BaseMismatchError) as caught:
        adapted.open_base(toy_folder, override=other)
    assert toy_base.digest in caught.value.message
    assert Base.open(other, (1, 3, 8, 8)).digest in caught.value.message
    with pytest.raises(ModelError):
        adapted.open_base(toy_folder, override=str(toy_folder / "none.py:build"))


def test_other_channel_groups_are_refused(adapted: Task, toy_folder: Path) -> None:
    header = adapted.header.model_copy(update={"units": {**adapted.header.units, "conv1": 17}})
    with pytest.raises(TaskFileError, match="channel groups") as caught:
        dataclasses.replace(adapted, header=header).open_base(toy_folder)
    assert adapted.header.edgespa_version in str(caught.value.hint)


def test_tensors_that_do_not_fit_the_base_are_refused(adapted: Task, toy_base: Base) -> None:
    for tensors in ({"bn1.weight": torch.zeros(99)}, {"none": torch.zeros(1)}):
        with pytest.raises(TaskFileError, match="does not fit its base"):
            dataclasses.replace(adapted, tensors=tensors).program(toy_base)
    for name, shape in (("conv1.weight", (99, 2)), ("none.weight", (1, 1)), ("bn1.weight", (16, 1))):
        adapters = {name: {"up": torch.zeros(shape), "down": torch.zeros(2, 3)}}
        with pytest.raises(TaskFileError, match="does not fit its base"):
            dataclasses.replace(adapted, adapters=adapters).program(toy_base)


def rewrite(
    task: Task, path: Path, change: Any = None, drop: str = "", add: dict[str, torch.Tensor] | None = None
) -> None:
    """Save a task whose header or tensors are not what they should be, with a right seal."""
    task.save(path)
    text, tensors = sealed.read(path, "edgespa")
    values = json.loads(text)
    if change is not None:
        values = change(values)
    tensors = {key: tensor for key, tensor in tensors.items() if key != drop}
    path.write_bytes(sealed.to_bytes("edgespa", json.dumps(values), {**tensors, **(add or {})}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {**v, "format_version": 2}, "format 2, this edgespa reads 1"),
        (lambda v: {**v, "format_version": "1"}, "no format version"),
        (lambda v: [v], "no format version"),
        (lambda v: {**v, "clases": []}, "clases"),
        (lambda v: {k: x for k, x in v.items() if k != "digest"}, "digest"),
        (lambda v: {**v, "units": {**v["units"], "conv1": -5}}, "not the packed bits"),
        (lambda v: {**v, "units": {**v["units"], "conv1": 0}}, "not the packed bits"),
        (lambda v: {**v, "units": {**v["units"], "conv1": 10**12}}, "not the packed bits"),
        (lambda v: {**v, "units": {**v["units"], "conv8": 8}}, "conv8 are missing"),
        (lambda v: {**v, "provenance": _nested(300)}, "provenance"),
    ],
)
def test_a_wrong_header_is_refused(pruned: Task, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "a.spa"
    rewrite(pruned, path, change)
    with pytest.raises(TaskFileError, match=message) as caught:
        Task.load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("kept/conv2", {}, "the kept units of conv2 are missing"),
        ("", {"kept/conv9": torch.ones(2, dtype=torch.uint8)}, "unexpected tensor kept/conv9"),
        ("", {"stray": torch.ones(2)}, "unexpected tensor stray"),
        ("", {"kept/conv1": torch.zeros(2, dtype=torch.uint8)}, "no unit is kept"),
        ("", {"kept/conv1": torch.zeros(2, 1, dtype=torch.uint8)}, "packed bits of 16 units"),
        ("", {"kept/conv1": torch.ones(2)}, "packed bits of 16 units"),
        ("", {"kept/conv1": torch.ones(3, dtype=torch.uint8)}, "packed bits of 16 units"),
    ],
)
def test_wrong_tensors_are_refused(
    pruned: Task, tmp_path: Path, drop: str, add: dict[str, torch.Tensor], message: str
) -> None:
    rewrite(pruned, tmp_path / "a.spa", drop=drop, add=add)
    with pytest.raises(TaskFileError, match=message):
        Task.load(tmp_path / "a.spa")


def test_what_is_no_task_file_is_refused(pruned: Task, tmp_path: Path) -> None:
    path = tmp_path / "a.spa"
    with pytest.raises(TaskFileError, match="no such task file"):
        Task.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TaskFileError, match="not a task file"):
        Task.load(path)
    for text in ("{", "[" * 100_000):
        path.write_bytes(sealed.to_bytes("edgespa", text, {}))
        with pytest.raises(TaskFileError, match="not JSON"):
            Task.load(path)
    with pytest.raises(TaskFileError):
        Task.load(tmp_path)
    whole = pruned.to_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TaskFileError, match="damaged"):
            Task.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(TaskFileError, match="damaged"):
        Task.load(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_is_found(adapted: Task, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(adapted.to_bytes())
    size = 8 + int.from_bytes(content[:8], "little")
    where = st.one_of(st.integers(0, 7), st.integers(8, size - 1), st.integers(size, len(content) - 1))
    for position in data.draw(st.lists(where, min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.spa"
    path.write_bytes(content)
    try:
        loaded = Task.load(path)
    except TaskFileError:
        return
    assert loaded.header == adapted.header  # such as other white space
    assert loaded.to_bytes() == adapted.to_bytes()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_give_one_kind_of_error(tmp_path: Path, header: bytes, rest: bytes) -> None:
    path = tmp_path / "a.spa"
    for content in (header + rest, len(header).to_bytes(8, "little") + header + rest):
        path.write_bytes(content)
        with pytest.raises(TaskFileError):
            Task.load(path)


def test_a_full_disk_leaves_nothing(pruned: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pruned.save(tmp_path / "a.spa")
    assert not list(tmp_path.iterdir())


def test_a_task_can_be_trained_on_without_changing_it(adapted: Task, toy_base: Base) -> None:
    before = adapted.to_bytes()
    model = adapted.adapted(toy_base.with_outputs(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert adapted.to_bytes() == before


def test_names() -> None:
    assert is_task_file("a/b.spa")
    assert not is_task_file("a/b.py:spa")
