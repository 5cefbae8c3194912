"""What is printed to be typed next, however the program was started; options of the program behind a command."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgespa.cli._said import said, say_next
from edgespa.cli._shell import COMMANDS, Shell, main
from edgespa.errors import DataError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Started by a path that the shell would not find by name."""
    path = tmp_path / ".venv" / "bin" / "edgespa"
    path.parent.mkdir(parents=True)
    path.write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    return ".venv/bin/edgespa"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_named_as_it_was_started(name: str, here: str) -> None:
    assert said(f"make it with: edgespa {name} X; or `edgespa {name}`") == (
        f"make it with: {here} {name} X; or `{here} {name}`"
    )


@pytest.mark.parametrize(
    "text", ["edgespa 0.1.0 wrote it", "update edgespa to read it", "see ~/edgespa export", "edgespa exporters"]
)
def test_other_words_stay(text: str, here: str) -> None:
    assert said(text) == text


def test_next_and_hints_and_usage(here: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_next("edgespa export 'my task.spa'")
    assert capsys.readouterr().out == f"next: {here} export 'my task.spa'\n"
    with pytest.raises(SystemExit):
        main(["verify", "nothing"])
    assert f"`{here} export`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", "--no-such"])
    assert f"Try '{here} verify --help'" in capsys.readouterr().err


def _shell(monkeypatch: pytest.MonkeyPatch, *, group: bool) -> click.Group:
    @click.command(name="do")
    def do() -> None:
        log = logging.getLogger("edgespa.test")
        log.info("done")
        log.debug("all of it")
        raise DataError("failed")

    command: click.Command = click.Group("outer", {"do": do}) if group else do
    module = type(sys)("of_a_test")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "of_a_test", module)
    monkeypatch.setattr(main, "table", {"do": "of_a_test"})
    assert isinstance(main, Shell)
    return main


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize(
    ("before", "behind", "info", "debug"),
    [
        ([], [], 0, 0),
        (["-v"], [], 1, 0),
        ([], ["-v"], 1, 0),
        (["-v"], ["-v"], 1, 1),
        ([], ["-vv"], 1, 1),
        ([], ["--verbose"], 1, 0),
    ],
)
def test_verbose_before_and_behind(
    before: list[str], behind: list[str], info: int, debug: int, group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = _shell(monkeypatch, group=group)
    result = CliRunner().invoke(shell, [*before, "do", *(["do"] if group else []), *behind])
    assert result.exit_code == 1
    assert result.stderr.count("done") == info
    assert result.stderr.count("all of it") == debug
    assert not logging.getLogger("edgespa").handlers


@pytest.mark.parametrize("behind", [False, True])
def test_debug_before_and_behind(behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["do", "--debug"] if behind else ["--debug", "do"]
    result = CliRunner().invoke(_shell(monkeypatch, group=False), line)
    assert "Traceback" in result.stderr
    assert "Traceback" not in CliRunner().invoke(main, ["do"]).stderr
