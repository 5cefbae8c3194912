"""Whether what a sweep asks for can be: values of all settings, and what only the user may say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.api.sweep_file import DATA, SweepAsked
from edgespa.errors import ConfigError, DeviceError, EdgespaError, UntrustedError
from edgespa.models.trust import CODE, is_remembered, question

_LISTS = (
    "formats",
    "precisions",
    "also_sizes",
    "keep",
    "only",
    "augment",
    "variants",
    "runtimes",
    "arithmetics",
    "providers",
)
_NUMBERS = ("mean", "std", "padding", "resize_to")


def require_settings(sweep: SweepAsked, names: Sequence[str]) -> None:
    """Refuse values that no call takes, before anything is done; files that are not there fail their tasks alone.

    Args:
        sweep: Asked for.
        names: Of the tasks that are looked at.

    Raises:
        ConfigError: With file and table.
        DeviceError: There is no such device.
    """
    import edgespa as es
    from edgespa.api.early import promised
    from edgespa.api.shell import adding

    with tempfile.TemporaryDirectory() as nowhere:  # looking leaves nothing where the sweep's folder will be
        file, bundle = Path(nowhere, "task.spa"), Path(nowhere, "bundle")
        for task in sweep.tasks:
            if task.name not in names:
                continue
            calls: list[tuple[str, Any, Mapping[str, Any]]] = [
                (task.verb, sweep.base["model"], {**task.making, "output": file})
            ]
            if task.exporting is not None:
                calls.append(("export", file, {**task.exporting, "output": bundle}))
                for device in task.devices:
                    calls.append(("profile", bundle, {**task.profiling, "device": device}))
            for verb, source, values in calls:
                with adding(only_check=True), promised([file, bundle]):
                    _check(getattr(es, verb), source, values, f"{sweep.path}: tasks.{task.name}.{verb}")


def _check(call: Callable[..., Any], source: Any, values: Mapping[str, Any], where: str) -> None:
    """As a recipe's step is checked before the first is done."""
    from edgespa.api.shell import Checked

    try:
        call(source, progress=False, **call_values(values))
    except Checked:
        pass
    except (ConfigError, DeviceError) as error:
        kind = DeviceError if isinstance(error, DeviceError) else ConfigError
        raise kind(f"{where}: {error.message}", error.hint) from error
    except (EdgespaError, OSError):  # when its turn comes it says so, and stops no other
        pass


def call_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the calls take them: several in one text, with commas, are a list.

    Args:
        values: By keyword, as the file has them.
    """
    found: dict[str, Any] = {}
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
    from edgespa.adaptation.in_mlflow import without_password
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
                own = key == "objective" and value not in OBJECTIVES and ":" in str(value)
                data = key in DATA and isinstance(value, str) and is_code(value) and not is_remembered(value)
                if own or data:
                    yield f"{place} = {_shown(value)}: {CODE}"
                elif key == "mlflow":
                    shown = _shown(without_password(str(value)))
                    yield f"{place} = {shown}: it is told how the training goes, and your settings"
                elif key == "tensorboard" and not _is_near(sweep.path, str(value)):
                    yield f"{place} = {_shown(value)}: files are written there"
                elif key == "device" and value != "local" and verb != "export":
                    yield f"{place} = {_shown(value)}: is connected to, as you"
        for device in task.devices:
            if device != "local":
                yield f"tasks.{task.name}.devices = {_shown(device)}: is connected to, as you"


def _is_near(file: Path, place: str) -> bool:
    """Whether a place is below the folder of a file, or the current one."""
    folders = (file.absolute().parent.resolve(), Path.cwd().resolve())
    return any(Path(place).resolve().is_relative_to(each) for each in folders)


def _shown(value: Any) -> str:
    from edgespa.system.bounds import shown

    return shown(str(value))
