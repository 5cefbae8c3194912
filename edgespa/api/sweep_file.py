"""Files that say a sweep: one base, what all tasks share, and a table for each task. See docs/how-to/many-tasks.md.

    version = 1

    [base]
    model = "net.py:build"

    [defaults]
    density = 0.5
    epochs = 10
    devices = ["kitchen"]

    [tasks.fruit]
    data = "fruit.zip:train"
    export = { precision = ["fp32", "int8"] }

Keys are the options of the commands, or the keywords of their calls. What is said of a task itself goes to whichever
call knows it: how it is made first, then the export, then measuring; a table below it is for one call alone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from edgespa.api.recipes import read_toml
from edgespa.config import PixelSettings
from edgespa.errors import ConfigError
from edgespa.models.imports import nearest
from edgespa.system.bounds import shown
from edgespa.system.files import expanded
from edgespa.trials.contents import placed

VERSION = 1
MOST_TASKS = 10_000
Verb = Literal["adapt", "prune", "export", "profile"]
VERBS: tuple[Verb, ...] = get_args(Verb)
KEYWORDS = MappingProxyType(
    {"from": "start", "format": "formats", "precision": "precisions", "also_size": "also_sizes",
     "adapter_option": "adapter_settings", "timeout": "timeout_s", "provider": "providers",
     "max_latency": "max_latency_ms", "runtime": "runtimes", "arithmetic": "arithmetics"}
)  # fmt: skip
"""Options that the calls name otherwise."""
BASE = ("model", "weights", "input_shape")
DATA = ("data", "eval_data", "validation_data", "calibration", "held_out")
PATHS = (*DATA, "labels", "start", "distill", "class_weights", "objective")
"""What may be a path, or has one in it."""
WORDS = ("base", "none", "balanced")
"""What of those is surely none."""
LOOKS = ("labels", "class_offset", "objective", "mean", "std", "limit", "eval_limit", "skip_bad_files", "seed",
         *PixelSettings.model_fields)  # fmt: skip
SHARED = ("eval_data", "calibration", *LOOKS)
"""What every call is told that knows it."""
TRACKERS = ("tensorboard", "mlflow")
"""What is told how a training goes, and changes nothing of it."""
PROFILE = ("variants", "threads", "runtimes", "arithmetics", "providers", "runs", "seconds", "duration", "cooldown",
           "rounds")  # fmt: skip
"""What may be said of measuring."""
REFUSED = ("output", "overwrite", "resume", "fresh", "progress", "trust", "log", "log_file", "plot", "sign", "sign_key",
           "base", "bundle", "json", "save_recipe", "dry_run", "yes")  # fmt: skip
"""What the sweep itself says, or nobody says in a file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LATENCY = re.compile(r"latency_ms=([\d.eE+-]+)")


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
        raise ConfigError(
            f"{path}: version is {version!r}, and has to be {VERSION}", f"begin with: version = {VERSION}"
        )
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
    return SweepAsked(path, base, tuple(tasks), None if first is None else _baseline(first))


def keyword(key: str) -> str:
    """The keyword of a call that a key of the file stands for.

    Args:
        key: As it is written: an option without its dashes, or the keyword itself.
    """
    name = key.replace("-", "_")
    return KEYWORDS.get(name, name)


@functools.cache
def known_to(verb: Verb) -> tuple[str, ...]:
    """Keywords that a call takes, and that a file may say.

    Args:
        verb: Of the call.
    """
    if verb == "profile":
        return PROFILE
    import edgespa as es

    own = inspect.signature(getattr(es, verb)).parameters
    settings = [name for config in _configs(verb) for name in config.model_fields]
    return tuple(
        dict.fromkeys(
            name for name in (*own, *PixelSettings.model_fields, *settings) if name not in (*REFUSED, *BASE, "settings")
        )
    )


