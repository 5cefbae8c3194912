"""Files that say a sweep: one base, what all tasks share, and a table for each task. See docs/how-to/many-tasks.md.

    version = 1

    [base]
    model = "net.py:build"

    [defaults]
    devices = ["kitchen"]
    adapt = { density = 0.5, epochs = 10 }

    [tasks.fruit]
    data = "fruit.zip:train"

Keys are the options of the commands that a table is for, or the keywords of their calls. Here it is said what is meant
by whom; what values may be, the calls know.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from edgespa.api.recipes import read_toml
from edgespa.config import PixelSettings
from edgespa.errors import ConfigError
from edgespa.models.imports import nearest
from edgespa.system.bounds import shown
from edgespa.trials.contents import placed

VERSION = 1
MOST_TASKS = 10_000
Verb = Literal["adapt", "prune"]
KEYWORDS = MappingProxyType(
    {"from": "start", "format": "formats", "precision": "precisions", "adapter_option": "adapter_settings",
     "timeout": "timeout_s", "provider": "providers", "runtime": "runtimes"}
)  # fmt: skip
"""Options that the calls name otherwise."""
BASE = ("model", "weights", "input_shape")
PATHS = ("data", "eval_data", "validation_data", "calibration", "held_out", "labels", "start", "distill",
         "class_weights")  # fmt: skip
"""What may be a path, or has one in it."""
_LOOKS = ("labels", "class_offset", "objective", "mean", "std", "limit", "eval_limit", "skip_bad_files", "seed",
          *PixelSettings.model_fields)  # fmt: skip
SHARED = ("data", "eval_data", "validation_data", "calibration", "held_out", *_LOOKS)
"""Keys of a task itself: each call takes of them what it knows."""
OWN = MappingProxyType(
    {
        "adapt": ("data", "eval_data", "validation_data", *_LOOKS),
        "prune": ("calibration", "eval_data", "held_out", *_LOOKS),
        "export": ("calibration", "eval_data", *_LOOKS),
        "profile": (),
    }
)
VERBS = tuple(OWN)
PROFILE = ("variants", "threads", "runtimes", "arithmetics", "providers", "runs", "seconds", "duration", "cooldown",
           "rounds")  # fmt: skip
"""What may be said of measuring."""
REFUSED = ("output", "overwrite", "resume", "fresh", "progress", "trust", "log", "log_file", "plot", "sign", "sign_key",
           "base", "bundle", "json", "save_recipe", "dry_run", "yes")  # fmt: skip
"""What the sweep itself says, or nobody says in a file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True)
class TaskAsked:
    """One task.

    Attributes:
        name: Of its files, and on devices.
        verb: How it is made.
        making: Keywords of that call, without the base.
        exporting: Keywords of the export; None for no bundle.
        profiling: Keywords of measuring.
        devices: Where its files are measured.
        places: Table and keyword -> the table of the file that says so, for messages.
    """

    name: str
    verb: Verb
    making: Mapping[str, Any]
    exporting: Mapping[str, Any] | None
    profiling: Mapping[str, Any]
    devices: tuple[str, ...]
    places: Mapping[tuple[str, str], str]


@dataclasses.dataclass(frozen=True)
class SweepAsked:
    """A sweep.

    Attributes:
        path: The file.
        base: ``model``, ``weights`` and ``input_shape``.
        tasks: In their order.
        baseline: Keywords of the export of the unpruned base; None where no task is exported.
    """

    path: Path
    base: Mapping[str, Any]
    tasks: tuple[TaskAsked, ...]
    baseline: Mapping[str, Any] | None


