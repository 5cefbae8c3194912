"""Every command that edgespa prints can be typed: it is parsed by the command line, and leads to something else."""

from __future__ import annotations

import ast
import importlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from typed import VALUE, commands_in, problem_of

from edgespa.cli import devices as devices_command
from edgespa.cli._failures import leads_to_itself
from edgespa.cli._shell import main
from edgespa.device import connect, load_device
from edgespa.device.link.refusals import _KINDS, refusal
from edgespa.errors import DeviceError

SOURCE = Path(__file__).parents[1] / "edgespa"


def printed() -> Iterator[tuple[str, str]]:
    """Place and text of every string in the source that may be shown: no docstrings; 1 for a value of an f-string."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(each) for each in node.values}
            body = getattr(node, "body", None)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and body and isinstance(body[0], ast.Expr):
                skipped.add(id(body[0].value))
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else VALUE for each in node.values]
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", "".join(map(str, parts))


def test_every_command_that_is_printed_can_be_parsed() -> None:
    seen = []
    for place, text in printed():
        for words in commands_in(text):
            seen.append(words)
            assert (problem := problem_of(words)) is None, f"{place}: edgespa {shlex.join(words)}: {problem}"
    assert len(seen) > 25
    assert ["devices", "setup", VALUE, "--again"] in seen


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run edgespa devices setup pi-4b --again; then wait", [["devices", "setup", "pi-4b", "--again"]]),
        ("make one with: edgespa adapt or edgespa prune", [["adapt"], ["prune"]]),
        ("see `edgespa status` first", [["status"]]),
        ("edgespa needs Python 3.8", []),
    ],
)
def test_commands_are_found_in_words(text: str, words: list[list[str]]) -> None:
    assert commands_in(text) == words


@pytest.mark.parametrize(
    ("hint", "line", "same"),
    [
        ("edgespa devices setup kitchen", ["devices", "setup", "kitchen"], True),
        ("make it anew: edgespa devices setup kitchen --again", ["devices", "setup", "--again", "kitchen"], True),
        ("make it anew: edgespa devices setup kitchen --again", ["devices", "setup", "kitchen"], False),
        ("edgespa devices setup 'my board.toml'; then wait", ["devices", "setup", "my board.toml", "--json"], True),
        ("edgespa devices setup kitchen", ["devices", "check", "kitchen"], False),
        ("try again", ["devices", "check", "kitchen"], False),
        ("edgespa's own words", [], False),
        ("edgespa it's odd", ["x"], False),
    ],
)
def test_a_hint_that_is_the_command_itself_is_seen(hint: str, line: list[str], same: bool) -> None:
    assert leads_to_itself(hint, line) is same


def test_no_command_is_its_own_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise DeviceError("it does not work", f"edgespa devices setup {load_device('pi-4b').asked}")

    monkeypatch.setattr("edgespa.device.load_device", fails)
    same = CliRunner().invoke(main, ["devices", "setup", "pi-4b"])
    assert same.exit_code == 1
    assert "edgespa devices setup" not in same.stderr
    assert "Hint: to do the same again helps only when something has changed" in same.stderr
    other = CliRunner().invoke(main, ["devices", "check", "pi-4b"])
    assert "Hint: edgespa devices setup pi-4b" in other.stderr


@pytest.mark.parametrize("kind", [*_KINDS, "old", "internal", "system", "usage"])
def test_refusals_of_a_device_name_no_command_that_may_have_failed(kind: str) -> None:
    error = refusal(load_device("pi-4b"), kind, "what it said")
    assert error.hint
    assert "edgespa" not in error.hint


def test_a_device_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "my board.toml"
    path.write_text('extends = "pi-4b"\n')
    (tmp_path / "kitchen.toml").write_text('extends = "pi-4b"\n')
    assert load_device("pi-4b").asked == "pi-4b"
    asked = load_device(str(tmp_path / "kitchen.toml")).asked
    assert asked == str(tmp_path / "kitchen.toml")
    assert load_device(asked).name == "kitchen"
    with pytest.raises(Exception, match="board"):
        load_device(str(path))  # a name that no device can have


@pytest.mark.parametrize("name", ["pi-4b", "local"])
def test_what_show_prints_is_a_profile(name: str, tmp_path: Path) -> None:
    text = CliRunner().invoke(devices_command.command, ["show", name, "--toml"]).stdout
    path = tmp_path / "own.toml"
    path.write_text(text)
    assert load_device(str(path)).title


def test_the_line_to_type_by_hand_can_be_typed(tmp_path: Path) -> None:
    """It has no socket of a connection that ends with the command, and is parsed by ssh as it stands."""
    path = tmp_path / "b.toml"
    path.write_text('extends = "pi-4b"\n[connection]\nhost = "board.invalid"\nuser = "me"\nport = 2222\n')
    with connect(load_device(str(path))) as connection:
        line = connection.by_hand(["python3", "--version"])
    assert "Control" not in line
    words = shlex.split(line)
    done = subprocess.run([words[0], "-G", *words[1:]], capture_output=True, text=True)
    values = dict(row.split(" ", 1) for row in done.stdout.splitlines() if " " in row)
    assert (values["hostname"], values["user"], values["port"]) == ("board.invalid", "me", "2222")


def test_every_command_can_be_imported() -> None:
    for path in main.table.values():
        assert isinstance(importlib.import_module(path).command, click.Command)
