"""Reading what a device says of its tasks: whatever is odd in it is said of that task, and stops nothing.

A device is not trusted more than any other source: types, lengths and characters are checked before they are shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgespa.device.shipment.pulls import read_pull
from edgespa.device.shipment.results import DeviceStatus, TaskStatus, VersionStatus, WindowStatus
from edgespa.errors import DeviceError

_MOST = 200
_MOST_PHRASES = 4
_LARGEST = 1 << 60
_MOST_REASON = 700
_MOST_SECONDS = 1e9
_WINDOWS = ("watching", "passed", "rolled back", "replaced")
_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9]{4,12}-[0-9a-f]{8}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.+Z-]{4,30}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def shown(value: object, most: int = _MOST) -> str:
    """A value for people: what could move the cursor or is not a character is replaced, what is long is cut."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(each if each.isprintable() else "?" for each in text[: most + 1])
    return text if len(text) <= most else text[:most] + "..."


def read_status(device: str, where: str, answer: Mapping[str, Any]) -> DeviceStatus:
    """The state of a device from its agent's answer.

    Args:
        device: Its name.
        where: It, as messages name it.
        answer: To ``tasks``.

    Raises:
        DeviceError: It is no such answer at all.
    """
    storage = answer.get("storage")
    sizes = {key: _size(answer.get(key)) for key in ("free_bytes", "cached_bytes")}
    rows, folder = answer.get("tasks"), answer.get("folder")
    odd = [key for key, value in sizes.items() if value is None]
    odd += [] if isinstance(rows, list) else ["tasks"]
    odd += [] if isinstance(folder, str) and folder.isprintable() else ["folder"]
    odd += [] if isinstance(storage, Mapping) else ["storage"]
    if odd or not isinstance(rows, list) or not isinstance(storage, Mapping):
        raise DeviceError(
            f"{where}: its answer is odd: {', '.join(odd)}",
            "is it the device that you think it is? edgespa puts its own agent there anew when agent/ is removed",
        )
    tasks, strange = [], [shown(each) for each in _list(answer.get("odd"))]
    for row in rows:
        name = row.get("task") if isinstance(row, Mapping) else None
        if isinstance(row, Mapping) and isinstance(name, str) and _TASK.fullmatch(name):
            tasks.append(_task(name, row))
        else:
            strange.append(f"a task is called {shown(name)}")
    memory = storage.get("in_memory")
    names = [each for each in _list(answer.get("unfinished")) if isinstance(each, str)]
    return DeviceStatus(
        device=device,
        folder=str(folder),
        free_bytes=sizes["free_bytes"] or 0,
        free_files=_size(storage.get("free_files")),
        cached_bytes=sizes["cached_bytes"] or 0,
        tasks=tuple(tasks),
        unfinished=tuple(shown(each) for each in names),
        odd=tuple(strange[:_MOST_PHRASES]),
        in_memory=None if memory is None else shown(memory),
        pull=read_pull(answer.get("pull")),
    )


def _task(name: str, row: Mapping[str, Any]) -> TaskStatus:
    odd = [shown(each) for each in _list(row.get("odd"))]
    rows = [each for each in _list(row.get("versions")) if isinstance(each, Mapping)]
    versions = [found for each in rows if (found := _version(each, odd)) is not None]
    current = row.get("current")
    wrong: list[str] = []
    if current is None or current not in [each.version for each in versions]:
        current, link = None, row.get("link")
        if not odd or link is not None:
            wrong.append("nothing is in use" if link is None else f"what should be in use is not there: {shown(link)}")
    else:
        found = next(each.get("problems") for each in rows if each.get("version") == current)
        wrong += [shown(each) for each in _list(found)]
    wrong += [f"odd: {each}" for each in odd]
    more = [f"and {len(wrong) - _MOST_PHRASES} more"] if len(wrong) > _MOST_PHRASES else []
    health = "; ".join([*wrong[:_MOST_PHRASES], *more]) or "ok"
    window = read_window(row.get("window"))
    if window is not None and window.state == "watching" and window.version != current:
        # The power went between the switch and what is written of it.
        window = window.model_copy(update={"state": "replaced"})
    return TaskStatus(task=name, current=current, health=health, versions=tuple(versions), window=window)


def read_window(row: object) -> WindowStatus | None:
    """How a device says that a health window stands; None where it says nothing, or something odd.

    Args:
        row: As the agent has it.
    """
    if not isinstance(row, Mapping) or row.get("state") not in _WINDOWS or not _is_version(row.get("version")):
        return None
    watch_s, done_s = _number(row.get("watch_s")), _number(row.get("done_s"))
    begun, ended, reason, to = (row.get(key) for key in ("begun", "ended", "reason", "to"))
    if watch_s is None or done_s is None or not (isinstance(begun, str) and _TIME.fullmatch(begun)):
        return None
    return WindowStatus(
        state=row["state"],
        version=row["version"],
        to=str(to) if _is_version(to) else None,
        watch_s=watch_s,
        left_s=max(0.0, watch_s - done_s),
        rounds=_size(row.get("rounds")) or 0,
        begun=begun,
        ended=ended if isinstance(ended, str) and _TIME.fullmatch(ended) else None,
        reason=shown(reason, _MOST_REASON) if isinstance(reason, str) else None,
    )


def _is_version(value: object) -> bool:
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _number(value: object) -> float | None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST_SECONDS
    return float(value) if right and isinstance(value, (int, float)) else None


def _version(row: Mapping[str, Any], odd: list[str]) -> VersionStatus | None:
    name = row.get("version")
    if not isinstance(name, str) or not _VERSION.fullmatch(name):
        odd.append(f"a version is called {shown(name)}")
        return None
    odd += [f"{name}: {shown(each)}" for each in _list(row.get("odd"))]
    record = row.get("record")
    finished = bool(row.get("finished"))
    texts: dict[str, str | None] = {"created": None, "signed_by": None, "digest": None}
    if isinstance(record, Mapping):
        for key, (needed, pattern) in _RECORD.items():
            value = record.get(key)
            if isinstance(value, str) and pattern.fullmatch(value) and value.isprintable():
                texts[key] = value
            elif value is not None or needed:
                by = f", written by edgespa {shown(record['edgespa'])}" if "edgespa" in record else ""
                odd.append(f"{name}: in its record, {key} is {shown(value)[:60]}{by}")
    elif record is not None:
        odd.append(f"{name}: its record is {shown(record)[:60]}")
    return VersionStatus(
        version=name,
        size_bytes=_size(row.get("size_bytes")) or 0,
        base_bytes=_size(row.get("base_bytes")) or 0,
        finished=finished,
        shipped=texts["created"],
        signed_by=texts["signed_by"],
        digest=texts["digest"],
    )


# Key of a record -> whether it has to be there, and how it looks. A newer edgespa may write more, which is not read.
_RECORD = {"created": (True, _TIME), "digest": (True, _DIGEST), "signed_by": (False, re.compile(r".{1,200}"))}


def _size(value: object) -> int | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
    return value if right and isinstance(value, int) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
