"""What is written to the terminal: nothing that a terminal would obey, whoever had a part in the text.

File names, names in archives, keys of checkpoints, profiles, states of runs and what devices say all end up in messages
and tables. Not every door can refuse odd names (a message says which name is odd), so the way out is one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from typing import IO, Any, cast

import click

WIDTH = 80
"""Columns of what does not go to a terminal, where `COLUMNS` does not ask for less."""
_LEAST = 20
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ENDING = ("Cc", "Cs", "Zl", "Zp")


def harmless(text: str) -> str:
    """A text without characters that move the cursor, change the terminal or turn the text around: each is a ``?``.

    Args:
        text: From wherever; lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join("?" if _is_order(each) else each for each in text)


def quoted_orders(text: str) -> str:
    r"""The same for a JSON document, in which nothing is lost: ``\u009b``.

    Args:
        text: The document.
    """
    if text.isprintable():
        return text
    return "".join(f"\\u{ord(each):04x}" if _is_order(each) else each for each in text)


def _is_order(character: str) -> bool:
    if character in "\n\t" or (character.isprintable() and character not in _TURNING):
        return False
    return character in _TURNING or unicodedata.category(character) in _ENDING


class _Others:
    """Stdout as others find it while a command runs: it is stderr, whatever that is then.

    Args:
        results: What stdout is.
    """

    def __init__(self, results: IO[str]) -> None:
        self.results = results

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def flush(self) -> None:
        """Of both: who flushes before it takes the place of both leaves nothing behind."""
        for stream in (self.results, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed by whoever reads it: that is told elsewhere
                stream.flush()


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """While it lasts only `echo` and tables go to stdout: what a model's own code, or a library, prints goes to stderr.

    So that whoever reads the results (``--json``) reads nothing else.
    """
    if isinstance(sys.stdout, _Others) or sys.stdout is None:
        yield
        return
    with contextlib.redirect_stdout(cast(Any, _Others(sys.stdout))):
        yield


def results() -> IO[str]:
    """Stdout, for results."""
    stream: Any = sys.stdout
    return stream.results if isinstance(stream, _Others) else stream


def columns(stream: IO[str]) -> int | None:
    """How wide what is written there is to be: a terminal's width, else what ``COLUMNS`` asks for, if that is narrow.

    Args:
        stream: Where.

    Returns:
        At least 20; None for any width.
    """
    if stream.isatty():
        return max(shutil.get_terminal_size().columns, _LEAST)
    text = os.environ.get("COLUMNS", "")
    asked = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else WIDTH
    return max(asked, _LEAST) if asked < WIDTH else None


def _wrapped(text: str, err: bool) -> str:
    """A line between whose words a narrow terminal would not break it, broken there; commands are left to be copied."""
    if len(text) <= _LEAST or "\n" in text or "edgespa " in text:
        return text
    width = columns(sys.stderr if err else results())
    if width is None or len(text) <= width:
        return text
    import textwrap

    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def echo(message: object = "", *, err: bool = False, nl: bool = True, file: IO[Any] | None = None) -> None:
    """As `click.echo`; a single line that a narrow terminal would break within a word is broken between words.

    Args:
        message: A text that may hold anything.
        err: To stderr.
        nl: With a line end.
        file: Elsewhere.
    """
    text = harmless(str(message))
    if file is None:
        text = _wrapped(text, err)
    click.echo(text, file=results() if file is None and not err else file, err=err, nl=nl)


def secho(message: object, *, err: bool = False, fg: str | None = None, bold: bool | None = None) -> None:
    """As `click.secho`: a text in colour, with no other orders in it than those.

    Args:
        message: A text that may hold anything.
        err: To stderr.
        fg: Colour.
        bold: In bold letters.
    """
    text = _wrapped(harmless(str(message)), err)
    click.secho(text, file=None if err else results(), err=err, color=_coloured(), fg=fg, bold=bold)


def _coloured() -> bool | None:
    """Whether there are colours: never with ``NO_COLOR``, always with ``FORCE_COLOR``, else where a terminal is."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def aside(message: object) -> None:
    """A line on stderr that is neither a result nor an error: ``--quiet`` leaves it out.

    Args:
        message: A text that may hold anything.
    """
    if not is_quiet(click.get_current_context(silent=True)):
        echo(message, err=True)


def is_quiet(ctx: click.Context | None) -> bool:
    """Whether results and errors are all that is asked for.

    Args:
        ctx: Of a command.
    """
    return ctx is not None and bool(ctx.find_root().params.get("quiet"))
