"""The process that watches a version in its window, and goes back by itself: no host is needed for it.

It has left the connection that began it: a session and a group of its own, nothing of it open. What it runs is under
limits. Where it is ended (a restart, somebody's kill), `settle` has another go on, at the next look from a host, at the
next pull, or by the unit of `edgespa.device.agent.unit` when the device has started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.processes import scratch
from edgespa.device.agent.unit import begin_by_unit
from edgespa.device.agent.update_lock import changing
from edgespa.device.agent.versions import current_of, window_of
from edgespa.device.agent.watched import kill_group, small_environment
from edgespa.device.agent.window import (
    PASSED,
    WATCHING,
    end_window,
    go_back,
    is_open,
    is_watched,
    open_windows,
    plan_of,
    watch_lock,
    write_state,
)

LOOK_S = 0.1
START_S = 10.0  # for a process that watches to have begun
LOOK_AGAIN_S = 600.0  # that a self-check or a measurement may take
MOST_SAID = 300  # characters of what a program said last
MOST_FILE = 64 << 20  # bytes that a health command may write into one file
MOST_MEMORY = 2 << 30  # bytes that it may allocate
LATENCY_TRIES = 3
_QUIET_S = 2.0  # after a signal from elsewhere: where the device is shut down, it is for us too


def settle(root: Path) -> list[str]:
    """Have every window gone on with that nobody watches; the tasks whose windows those are."""
    found = []
    for name in _unfinished(root):
        if not is_watched(root, name):
            start_watcher(root, name)
            found.append(name)
    return found


def _unfinished(root: Path) -> list[str]:
    """The tasks with an open window, after a switch that a power cut came before has been put right."""
    for path in (root / "tasks").glob("*/window.json"):
        state = window_of(path.parent)
        earlier = (state or {}).get("earlier")
        if state is not None and state["state"] == WATCHING and isinstance(earlier, dict):
            with changing(path.parent):
                if earlier.get("version") == current_of(path.parent) != state.get("version"):
                    write_state(path.parent, earlier)
    return open_windows(root)


def watch(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Watch all windows that are open until none is left: what a unit of systemd runs. One process for each."""
    seen = set()
    while True:
        names = _unfinished(root)
        seen.update(names)
        for name in names:
            if not is_watched(root, name) and not os.fork():
                _watch_and_end(root, name)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not names:
            return {"watched": sorted(seen)}
        time.sleep(1)


def start_watcher(root: Path, task: str) -> list[str]:
    """Begin to watch a task, in a process that stays when the connection has ended; notes for the user."""
    by_unit, notes = begin_by_unit(root)
    if by_unit and _has_begun(root, task):
        return notes
    first = os.fork()
    if not first:
        try:
            os.setsid()
            if not os.fork():
                _leave()
                _watch_and_end(root, task)
        finally:
            os._exit(0)
    os.waitpid(first, 0)
    _has_begun(root, task)
    return notes


def _has_begun(root: Path, task: str) -> bool:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if is_watched(root, task) or not is_open(root / "tasks" / task):
            return True
        time.sleep(0.02)
    return False


def _leave() -> None:
    """Keep nothing open of the connection: it would not end before this process."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 1024)
    for number in (signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def _watch_and_end(root: Path, task: str) -> None:
    """Watch a task and end this process, whatever happens."""
    try:
        watch_task(root, task)
    finally:
        os._exit(0)


def watch_task(root: Path, task: str) -> None:
    """Watch a task until its window has ended; at once over where another process does."""
    folder = root / "tasks" / task
    descriptor = os.open(str(watch_lock(root, task)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        for _ in range(20):  # who only looks holds it for a moment too
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            return
        _rounds(root, folder)
    finally:
        os.close(descriptor)


def _rounds(root: Path, folder: Path) -> None:
    whole = True
    while is_open(folder):
        state = window_of(folder) or {}
        watch_s, every_s, done_s = (float(state[key]) for key in ("watch_s", "every_s", "done_s"))
        left_s = max(0.0, watch_s - done_s)
        # One that was interrupted close to its end is still looked at once, a while after the start.
        step_s = min(every_s, left_s) if left_s or not whole else every_s
        began = time.monotonic()
        if not _waited(folder, state, step_s):
            continue
        try:
            plan = plan_of(folder, state["version"])
            wait_s = float(plan.get("lock_wait_s") or 0)
            problem = round_problem(folder, state, plan, whole or done_s + step_s >= watch_s)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError, RecursionError) as error:
            problem, wait_s = f"it cannot be watched: {type(error).__name__}: {error}", 0.0
        if not is_same(folder, state):
            continue
        if problem is not None:
            go_back(root, folder, problem, wait_s)
            continue
        whole = False
        with changing(folder):
            if not is_same(folder, state):
                continue
            now = {**state, "done_s": min(watch_s, done_s + time.monotonic() - began), "rounds": state["rounds"] + 1}
            now["earlier"] = None
            if done_s + step_s >= watch_s:
                end_window(folder, now, PASSED)
            else:
                write_state(folder, now)


def is_same(folder: Path, state: dict[str, Any]) -> bool:
    """Whether a window is still the one that it was, and open."""
    now = window_of(folder)
    return is_open(folder) and now is not None and all(now.get(key) == state.get(key) for key in ("version", "begun"))


def _waited(folder: Path, state: dict[str, Any], seconds: float) -> bool:
    """Whether the window is still the same after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not is_same(folder, state):
            return False
        time.sleep(min(1.0, max(0.01, end - time.monotonic())))
    return is_same(folder, state)


