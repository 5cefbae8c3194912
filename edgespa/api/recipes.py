"""Recipes: files that say all that commands were asked for, read and written. See docs/how-to/recipes.md.

    version = 1
    include = "common.toml"

    [prune]
    model = "net.py:make"
    density = 0.5
    output = "cut.spa"

A table is a step, and steps run in their order. What its keys may be is known to the command alone (`edgespa.cli`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgespa.errors import ConfigError
from edgespa.models.imports import nearest, nearest_path
from edgespa.system.bounds import oddity, readable, shown
from edgespa.system.files import plain_text

COMMANDS = (
    "data", "compress", "search", "adapt", "prune", "heal", "export", "evaluate", "verify", "sign", "pack", "unpack",
    "profile", "card", "report", "ship", "rollback", "calibration-make", "devices-setup", "devices-pull",
)  # fmt: skip
"""What a step may be: whatever makes, sends or measures something."""
VERSION = 1
_HEAD = ("version", "include", "folder")
_MOST_BYTES = 1 << 20
_MOST_FILES = 50
_COMMAND = "command"
_KNOWN = f"steps are tables of these names: {', '.join(COMMANDS)}"


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of a recipe.

    Attributes:
        name: Of its table.
        command: Which of `COMMANDS`.
        values: What it says, by key.
        places: Key -> the file that says so, for messages.
    """

    name: str
    command: str
    values: Mapping[str, Any]
    places: Mapping[str, Path]

    @property
    def typed(self) -> str:
        """The command as one types it: of ``devices-setup``, ``devices setup``."""
        return self.command.replace("-", " ")

    def where(self, key: str = "") -> str:
        """A key's place, for messages: ``recipe.toml: prune.density``."""
        file = self.places.get(key) or next(iter(self.places.values()))
        return f"{file}: {self.name}{'.' if key else ''}{key}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a file of a recipe says, with those that it includes.

    Attributes:
        path: Of the file.
        folder: Where the paths in it begin.
        steps: In their order.
    """

    path: Path
    folder: Path
    steps: tuple[Step, ...]

    def beginning_with(self, name: str | None) -> tuple[Step, ...]:
        """The steps from one on; all for None.

        Raises:
            ConfigError: There is no step of that name.
        """
        names = [step.name for step in self.steps]
        if name is None:
            return self.steps
        if name not in names:
            raise ConfigError(f"{self.path}: there is no step '{readable(name)}'", _hint(name, names, "steps"))
        return self.steps[names.index(name) :]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and what it includes; nothing of it is run or opened.

    Args:
        path: Of the file.

    Raises:
        ConfigError: It cannot be read, is of another version, or a table is no step; with file and key.
    """
    content = _read(path)
    tables: dict[str, dict[str, Any]] = {}
    places: dict[str, dict[str, Path]] = {}
    for file, values in _with_included(path, content, (), [0]):
        for name, table in values.items():
            if name not in _HEAD:
                tables.setdefault(name, {}).update(table)
                places.setdefault(name, {"": file}).update(dict.fromkeys(table, file))
    steps = tuple(_step(name, table, places[name]) for name, table in tables.items())
    if not steps:
        raise ConfigError(f"{path}: nothing is to be done", _KNOWN)
    return Recipe(path, path.parent / content.get("folder", "."), steps)


def recipe_text(command: str, values: Mapping[str, Any], folder: str = ".") -> str:
    """The content of a file with one step.

    Args:
        command: Which of `COMMANDS`.
        values: Key -> a text, a number, a bool, or a list of those.
        folder: Where paths begin, as seen from the file.
    """
    lines = [f"version = {VERSION}"]
    if folder != ".":
        lines.append(f"folder = {_toml(folder)}")
    lines += ["", f"[{command}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # What JSON leaves as it is and TOML does not take.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _with_included(
    path: Path, content: dict[str, Any], above: tuple[Path, ...], read: list[int]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What a file includes, in order, then the file itself: what comes later counts."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: include: it includes itself", "take one of them out of the circle")
    read[0] += 1
    if read[0] > _MOST_FILES:
        raise ConfigError(f"{path}: include: more than {_MOST_FILES} files", "put what is said into fewer files")
    given = content.get("include", [])
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: include: no name of a file", 'write include = "common.toml", or a list of names')
    for name in names:
        file = path.parent / name
        yield from _with_included(file, _read(file), (*above, path.resolve()), read)
    yield path, content


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file of whomever says.

    Args:
        path: Of the file.

    Raises:
        ConfigError: It is not there, cannot be read, is too large, or no TOML.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", nearest_path(path) or "check the path")
        found = tomllib.loads(plain_text(path, most=_MOST_BYTES))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}", "check the path") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = readable(str(error)) if isinstance(error, tomllib.TOMLDecodeError) else "values in values without an end"
        raise ConfigError(f"{path}: not a TOML file: {why}", "correct it there") from error
    if problem := oddity(found):
        raise ConfigError(f"{path}: {problem}", "correct it there")
    return found


def _read(path: Path) -> dict[str, Any]:
    found = read_toml(path)
    _check_head(path, found)
    return found


def _check_head(path: Path, found: dict[str, Any]) -> None:
    version = found.get("version")
    if version is None:
        raise ConfigError(f"{path}: version is missing", f"begin the file with: version = {VERSION}")
    if type(version) is not int or version != VERSION:
        raise ConfigError(
            f"{path}: version is {version!r}, and this edgespa reads {VERSION}",
            "update edgespa, or write the file anew",
        )
    if not isinstance(found.get("folder", "."), str):
        raise ConfigError(f"{path}: folder: no name of a folder", 'write folder = ".."')
    for name, table in found.items():
        if name in _HEAD:
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {shown(name)[1:-1]}: no step, and no other key", _hint(name, _HEAD, _KNOWN))
        if not re.fullmatch(r"[\w-]{1,100}", name):
            raise ConfigError(f"{path}: the step {shown(name)}: not a name", "use letters, digits, - and _")


def _step(name: str, table: Mapping[str, Any], places: Mapping[str, Path]) -> Step:
    command = table.get(_COMMAND, name)
    where = f"{places.get(_COMMAND, places[''])}: {name}"
    if command not in COMMANDS:
        if _COMMAND in table:
            raise ConfigError(f"{where}.{_COMMAND}: {command!r} is no step", _hint(str(command), COMMANDS, _KNOWN))
        raise ConfigError(
            f"{where}: there is no such step",
            f'{_hint(name, COMMANDS, _KNOWN)}; a step of another name says which it is: {_COMMAND} = "prune"',
        )
    values = {key: value for key, value in table.items() if key != _COMMAND}
    return Step(name, str(command), MappingProxyType(values), MappingProxyType(dict(places)))


def _hint(name: str, known: Sequence[str], otherwise: str) -> str:
    near = nearest(name, known, 1)
    told = f"{otherwise}: {', '.join(known)}" if " " not in otherwise else otherwise
    return f"did you mean '{near[0]}'?" if near else told


def folder_from(file: Path) -> str:
    """The current folder, as seen from a file."""
    return os.path.relpath(Path.cwd(), file.absolute().parent)
