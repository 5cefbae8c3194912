"""JSON, tables and progress bars: what reaches stdout and stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespa.cli._output import WIDTH, emit_json, progress, table
from edgespa.cli._terminal import secho
from edgespa.cli.export import _larger_than_float32
from edgespa.config import Preprocess
from edgespa.system.plain import to_plain
from tests.cli.typed import result_of, run


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Kind(Enum):
    CONV = "conv"


class Level(IntEnum):
    HIGH = 3


class Word(str, Enum):  # noqa: UP042  # the older kind of string enum is what is tested
    A = "a"


@dataclass
class Unit:
    name: str
    where: Path
    indices: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (Kind.CONV, "conv"),
        (Level.HIGH, 3),
        (Word.A, "a"),
        (float("nan"), None),
        ([float("inf"), 1.5], [None, 1.5]),
        ({3, 1, 2}, [1, 2, 3]),
        (range(3), [0, 1, 2]),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.float32(0.5), 0.5),
        (np.array([np.nan, 1.0]), [None, 1.0]),
        ({1: "a", Kind.CONV: "b"}, {"1": "a", "conv": "b"}),
        (Unit("u", Path("a/b"), (1, 2)), {"name": "u", "where": "a/b", "indices": [1, 2]}),
        (
            Preprocess(height=8, width=4, channels=1, mean=(0.5,), std=(1.0,)),
            {"height": 8, "width": 4, "channels": 1, "mean": [0.5], "std": [1.0], "background": 255},
        ),
    ],
)
def test_to_plain(value: object, plain: object) -> None:
    result = to_plain(value)
    assert result == plain
    assert type(result) is type(plain)


def test_to_plain_refuses_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        to_plain({"a": [object()]})
    with pytest.raises(TypeError, match="bytes has no form"):
        to_plain(b"units")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_what_is_json_already_stays(value: Any) -> None:
    assert to_plain(value) == value
    assert json.loads(json.dumps(to_plain(value), allow_nan=False)) == value


def test_emit_json_goes_to_stdout_only(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"größe": 1, "loss": float("nan")})
    written = capsys.readouterr()
    assert json.loads(written.out) == {"größe": 1, "loss": None}
    assert "größe" in written.out
    assert written.err == ""


class TestTable:
    def test_cells(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [["a", 1234567, 0.123456, True], ["[1,3] [bold]", 5, None, False]]
        table(["name", "bytes", "error", "ok"], rows, title="Files [x]")
        written = capsys.readouterr()
        lines = [line.rstrip() for line in written.out.splitlines()]
        assert lines[0] == "Files [x]"
        assert lines[1].split() == ["name", "bytes", "error", "ok"]
        assert lines[3].split() == ["a", "1,234,567", "0.1235", "yes"]
        assert lines[4].split() == ["[1,3]", "[bold]", "5", "-", "no"]
        # Numbers stand at the right of their column, words at the left.
        assert lines[3].index("1,234,567") + len("1,234,567") == lines[4].index(" 5 ") + 2
        assert written.err == ""

    def test_right_is_for_formatted_numbers(self, capsys: pytest.CaptureFixture[str]) -> None:
        table(["ms"], [["10.0 ms"], ["5.0 ms"]], right=["ms"])
        assert " 5.0 ms" in capsys.readouterr().out

    def test_is_eighty_columns_without_a_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        table(["slot", "reason"], [["layer1.0.conv1.weight", "word " * 60]])
        lines = capsys.readouterr().out.splitlines()
        assert WIDTH == 80
        assert 70 < max(len(line) for line in lines) <= WIDTH
        # Wrapped, not cut.
        assert sum(line.count("word") for line in lines) == 60

    @pytest.mark.parametrize("width", [50, 80, 120])
    @pytest.mark.parametrize("name", ["fruit.spa", "a" * 30, "/somewhere/far/" + "deep/" * 20 + "net.py:build"])
    def test_no_word_is_torn_and_nothing_is_lost(
        self, width: int, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was, of `edgespa tasks` at 80 columns: headings, names, figures."""
        monkeypatch.setattr("edgespa.cli._output.WIDTH", width)
        columns = ["task", "adapter", "bytes", "blocks", "channels", "MACs", "validation", "test"]
        rows = [[name, "splora", 123456, "all", "50.0%", "33.1%", "98.7% (223)", "97.1% (1,000)"], ["b.spa"] * 8]
        table(columns, rows, title=f"base {name} (1,234,567 bytes)", right=["validation"])
        lines = capsys.readouterr().out.splitlines()
        words = " ".join(lines).split()
        for cell in [*columns, f"base {name}", *map(str, (*rows[0][:2], "123,456", *rows[0][3:]))]:
            assert all(word in words for word in cell.split()), cell
        assert words.count("b.spa") == 8
        longest = max(map(len, words))
        assert max(len(line.rstrip()) for line in lines) <= max(width, longest + 12)

    def test_is_as_wide_as_the_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        table(["reason"], [["word " * 36]])
        assert any(line.count("word") == 36 for line in stream.getvalue().splitlines())

    def test_can_go_to_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        table(["a"], [[1]], err=True)
        written = capsys.readouterr()
        assert written.out == ""
        assert "1" in written.err

    def test_a_row_of_another_length_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
            table(["a", "b"], [[1]])


