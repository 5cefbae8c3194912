"""What files have said of batches, on its way to the host; see `edgespa.device.runner.batches`."""

from __future__ import annotations

import base64
import contextlib
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.cache import cache_path
from edgespa.device.agent.disk import delete
from edgespa.device.agent.protocol import AgentError, is_digest, within

MOST_GIVEN = 4 << 20  # bytes at a time


def answers_give(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Of ``files`` below ``evaluations``, one behind the other, a piece from ``offset`` on: compressed, in base64."""
    paths = [within(root / "evaluations", name) for name in request["files"]]
    sizes = [path.stat().st_size for path in paths]
    offset, content = int(request["offset"]), b""
    for path, size in zip(paths, sizes):
        if offset < size and len(content) < MOST_GIVEN:
            with path.open("rb") as file:
                file.seek(offset)
                content += file.read(MOST_GIVEN - len(content))
        offset = max(0, offset - size)
    return {"piece": base64.b64encode(zlib.compress(content, 1)).decode("ascii"), "sizes_bytes": sizes}


def answers_forget(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove a ``folder`` below ``evaluations``, and of ``digests`` those cached files that nothing else has."""
    delete(within(root / "evaluations", request["folder"]))
    for digest in request["digests"]:
        if not is_digest(digest):
            raise AgentError("usage", f"{digest!r} is not a SHA-256")
        with contextlib.suppress(OSError):
            path = cache_path(root, digest)
            if path.stat().st_nlink == 1:
                path.unlink()
    return {}
