"""What is typed by a name that something else has here: an error that says what to type in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

PACKED = "that is how a bundle is packed: export it, then `edgespa pack BUNDLE --layout=oci --output FOLDER`"
OPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "--checkpoint-key": ("weights", "the key stands behind the file, as --weights FILE:KEY"),
        "--weights-key": ("weights", "the key stands behind the file, as --weights FILE:KEY"),
    }
)
"""Unknown options -> the parameter that does it, where a command has it, and how."""


class Otherwise(click.Choice[str]):
    """One of some words; others are known, and said to be of something else.

    Args:
        choices: Of the option.
        others: Words that somebody may mean -> what to type instead.
    """

    def __init__(self, choices: Sequence[str], others: Mapping[str, str]) -> None:
        super().__init__(choices)
        self.others = others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As click, but for the others.

        Args:
            value: As typed.
            param: The option, for the message.
            ctx: For the message.

        Raises:
            click.BadParameter: It is none of the words.
        """
        if value in self.others:
            self.fail(f"{value!r} is not one of {', '.join(self.choices)}: {self.others[value]}", param, ctx)
        return super().convert(value, param, ctx)


@contextlib.contextmanager
def said_otherwise(command: click.Command) -> Iterator[None]:
    """Answer options that a command calls otherwise.

    Args:
        command: Whose line is parsed.

    Raises:
        click.UsageError: It says how they are typed here.
    """
    try:
        yield
    except click.NoSuchOption as error:
        parameter, how = OPTIONS.get(error.option_name, ("", ""))
        if parameter not in {each.name for each in command.params}:
            raise
        raise click.UsageError(f"No such option '{error.option_name}': {how}.", error.ctx) from error
