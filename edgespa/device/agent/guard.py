"""What a pulled version is guarded by: the update lock, and a health window where that is set.

A version that is in its health window is not replaced by one that would not be watched: it waits for the window.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgespa.device.agent.in_use import put_in_use
from edgespa.device.agent.remembered import PullConfig
from edgespa.device.agent.self_check import runner_argv
from edgespa.device.agent.versions import MANIFEST, MOST_MANIFEST, current_of, window_of
from edgespa.device.agent.window import WENT_BACK, is_open

LOCK_WAIT_S = 30.0  # for an application that holds the update lock: else the next pull tries again
BENCH_RUNS = 30


def window_plan(root: Path, folder: Path, config: PullConfig, checks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The health window that a device was set up with, for one version; see `edgespa.device.agent.watch.round_problem`.

    Args:
        root: Where edgespa keeps things.
        folder: Of the version.
        config: How this device was set up.
        checks: The self-check of the version: what has passed has to pass again.

    Returns:
        ``watch_s``, ``every_s`` and ``plan``; None where no window was set up.
    """
    wanted = config.watch
    if wanted is None:
        return None

    def command(*options: str) -> list[str]:
        words = [*options, "--threads", str(config.threads)]
        return runner_argv(root, folder, config.python, words)

    most = wanted["max_latency_ms"]
    if most is None:
        most = _own_bound(folder)
    plan = {
        "health": wanted["health"],
        "health_s": wanted["health_s"],
        "checks": [command("--selfcheck", "--variant", row["name"]) for row in checks if row["status"] == "passed"],
        "bench": None if most is None else command("--bench", "--runs", str(BENCH_RUNS)),
        "max_latency_ms": most,
        "lock_wait_s": LOCK_WAIT_S,
        "small": True,
    }
    return {"watch_s": wanted["watch_s"], "every_s": wanted["every_s"], "plan": plan}


def _own_bound(folder: Path) -> float | None:
    """What the bundle itself says that an inference may take, in ms; None where it says nothing."""
    with (folder / MANIFEST).open("rb") as stream:
        found = json.loads(stream.read(MOST_MANIFEST)).get("max_latency_ms")
    is_bound = isinstance(found, (int, float)) and not isinstance(found, bool) and found > 0
    return float(found) if is_bound else None


def waits_for_window(folder: Path, config: PullConfig) -> str | None:
    """Why nothing new is put in use of a task now, in words; None where nothing keeps it."""
    state = window_of(folder)
    if config.watch is not None or state is None or not is_open(folder):
        return None
    left = max(0.0, float(state.get("watch_s") or 0) - float(state.get("done_s") or 0))
    return (
        f"{current_of(folder)} is in its health window, {left:.0f} s left, and what is new here would not be watched: "
        "a pull after that uses it"
    )


def put_pulled(root: Path, own: dict[str, Any], record: dict[str, Any], window: dict[str, Any] | None) -> Any:
    """Put a pulled version in use as a shipped one is: once no application holds the update lock, and watched.

    Returns:
        As `edgespa.device.agent.in_use.put_in_use`.

    Raises:
        AgentError: ``in-use``: an application holds the lock.
    """
    return put_in_use(root, {**own, "record": record, "window": window, "lock_wait_s": LOCK_WAIT_S}, None)


def why_left(folder: Path, manifest: str) -> str:
    """How a release that was in use was gone back from, in words that follow these; nothing where a person did it.

    Args:
        folder: Of the task.
        manifest: SHA-256 of its manifest.
    """
    state = window_of(folder) or {}
    own = str(state.get("version") or "").endswith(f"-{manifest[:8]}")
    if own and state.get("state") == WENT_BACK:
        return f", by this device itself in its health window, because {state.get('reason')}"
    return ""