def _configs(verb: Verb) -> Iterator[Any]:
    if verb == "adapt":
        from edgespa.adaptation.config import AdaptConfig

        yield AdaptConfig
    elif verb == "export":
        from edgespa.exporting.config import ExportConfig

        yield ExportConfig
    else:
        from edgespa.pruning import PruneConfig
        from edgespa.pruning.depth import DepthConfig

        yield from (PruneConfig, DepthConfig)


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
    """A table of defaults, or of a task: by keywords, with a table for each call."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {where}: no table", f"write [{where}], and keys below it")
    values = _named(path, where, table)
    for verb in VERBS:
        if verb not in values or (verb == "export" and isinstance(values[verb], bool)):
            continue
        if not isinstance(values[verb], dict):
            raise ConfigError(f"{path}: {where}.{verb}: no table", f"write [{where}.{verb}], and its options below it")
        values[verb] = _named(path, f"{where}.{verb}", values[verb])
        for key in values[verb]:
            if key not in known_to(verb):
                raise _unknown(path, f"{where}.{verb}", key, known_to(verb))
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
            raise ConfigError(f"{path}: {where}.{shown(key)[1:-1]} is said twice", "leave one of them out")
        found[name] = value
    return found


def _told(verbs: tuple[Verb, ...], key: str) -> tuple[Verb, ...]:
    """The calls that a key of a table is for, of those that make a task."""
    knowing = tuple(verb for verb in verbs if key in known_to(verb))
    return knowing if key in SHARED else knowing[:1]


def _task(path: Path, folder: Path, name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> TaskAsked:
    where = f"tasks.{name}"
    verb: Verb = "prune" if "prune" in own or ("prune" in defaults and "adapt" not in own) else "adapt"
    verbs: tuple[Verb, ...] = (verb, "export", "profile")
    told: dict[Verb, dict[str, Any]] = {each: {} for each in verbs}
    places: dict[tuple[str, str], str] = {}
    for said, place in ((defaults, "defaults"), (own, where)):
        for key, value in said.items():
            if key in ("devices", *VERBS):
                continue
            for each in _told(verbs, key):
                told[each][key], places[each, key] = value, place
            if not _told(verbs, key) and not (said is defaults and _told(VERBS, key)) and key != "data":
                raise _unknown(path, place, key, (*sum(map(known_to, verbs), ()), "devices", *VERBS))
        for each in verbs:
            table = said.get(each)
            for key, value in (table if isinstance(table, dict) else {}).items():
                told[each][key], places[each, key] = value, f"{place}.{each}"
    data = next((said["data"] for said in (own, defaults) if "data" in said), None)
    making, exporting = told[verb], told["export"]
    if verb == "prune":
        target = "data" if making.get("method") == "sls" else "calibration"
        making.pop("data", None)
        if data is not None:
            making.setdefault(target, data)
    elif "data" not in making:
        raise ConfigError(f"{path}: {where}.data is missing", 'say what is learned from: data = "fruit.zip:train"')
    if match := _LATENCY.fullmatch(str(making.get("budget", ""))):
        making["latency_ms"] = _number(path, f"{where}.budget", match[1])
        del making["budget"]
    devices = tuple(own.get("devices", defaults.get("devices", ())))
    if "latency_ms" in making and devices:
        making.setdefault("device", devices[0])
    exported = next((said["export"] for said in (own, defaults) if "export" in said), True) is not False
    if data is not None:
        exporting.setdefault("calibration", data)
    if len(devices) == 1 and devices != ("local",):
        exporting.setdefault("device", devices[0])
    if devices and not exported:
        raise ConfigError(f"{path}: {where}: nothing is exported, and devices are named", "leave one of them out")
    for values in (making, exporting):
        values.update({key: _at(key, value, folder) for key, value in values.items()})
    return TaskAsked(name, verb, making, exporting if exported else None, told["profile"], devices, places)


def _baseline(first: TaskAsked) -> dict[str, Any]:
    """The export of the unpruned network: as of all tasks, with the images of the first."""
    assert first.exporting is not None
    images = ("calibration", "device", "mean", "std", "limit", "seed", "skip_bad_files", *PixelSettings.model_fields)
    of_a_task = ("eval_data", "eval_limit", "labels", "class_offset", "objective", "int8_max_loss")
    return {
        name: each
        for name, each in first.exporting.items()
        if name in images or (first.places.get(("export", name), "").startswith("defaults") and name not in of_a_task)
    }


def _at(key: str, value: Any, folder: Path) -> Any:
    if key in TRACKERS and isinstance(value, str) and value:
        from edgespa.adaptation.in_mlflow import absolute

        return absolute(value, folder) if key == "mlflow" else str((folder / expanded(value)).absolute())
    return placed(value, folder) if key in PATHS and isinstance(value, str) and not _is_word(value) else value


def _is_word(value: str) -> bool:
    from edgespa.objectives.kinds import OWN

    return value in WORDS or value in OWN


def _number(path: Path, where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{path}: {where}: {text} is no number of milliseconds", "write latency_ms=2.5") from None


def _require_keys(path: Path, where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if keyword(key) not in known:
            raise _unknown(path, where, keyword(key), known)


def _unknown(path: Path, where: str, key: str, known: tuple[str, ...]) -> ConfigError:
    """A key that is not known, with the nearest that is."""
    said = shown(key.replace("_", "-"))[1:-1]
    place = f"{path}: {where}{'.' if where else ''}{said}"
    if where and key in BASE and where != "base":
        return ConfigError(f"{place}: all tasks have one base", f"say it in [base]: {said}")
    if where and key in REFUSED:
        return ConfigError(f"{place}: a sweep says that itself", "leave it out")
    near = nearest(key, known, 1)
    others = "see the options of edgespa adapt, edgespa export and edgespa profile"
    if len(known) < 10:
        others = f"known: {', '.join(each.replace('_', '-') for each in known)}"
    return ConfigError(f"{place}: is not known", f"did you mean '{near[0].replace('_', '-')}'?" if near else others)
