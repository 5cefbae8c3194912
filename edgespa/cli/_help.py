"""What ``--help`` looks like: options in sections, those of one method by themselves, and examples at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from edgespa.cli._otherwise import said_otherwise
from edgespa.cli._terminal import is_quiet, results_alone
from edgespa.cli._unread import refuse_unread

Sections = Mapping[str, Sequence[str]]
"""Heading -> options by their long names, the most used first."""
Examples = Sequence[tuple[str, str]]
"""What is done, and the command without ``edgespa``."""

_LAST = ("Output", "Options")
"""Where options go that are in no section, such as ``--help``: the first of these that is there."""
_WORDS = re.compile(r"\[([^\[\]|]+(?:\|[^\[\]|]+){2,})\]")
_WHOLE = 1000
_WIDE = 34
"""Columns beyond which what an option may be is told in its text."""
_WORD = r"(?:[^\s'\"]|'[^']*'|\"[^\"]*\")+"
_PIECES = re.compile(rf"--?[\w-]+(?:={_WORD}| (?!-){_WORD})?|{_WORD}")
"""An option with its value, or a word; what is quoted stays together."""
_TYPES = (
    (re.compile(r"\bINTEGER( RANGE)?$"), "N"),
    (re.compile(r"\bFLOAT( RANGE)?$"), "X"),
    (re.compile(r"\bTEXT$"), "WORD"),
)


class Explained(click.Command):
    """A command whose help has sections and examples.

    Args:
        *args: As `click.Command`.
        sections: Its options in sections; without, all below one heading.
        examples: Two or three, with what they do.
        **attrs: As `click.Command`.
    """

    def __init__(self, *args: Any, sections: Sections | None = None, examples: Examples = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.sections = sections or {}
        self.examples = examples

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click; what the project says, whose folder this is, comes before the defaults.

        Args:
            info_name: As the command was typed.
            args: What was typed behind it.
            parent: Of the program.
            **extra: As click.
        """
        if parent is not None and parent.parent is None and parent.invoked_subcommand == info_name:
            from edgespa.cli._project import defaults

            extra.setdefault("default_map", defaults(self, str(info_name), args, parent))
        with said_otherwise(self):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As click; options that nothing would read are refused first, and nobody else writes among its results.

        Args:
            ctx: Of the command.
        """
        refuse_unread(ctx)
        if isinstance(self, click.Group):  # it only finds the command, and shows its help
            return super().invoke(ctx)
        from edgespa.api.shell import adding

        with results_alone(), adding(quiet=is_quiet(ctx)):
            return super().invoke(ctx)

    def get_help(self, ctx: click.Context) -> str:
        """The help, with no word broken at a hyphen.

        Args:
            ctx: Of the command.
        """
        formatter = _WholeWords(width=ctx.terminal_width, max_width=ctx.max_content_width)
        self.format_help(ctx, formatter)
        return formatter.getvalue().rstrip("\n").replace(_HYPHEN, "-")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section.

        Args:
            ctx: Of the command.
            formatter: Takes the text.
        """
        for heading, options in self.sectioned(ctx):
            records = [record for option in options if (record := _record(option, ctx)) is not None]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=26)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def sectioned(self, ctx: click.Context) -> Iterator[tuple[str, list[click.Parameter]]]:
        """Headings with their options; one that no section names goes below the last of all.

        Args:
            ctx: Of the command.
        """
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
        by_name = {name: option for option in options for name in option.opts}
        named = {heading: [by_name[name] for name in names] for heading, names in self.sections.items()}
        last = next((heading for heading in _LAST if heading in named), _LAST[-1])
        placed = [option for found in named.values() for option in found]
        rest = [option for option in options if option not in placed]
        yield from {**named, last: [*named.get(last, ()), *rest]}.items()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each in lines that a shell takes.

        Args:
            ctx: Of the command.
            formatter: Takes the text.
        """
        if self.examples:
            with formatter.section("Examples"):
                for index, (what, line) in enumerate(self.examples):
                    formatter.write("\n" if index else "")
                    formatter.write_text(f"{what}:")
                    formatter.indent()
                    formatter.write(typed(f"edgespa {line}", formatter.width, formatter.current_indent))
                    formatter.dedent()
        super().format_epilog(ctx, formatter)


class ExplainedGroup(Explained, click.Group):
    """A group whose help has examples, and whose commands are explained too."""

    command_class = Explained

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, each with the whole of its first sentence.

        Args:
            ctx: Of the group.
            formatter: Takes the text.
        """
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(_WHOLE)) for name, each in found if each is not None and not each.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


_HYPHEN = "\ue000"
"""Stands for a hyphen while lines are wrapped, which would break ``--input-shape`` there."""


class _WholeWords(click.HelpFormatter):
    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first, second.replace("-", _HYPHEN)) for first, second in rows]
        super().write_dl(whole, col_max, col_spacing)


def typed(line: str, width: int, indent: int) -> str:
    """A command as one types it, broken where it is too long for the screen.

    Args:
        line: The command.
        width: Columns.
        indent: Spaces before it.

    Returns:
        Lines; each but the last ends with a backslash, and options stay with their values.
    """
    pieces = _PIECES.findall(line)
    lines: list[str] = []
    current = " " * indent
    for piece in pieces:
        longer = f"{current}{piece}" if not current.strip() else f"{current} {piece}"
        if len(longer) + 2 > width and current.strip():
            lines.append(f"{current} \\")
            longer = f"{' ' * (indent + 4)}{piece}"
        current = longer
    return "\n".join([*lines, current, ""])


def _record(option: click.Parameter, ctx: click.Context) -> tuple[str, str] | None:
    """Names and text of an option: short types, and a long list of words in the text."""
    found = option.get_help_record(ctx)
    if found is None:
        return None
    names, text = found
    for pattern, short in _TYPES:
        names = pattern.sub(short, names)
    words = _WORDS.search(names)
    if words is None or len(names) <= _WIDE:
        return names, text
    sentence, space, extra = text.rpartition("  [") if text.endswith("]") and "  [" in text else (text, "", "")
    listed = ", ".join(words[1].split("|"))
    return f"{names[: words.start()]}NAME{names[words.end() :]}", f"{sentence} One of {listed}.{space}{extra}"
