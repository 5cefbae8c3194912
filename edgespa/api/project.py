"""``edgespa.toml``: what a project says once, for all commands typed in its folder. See docs/how-to/project.md.

    version = 1
    model = "net.py:build"
    eval-data = "photos.zip:test"

    [export]
    precision = ["fp32", "int8"]
    output = "bundle"

What stands above the tables is for every command that it is `SHARED` with, a table is for its command. What the keys
of a command may be is known to the command alone (`edgespa.cli`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgespa.api.project_place import COMMANDS, NAME, find_project
from edgespa.api.recipes import Step, read_toml
from edgespa.errors import ConfigError
from edgespa.models.imports import nearest
from edgespa.system.bounds import shown
from edgespa.system.files import expanded, write_whole

__all__ = ["COMMANDS", "NAME", "find_project"]
VERSION = 1
_PIXELS = (
    "mean", "std", "scale", "resize", "resize-to", "padding", "interpolation", "antialias", "channel-order", "labels",
    "class-offset", "objective",
)  # fmt: skip
_MODEL = ("model", "input-shape", "weights")
_FILES = ("format", "precision")
SHARED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "inspect": _MODEL,
        "adapt": (*_MODEL, "data", "eval-data", "seed", *_PIXELS),
        "prune": (*_MODEL, "calibration", "eval-data", "seed", *_PIXELS),
        "heal": ("calibration", "eval-data", "seed", *_PIXELS),
        "export": (*_MODEL, "calibration", "eval-data", "seed", "device", *_FILES, *_PIXELS),
        "compress": (*_MODEL, "images", "eval-data", "seed", "device", "threads", *_FILES, *_PIXELS),
        "verify": ("bundle",),
        "profile": ("bundle", "device", "threads"),
        "ship": ("bundle", "device"),
        "card": ("bundle",),
    }
)
"""Command -> keys above the tables that are for it."""
OF_ALL = tuple(dict.fromkeys(key for keys in SHARED.values() for key in keys))
"""What may stand above the tables."""
_HEAD = ("version",)


@dataclasses.dataclass(frozen=True)
class Said(Step):
    """What a project says to one command.

    Attributes:
        shared: Keys that stand above the tables.
    """

    shared: frozenset[str] = frozenset()

    def where(self, key: str = "") -> str:
        """A key's place, for messages: ``edgespa.toml: export.precision``, or ``edgespa.toml: model``.

        Args:
            key: Of the values.
        """
        return f"{self.places['']}: {key}" if key in self.shared else super().where(key)


@dataclasses.dataclass(frozen=True)
class Project:
    """A file, read.

    Attributes:
        path: Of the file, as one types it from the current folder.
        shared: What stands above the tables.
        tables: Command -> its table.
    """

    path: Path
    shared: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]

    def of(self, command: str) -> Said:
        """What it says to a command: the table counts before what stands above it.

        Args:
            command: Which of `COMMANDS`.
        """
        table = self.tables.get(command, {})
        shared = {key: self.shared[key] for key in SHARED[command] if key in self.shared and key not in table}
        places = {"": self.path, **dict.fromkeys((*shared, *table), self.path)}
        return Said(command, command, {**shared, **table}, places, frozenset(shared))


def read_project(path: Path) -> Project:
    """Read a project's file; nothing that it names is run or opened.

    Args:
        path: Of the file.

    Raises:
        ConfigError: It cannot be read, is of another version, or has a key or table that is none; with the nearest.
    """
    return project_of(path, read_toml(path))


def project_of(path: Path, found: Mapping[str, Any]) -> Project:
    """What a file says, checked.

    Args:
        path: Of the file, for messages.
        found: Its content.

    Raises:
        ConfigError: As `read_project`.
    """
    version = found.get("version")
    if version is None:
        raise ConfigError(f"{path}: version is missing", f"begin the file with: version = {VERSION}")
    if type(version) is not int or version != VERSION:
        raise ConfigError(
            f"{path}: version is {shown(str(version))}, and this edgespa reads {VERSION}",
            "update edgespa, or write the file anew",
        )
    shared: dict[str, Any] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    for key, value in found.items():
        if isinstance(value, dict) and key in COMMANDS:
            tables[key] = MappingProxyType(value)
        elif key in OF_ALL and not isinstance(value, dict):
            shared[key] = value
        elif key not in _HEAD:
            raise _unknown(path, key, isinstance(value, dict))
    return Project(path, MappingProxyType(shared), MappingProxyType(tables))


def _unknown(path: Path, key: str, is_table: bool) -> ConfigError:
    known = COMMANDS if is_table else (*_HEAD, *OF_ALL)
    near = nearest(key, known, 1)
    what = "tables are of commands" if is_table else "for all commands there are"
    if not is_table and re.fullmatch(r"[\w-]{1,60}", key) and not near:
        hint = f"{what}: {', '.join(known)}; what is for one command stands in its table: [export]"
    else:
        hint = f"did you mean '{near[0]}'?" if near else f"{what}: {', '.join(known)}"
    kind = "no command takes such a table" if is_table else "no such key"
    return ConfigError(f"{path}: {shown(key)[1:-1]}: {kind}", hint)


def allow(path: Path, asked: Iterable[str]) -> None:
    """Note that what a project's file asks for is what the user wants.

    Args:
        path: Of the file.
        asked: Each as ``export.model = net.py:build``: another value is another question.

    Raises:
        OSError: It cannot be noted.
    """
    for each in asked:
        place = _note(path, each)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(place, json.dumps({"project": os.path.abspath(path), "asked": each}, indent=1).encode())


def is_allowed(path: Path, asked: str) -> bool:
    """Whether the user has said so of this file, at this place.

    Args:
        path: Of the file.
        asked: As `allow` takes it.
    """
    try:
        place = _note(path, asked)
        mine = place.stat().st_uid == os.geteuid() and not place.parent.stat().st_mode & 0o022
        return mine and json.loads(place.read_bytes()) == {"project": os.path.abspath(path), "asked": asked}
    except (OSError, ValueError):
        return False


def _note(path: Path, asked: str) -> Path:
    state = expanded(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "edgespa" / "projects"
    return state / f"{sha256(json.dumps([os.path.abspath(path), asked]).encode()).hexdigest()}.json"
