"""The training log: one JSON document a line, for each pruning step and each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgespa.errors import ConfigError


class TrainingLog:
    """Writes events to a file as they happen; each line is whole.

    Args:
        path: The file.
        resume_from: Finished epochs of a run that goes on: events of later ones, which are trained again, are dropped.
            None begins a new file.

    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: Path, resume_from: int | None) -> None:
        kept: list[str] = []
        try:
            if resume_from is not None and path.exists():
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _epoch(line) <= resume_from]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the log {path} cannot be written: {error}", "name another file with --log") from error
        self._path = path

    def write(self, event: str, **values: Any) -> None:
        """Add a line.

        Args:
            event: ``prune`` or ``epoch``.
            **values: Numbers and texts.
        """
        document: Mapping[str, Any] = {"event": event, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document, allow_nan=False) + "\n")


def _epoch(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):  # the end of a line that a kill cut off
        return float("inf")
