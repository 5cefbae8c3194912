"""Requests, answers and errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript them
from pathlib import Path
from typing import Any

MARK = "edgespa-answer: "

KINDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EBUSY: "busy",
    errno.ENOMEM: "memory",
}


class AgentError(Exception):
    """Something that the user, or edgespa on the host, can put right.

    Args:
        kind: One word by which the host chooses what to advise.
        message: What failed, and where.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def as_error(error: BaseException) -> dict[str, str]:
    """An exception as it is answered."""
    if isinstance(error, AgentError):
        return {"kind": error.kind, "message": str(error)}
    if isinstance(error, OSError):
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        reason = error.strerror or str(error) or type(error).__name__
        message = f"{' -> '.join(names)}: {reason}" if names else reason
        return {"kind": KINDS.get(error.errno or 0, "system"), "message": message}
    if isinstance(error, MemoryError):
        return {"kind": "memory", "message": "out of memory"}
    return {"kind": "internal", "message": f"{type(error).__name__}: {error}"}


def say(answer: dict[str, Any]) -> None:
    """Write one answer, in ASCII, on a line of its own."""
    sys.stdout.write("\n" + MARK + json.dumps(answer, ensure_ascii=True) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error of the system say which file it is about: that of a write does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def within(root: Path, name: str) -> Path:
    """A path below a folder; a name that leads elsewhere is refused."""
    parts = Path(name).parts
    if not parts or os.path.isabs(name) or ".." in parts or "\0" in name:
        raise AgentError("usage", f"{name!r} does not lie below {root}")
    return root / name


def is_digest(text: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal."""
    return isinstance(text, str) and len(text) == 64 and all(c in "0123456789abcdef" for c in text)