def read_sweep(path: Path) -> SweepAsked:
    """Read a file of a sweep; nothing that it names is run or opened.

    Args:
        path: Of the file. What it names begins at its folder.

    Raises:
        ConfigError: It cannot be read, or a key is not known; with file, table and key.
    """
    found = read_toml(path)
    _require_keys(path, "", found, ("version", "base", "defaults", "tasks"))
    version = found.get("version")
    if type(version) is not int or version != VERSION:
        raise ConfigError(f"{path}: version is {version!r}, and has to be {VERSION}", f"begin with: version = {VERSION}")
    folder = path.absolute().parent
    base = _base(path, found, folder)
    defaults = _table(path, "defaults", found.get("defaults", {}))
    given = found.get("tasks")
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{path}: there are no tasks", "write a table for each: [tasks.fruit]")
    if len(given) > MOST_TASKS:
        raise ConfigError(f"{path}: {len(given):,} tasks are too many", f"at most {MOST_TASKS:,}; write several files")
    tasks = []
    for name, table in given.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: tasks.{shown(name)[1:-1]}: no name of a task",
                "use letters, digits, dots, dashes and underscores, at most 64",
            )
        tasks.append(_task(path, folder, name, defaults, _table(path, f"tasks.{name}", table)))
    lower = [each.name.lower() for each in tasks]
    if twice := next((name for name in lower if lower.count(name) > 1), None):
        raise ConfigError(f"{path}: two tasks are named '{twice}' but for small and capital letters", "rename one")
    first = next((each for each in tasks if each.exporting is not None), None)
    return SweepAsked(path, base, tuple(tasks), None if first is None else _baseline(defaults, first))


def keyword(key: str) -> str:
    """The keyword of a call that a key of the file stands for.

    Args:
        key: As it is written: an option without its dashes, or the keyword itself.
    """
    name = key.replace("-", "_")
    return KEYWORDS.get(name, name)


def params_of(verb: str) -> tuple[str, ...]:
    """Keywords that a call names itself and that a file may say; settings come on top of them.

    Args:
        verb: One of `VERBS`.
    """
    if verb == "profile":
        return PROFILE
    import edgespa as es

    known = inspect.signature(getattr(es, verb)).parameters
    return tuple(name for name in known if name not in (*REFUSED, *BASE, "settings"))


