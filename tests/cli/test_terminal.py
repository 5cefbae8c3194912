"""Whatever a text comes from, the terminal obeys none of it; what is told to be typed has no command of a stranger."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import edgespa.cli
from edgespa.cli._output import emit_json, table
from edgespa.cli._terminal import columns, echo, harmless, secho
from tests.cli.test_resuming import NET
from tests.cli.typed import run

EVIL = "x\x1b]0;title\x07\x1b[2J\x9b1A\u202e"
TYPED = "x; touch marker #"
ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
ADAPT = ("adapt", "net.py:build", "--input-shape", "1,3,8,8", "-o", "a.spa", "--data")


def state(name: str) -> None:
    facts = {"command": {"name": name, "arguments": [], "folder": "."}, "epoch": name, "config": {"epochs": name}}
    save_file({"a": torch.ones(1)}, "a.spa.resume", {"edgespa-checkpoint": json.dumps(facts)})


def archive(name: str) -> None:
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    with zipfile.ZipFile("data.zip", "w") as file:
        for each in "ab":
            file.writestr(f"{each}/1.png", picture.getvalue())
        file.writestr(f"b/{name}.png", b"junk")


def profile(text: str) -> Callable[[str], None]:
    def write(name: str) -> None:
        Path("d.toml").write_text(f'extends = "pi-4b"\n{text}'.replace("NAME", json.dumps(name)))

    return write


WEIGHTS = ("inspect", "net.py:build", "--input-shape", "1,3,8,8", "--weights")
DOORS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "state": (state, (*ADAPT, "data.zip")),
    "archive": (archive, (*ADAPT, "data.zip")),
    "arrays": (lambda name: np.savez("a.npz", **{name: np.zeros((2, 8, 8, 3))}), (*ADAPT, "a.npz")),
    "safetensors": (lambda name: save_file({name: torch.ones(1)}, "w.safetensors"), (*WEIGHTS, "w.safetensors")),
    "checkpoint": (
        lambda name: torch.save({name: {"a": torch.ones(1)}, "b": {"a": torch.ones(1)}}, "w.pt"),
        (*WEIGHTS, "w.pt"),
    ),
    "key": (profile("NAME = 1"), ("devices", "show", "./d.toml")),
    "host": (profile("[connection]\nhost = NAME"), ("devices", "show", "./d.toml")),
    "parent": (
        lambda name: Path("d.toml").write_text(f"extends = {json.dumps(name)}"),
        ("devices", "show", "./d.toml"),
    ),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    archive("good")
    return tmp_path


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("more", [(), ("--debug",)])
def test_no_order_reaches_the_terminal(place: Path, door: str, more: tuple[str, ...]) -> None:
    make, command = DOORS[door]
    make(EVIL.replace("/", ""))
    said = run(*more, *command, code=1)
    assert ORDERS.findall(said.stdout + said.stderr) == []
    assert "internal error" not in said.stderr
    assert "x?]0;title??[2J?1A?" in said.stdout + said.stderr or r"\x1b" in said.stderr


@pytest.mark.parametrize("door", ["state", "checkpoint"])
def test_what_is_to_be_typed_runs_nothing_else(place: Path, door: str) -> None:
    make, command = DOORS[door]
    make(TYPED)
    hint = run(*command, code=1).stderr.rpartition("Hint: ")[2]
    told = re.split(r"; or |$", hint.partition(": ")[2], maxsplit=1)[0]
    assert "touch" not in list(shlex.shlex(told, posix=True, punctuation_chars=True))


def test_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    table([EVIL], [[EVIL], ["Straße 二\u3000三 🐈"]], title=EVIL)
    shown = capsys.readouterr().out
    assert ORDERS.findall(shown) == []
    assert "Straße 二\u3000三 🐈" in shown
    emit_json({"name": EVIL})
    text = capsys.readouterr().out
    assert ORDERS.findall(text) == []
    assert json.loads(text) == {"name": EVIL}


def test_texts_that_stay_as_they_are() -> None:
    for text in ("", "two\nlines\tand a tab", "a\u00a0b", "👩‍👩‍👧 é e\u0301"):
        assert harmless(text) == text


def test_there_is_no_other_way_out() -> None:
    folder = Path(edgespa.cli.__file__).parent
    others = [each.name for each in folder.glob("*.py") if re.search(r"click\.s?echo\(", each.read_text())]
    assert others == ["_terminal.py"]


@pytest.mark.parametrize("line", [["inspect", "ü/net.py:build"], ["verify", "ü"], ["export", "n.py:b", "-o", "ü/o"]])
def test_a_locale_that_reads_names_as_ascii_is_what_is_told(tmp_path: Path, line: list[str]) -> None:
    """The path was said not to be UTF-8, or a converter to be at fault."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "edgespa", *line]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    assert "names of files are read as ascii here" in done.stderr
    assert "Hint: set LC_ALL=C.UTF-8, or PYTHONUTF8=1" in done.stderr
    environment["PYTHONUTF8"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "names of files are read" not in done.stderr


def test_lines_are_broken_between_words_where_columns_are_few(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "  stays: layer1.conv1: its channels are those of the output, which nobody may take away"
    command = "next: edgespa export cut.spa --format onnx --output a-folder-of-mine/with-a-name"
    monkeypatch.delenv("COLUMNS", raising=False)
    echo(line)
    assert capsys.readouterr().out == line + "\n"
    monkeypatch.setenv("COLUMNS", "50")
    echo(line)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 50
    assert lines[1].startswith("    ")
    assert " ".join(lines).split() == line.split()
    for whole in (command, "{\n" + "a" * 60 + "\n}", "/" + "folder/" * 12):
        echo(whole)
        assert capsys.readouterr().out == whole + "\n"
    secho(line, err=True)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_columns_of_a_terminal_count_and_odd_wishes_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    for asked, found in (("50", 50), ("3", 20), ("80", None), ("200", None), ("-5", None), ("²", None), ("", None)):
        monkeypatch.setenv("COLUMNS", asked)
        assert columns(pipe) == found
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "132")
    assert columns(pipe) == 132
