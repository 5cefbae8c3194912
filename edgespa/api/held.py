"""A folder that one run at a time writes to; that it does ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgespa.system.files import hold, is_held

MARK = ".running"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is ours, for as long as the block runs.

    Args:
        folder: Which one.

    Raises:
        BlockingIOError: It is another's.
    """
    descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        hold(descriptor)
        yield
    finally:
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Whether a run writes to it.

    Args:
        folder: Which one.
    """
    return is_held(folder / MARK)
