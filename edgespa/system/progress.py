"""How far long work is: a callback, and the bar that one draws."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class ProgressCallback(Protocol):
    """What long work is given to say how far it is."""

    def __call__(self, done: float, total: float | None, text: str = "") -> None:
        """Report.

        Args:
            done: Units of work done, 0 to ``total``.
            total: All units; None where that is not known.
            text: What is being done now; an empty one leaves the text as it is.
        """


@contextlib.contextmanager
def bar(text: str, *, enabled: bool = True) -> Iterator[ProgressCallback]:
    """Show a bar while the block runs: on stderr where that is a terminal, in a notebook below its cell, else nothing.

    Args:
        text: What is being done, until the callback says otherwise.
        enabled: False for no bar at all.

    Yields:
        The callback that moves the bar; it may be called from any thread.
    """
    if not enabled or not (sys.stderr.isatty() or _in_notebook()):
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
    drawn = Progress(*columns, console=Console(stderr=not _in_notebook()), transient=True, redirect_stdout=False)
    task = drawn.add_task(text, total=None)

    def report(done: float, total: float | None, text: str = "") -> None:
        with contextlib.suppress(OSError):  # of a closed terminal: the work goes on, or is ended by a signal
            drawn.update(task, completed=done, total=total, description=text or None)

    drawn.start()
    try:
        yield report
    finally:
        with contextlib.suppress(OSError):
            drawn.stop()


def _ignore(done: float, total: float | None, text: str = "") -> None:
    """No terminal, no bar."""


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
