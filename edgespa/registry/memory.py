"""Which repository of a registry holds a blob, as far as this machine knows: so a push can have it taken over there.

What docker does, too. It is a hint and no more: a registry that does not hold it there any more says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from edgespa.system.files import expanded, plain_text, write_whole

_MOST = 2000
_LEAST_BYTES = 1 << 10
"""What is smaller is sent in the time that asking takes."""
_MAX_FILE = 1 << 20
_one_at_a_time = threading.Lock()


def _file() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else expanded("~") / ".local" / "state") / "edgespa" / "registries.json"


def known_places(host: str, digest: str, besides: str) -> tuple[str, ...]:
    """Repositories of a registry that have held a blob.

    Args:
        host: Of the registry.
        digest: Of the blob.
        besides: The repository that lacks it.
    """
    found = _read().get(f"{host} {digest}")
    return (found,) if found is not None and found != besides else ()


def remember_place(host: str, digest: str, size_bytes: int, name: str) -> None:
    """Write down that a repository holds a blob; where nothing can be written, nothing is.

    Args:
        host: Of the registry.
        digest: Of the blob.
        size_bytes: Of it.
        name: Of the repository.
    """
    if size_bytes < _LEAST_BYTES:
        return
    with _one_at_a_time, contextlib.suppress(OSError):
        known = _read()
        key = f"{host} {digest}"
        if known.get(key) == name:
            return
        known.pop(key, None)
        known[key] = name
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(dict(list(known.items())[-_MOST:])).encode(), mode=0o600)


def _read() -> dict[str, str]:
    try:
        values = json.loads(plain_text(_file(), most=_MAX_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: value for key, value in values.items() if isinstance(value, str)}
