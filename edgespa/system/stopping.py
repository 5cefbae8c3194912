"""A request to end (Ctrl-C, SIGTERM, a closed terminal) that waits until the work is where it can be gone on from."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

_SAME_S = 1.0
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stop:
    """What was asked for.

    Attributes:
        asked: The number of the signal, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None

    def end(self) -> NoReturn:
        """End as the signal would have.

        Raises:
            KeyboardInterrupt: For Ctrl-C.
            SystemExit: For the others, with the status that shells give.
        """
        number = self.asked or int(signal.SIGINT)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@contextlib.contextmanager
def held_back() -> Iterator[Stop]:
    """Let a request to end only be noted; Ctrl-C once more ends the work where it is.

    Launchers pass on what the terminal has sent to all already, so what comes within a second is the same request.

    What somebody decided to ignore, as nohup does with a closed terminal, stays ignored. Outside of the main thread,
    which alone gets signals, nothing is changed.

    Yields:
        What was asked for so far.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    asked_at = 0.0

    def note(number: int, frame: object) -> None:
        nonlocal asked_at
        if stop.asked is None:
            stop.asked, asked_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - asked_at >= _SAME_S:
            raise KeyboardInterrupt

    before = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        # None: set by other than Python code, and it could not be put back.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
