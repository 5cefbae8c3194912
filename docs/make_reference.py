"""Write docs/reference/cli.md from the help of every command; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgespa.cli import main

TARGET = Path(__file__).resolve().parent / "reference" / "cli.md"
WIDTH = 100
_HEAD = """\
# Command line

Written by `make docs` from the commands' own help: change that, not this page.
"""


def render(group: click.Group = main) -> str:
    """Build the page.

    Args:
        group: The command line.

    Returns:
        Markdown; the same on every machine, whatever its terminal and environment.
    """
    root = _context(group, "edgespa", None)
    sections = [_HEAD, _section(root)]
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        if command is None:
            raise LookupError(f"{name} is listed but is no command")
        sections += [_section(context) for context in _walk(command, name, root)]
    return "\n".join(sections)


def _walk(command: click.Command, name: str, parent: click.Context) -> Iterator[click.Context]:
    context = _context(command, name, parent)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _walk(found, child, context)


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    # A fixed width, and no environment variables: the page must not depend on who writes it.
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


def _section(context: click.Context) -> str:
    level = "##" if context.parent is None or context.parent.parent is None else "###"
    text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
    return f"{level} {context.command_path}\n\n```text\n{text}\n```\n"


def cli(arguments: list[str] | None = None) -> int:
    """Write the page, or check it.

    Args:
        arguments: Of the command line; the process's own by default.

    Returns:
        The exit status: 1 where ``--check`` finds an old page.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    options = parser.parse_args(arguments)
    text = render()
    if not options.check:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{os.path.relpath(TARGET)} is out of date: run make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(cli())
