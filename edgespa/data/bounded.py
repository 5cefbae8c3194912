"""How much of a data file may be unpacked, asked before memory is taken: a zip of kilobytes can hold gigabytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgespa.errors import DataError
from edgespa.pixels.picture import MAX_PIXELS

BAD_FILE = "replace or delete this file, or leave it out: --skip-bad-files"
_BOMB = "DecompressionBombError"
MAX_IMAGE_FILE = 1 << 29
"""Bytes of one image file: as many pixels as are decoded, in three colours, packed by nothing."""


def why_no_image(error: Exception, content: bytes | None = None) -> str:
    """Why a file is no image that can be used, in words: Pillow's own name an object in memory, or an attack.

    Args:
        error: Of Pillow, or of reading.
        content: Of the file, where it was read.
    """
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return "it is empty" if content == b"" else "its first bytes are of no kind of image that is known"
    if kind == _BOMB:
        return f"it says that it has more pixels than {MAX_PIXELS:,}"
    return str(error) or kind


def require_file_of_an_image(size: int, where: str) -> None:
    """Refuse what is too large for the file of an image.

    Args:
        size: Its bytes, unpacked.
        where: It is, for the message.

    Raises:
        DataError: It is.
    """
    if size > MAX_IMAGE_FILE:
        raise DataError(
            f"{where} has {size:,} bytes, which is more than the file of an image", "replace or delete that file"
        )


def require_memory(size: int, where: str) -> None:
    """Refuse what does not fit into the memory that is left.

    Args:
        size: Its bytes, unpacked.
        where: It is, for the message.

    Raises:
        DataError: With both numbers.
    """
    left = memory_left()
    if left is not None and size > left:
        raise DataError(
            f"{where} unpacks to {size / 2**30:,.1f} GiB, and {left / 2**30:,.1f} GiB of memory are left",
            "use fewer or smaller images, or put them into a folder: those are read one by one",
        )


def memory_left() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # of a container; what it uses now counts files that were read
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=None)
