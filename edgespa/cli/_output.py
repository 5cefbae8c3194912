"""What a command says: results to stdout as JSON or a table, progress to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgespa.cli._terminal import WIDTH, columns, echo, harmless, quoted_orders, results

if TYPE_CHECKING:
    from edgespa.api.results import Result
    from edgespa.system.progress import ProgressCallback


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout.

    Args:
        value: What `to_plain` takes, or a result of a public call.
    """
    import json

    from edgespa.system.plain import to_plain

    plain = value.to_dict() if hasattr(value, "to_dict") else to_plain(value)
    echo(quoted_orders(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)))


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    err: bool = False,
) -> None:
    """Print a table, as wide as the terminal, or `WIDTH` columns where there is none.

    Long cells are wrapped between words. Where words are too long for that, each row is a list of its cells, a line
    each, so that no name and no path is torn.

    Args:
        headings: Of the columns.
        rows: Cells: None becomes ``-``, a bool ``yes`` or ``no``, an int gets thousands separators, a float four
            significant digits; anything else is its ``str``.
        title: A line above.
        right: Headings of columns to be aligned to the right, besides those with nothing but numbers.
        err: Print to stderr instead of stdout.

    Raises:
        ValueError: A row has another length than ``headings``.
    """
    import textwrap

    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from edgespa.api.tables import Table, cell_text

    values = Table(tuple(headings), tuple(tuple(row) for row in rows), title or "", tuple(right))
    stream = sys.stderr if err else results()
    console = Console(file=stream, width=columns(stream) or WIDTH, highlight=False, soft_wrap=False)
    first = [harmless(heading) for heading in values.columns]
    cells = [[harmless(cell_text(cell)) for cell in row] for row in values.rows]
    if title:
        for line in textwrap.wrap(harmless(title), console.width, break_long_words=False, break_on_hyphens=False):
            echo(line, err=err)
    widths = _widths([first, *cells], console.width)
    if widths is None:
        _records(first, cells, err)
        return
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, to_the_right, width in zip(first, values.to_the_right, widths, strict=True):
        drawn.add_column(Text(heading), justify="right" if to_the_right else "left", overflow="fold", width=width)
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


def show(found: Result) -> None:
    """Print a result: a line, its tables as wide as the terminal, and what there is to say about them.

    Args:
        found: The result of a public call.
    """
    from edgespa.api.tables import cell_text

    heading, tables, notes = found.parts()
    echo(heading)
    for each in tables:
        echo()
        rows = [[cell_text(cell) for cell in row] for row in each.rows]
        right = [name for name, own in zip(each.columns, each.to_the_right, strict=True) if own]
        table(each.columns, rows, title=each.title or None, right=right)
    if notes:
        echo()
    for note in notes:
        echo(note)


_GAP = 3
"""Columns between two cells."""


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """How wide each column is, so that none tears a word; None where that cannot be.

    Args:
        cells: Row by row, the headings too.
        room: Columns of the screen.
    """
    from rich.cells import cell_len

    columns = list(zip(*cells, strict=True))
    widths = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    left = room - sum(widths) - _GAP * (len(widths) - 1)
    if left < 0:
        return None
    wanted = [max(map(cell_len, column)) - width for column, width in zip(columns, widths, strict=True)]
    for count, index in enumerate(sorted(range(len(widths)), key=lambda each: wanted[each])):
        more = min(wanted[index], left // (len(widths) - count))
        widths[index] += more
        left -= more
    return widths


def _records(headings: Sequence[str], cells: Sequence[Sequence[str]], err: bool) -> None:
    """Each row as lines of heading and cell, in full; the terminal wraps what is longer than it."""
    from rich.cells import cell_len

    room = max(map(cell_len, headings))
    for number, row in enumerate(cells):
        if number:
            echo("", err=err)
        for heading, cell in zip(headings, row, strict=True):
            echo(f"{heading}{' ' * (room - cell_len(heading))}  {cell}".rstrip(), err=err)


def progress(text: str, *, enabled: bool = True) -> AbstractContextManager[ProgressCallback]:
    """A bar on stderr while the block runs, or lines where there is no terminal: `edgespa.system.progress.bar`.

    Args:
        text: What is being done, until the callback says otherwise.
        enabled: False for no bar at all.
    """
    from edgespa.api.shell import current
    from edgespa.system.progress import bar

    return bar(text, enabled=enabled and not current().quiet, lines=True)
