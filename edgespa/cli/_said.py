"""Lines that a user may type: they name edgespa, Python and pip as this process was started."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from edgespa.cli._terminal import echo


def said(text: str) -> str:
    """A text in which each command of edgespa, and each way to an extra, runs as it stands.

    Args:
        text: With ``edgespa COMMAND`` and ``pip install 'edgespa[EXTRA]'`` as the documentation has them.
    """
    from edgespa.cli._shell import COMMANDS
    from edgespa.system.started import program, with_extras

    name = program()
    commands = "|".join(COMMANDS)
    text = re.sub(rf"(?<![\w'/.\-])edgespa (?=(?:{commands})\b)", lambda _: f"{name} ", text)
    return with_extras(text)


def say_next(line: str) -> None:
    """Print what to type next, unless a step of the recipe that is run does it.

    Args:
        line: As the documentation has it; paths in it are from `typed` and `free`.
    """
    ctx = click.get_current_context(silent=True)
    if ctx is None or not ctx.meta.get(_GOES_ON):
        echo(f"next: {said(line)}")


def set_going_on(ctx: click.Context, going_on: bool) -> None:
    """Say whether another step of a recipe follows.

    Args:
        ctx: Of the step.
        going_on: It does.
    """
    ctx.meta[_GOES_ON] = going_on


def set_typed_in(ctx: click.Context, folder: Path) -> None:
    """Say where the user's shell is, if the command goes to another folder.

    Args:
        ctx: Of the command.
        folder: Where the command was typed.
    """
    ctx.meta[_TYPED_IN] = folder


def typed_in(ctx: click.Context | None) -> Path:
    """The folder that the command was typed in, where its arguments hold as they were typed."""
    return Path((ctx.meta.get(_TYPED_IN) if ctx is not None else None) or Path.cwd())


def typed(path: Path) -> str:
    """A path as it may be typed in the user's shell, wherever this process is."""
    elsewhere = typed_in(click.get_current_context(silent=True)) != Path.cwd()
    return shlex.quote(str(path.absolute() if elsewhere else path))


def free(path: Path) -> Path:
    """A place for an output: the path, or with a number where something is there.

    Args:
        path: Wanted.
    """
    number, found = 1, path
    while found.exists() or found.is_symlink():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


_TYPED_IN, _GOES_ON = "edgespa.typed-in", "edgespa.goes-on"
