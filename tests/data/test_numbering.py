"""Which class is which output: names in a file, an offset, and splits of any name."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edgespa.cli import main
from edgespa.data import ImageData, Numbering, load_data, why_counts_differ
from edgespa.data.arrays import ArraySource
from edgespa.errors import ConfigError, DataError


def _image(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def _folders(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "a.png").write_bytes(_image(number))
    return root


def _numbered(labels: list[int]) -> ImageData:
    pixels = np.zeros((len(labels), 1, 1, 1), np.uint8)
    names = [str(number) for number in range(max(labels) + 1)]
    return ImageData(ArraySource(pixels), np.array(labels, dtype=np.int64), names, "made")


def _file(folder: Path, text: str) -> Path:
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    return folder / "labels.txt"


class TestLabels:
    @pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
    def test_the_order_of_the_file(self, tmp_path: Path, end: str) -> None:
        data = load_data(str(_folders(tmp_path / "d", "ant", "bee", "cat")))
        number = Numbering.of(_file(tmp_path, "background\ncat\nant\nwasp\nbee" + end), None)
        found = number(data)
        assert found.classes == ("background", "cat", "ant", "wasp", "bee")
        assert found.labels.tolist() == [2, 4, 1]
        assert data.labels.tolist() == [0, 1, 2]
        assert found.name == data.name

    def test_names_of_numbers(self, tmp_path: Path) -> None:
        found = Numbering.of(_file(tmp_path, "zero\none\ntwo\nthree\n"), None)(_numbered([2, 0, 1]))
        assert found.classes == ("zero", "one", "two", "three")
        assert found.labels.tolist() == [2, 0, 1]

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        assert Numbering.of(_file(tmp_path, "\ufeffant\nbee\n"), None).names == ("ant", "bee")

    @pytest.mark.parametrize(
        ("text", "said"),
        [("", "it is empty"), ("ant\n\nbee\n", "line 2"), ("ant\nbees\n", "1 of the 2 classes of d are not in")],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, said: str) -> None:
        data = load_data(str(_folders(tmp_path / "d", "ant", "bee")))
        with pytest.raises((ConfigError, DataError), match=said):
            Numbering.of(_file(tmp_path, text), None)(data)
        with pytest.raises(ConfigError, match="cannot be read"):
            Numbering.of(tmp_path / "none.txt", None)

    def test_a_name_twice_is_no_place(self, tmp_path: Path) -> None:
        data = load_data(str(_folders(tmp_path / "d", "ant", "bee")))
        assert Numbering.of(_file(tmp_path, "crane\ncrane\nant\nbee"), None)(data).labels.tolist() == [2, 3]
        with pytest.raises(DataError, match="'ant' twice"):
            Numbering.of(_file(tmp_path, "ant\nant\nbee"), None)(data)

    def test_too_few_lines_for_numbers(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"a label of 2, .* has 2 lines"):
            Numbering.of(_file(tmp_path, "a\nb"), None)(_numbered([0, 2]))


class TestOffset:
    def test_a_background_before(self) -> None:
        found = Numbering.of(None, 1)(_numbered([0, 2, 1]))
        assert found.classes == ("output 0", "0", "1", "2")
        assert found.labels.tolist() == [1, 3, 2]

    def test_a_background_too_many(self) -> None:
        found = Numbering.of(None, -1)(_numbered([1, 2, 1]))
        assert found.classes == ("1", "2")
        assert found.labels.tolist() == [0, 1, 0]
        with pytest.raises(DataError, match="the class '0' has no output"):
            Numbering.of(None, -1)(_numbered([0, 1]))

    def test_outputs_after_the_last_class(self) -> None:
        number = Numbering.of(None, 0)
        assert number.up_to(5, number(_numbered([0, 2]))).classes == ("0", "1", "2", "3", "4")
        more = Numbering.of(None, 1)
        assert more.up_to(5, more(_numbered([0, 2]))).classes == ("output 0", "0", "1", "2", "output 4")
        assert Numbering().up_to(5, _numbered([0, 2])).classes == ("0", "1", "2")
        assert number.up_to(None, _numbered([0, 2])).classes == ("0", "1", "2")

    def test_parts_go_on_as_before(self) -> None:
        found = Numbering.of(None, 2)(_numbered([0, 1] * 20))
        rest, held = found.split(0.25)
        assert (len(rest), len(held), set(held.labels.tolist())) == (30, 10, {2, 3})
        assert len(found.limit(10)) == 10

    def test_one_of_both(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="two ways"):
            Numbering.of(_file(tmp_path, "a"), 1)

    def test_only_classes(self) -> None:
        source = ArraySource(np.zeros((2, 1, 1, 1), np.uint8))
        targets = ImageData(source, None, ("x",), "made", np.zeros((2, 1), np.float32), "regression")
        with pytest.raises(ConfigError, match="no classes to number"):
            Numbering.of(None, 1)(targets)
        assert Numbering()(targets) is targets


@pytest.mark.parametrize(
    ("outputs", "classes", "said"),
    [(1001, 1000, "--class-offset 1 if output 0 is a background"), (1000, 1001, "--class-offset -1"),
     (1000, 600, "--labels FILE"), (3, 7, "own classes")],
)  # fmt: skip
def test_the_reason(outputs: int, classes: int, said: str) -> None:
    assert said in why_counts_differ(outputs, classes)


def test_the_reason_of_numbers() -> None:
    assert "--class-offset 0" in why_counts_differ(1001, 999, numbers=True)


class TestSplits:
    @pytest.mark.parametrize(
        ("one", "other"), [("train", "test"), ("day1", "day2"), ("fold-0", "rest"), ("A", "train")]
    )
    def test_classes_are_numbered_over_all_of_them(self, tmp_path: Path, one: str, other: str) -> None:
        _folders(tmp_path / "d", f"{one}/ant", f"{one}/bee", f"{one}/cat", f"{other}/bee", f"{other}/cat")
        assert load_data(f"{tmp_path}/d:{other}").classes == ("ant", "bee", "cat")
        assert load_data(f"{tmp_path}/d:{other}").labels.tolist() == [1, 2]
        assert load_data(f"{tmp_path}/d:{one}").classes == ("ant", "bee", "cat")

    def test_other_data_beside_are_no_splits(self, tmp_path: Path) -> None:
        _folders(tmp_path / "d", "pets/cat", "pets/dog", "birds/owl", "birds/kite")
        assert load_data(f"{tmp_path}/d:pets").classes == ("cat", "dog")


def test_a_long_list_is_not_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _folders(tmp_path / "d", "cat", "dog")
    for number in range(501):
        (tmp_path / "d" / f"empty{number:03}").mkdir()
    with caplog.at_level(logging.WARNING):
        load_data(str(tmp_path / "d"))
    assert "empty000, empty001, empty002, empty003, empty004 and 496 more" in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 300


NET = """
import torch
from torch import nn

