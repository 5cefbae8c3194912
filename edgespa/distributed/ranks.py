"""Which of several processes this one is, known before anything is loaded."""

from __future__ import annotations

import os

_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def is_main() -> bool:
    """Whether this process is the only one, or the first."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"
