"""What a command says: results to stdout as JSON or a table, progress to stderr and on a terminal only."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Protocol

import click

WIDTH = 80
"""Columns of a table that does not go to a terminal."""


class ProgressCallback(Protocol):
    """What long work is given to say how far it is."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None:
        """Report.

        Args:
            done: Units of work done, 0 to ``total``.
            total: All units; None where that is not known.
            text: What is being done now; an empty one leaves the text as it is.
        """


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout.

    Args:
        value: What `to_plain` takes.
    """
    import json

    click.echo(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def to_plain(value: Any) -> Any:
    """Turn a result into what JSON has.

    Args:
        value: None, bool, int, float, str, enum, path, mapping, sequence, set, dataclass, pydantic model, or whatever
            has ``tolist`` (numpy arrays and scalars, tensors), nested at will. A float that is not finite becomes
            None, for JSON has no word for it; sets are sorted; the keys of mappings become strings.

    Returns:
        Dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: Something else is in it; the message names its type.
    """
    if value is None or (isinstance(value, (bool, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return to_plain(value.model_dump())
    if callable(getattr(value, "tolist", None)):
        return to_plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _key(key: Any) -> str:
    return key if type(key) is str else str(to_plain(key))


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
    from rich.table import Table
    from rich.text import Text

    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns: {list(row)}")
    stream = sys.stderr if err else sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False, soft_wrap=False)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, heading in enumerate(columns):
        numeric = [row[index] for row in rows if row[index] is not None]
        all_numbers = bool(numeric) and all(_is_number(cell) for cell in numeric)
        justify = "right" if all_numbers or heading in right else "left"
        drawn.add_column(Text(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]  # a literal type
    for row in rows:
        drawn.add_row(*(Text(_cell(cell)) for cell in row))
    if title:
        console.print(Text(title))
    console.print(drawn)


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _cell(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


@contextlib.contextmanager
def progress(text: str, *, enabled: bool = True) -> Iterator[ProgressCallback]:
    """Show a bar on stderr while the block runs; nothing where stderr is not a terminal.

    Args:
        text: What is being done, until the callback says otherwise.
        enabled: False for no bar at all.

    Yields:
        The callback that moves the bar; it may be called from any thread.
    """
    if not enabled or not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    task = bar.add_task(text, total=None)

    def report(done: float, total: float | None, text: str = "") -> None:
        with contextlib.suppress(OSError):  # of a closed terminal: the work goes on, or is ended by a signal
            bar.update(task, completed=done, total=total, description=text or None)

    bar.start()
    try:
        yield report
    finally:
        with contextlib.suppress(OSError):
            bar.stop()


def _ignore(done: float, total: float | None, text: str = "") -> None:
    """No terminal, no bar."""
