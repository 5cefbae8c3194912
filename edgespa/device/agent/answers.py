"""What files have said of batches of a data set, on its way to the host; see `edgespa.device.runner.batches`."""

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


def answer_give(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """A piece of a ``file`` below ``evaluations``, from ``offset`` on: compressed, in base64."""
    path = within(root / "evaluations", request["file"])
    with path.open("rb") as file:
        file.seek(int(request["offset"]))
        piece = file.read(MOST_GIVEN)
    return {"piece": base64.b64encode(zlib.compress(piece, 1)).decode("ascii"), "size_bytes": path.stat().st_size}


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
