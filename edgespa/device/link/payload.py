"""Files on their way to a device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

Sending = Callable[[int, int], None]
"""Called with the bytes that are sent, and all that are to be sent."""

_PIECE = 1 << 17


@dataclass(frozen=True)
class Payload:
    """A file to be on the device.

    Attributes:
        path: Here.
        sha256: Of its content, in hexadecimal.
        size_bytes: Of its content.
    """

    path: Path
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read a file for its digest."""
        with path.open("rb") as stream:
            return cls(path, hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


@dataclass(frozen=True)
class Sent:
    """What went over the connection.

    Attributes:
        bytes_sent: Content of files; not what the protocol adds.
        bytes_there: Content that was on the device already.
        seconds: It took, with the checks.
    """

    bytes_sent: int
    bytes_there: int
    seconds: float


@dataclass(frozen=True)
class Pieces:
    """The rests of files, one behind the other; may be iterated again.

    Attributes:
        parts: Each file, and where its rest begins.
        total: Bytes of all rests.
        progress: Told of each piece.
    """

    parts: Sequence[tuple[Path, int]]
    total: int
    progress: Sending | None

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for path, offset in self.parts:
            with path.open("rb") as stream:
                stream.seek(offset)
                while piece := stream.read(_PIECE):
                    yield piece
                    sent += len(piece)
                    if self.progress:
                        self.progress(sent, self.total)
