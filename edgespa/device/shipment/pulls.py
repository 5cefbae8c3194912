"""What a device says of its last pull: read as anything is that a device says, and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from edgespa.config import Strict

Outcome = Literal["switched", "unchanged", "repaired", "left", "failed"]
_MOST_TASKS = 1000
_MOST_TEXT = 1000
_MOST_NOTES = 20


class PulledTask(Strict):
    """What came of one task.

    Attributes:
        task: Its name.
        number: Of the release that is for the device.
        outcome: ``switched`` to it; ``unchanged``; ``repaired``: files of it had been damaged; ``left``: it was gone
            back from on the device, and stays so; ``failed``: what was in use still is.
        version: That is in use now; None where there is none.
        previous: That was in use before.
        error: Why it failed.
        notes: What is to be known beside.
    """

    task: str
    number: int
    outcome: Outcome
    version: str | None
    previous: str | None
    error: str | None
    notes: tuple[str, ...]


class PullReport(Strict):
    """What came of a pull.

    Attributes:
        started: When, by the device's clock.
        url: Of the folder; None where it was none.
        serial: Of the index; None where none was taken.
        index_created: When that was written, by the clock of who wrote it.
        signed_by: Who signed it, as the device's signers name them; None where that was not asked.
        tasks: What is for the device.
        error: Why nothing could be done at all.
        notes: What is to be known beside.
        bytes_received: Of contents.
        seconds: It took.
    """

    started: str
    url: str | None
    serial: int | None
    index_created: str | None
    signed_by: str | None
    tasks: tuple[PulledTask, ...]
    error: str | None
    notes: tuple[str, ...]
    bytes_received: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.error is None and all(each.outcome != "failed" for each in self.tasks)


def read_pull(found: Any) -> PullReport | None:
    """A report from a device's answer; None where there is none, or none that can be read.

    Args:
        found: In JSON's types, whatever it is.
    """
    if not isinstance(found, Mapping) or found.get("format_version") != 1:
        return None
    rows = [each for each in _rows(found.get("tasks"))[:_MOST_TASKS] if isinstance(each, Mapping)]
    return PullReport(
        started=_text(found.get("started")) or "?",
        url=_text(found.get("url")),
        serial=_whole(found.get("serial")),
        index_created=_text(found.get("index_created")),
        signed_by=_text(found.get("signed_by")),
        tasks=tuple(_task(each) for each in rows),
        error=_error(found.get("error")),
        notes=_notes(found.get("notes")),
        bytes_received=_whole(found.get("bytes_received")) or 0,
        seconds=float(found["seconds"]) if isinstance(found.get("seconds"), int | float) else 0.0,
    )


def _task(row: Mapping[str, Any]) -> PulledTask:
    outcome: Any = row.get("outcome")
    return PulledTask(
        task=_text(row.get("task")) or "?",
        number=_whole(row.get("number")) or 0,
        outcome=outcome if outcome in get_args(Outcome) else "failed",
        version=_text(row.get("version")),
        previous=_text(row.get("previous")),
        error=_error(row.get("error")),
        notes=_notes(row.get("notes")),
    )


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _error(value: Any) -> str | None:
    return _text(value.get("message")) or "?" if isinstance(value, Mapping) else None


def _notes(value: Any) -> tuple[str, ...]:
    return tuple(found for each in _rows(value)[:_MOST_NOTES] if (found := _text(each)) is not None)


def _text(value: Any) -> str | None:
    """A text without what could move the cursor, and not endless."""
    if not isinstance(value, str):
        return None
    return "".join(each if each.isprintable() else "?" for each in value[:_MOST_TEXT])


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
