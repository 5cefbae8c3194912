"""The training log: one JSON document a line, for each pruning step and each epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgespa.errors import ConfigError

log = logging.getLogger(__name__)


class Told(Protocol):
    """What is told how a training goes."""

    def write(self, event: str, **values: Any) -> None:
        """Something happened.

        Args:
            event: ``prune`` or ``epoch``.
            **values: Numbers and texts.
        """


class Several:
    """Tells several.

    Args:
        logs: What is told.
    """

    def __init__(self, *logs: Told) -> None:
        self._logs = logs

    def write(self, event: str, **values: Any) -> None:
        """See `Told`."""
        for each in self._logs:
            each.write(event, **values)


class TrainingLog:
    """Writes events to a file as they happen; each line is whole.

    Args:
        path: The file.
        resume_from: Epochs and training steps that a run that goes on has behind: later events, which come again, are
            dropped. None begins a new file.

    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: Path, resume_from: tuple[int, int] | None) -> None:
        kept: list[str] = []
        try:
            if resume_from is not None and path.exists():
                lines = path.read_text(encoding="utf-8").splitlines()
                kept = [line for line in lines if _is_behind(line, *resume_from)]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the log {path} cannot be written: {error}", "name another file with --log") from error
        self._path = path
        self._told = False

    def write(self, event: str, **values: Any) -> None:
        """Add a line; where that fails, it is told once, and the training goes on.

        Args:
            event: ``prune`` or ``epoch``.
            **values: Numbers and texts.
        """
        document: Mapping[str, Any] = {"event": event, **values}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(document, allow_nan=False) + "\n")
        except OSError as error:
            if not self._told:
                log.warning("the log %s lacks lines from here on: %s", self._path, error)
            self._told = True


def _is_behind(line: str, epoch: int, step: int) -> bool:
    try:
        event = json.loads(line)
        return bool(event["epoch"] <= epoch or event.get("step", step) < step)
    except (ValueError, KeyError, TypeError, AttributeError):  # the end of a line that a kill cut off
        return False
