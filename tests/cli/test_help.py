"""Help that people read: sections, the required first, whole words at 80 columns, and examples that can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from typed import problem_of

from edgespa.cli import main
from edgespa.cli._help import Explained, ExplainedGroup, typed
from edgespa.errors import UnfinishedError

FEW = 6
COLUMNS = 80


def every(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from every(inner, (*path, name))


ALL = dict(every())
EXPLAINED = {path: command for path, command in ALL.items() if isinstance(command, Explained)}


def options_of(command: click.Command) -> set[str]:
    params = command.get_params(click.Context(command))
    return {param.opts[-1] for param in params if isinstance(param, click.Option) and not param.hidden}


def help_of(path: tuple[str, ...]) -> str:
    return CliRunner().invoke(main, [*path, "--help"], prog_name="edgespa", terminal_width=COLUMNS).stdout


def test_commands_at_the_top_have_examples_and_those_with_many_options_sections() -> None:
    for path, command in ALL.items():
        assert isinstance(command, Explained), path
        if len(path) <= 1:
            assert 1 <= len(command.examples) <= 3, path
        if len(options_of(command)) > FEW + 1:
            assert command.sections, path


@pytest.mark.parametrize("path", [path for path, command in EXPLAINED.items() if command.sections], ids=" ".join)
def test_every_option_is_in_one_section(path: tuple[str, ...]) -> None:
    command = EXPLAINED[path]
    names = [name for section in command.sections.values() for name in section]
    assert len(names) == len(set(names))
    assert options_of(command) - set(names) == {"--help"}
    shown = [param for _, params in command.sectioned(click.Context(command)) for param in params]
    assert {param.opts[-1] for param in shown} == options_of(command)
    for _, params in command.sectioned(click.Context(command)):
        needed = [param.required for param in params]
        assert needed == sorted(needed, reverse=True), "what is required comes first"


@pytest.mark.parametrize("path", list(ALL), ids=" ".join)
def test_it_fits_a_terminal_and_no_word_is_broken(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert text.startswith("Usage: edgespa")
    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []
    assert [line for line in text.splitlines() if line.endswith("-")] == []
    for name in options_of(ALL[path]):
        assert name in text


@pytest.mark.parametrize(
    ("path", "heading", "own"),
    [
        (("prune",), "With --method sls (whole blocks):", ["--alpha", "--keep-depth", "--data"]),
        (("adapt",), "With --schedule stepwise:", ["--prune-fraction"]),
        (("adapt",), "With --budget latency_ms=X:", ["--device", "--threads", "--variant"]),
        (("export",), "With --precision int8:", ["--int8-tolerance"]),
    ],
)
def test_options_of_one_method_are_shown_with_it(path: tuple[str, ...], heading: str, own: list[str]) -> None:
    section = help_of(path).partition(heading)[2].partition("\n\n")[0]
    listed = [line.split()[0] for line in section.splitlines() if line.startswith("  -")]
    assert set(own) <= set(listed)
    assert "--density" not in listed


@pytest.mark.parametrize(
    ("path", "line"),
    [(path, line) for path, command in EXPLAINED.items() for _, line in command.examples],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_can_be_typed(path: tuple[str, ...], line: str) -> None:
    """As they stand in the help, with the lines that they are broken into."""
    shown = help_of(path)
    whole = shown.replace(" \\\n", " ").splitlines()
    words = shlex.split(line)
    assert any(shlex.split(each)[1:] == words for each in whole if each.strip().startswith("edgespa "))
    assert words[0] == path[0] if path else True
    if words[-1] == "--help":
        words.pop()
    try:
        assert problem_of(words) is None
    except UnfinishedError:
        assert "--resume" in words  # the state that it names is not here


def test_a_command_in_lines() -> None:
    line = "edgespa a one --long-option value --flag --other x,y -o z"
    assert typed(line, 100, 2) == f"  {line}\n"
    assert typed(line, 34, 2).splitlines() == [
        "  edgespa a one \\",
        "      --long-option value --flag \\",
        "      --other x,y -o z",
    ]
    assert shlex.split(typed(line, 20, 4).replace("\\\n", "")) == line.split()
    quoted = "edgespa a --keep 'layer1 and more' \"my file.spa\""
    assert typed(quoted, 30, 2).splitlines()[1:] == ["      --keep 'layer1 and more' \\", '      "my file.spa"']


def test_what_is_in_no_section_is_shown_all_the_same() -> None:
    @click.command(cls=Explained, sections={"Main": ("--one",)}, examples=[("It", "x --one=1")])
    @click.option("--two", type=click.IntRange(1))
    @click.option("--one", type=click.Choice([f"long-word-{i}" for i in range(4)]), default="long-word-1", help="One.")
    def command(one: str, two: int) -> None:
        """What it does."""

    text = CliRunner().invoke(command, ["--help"]).stdout
    assert text.index("Main:") < text.index("--one NAME") < text.index("Options:") < text.index("--two N")
    assert "One of long-word-0, long-word-1, long-word-2, long-word-3." in " ".join(text.split())
    assert text.rstrip().endswith("Examples:\n  It:\n    edgespa x --one=1")


def test_every_command_is_told_in_a_whole_sentence() -> None:
    for path in ((), ("devices",), ("calibration",)):
        listed = help_of(path).partition("Commands:")[2].partition("Examples:")[0]
        assert "..." not in listed
        assert listed.count(".") >= len(listed.strip().splitlines()) // 2


def test_a_group_lists_its_commands() -> None:
    group = ExplainedGroup("g", commands={"inner": click.Command("inner", help="Inside.")}, examples=[("It", "g")])
    text = CliRunner().invoke(group, ["--help"]).stdout
    assert text.index("Commands:") < text.index("inner") < text.index("Examples:")
