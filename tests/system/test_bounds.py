"""One validation of names and sizes for every door: what comes in is right everywhere it goes, or is refused there."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typed import run

from edgespa.config import Preprocess
from edgespa.data import Numbering, load_data
from edgespa.data.numbering import Numbering as OfLabels
from edgespa.errors import ConfigError, DataError, EdgespaError, TaskFileError
from edgespa.models.inputs import InputSize
from edgespa.pruning import PruneConfig, prune
from edgespa.system.bounds import name_problem, oddity, readable, shown, sizes_problem
from edgespa.tasks import sealed
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

GOOD = ["cat", "Siberian husky", "naïve café", "猫", "نی‌نی", "👩‍🔬", "a/b: c, d", "0", "output 3", "x" * 500]
BAD = [
    "", " ", "a\nb", "a\rb", "a\x85b", "a\u2028b", "a\x0bb", "a\x1cb", "a\0b", "a\x1b[31mb", "\udcff", " a", "a\t",
    "x" * 501, "a\u202eb", "a\u2066b", "a\x7fb",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_names_that_are_taken(name: str) -> None:
    assert name_problem(name) is None
    assert len(name.splitlines()) == 1


@pytest.mark.parametrize("name", BAD)
def test_names_that_are_not(name: str) -> None:
    assert name_problem(name)
    assert shown(name).isprintable()
    assert readable(f"x{name}").encode()


def test_sizes() -> None:
    assert sizes_problem((1, 3, 4096, 4096)) is None
    for sizes in ((), (0,), (1, -1), (1, 3, 1 << 20, 1 << 20), (1 << 80,)):
        assert sizes_problem(sizes)


def test_documents() -> None:
    assert oddity({"a": [1, 2.5, None, "b", {"c": True}]}) is None
    nest: Any = 1
    for _ in range(200):
        nest = [nest]
    for value in (1 << 60, -(1 << 70), 10**400, float("nan"), float("inf"), "\ud800", {"\udcff": 1}, nest):
        assert oddity({"x": [value]})


@pytest.fixture(scope="module")
def task(toy_base: Base, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "task.spa"
    prune(toy_base, PruneConfig(density=0.5), toy_folder).save(path)
    return path


def changed(path: Path, target: Path, **values: Any) -> Path:
    text, tensors = sealed.read(path, "edgespa")
    header = {**json.loads(text), **values}
    target.write_bytes(sealed.to_bytes("edgespa", json.dumps(header), tensors))
    return target


PICTURE = {"height": 8, "width": 8, "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1]}
HEADERS: list[dict[str, Any]] = [
    {"input_shape": [1, 3, 0, 8]},
    {"input_shape": [1, 3, -8, 8]},
    {"input_shape": [1, 3, 1 << 40, 8]},
    {"input_shape": [1, 3, 1 << 20, 1 << 20]},
    {"input_shape": []},
    {"input_shape": [10**400]},
    {"inputs": ["1,3,999999999999999999999,8"]},
    {"inputs": ["1,3,99999999,99999999"]},
    {"outputs": -1},
    {"outputs": 0},
    {"outputs": 1_000_000_000},
    {"outputs": 100_000},
    {"outputs": 1 << 80},
    {"classes": ["a", "b"]},
    {"classes": ["a", "b", "c", "d", "e"]},
    {"classes": ["a", "b", "c", "d\ne"]},
    {"classes": ["a", "b", "c", "\ud800"]},
    {"classes": ["a", "b", "c", ""]},
    {"outputs": 5, "classes": ["a"]},
    {"preprocess": {**PICTURE, "height": 9}},
    {"preprocess": {**PICTURE, "channels": 1, "mean": [0], "std": [1]}},
    {"preprocess": {**PICTURE, "height": 1 << 30}},
    {"preprocess": {**PICTURE, "mean": [float("nan"), 0, 0]}},
    {"metrics": {"test_accuracy": float("inf"), "test_images": float("inf")}},
    {"metrics": {"\udcff": 1.0}},
    {"metrics": {"test_accuracy": "NaN"}},
    {"preprocess": {**PICTURE, "std": ["NaN", 1, 1]}},
    {"created": "\ud800"},
    {"provenance": {"a": {"b": "\ud800"}}},
    {"provenance": {"a": 1 << 90}},
    {"figures": {"macs": -1, "base_macs": 0, "parameters": 1, "base_parameters": 0, "channel_density": 1}},
    {"figures": {"macs": 1, "base_macs": 1, "parameters": 1, "base_parameters": 1, "channel_density": float("nan")}},
    {"depth": {"removed": [], "blocks": -1}},
    {"depth": {"removed": ["a\nb"], "blocks": 1 << 70}},
]


@pytest.mark.parametrize("values", HEADERS, ids=lambda each: str(each)[:60])
def test_a_header_of_odd_names_and_sizes_is_refused(task: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    path = changed(task, tmp_path / "odd.spa", **values)
    with pytest.raises(TaskFileError) as caught:
        Task.load(path).open_base(path.parent)
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "values",
    [
        {"classes": ["a", "b", "c", "naïve 猫"], "preprocess": PICTURE},
        {"metrics": {"test_accuracy": 0.5, "test_images": 10}},
        {"figures": {"macs": 0, "base_macs": 0, "parameters": 1, "base_parameters": 0, "channel_density": 1}},
    ],
)
def test_a_header_of_right_ones_is_taken(task: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    path = changed(task, tmp_path / "right.spa", **values)
    Task.load(path).open_base(path.parent)
    run("inspect", str(path))


def images(folder: Path, *names: bytes) -> None:
    for index, name in enumerate(names):
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(place)
        for number in range(2):
            picture = Image.fromarray(np.full((8, 8, 3), 40 * index + number, np.uint8))
            picture.save(os.fsdecode(os.path.join(place, b"%d.png" % number)))


@pytest.mark.parametrize("name", [b"dog\ncat", b"caf\xe9", b"a\x1b[2Jb", "a\u202eb".encode()])
def test_a_class_folder_of_an_odd_name_is_refused_before_anything(tmp_path: Path, name: bytes) -> None:
    images(tmp_path / "data", b"bird", name)
    with pytest.raises(DataError, match="a class: the name") as caught:
        load_data(str(tmp_path / "data"))
    assert caught.value.message.isprintable()
    assert "rename" in str(caught.value.hint)


def test_class_folders_of_other_tongues_are_taken(tmp_path: Path) -> None:
    images(tmp_path / "data", "猫".encode(), "naïve café".encode(), b"bird")
    assert load_data(str(tmp_path / "data")).classes == ("bird", "naïve café", "猫")


def test_other_doors_of_class_names(tmp_path: Path) -> None:
    def in_zip(name: str) -> str:
        content = (tmp_path / "p.png").read_bytes()
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for folder in ("bird", name):
                archive.writestr(f"{folder}/1.png", content)
        return str(tmp_path / "data.zip")

    def in_npz(name: str) -> str:
        values = {"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.array([0, 1, 0, 1])}
        np.savez(tmp_path / "data.npz", **values, classes=np.array(["bird", name]))  # type: ignore[arg-type]
        return str(tmp_path / "data.npz")

    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    doors: list[Callable[[str], str]] = [in_zip, in_npz]
    for door in doors:
        assert load_data(door("a cat")).classes
        with pytest.raises(DataError, match="a class"):
            load_data(door("a\ncat"))
    (tmp_path / "labels.txt").write_text("bird\na\x1b[2Jb\n")
    data = load_data(in_npz("cat"))
    with pytest.raises(EdgespaError, match="control character"):
        OfLabels.of(tmp_path / "labels.txt", None)(data)
    (tmp_path / "labels.txt").write_text("bird\ncat\n")
    assert Numbering.of(tmp_path / "labels.txt", None)(data).classes == ("bird", "cat")


def test_images_and_inputs_that_are_too_large() -> None:
    with pytest.raises(ConfigError, match="elements"):
        Preprocess.parse({**PICTURE, "height": 1 << 20, "width": 1 << 20}, "x")
    with pytest.raises(ConfigError):
        InputSize.parse("1,3,9999999999999999999999,8")


def test_a_base_below_a_folder_that_is_not_utf8(tmp_path: Path, toy_folder: Path) -> None:
    """A task file could not record it: told before a training, not after it."""
    folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    os.makedirs(folder)
    (Path(folder) / "net.py").write_bytes((toy_folder / "net.py").read_bytes())
    with pytest.raises(EdgespaError, match="UTF-8") as caught:
        Base.open(f"{folder}/net.py:build", (1, 3, 8, 8))
    assert "rename" in str(caught.value.hint)
