"""Commands as they are typed, in this process."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import click
from click.testing import CliRunner, Result

from edgespa.cli import main

VALUE = "1"
"""What stands for a value that is only known when a text is made."""


def run(*arguments: str, code: int = 0) -> Result:
    """What a command says, which must end with an exit status."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result


def result_of(*arguments: str) -> Any:
    """What it says as JSON."""
    return json.loads(run(*arguments, "--json").stdout)


def commands_in(text: str) -> list[list[str]]:
    """The words behind each ``edgespa`` that begins a command line: as far as they may belong to it."""
    found = []
    for match in re.finditer(r"(?<![\w'/.-])edgespa (?=[a-z])", text):
        line = re.split(r"[`;\n]", text[match.end() :])[0].replace("...", "12")
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        if words and words[0].rstrip(".,:)") in main.list_commands(click.Context(main)):
            found.append(_own(words))
    return found


def _own(words: list[str]) -> list[str]:
    """The first words that are a command's: names of commands, options, and values in capitals or with a mark."""
    command: click.Command = main
    own: list[str] = []
    for word in words:
        bare = word.rstrip(".,:)")
        value = word.startswith("-") or VALUE in word or re.fullmatch(r"[A-Z0-9_./=<>-]+|.*[.=/\d-].*", bare)
        if isinstance(command, click.Group):
            inner = command.get_command(click.Context(command), bare)
            if inner is None:
                return own
            command = inner
        elif not value:
            return own
        own.append(bare)
        if bare != word:
            return own
    return own


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            break
        command, rest = inner, rest[1:]
    return command, rest


def problem_of(words: list[str]) -> str | None:
    """Why a command that is shown somewhere could not be typed; None where it could."""
    command, rest = resolved(words)
    if not rest:
        return None  # it is named, and what it takes is said by its --help
    if isinstance(command, click.Group):
        return "there is no such command"
    try:
        command.make_context(words[0], rest)
    except click.MissingParameter as error:
        # A sketch says the options that matter, and MODEL for what the user has; anything else is whole.
        return None if any(re.fullmatch(r"[A-Z]{3,}", word) for word in words) else error.format_message()
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:  # --help
        return None
    return None
