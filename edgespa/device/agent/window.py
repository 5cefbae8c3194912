"""Health windows: a version that is in use, and watched for a while on the device itself.

    tasks/TASK/window.json          how the last window of the task stands, or how it ended
    tasks/TASK/window-VERSION.plan  what is done in it: commands and bounds, until it has ended
    locks/window-TASK.lock          held by the process that watches

A window is so many seconds of being watched: what the device was off does not count, nor what its clock says. It is on
the disk before the version is in use, so whatever ends the watching, a power cut too, the next look finds it unended
and has it gone on with: `settle`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgespa.device.agent.disk import delete, sync_path
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.tasks import mend, switch
from edgespa.device.agent.update_lock import changing, update_lock
from edgespa.device.agent.versions import (
    CURRENT,
    TASK,
    WINDOW,
    current_of,
    is_finished,
    number_of,
    problems,
    read_small,
    versions_of,
    window_of,
)

MOST_PLAN = 16 << 20  # bytes
WATCHING, PASSED, WENT_BACK, REPLACED = "watching", "passed", "rolled back", "replaced"
MOST_REASON = 600


def now_text() -> str:
    """The device's time, as people read it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")  # Python 3.8


def watch_lock(root: Path, task: str) -> Path:
    """What the process that watches a task holds."""
    return root / "locks" / f"window-{task}.lock"


def is_watched(root: Path, task: str) -> bool:
    """Whether a process watches the task just now."""
    try:
        descriptor = os.open(str(watch_lock(root, task)), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_open(folder: Path) -> bool:
    """Whether the version in use is in its window."""
    state = window_of(folder)
    return state is not None and state["state"] == WATCHING and state.get("version") == current_of(folder)


def open_windows(root: Path) -> list[str]:
    """The tasks whose version in use is in its window."""
    try:
        names = sorted(os.listdir(str(root / "tasks")))
    except OSError:
        return []
    return [name for name in names if TASK.match(name) and is_open(root / "tasks" / name)]


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write how a window stands; on a full disk over what is there, for it is no longer."""
    text = json.dumps(state, indent=1, sort_keys=True) + "\n"
    try:
        replace_text(folder / WINDOW, text)
    except OSError:
        with contextlib.suppress(OSError), (folder / WINDOW).open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a file whole, and so that a power cut leaves the old one or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    delete(temporary)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))
    sync_path(path.parent)


def plan_path(folder: Path, version: str) -> Path:
    """Where it is written what is done in a window."""
    return folder / f"window-{version}.plan"


def plan_of(folder: Path, version: str) -> dict[str, Any]:
    """What is done in the window of a version."""
    plan = json.loads(read_small(plan_path(folder, version), MOST_PLAN).decode("utf-8"))
    if not isinstance(plan, dict):
        raise ValueError("it is no table")
    return plan


def end_window(folder: Path, state: dict[str, Any], how: str, **more: Any) -> dict[str, Any]:
    """Write how a window ended; its plan is not needed any more."""
    ended = {**state, "state": how, "ended": now_text(), **more}
    write_state(folder, ended)
    with contextlib.suppress(OSError):
        plan_path(folder, state["version"]).unlink()
    return ended


def go_back(root: Path, folder: Path, reason: str, lock_wait_s: float) -> dict[str, Any] | None:
    """Use again what was in use before the window; without such a version, nothing.

    An application that holds the update lock is waited for, but not for ever: a model that is known to be bad does not
    stay because of it.

    Returns:
        How the window ended; None where the version is not in use any more, or its window was ended by others.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(update_lock(folder, lock_wait_s))
        except AgentError as error:
            reason = f"{reason}; without waiting any longer: {error}"
        stack.enter_context(changing(folder))
        state = window_of(folder)
        if state is None or state["state"] != WATCHING or state.get("version") != current_of(folder):
            return None
        target = _good_target(root, folder, state)
        if target is not None:
            switch(root, {"task": folder.name, "version": target, "record": None})
        else:
            (folder / CURRENT).unlink()
            sync_path(folder)
        return end_window(folder, state, WENT_BACK, reason=reason[:MOST_REASON], to=target)


def _good_target(root: Path, folder: Path, state: dict[str, Any]) -> str | None:
    """The version before, or an earlier one if that is damaged; of none that was never in use before."""
    previous = state.get("previous")
    if previous is None:
        return None
    finished = [name for name in versions_of(folder) if is_finished(folder, name) and name != state["version"]]
    earlier = [name for name in reversed(finished) if number_of(name) < number_of(state["version"])]
    for name in dict.fromkeys([*(each for each in finished if each == previous), *earlier]):
        if problems(folder / name):
            mend(root, folder / name)
        if not problems(folder / name):
            return name
    return None
