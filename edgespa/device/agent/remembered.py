"""What a device that pulls keeps about it: how it was set up, and how far it has come.

    pull/config.json   whence, and for whom it takes itself; nobody else may read it, for a URL may have a password
    pull/state.json    the highest serial, and of each task the release that it has
    pull/report.json   of the last pull

Whatever is written is whole or not there. Where the state is lost, the records of the versions tell how far it was.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from edgespa.device.agent.disk import delete, make_folder, sync_path
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.versions import TASK, current_of, read_small, record_of, versions_of

MOST_STATE = 8 << 20  # bytes
_KEYS = {
    "url": str,
    "signers": (str, type(None)),
    "name": str,
    "groups": list,
    "kinds": list,
    "keep": int,
    "threads": int,
    "python": (str, type(None)),
    "watch": (dict, type(None)),
}  # type: dict[str, Any]
_WATCH = {
    "watch_s": (float, int),
    "every_s": (float, int),
    "health": (str, type(None)),
    "health_s": (float, int),
    "max_latency_ms": (float, int, type(None)),
}  # type: dict[str, Any]
LONGEST_WATCH_S = 7 * 86400.0


class PullConfig(NamedTuple):
    """How a device was set up to pull.

    Attributes:
        url: Of the folder.
        signers: The text of the file of those who may sign; None: nothing has to be signed.
        name: Of the device.
        groups: That it is in.
        kinds: Of device that it is.
        keep: Versions of a task that stay.
        threads: Of the runtime, for the self-check.
        python: That has the runtimes; None for the environment that was set up, or this one.
        watch: The health window of what is pulled: ``watch_s``, ``every_s``, ``health``: a command for the shell, with
            ``health_s`` for it, and ``max_latency_ms``, None for each bundle's own bound; None for no window.
    """

    url: str
    signers: str | None
    name: str
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    keep: int
    threads: int
    python: str | None
    watch: dict[str, Any] | None = None


def pull_folder(root: Path) -> Path:
    """Where it is kept."""
    return root / "pull"


def parse_config(found: Any, where: str) -> PullConfig:
    """A configuration from JSON's types.

    Raises:
        AgentError: A key is missing, unknown, or of another type.
    """
    try:
        found = {"watch": None, **found}
        if set(found) != set(_KEYS):
            raise ValueError(f"its keys are {', '.join(sorted(map(str, found)))}")
        wrong = [key for key, kind in _KEYS.items() if not isinstance(found[key], kind)]
        lists = [each for key in ("groups", "kinds") for each in found[key] if not isinstance(each, str)]
        if wrong or lists or found["keep"] < 1 or found["threads"] < 1:
            raise ValueError(f"{', '.join(wrong) or 'a value'} is not as it should be")
        if found["watch"] is not None:
            _require_watch(found["watch"])
    except (ValueError, TypeError, AttributeError) as error:
        raise AgentError("config", f"{where}: {error}: set it up again") from error
    return PullConfig(**{**found, "groups": tuple(found["groups"]), "kinds": tuple(found["kinds"])})


def _require_watch(found: dict[str, Any]) -> None:
    """Refuse a health window that cannot be meant."""
    wrong = [key for key, kind in _WATCH.items() if not isinstance(found.get(key, ()), kind) or found[key] is True]
    if set(found) != set(_WATCH) or wrong:
        raise ValueError(f"its health window is not as it should be: {', '.join(wrong or sorted(map(str, found)))}")
    if not 1 <= found["watch_s"] <= LONGEST_WATCH_S:
        raise ValueError(f"a health window of {found['watch_s']:g} s: let it be from 1 s to 7 days")
    if not 0.2 <= found["every_s"] <= found["watch_s"]:
        raise ValueError(f"a round every {found['every_s']:g} s in a window of {found['watch_s']:g} s")
    if not found["health_s"] > 0 or (found["max_latency_ms"] is not None and not found["max_latency_ms"] > 0):
        raise ValueError("a time of its health window is not above 0")
    if found["health"] is not None and (not found["health"].strip() or "\0" in found["health"]):
        raise ValueError("its health command is empty")


def read_config(root: Path) -> PullConfig:
    """How this device was set up.

    Raises:
        AgentError: It was not, or the file is damaged.
    """
    path = pull_folder(root) / "config.json"
    try:
        found = json.loads(read_small(path, MOST_STATE).decode("utf-8"))
    except FileNotFoundError as error:
        raise AgentError("config", f"{path} is not there: set it up first: edgespa-agent setup URL") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AgentError("config", f"{path} cannot be read ({error}): set it up again") from error
    return parse_config(found, str(path))


def write_config(root: Path, config: PullConfig) -> Path:
    """Put a configuration in its place."""
    path = pull_folder(root) / "config.json"
    write_json(path, config._asdict(), 0o600)
    return path


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write a file beside its place, and put it there by a rename; it survives a power cut whole."""
    make_folder(path.parent)
    new = path.with_name(f".{path.name}.tmp")
    delete(new)
    try:
        descriptor = os.open(str(new), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(new), str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            delete(new)
        raise
    sync_path(path.parent)


class PullState:
    """How far this device has come: what is older than that is not taken any more.

    Args:
        root: Where edgespa keeps things.

    Attributes:
        serial: The highest of an index that was taken.
        index: SHA-256 of its text; empty where that is not known.
        tasks: Task -> ``number`` and ``manifest`` of its release; what has ``failed``, and how many ``times``.
        lost: Whether what was written could not be read.
    """

    def __init__(self, root: Path) -> None:
        self._path = pull_folder(root) / "state.json"
        self.serial, self.index = 0, ""
        self.tasks = {}  # type: dict[str, dict[str, Any]]
        self.lost = False
        try:
            found = json.loads(read_small(self._path, MOST_STATE).decode("utf-8"))
            self.serial, self.index = int(found["serial"]), str(found["index"])
            for task, row in found["tasks"].items():
                numbers = {key: int(row[key]) for key in ("number", "failed", "times") if key in row}
                self.tasks[str(task)] = {**numbers, "manifest": str(row.get("manifest", ""))}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self.lost, self.serial, self.index, self.tasks = True, 0, "", {}
        self._by_records(root)

    def _by_records(self, root: Path) -> None:
        """What the versions that are there tell: of a state that was lost, or that a card was put back to."""
        with contextlib.suppress(OSError):
            for name in os.listdir(str(root / "tasks")):
                folder = root / "tasks" / name
                if not TASK.match(name):
                    continue
                current = current_of(folder)
                for version in versions_of(folder):
                    pulled = pulled_of(folder, version)
                    if pulled is not None and pulled["serial"] > self.serial:
                        self.serial, self.index = pulled["serial"], ""
                    if pulled is not None and version == current and name not in self.tasks:
                        self.tasks[name] = {"number": pulled["number"], "manifest": pulled["manifest"]}

    def save(self) -> None:
        """Write it."""
        write_json(self._path, {"serial": self.serial, "index": self.index, "tasks": self.tasks})


def pulled_of(folder: Path, version: str) -> dict[str, Any] | None:
    """Serial, number and manifest of a version that was pulled; None of others."""
    record = record_of(folder, version)[0] or {}
    pulled = record.get("pulled")
    if isinstance(pulled, dict) and all(isinstance(pulled.get(key), int) for key in ("serial", "number")):
        return {"serial": pulled["serial"], "number": pulled["number"], "manifest": str(record.get("digest"))}
    return None
