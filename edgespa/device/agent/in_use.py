"""A version put in use once no application holds the update lock, and watched from then on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.tasks import switch
from edgespa.device.agent.update_lock import changing, update_lock
from edgespa.device.agent.versions import (
    WINDOW,
    current_of,
    is_finished,
    number_of,
    task_folder,
    version_folder,
    versions_of,
    window_of,
)
from edgespa.device.agent.watch import start_watcher
from edgespa.device.agent.window import (
    REPLACED,
    WATCHING,
    end_window,
    go_back,
    is_open,
    is_watched,
    now_text,
    plan_path,
    replace_text,
    watch_lock,
    write_state,
)


def put_in_use(root: Path, request: dict[str, Any], stream: BinaryIO | None) -> dict[str, Any]:
    """Use a version from now on, as `switch` does, once no application holds the update lock; and have it watched.

    Beside what `switch` takes the request may have ``lock_wait_s``, and ``window``: ``watch_s``, ``every_s`` and
    ``plan``, see `edgespa.device.agent.watch.round_problem`.

    Returns:
        ``current``, ``previous``, ``window``: how it stands, or None, and ``notes`` for the user.
    """
    version = version_folder(root, request)
    folder, wanted = version.parent, request.get("window")
    notes = []  # type: list[str]
    with update_lock(folder, float(request.get("lock_wait_s") or 0), stream), changing(folder):
        last, before = window_of(folder), current_of(folder)
        opened = is_open(folder)
        if wanted:
            _begin(root, folder, version.name, before, wanted)
        try:
            answer = switch(root, request, stream)
        except BaseException:
            if wanted and current_of(folder) != version.name:
                _as_before(folder, version.name, last)
            raise
        if not wanted and opened and last is not None and last["version"] != version.name:
            end_window(folder, last, REPLACED)
            notes.append(f"{last['version']} was in its health window, which has ended; this one is not watched")
    if wanted:
        notes += start_watcher(root, folder.name)
        if not is_watched(root, folder.name) and is_open(folder):
            go_back(root, folder, "no process could be started to watch it", 0)
            raise AgentError("processes", f"{version.name} cannot be watched, and is not used: none could be started")
    return {**answer, "window": window_of(folder) if wanted else None, "notes": notes}


def _begin(root: Path, folder: Path, version: str, before: str | None, wanted: dict[str, Any]) -> None:
    """Write down that a version is to be watched, before it is in use."""
    last = window_of(folder) if is_open(folder) else None
    # What is in its window itself has not shown yet that it can be gone back to.
    previous = before if last is None else last.get("previous")
    if previous == version:
        finished = [name for name in versions_of(folder) if is_finished(folder, name)]
        previous = next((name for name in reversed(finished) if number_of(name) < number_of(version)), None)
    lock = watch_lock(root, folder.name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(str(lock), os.O_RDWR | os.O_CREAT, 0o666))
    replace_text(plan_path(folder, version), json.dumps(wanted["plan"]))
    state = {
        "state": WATCHING,
        "version": version,
        "previous": previous,
        "watch_s": float(wanted["watch_s"]),
        "every_s": float(wanted["every_s"]),
        "done_s": 0.0,
        "rounds": 0,
        "begun": now_text(),
        "ended": None,
        "reason": None,
        "earlier": last,  # until the version is in use
    }
    replace_text(folder / WINDOW, json.dumps(state, indent=1, sort_keys=True) + "\n")


def _as_before(folder: Path, version: str, last: dict[str, Any] | None) -> None:
    """After a switch that failed: the window that there was, as far as the disk takes it."""
    if last is not None:
        write_state(folder, last)
    for path in [plan_path(folder, version), *([] if last is not None else [folder / WINDOW])]:
        with contextlib.suppress(OSError):
            path.unlink()


def follow(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """How the window of a task stands, as soon as it is otherwise than the host knows, or after ``wait_s``.

    The request has ``task``, and may have ``rounds``: how many the host has seen. The host keeps the stream open.
    """
    folder = task_folder(root, request["task"])
    end = time.monotonic() + float(request.get("wait_s") or 0)
    while True:
        state = window_of(folder)
        unchanged = state is not None and state["state"] == WATCHING and state.get("rounds") == request.get("rounds")
        left = end - time.monotonic()
        if not unchanged or left <= 0 or not is_watched(root, folder.name):
            break
        if select.select([stream], [], [], min(0.25, left))[0] and not os.read(stream.fileno(), 4096):
            break
    if not folder.is_dir():
        return {"window": None, "current": None, "watched": False}
    with changing(folder):  # nothing is half changed
        return {"window": window_of(folder), "current": current_of(folder), "watched": is_watched(root, folder.name)}
