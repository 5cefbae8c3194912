"""To wait for what another process does: a test never guesses how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
LONG_S = 120.0
"""On a machine that does much else besides."""


def wait_for(found: Callable[[], _T], what: str = "it did not happen", seconds: float = LONG_S) -> _T:
    """What is found, as soon as it is true.

    Args:
        found: Asked again and again.
        what: Said where it does not come about.
        seconds: The longest that it may take.
    """
    ends = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < ends, what
        time.sleep(0.02)
    return value