def _base(path: Path, found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    table = found.get("base")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: there is no base", 'name it: [base] with model = "net.py:build"')
    _require_keys(path, "base", table, BASE)
    values = _named(path, "base", table)
    for name in ("model", "weights"):
        if name in values and not (isinstance(values[name], str) and values[name]):
            raise ConfigError(f"{path}: base.{name}: no text", "name a model, or a file")
    if "model" not in values:
        raise ConfigError(f"{path}: base.model is missing", 'name the network: model = "net.py:build"')
    if values["model"].endswith(".spa"):
        raise ConfigError(
            f"{path}: base.model is a task file", "name its base; where tasks begin is said by from: [defaults.adapt]"
        )
    return {name: placed(each, folder) if isinstance(each, str) else each for name, each in values.items()}


def _table(path: Path, where: str, table: object) -> dict[str, Any]:
    """A table of defaults, or of a task: keywords, with a table for each call."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {where}: no table", f"write [{where}], and keys below it")
    _require_keys(path, where, table, ("devices", *VERBS, *SHARED))
    values = _named(path, where, table)
    for verb in VERBS:
        if verb not in values or (verb == "export" and isinstance(values[verb], bool)):
            continue
        if not isinstance(values[verb], dict):
            raise ConfigError(f"{path}: {where}.{verb}: no table", f"write [{where}.{verb}], and its options below it")
        values[verb] = _named(path, f"{where}.{verb}", values[verb])
    if "devices" in values:
        values["devices"] = _devices(path, where, values["devices"])
    if "adapt" in values and "prune" in values:
        raise ConfigError(f"{path}: {where} has both adapt and prune", "a task is made by one of them: leave one out")
    return values


def _devices(path: Path, where: str, given: object) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise ConfigError(f"{path}: {where}.devices: no names", 'write devices = ["local"]')
    return list(dict.fromkeys(names))


def _named(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """By keywords, each said once."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = keyword(key)
        if name in found:
            raise ConfigError(f"{path}: {where}.{key} is said twice", "leave one of them out")
        found[name] = value
    return found


def _task(path: Path, folder: Path, name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> TaskAsked:
    where = f"tasks.{name}"
    places: dict[tuple[str, str], str] = {}

    def merged(verb: str, keys: Sequence[str], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a call is told: of what is shared what it knows, then what is said for it alone."""
        result: dict[str, Any] = {}
        for said, place in ((defaults, "defaults"), (own, where)):
            for key in keys:
                if key in said:
                    result[key], places[verb, key] = said[key], place
        for said, place in ((defaults, "defaults"), (own, where)):
            table = said.get(verb)
            for key, value in (table if isinstance(table, dict) else {}).items():
                _require_sayable(path, f"{place}.{verb}.{key}", key)
                result[key], places[verb, key] = value, f"{place}.{verb}"
        return {key: _at(key, value, folder) for key, value in result.items()}

    verb: Verb = "prune" if "prune" in own or ("prune" in defaults and "adapt" not in own) else "adapt"
    making = merged(verb, OWN[verb])
    data = next((said["data"] for said in (own, defaults) if "data" in said), None)
    if verb == "prune" and data is not None:
        target = "data" if making.get("method") == "sls" else "calibration"
        making.setdefault(target, _at("data", data, folder))
    if verb == "adapt" and "data" not in making:
        raise ConfigError(f"{path}: {where}.data is missing", 'say what is learned from: data = "fruit.zip:train"')
    if "budget" in making and (match := re.fullmatch(r"latency_ms=([\d.eE+-]+)", str(making["budget"]))):
        making["latency_ms"] = _number(path, f"{where}.{verb}.budget", match[1])
        del making["budget"]
    exported = next((said["export"] for said in (own, defaults) if "export" in said), True)
    exporting = None
    devices = tuple(own.get("devices", defaults.get("devices", ())))
    if exported is not False:
        exporting = merged("export", OWN["export"])
        if data is not None:
            exporting.setdefault("calibration", _at("data", data, folder))
        if len(devices) == 1 and devices != ("local",):
            exporting.setdefault("device", devices[0])
    elif devices:
        raise ConfigError(f"{path}: {where}: nothing is exported, and devices are named", "leave one of them out")
    profiling = merged("profile", ())
    for key in profiling:
        if key not in PROFILE:
            raise unknown(f"{path}: {places['profile', key]}.{key}", key, PROFILE)
    return TaskAsked(name, verb, making, exporting, profiling, devices, places)


def _baseline(defaults: Mapping[str, Any], first: TaskAsked) -> dict[str, Any]:
    """The export of the unpruned network: as of all tasks, with the images of the first."""
    told = dict(defaults.get("export", {})) if isinstance(defaults.get("export"), dict) else {}
    assert first.exporting is not None
    looks = ("mean", "std", "limit", "seed", "skip_bad_files", *PixelSettings.model_fields)
    images = {name: first.exporting[name] for name in ("calibration", "device", *looks) if name in first.exporting}
    without = {name: each for name, each in told.items() if name not in ("eval_data", "labels", "int8_max_loss")}
    return {**without, **images}


def _at(key: str, value: Any, folder: Path) -> Any:
    return placed(value, folder) if key in PATHS and isinstance(value, str) else value


def _number(path: Path, where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{path}: {where}: {text} is no number of milliseconds", "write latency_ms=2.5") from None


def _require_sayable(path: Path, where: str, key: str) -> None:
    if key in BASE:
        raise ConfigError(f"{path}: {where}: all tasks have one base", f"say it in [base]: {key.replace('_', '-')}")
    if key in REFUSED:
        raise ConfigError(f"{path}: {where}: a sweep says that itself", "leave it out")


def _require_keys(path: Path, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if keyword(key) not in known:
            place = f"{path}: {where}{'.' if where else ''}{shown(key)[1:-1]}"
            raise unknown(place, keyword(key), known, of_verb=where.startswith(("tasks", "defaults")) and where)


def unknown(place: str, key: str, known: Sequence[str], of_verb: str | bool = False) -> ConfigError:
    """A key that is not known, with the nearest that is.

    Args:
        place: File, table and key.
        key: It.
        known: Those that are.
        of_verb: The table, where the key could belong into one of its tables.
    """
    near = nearest(key, known, 1)
    if not near and of_verb:
        for verb in VERBS:
            if key in params_of(verb):
                return ConfigError(f"{place}: is not known", f"say it below [{of_verb}.{verb}]")
        return ConfigError(
            f"{place}: is not known", f"settings of a command stand in its table: [{of_verb}.adapt], [{of_verb}.export]"
        )
    said = near[0].replace("_", "-") if near else ""
    others = ", ".join(sorted(each.replace("_", "-") for each in known))
    return ConfigError(f"{place}: is not known", f"did you mean '{said}'?" if near else f"known: {others}")
