"""Whether what a sweep asks for can be: names and values of all settings, and what only the user may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.api.sweep_file import SweepAsked, TaskAsked, params_of, unknown
from edgespa.config import PixelSettings, Strict
from edgespa.errors import ConfigError, UntrustedError
from edgespa.models.trust import CODE, is_remembered, question

_DATA = ("data", "eval_data", "validation_data", "calibration", "held_out")
_LISTS = ("formats", "precisions", "keep", "only", "augment", "variants", "runtimes", "arithmetics", "providers")
_NUMBERS = ("mean", "std", "padding", "resize_to")


def require_settings(sweep: SweepAsked, names: Sequence[str]) -> None:
    """Refuse settings that no call has, and values that none takes, before anything is done.

    Args:
        sweep: Asked for.
        names: Of the tasks that are looked at.

    Raises:
        ConfigError: With file, table and key.
        DeviceError: There is no such device.
    """
    from edgespa.api.arguments import devices_of

    for task in sweep.tasks:
        if task.name not in names:
            continue
        _require(sweep.path, task, task.verb, task.making)
        if task.exporting is not None:
            _require(sweep.path, task, "export", task.exporting)
        devices_of(task.devices)


def _require(path: Path, task: TaskAsked, verb: str, values: Mapping[str, Any]) -> None:
    config = _config(verb, values)
    params, pixels = params_of(verb), tuple(PixelSettings.model_fields)
    known = (*params, *pixels, *config.model_fields)
    for key in values:
        if key not in known:
            place = task.places.get((verb, key), f"tasks.{task.name}.{verb}")
            raise unknown(f"{path}: {place}.{key.replace('_', '-')}", key, known)
    from edgespa.api.arguments import settings_of

    told = call_values(values)
    where = f"{path}: tasks.{task.name}.{verb}"
    PixelSettings.parse({name: each for name, each in told.items() if name in pixels}, where)
    rest = {name: each for name, each in told.items() if name in config.model_fields}
    if isinstance(rest.get("class_weights"), str) and rest["class_weights"] not in ("none", "balanced"):
        del rest["class_weights"]  # a file
    if told.get("density") is None and "density" in config.model_fields:
        rest["density"] = 1.0  # by a latency, or by heads alone: the call says what is missing
    config.parse(settings_of(rest, config), where, known)


def _config(verb: str, values: Mapping[str, Any]) -> type[Strict]:
    if verb == "adapt":
        from edgespa.adaptation.config import AdaptConfig

        return AdaptConfig
    if verb == "export":
        from edgespa.exporting.config import ExportConfig

        return ExportConfig
    if values.get("method") == "sls":
        from edgespa.pruning.depth import DepthConfig

        return DepthConfig
    from edgespa.pruning import PruneConfig

    return PruneConfig


def call_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the calls take them: several in one text, with commas, are a list.

    Args:
        values: By keyword, as the file has them.
    """
    found = {}
    for name, each in values.items():
        if isinstance(each, str) and name in _LISTS:
            found[name] = [part.strip() for part in each.split(",") if part.strip()]
        elif isinstance(each, str) and name in _NUMBERS:
            found[name] = _numbers(name, each)
        else:
            found[name] = each
    return found


def _numbers(name: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name}: '{text}' is no numbers", f"write {name} = [0.5, 0.5, 0.5], or one number") from None
    return [int(each) for each in numbers] if name in ("padding", "resize_to") else numbers


def require_harmless(sweep: SweepAsked, names: Sequence[str]) -> None:
    """Refuse what only the user may say: code that was not used here before, and other machines.

    Args:
        sweep: Asked for.
        names: Of the tasks that something is to be done for.

    Raises:
        UntrustedError: With all of it.
    """
    asked = list(dict.fromkeys(_questions(sweep, names)))
    if asked:
        raise UntrustedError(
            "\n  ".join([f"{sweep.path}: this is not done without your word:", *asked]),
            "look at it; if it is what you want, say trust=True, --trust",
        )


def _questions(sweep: SweepAsked, names: Sequence[str]) -> Iterator[str]:
    from edgespa.data.load import is_code
    from edgespa.objectives.kinds import OWN as OBJECTIVES

    if why := question(str(sweep.base["model"])):
        yield f"base.model = {_shown(sweep.base['model'])}: {why}"
    for task in sweep.tasks:
        if task.name not in names:
            continue
        for verb, values in ((task.verb, task.making), ("export", task.exporting or {})):
            for key, value in values.items():
                place = f"{task.places.get((verb, key), f'tasks.{task.name}')}.{key.replace('_', '-')}"
                if key in _DATA and isinstance(value, str) and is_code(value) and not is_remembered(value):
                    yield f"{place} = {_shown(value)}: {CODE}"
                elif key == "objective" and value not in OBJECTIVES and ":" in str(value):
                    yield f"{place} = {_shown(value)}: {CODE}"
                elif key == "device" and value != "local" and verb != "export":
                    yield f"{place} = {_shown(value)}: is connected to, as you"
        for device in task.devices:
            if device != "local":
                yield f"tasks.{task.name}.devices = {_shown(device)}: is connected to, as you"


def _shown(value: Any) -> str:
    from edgespa.system.bounds import shown

    return shown(str(value))


