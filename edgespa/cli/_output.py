"""What a command says: results to stdout as JSON or a table, progress to stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgespa.cli._terminal import echo, harmless, quoted_orders

if TYPE_CHECKING:
    from edgespa.system.progress import ProgressCallback

WIDTH = 80
"""Columns of a table that does not go to a terminal."""


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout.

    Args:
        value: What `to_plain` takes.
    """
    import json

    from edgespa.system.plain import to_plain

    echo(quoted_orders(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False)))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    err: bool = False,
) -> None:
    """Print a table, as wide as the terminal, or `WIDTH` columns where there is none; long cells are wrapped, not cut.

    Args:
        columns: The headings.
        rows: Cells: None becomes ``-``, a bool ``yes`` or ``no``, an int gets thousands separators, a float four
            significant digits; anything else is its ``str``.
        title: A line above.
        right: Headings of columns to be aligned to the right, besides those with nothing but numbers.
        err: Print to stderr instead of stdout.

    Raises:
        ValueError: A row has another length than ``columns``.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from edgespa.api.tables import Table, cell_text

    values = Table(tuple(columns), tuple(tuple(row) for row in rows), title or "", tuple(right))
    stream = sys.stderr if err else sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False, soft_wrap=False)
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, to_the_right in zip(values.columns, values.to_the_right, strict=True):
        drawn.add_column(Text(harmless(heading)), justify="right" if to_the_right else "left", overflow="fold")
    for row in values.rows:
        drawn.add_row(*(Text(harmless(cell_text(cell))) for cell in row))
    if title:
        console.print(Text(harmless(title)))
    console.print(drawn)


def progress(text: str, *, enabled: bool = True) -> AbstractContextManager[ProgressCallback]:
    """A bar on stderr while the block runs, or lines where there is no terminal: `edgespa.system.progress.bar`.

    Args:
        text: What is being done, until the callback says otherwise.
        enabled: False for no bar at all.
    """
    from edgespa.system.progress import bar

    return bar(text, enabled=enabled, lines=True)
