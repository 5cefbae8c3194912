"""How far long work is: a callback, and the bar that one draws."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol, Self

from edgespa.system.quiet import shown


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
def bar(text: str, *, enabled: bool = True, lines: bool = False) -> Iterator[ProgressCallback]:
    """Show a bar while the block runs: on stderr where that is a terminal, in a notebook below its cell, else nothing.

    Args:
        text: What is being done, until the callback says otherwise.
        enabled: False for no bar at all.
        lines: Where there is no terminal, a line on stderr every `EVERY_S` seconds instead of nothing.

    Yields:
        The callback that moves the bar; it may be called from any thread.
    """
    drawn = _at_terminal() or _in_notebook()
    if not enabled or not (drawn or lines):
        yield _ignore
    elif not drawn:
        with _Lines(text, EVERY_S) as report:
            yield report
    else:
        with _drawn(text) as report:
            yield report


@contextlib.contextmanager
def _drawn(text: str) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console() if _in_notebook() else Console(file=_Shown())  # type: ignore[arg-type]
    # What is done comes first and gives way last: a clock and a share have their room, the bar where there is more.
    columns: list[ProgressColumn] = [TaskProgressColumn(table_column=Column(no_wrap=True))]
    if console.width > _NARROW:
        columns.append(BarColumn(bar_width=min(40, (console.width - _NARROW) // 2)))
    columns.append(TimeElapsedColumn(table_column=Column(no_wrap=True)))
    columns.append(TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)))
    words = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns.append(TextColumn("{task.description}", markup=False, table_column=words))
    drawn = Progress(*columns, console=console, transient=True, redirect_stdout=False, expand=True)
    task = drawn.add_task(text, total=None, left="")
    pace = _Pace()

    def report(done: float, total: float | None, text: str = "") -> None:
        with contextlib.suppress(OSError):  # of a closed terminal: the work goes on, or is ended by a signal
            left = pace.left(done, total, time.monotonic())
            drawn.update(task, completed=done, total=total, description=text or None, left=f"{left} " if left else "")

    drawn.start()
    try:
        yield report
    finally:
        with contextlib.suppress(OSError):
            drawn.stop()


EVERY_S = 30.0
"""Between two lines where there is no terminal."""
_NARROW = 100
"""Columns from which on there is room for a bar beside the words."""


class _Lines:
    """What is done, as a line now and then: for logs of machines on which nobody looks."""

    def __init__(self, text: str, every_s: float) -> None:
        self._name, self._every_s = text, every_s
        self._done, self._text = 0.0, ""
        self._total: float | None = None
        self._began, self._left, self._pace = time.monotonic(), "", _Pace()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="edgespa progress", daemon=True)

    def __call__(self, done: float, total: float | None, text: str = "") -> None:
        """Take note; nothing is written here."""
        self._done, self._total, self._text = done, total, text or self._text
        self._left = self._pace.left(done, total, time.monotonic())

    def line(self, seconds: float) -> str:
        """What would be written.

        Args:
            seconds: Since the beginning.
        """
        share = f" {self._done / self._total:.0%}" if self._total else ""
        text = self._text if self._text != self._name else ""
        words = [f"{self._name}:{share}", _time(seconds) + (f", {self._left}" if self._left else ""), text]
        return "  ".join(word for word in words if word)

    def _tell(self) -> None:
        while not self._ended.wait(self._every_s):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # of a closed stderr, or one that is None
                stream = shown()
                stream.write(self.line(time.monotonic() - self._began) + "\n")
                stream.flush()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class _Shown:
    """The user's stderr, whatever it is at the moment."""

    def write(self, text: str) -> int:
        with contextlib.suppress(ValueError):  # it has just been closed: what was to be quiet is through
            shown().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(ValueError):
            shown().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(shown(), name)


class _Pace:
    """How long the rest takes: at the pace since the first report of work, so that getting ready does not count."""

    def __init__(self) -> None:
        self._total: float | None = None
        self._from = (0.0, 0.0)

    def left(self, done: float, total: float | None, now: float) -> str:
        """The rest of the time in words; empty while that is not known.

        Args:
            done: As reported.
            total: As reported; another one is other work.
            now: Seconds of any clock.
        """
        if total != self._total or done < self._from[0]:
            self._total, self._from = total, (done, now)
        at, since = self._from
        if not total or not at < done < total or now - since < _PACE_S:
            return ""
        return f"{_time((now - since) * (total - done) / (done - at))} left"


_PACE_S = 2.0


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _ignore(done: float, total: float | None, text: str = "") -> None:
    """No terminal, no bar."""


def _at_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