class TestProgress:
    def test_is_silent_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with progress("training") as report:
            report(1, 2, "epoch 1")
        written = capsys.readouterr()
        assert (written.out, written.err) == ("", "")

    def test_draws_on_a_terminals_stderr_only(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("training") as report:
            print("result")  # noqa: T201  # what a command says meanwhile
            report(1, 4, "epoch [1]")
            report(3, 4)
        assert "epoch [1]" in stream.getvalue()
        assert "75%" in stream.getvalue()
        assert capsys.readouterr().out == "result\n"

    def test_can_be_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("training", enabled=False) as report:
            report(1, 2)
        assert stream.getvalue() == ""


def test_an_int8_file_that_is_larger_than_float32_is_told() -> None:
    def file(format_: str, precision: str, size: int) -> Any:
        return SimpleNamespace(name=f"{format_}-{precision}", format=format_, precision=precision, size_bytes=size)

    plain = [file("onnx", "fp32", 100), file("tflite", "fp32", 100)]
    made = [file("onnx", "int8", 100), file("tflite", "int8", 101), file("tflite", "int8-weights", 200)]
    assert _larger_than_float32([*plain, *made]) == [("tflite-int8", "tflite-fp32")]
    assert _larger_than_float32(made) == []


PRINTS = """
import sys
import torch
from torch import nn

print("read")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        print("run")
        return self.last(torch.relu(self.fc(x))).mean((2, 3))


def build():
    print("built", sys.stdout.encoding, sys.stdout.isatty())
    sys.stdout.buffer.write(b"as bytes")
    sys.stdout.flush()
    print("and noisily", file=sys.stdout)
    return Net()
"""


@pytest.mark.parametrize("words", [("--json",), ()], ids=["json", "table"])
def test_what_a_model_prints_is_no_result(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PRINTS)
    done = run("inspect", f"{tmp_path / 'net.py'}:build", "--input-shape", "1,3,8,8", *words)
    assert "and noisily" in done.stderr
    assert "noisily" not in done.stdout
    assert "MACs" in done.stdout or json.loads(done.stdout)["digest"].startswith("sha256:")
    assert isinstance(sys.stdout, io.TextIOBase)


def test_nor_in_a_recipe_or_beside_the_program(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(PRINTS)
    (tmp_path / "r.toml").write_text(
        "version = 1\n[prune]\nmodel = 'net.py:build'\ninput-shape = '1,3,8,8'\ndensity = 0.5\noutput = 'cut.spa'\n"
    )
    (step,) = result_of("run", str(tmp_path / "r.toml"))["steps"]
    assert step["result"]["channel_density"] <= 0.5
    words = ["inspect", f"{tmp_path / 'net.py'}:build", "--input-shape", "1,3,8,8", "--json"]
    done = subprocess.run([sys.executable, "-m", "edgespa", *words], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["digest"].startswith("sha256:")
    assert "built" in done.stderr
    assert "as bytes" in done.stderr


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, False),
    ],
)
def test_colours_are_for_whoever_wants_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    secho("NOT RUN: a", err=True, fg="yellow", bold=True)
    assert ("\x1b[" in capsys.readouterr().err) is coloured


def test_a_table_that_is_piped_is_as_wide_as_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns, least in (("50", 30), ("nonsense", 60)):
        monkeypatch.setenv("COLUMNS", columns)
        table(["a", "b"], [["word " * 10, "word " * 10]])
        widest = max(map(len, capsys.readouterr().out.splitlines()))
        assert least < widest <= (50 if columns == "50" else 80)
