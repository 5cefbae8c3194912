"""What was shipped from here, remembered here: so that a device that has lost it is not taken for an empty one.

One file per device, ``edgespa/shipped/NAME.json`` below ``XDG_STATE_HOME`` or ``~/.local/state``. A device is its name,
its address and its folder: a profile that leads to another board has shipped nothing there.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from edgespa.device.link.transport import Connection
from edgespa.device.shipment.results import Gone
from edgespa.system.files import expanded, write_whole

_SCHEMA = 1
_one_at_a_time = threading.Lock()


def state_folder() -> Path:
    """Where it is written."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else expanded("~") / ".local" / "state") / "edgespa" / "shipped"


def remember(connection: Connection, task: str, version: str, shipped: str) -> str | None:
    """Write down that a task is on a device.

    Args:
        connection: To the device.
        task: Its name there.
        version: Of it.
        shipped: When, ISO 8601.

    Returns:
        Why it could not be written, in a sentence; None where it was.
    """
    return _change(connection, {task: {"version": version, "shipped": shipped}})


def forget(connection: Connection, task: str) -> bool:
    """Write down that a task is not to be expected on a device any more; whether it was.

    Args:
        connection: To the device.
        task: Its name there.
    """
    was = any(each.task == task for each in remembered(connection))
    if was:
        _change(connection, {task: None})
    return was


def remembered(connection: Connection) -> tuple[Gone, ...]:
    """What should be on a device.

    Args:
        connection: To it.
    """
    tasks = _read(_path(connection)).get(_place(connection), {})
    return tuple(Gone(task=name, **row) for name, row in sorted(tasks.items()))


def _path(connection: Connection) -> Path:
    return state_folder() / f"{connection.device.name}.json"


def _place(connection: Connection) -> str:
    reach = connection.device.connection
    at = "" if connection.device.is_local else f"{reach.user or ''}@{connection.device.host}:{reach.port or ''}"
    return f"{at} {connection.folder}"


def _read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Place -> task -> version and time; nothing where there is no such file, or an odd one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        places = content["places"] if content["schema"] == _SCHEMA else {}
        return {
            str(place): {
                str(name): {"version": str(row["version"]), "shipped": str(row["shipped"])}
                for name, row in tasks.items()
            }
            for place, tasks in places.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _change(connection: Connection, changes: dict[str, dict[str, str] | None]) -> str | None:
    path, place = _path(connection), _place(connection)
    with _one_at_a_time:
        places: dict[str, Any] = _read(path)
        tasks = {**places.get(place, {}), **changes}
        places[place] = {name: row for name, row in tasks.items() if row is not None}
        content = {"schema": _SCHEMA, "places": {name: rows for name, rows in places.items() if rows}}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        except OSError as error:
            return f"it is not remembered here what {connection.device.name} has: {path}: {error.strerror}"
    return None