class Net(nn.Module):
    '''The mean grey of an image, of four: output 1 for the darkest quarter, and so on; output 0 for nothing.'''
    def forward(self, x):
        return -(x.mean((1, 2, 3))[:, None] - torch.tensor([9.0, 0.125, 0.375, 0.625, 0.875])).abs()

def build():
    return Net()
"""


LINEAR = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
"""


class TestCommands:
    """A model of four classes and a background."""

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "net.py").write_text(NET)
        random = np.random.default_rng(0)
        labels = np.arange(40) % 4
        images = (labels[:, None, None, None] * 64 + random.integers(8, 56, (40, 8, 8, 3))).astype(np.uint8)
        np.savez("a.npz", images=images, labels=labels, classes=["d", "c", "b", "a"])
        return tmp_path

    def export(self, *more: str) -> Result:
        command = ("export", "net.py:build", "--input-shape", "1,3,8,8", "--eval-data", "a.npz", "--format", "onnx")
        return CliRunner().invoke(main, [*command, "--output", "out", "--json", *more])

    def test_the_reason_is_told(self, place: Path) -> None:
        done = self.export()
        assert done.exit_code == 1
        assert "the model has 5 outputs, a has 4 classes" in done.output
        assert "--class-offset 1 if output 0 is a background" in done.output

    def test_an_offset(self, place: Path) -> None:
        done = self.export("--class-offset", "1")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["reference_accuracy"]["value"] == 1
        assert (place / "out/labels.txt").read_text().splitlines() == ["output 0", "d", "c", "b", "a"]

    def test_names(self, place: Path) -> None:
        (place / "names.txt").write_text("nothing\nd\nc\nb\na\n")
        done = self.export("--labels", "names.txt")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["reference_accuracy"]["value"] == 1

    def test_a_head_that_is_given_up_for_a_background_is_told(self, place: Path) -> None:
        (place / "lin.py").write_text(LINEAR)
        command = (
            "adapt",
            "lin.py:build",
            "--input-shape",
            "1,3,8,8",
            "--data",
            "a.npz",
            "--epochs",
            "1",
            "--lr",
            "0.01",
        )
        small = ("--batch-size", "8", "--mean", "0", "--std", "1")
        done = CliRunner().invoke(main, [*command, *small, "--output", "x.spa"])
        assert done.exit_code == 0, done.output
        assert "lin.py:build has 5 outputs, a has 4 classes, so a new head is trained" in done.output
        done = CliRunner().invoke(main, [*command, *small, "--output", "y.spa", "--class-offset", "1"])
        assert done.exit_code == 0, done.output
        assert "new head" not in done.output

    @pytest.mark.parametrize("options", [("--eval-data",), ("--allocation", "equal-accuracy", "--held-out")])
    def test_prune_refuses_too(self, place: Path, options: tuple[str, ...]) -> None:
        (place / "lin.py").write_text(LINEAR)
        command = ("prune", "lin.py:build", "--input-shape", "1,3,8,8", "--density", "0.5", "--output", "x.spa")
        done = CliRunner().invoke(main, [*command, *options, "a.npz"])
        assert done.exit_code == 1
        assert "the model has 5 outputs, a has 4 classes" in done.output
        done = CliRunner().invoke(main, [*command, "--eval-data", "a.npz", "--class-offset", "1"])
        assert done.exit_code == 0, done.output