def round_problem(folder: Path, state: dict[str, Any], plan: dict[str, Any], whole: bool) -> str | None:
    """Look at a version once.

    Args:
        folder: Of the task.
        state: Of its window.
        plan: ``health``: a command for the shell, with ``health_s`` for it; ``checks``: argument lists of self-checks;
            ``bench``: that of a measurement, and ``max_latency_ms``; ``small``: without what a login adds.
        whole: With self-check and measurement; the health command is run in every round.

    Returns:
        What is wrong with it, in words; None where nothing is.
    """
    place = folder / state["version"]
    environment = small_environment() if plan.get("small") else dict(os.environ)
    own = {"EDGESPA_TASK": folder.name, "EDGESPA_VERSION": state["version"], "EDGESPA_FOLDER": str(place)}
    environment.update(own)

    def run(argv: list[str], seconds: float, limited: bool = False) -> tuple[int, str, str | None]:
        return _run(argv, place, environment, seconds, lambda: is_same(folder, state), limited)

    if plan.get("health"):
        problem = _health_problem(run, str(plan["health"]), float(plan.get("health_s") or LOOK_AGAIN_S))
        if problem is not None:
            return problem
    if not whole:
        return None
    for argv in plan.get("checks") or []:
        problem = _check_problem(run, argv)
        if problem is not None:
            return f"its self-check: {problem}"
    if plan.get("max_latency_ms") and plan.get("bench"):
        return _latency_problem(run, plan["bench"], float(plan["max_latency_ms"]))
    return None


def _health_problem(run: Any, command: str, seconds: float) -> str | None:
    status, said, killed = run(["sh", "-c", command], seconds, True)
    if status == 0:
        return None
    how = killed or (f"was ended by signal {-status}" if status < 0 else f"ended with status {status}")
    return f"the health command {how}" + (f": {said}" if said else "")


def _check_problem(run: Any, argv: list[str]) -> str | None:
    status, said, killed = run(argv, LOOK_AGAIN_S)
    try:
        rows = json.loads(said.splitlines()[-1])["selfcheck"]
        failed = [f"{row['name']}: {'; '.join(row['failures'])}" for row in rows if row["status"] == "failed"]
        return "; ".join(failed) or (None if any(row["status"] == "passed" for row in rows) else "no file can run")
    except (ValueError, LookupError, TypeError):
        return killed or f"it has no result, and ended with status {status}: {said[-MOST_SAID:]}"


def _latency_problem(run: Any, argv: list[str], most_ms: float) -> str | None:
    """A device that does something else meanwhile is slow once; a model that is too slow, each time."""
    found = []
    for _ in range(LATENCY_TRIES):
        status, said, killed = run(argv, LOOK_AGAIN_S)
        try:
            found.append(float(json.loads(said.splitlines()[-1])["p50_ms"]))
        except (ValueError, LookupError, TypeError):
            return f"its latency cannot be measured: {killed or f'status {status}'}: {said[-MOST_SAID:]}"
        if found[-1] <= most_ms:
            return None
    return f"an inference takes {min(found):.3g} ms, and may take {most_ms:g} ms (the best of {LATENCY_TRIES} medians)"


def _run(
    argv: list[str], place: Path, environment: dict[str, str], seconds: float, wanted: Any, limited: bool
) -> tuple[int, str, str | None]:
    """Run a program once, or again where it was ended from elsewhere: its status, its last words, why it was ended."""
    for _ in range(2):
        status, said, killed = _run_once(argv, place, environment, seconds, wanted, limited)
        if status >= 0 or killed or -status not in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            break
        time.sleep(_QUIET_S)
    return status, said, killed


def _run_once(
    argv: list[str], place: Path, environment: dict[str, str], seconds: float, wanted: Any, limited: bool
) -> tuple[int, str, str | None]:
    end = time.monotonic() + seconds
    with scratch() as out:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if limited else subprocess.DEVNULL,
            cwd=str(place),
            env=environment,
            start_new_session=True,
            preexec_fn=_limit if limited else None,  # there are no threads
        )
        killed = None
        try:
            while child.poll() is None:
                if time.monotonic() > end:
                    killed = f"took longer than {seconds:g} s"
                    break
                if not wanted():
                    killed = "is not needed any more"
                    break
                time.sleep(LOOK_S)
        finally:
            kill_group(child.pid)  # and what it may have left behind
            status = child.wait()
        size = out.seek(0, os.SEEK_END)
        out.seek(max(0, size - (64 << 10)))
        text = out.read().decode("utf-8", "replace").strip()
    return status, " / ".join(text.splitlines()[-4:])[-MOST_SAID:] if limited else text, killed


def _limit() -> None:
    """What a command of the user's may take: it is run again and again, on a device that has other work."""
    os.nice(5)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, MOST_FILE),
        (resource.RLIMIT_DATA, MOST_MEMORY),
    ):
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
