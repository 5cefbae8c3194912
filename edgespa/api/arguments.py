"""What a Python user has at hand, as the recipes take it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.results import Bundle, Result, TaskFile
from edgespa.errors import ConfigError, EdgespaError
from edgespa.models.given import Given
from edgespa.system.progress import bar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    from edgespa.api.options import DataOptions, Progress
    from edgespa.config import PixelSettings
    from edgespa.device.board import Device
    from edgespa.device.fleet import Outcome
    from edgespa.latency.stopwatch import LatencyBudget
    from edgespa.models.inputs import InputSize, InputSizes

    Model = str | Path | nn.Module | TaskFile
    Data = str | Path | Dataset[Any] | DataLoader[Any] | tuple[Any, ...] | Tensor
    Sizes = tuple[int, ...] | tuple[InputSize, ...] | Tensor | tuple[Tensor, ...]
    Tell = Progress | bool | None
    Values = float | Sequence[float]


def model_of(model: Model) -> tuple[str, str | None]:
    """The spec of a model; and of a task whose base was given in Python, that base."""
    if isinstance(model, TaskFile):
        return str(model.path), model.given
    if isinstance(model, (str, Path)):
        return (model if isinstance(model, Given) else str(model)), None
    if callable(getattr(model, "state_dict", None)):
        return Given(model), None
    raise ConfigError(
        f"a {type(model).__name__} is no model",
        "give a torch.nn.Module, a spec such as 'timm:resnet18' or 'net.py:build', or a task file",
    )


def base_of(base: Model | None, own: str | None) -> str | None:
    """The spec of a base that is given, or that a result brought along."""
    return own if base is None else model_of(base)[0]


def given_in(spec: str | None) -> str | None:
    """The spec itself, where it is of something that was given in Python."""
    return spec if isinstance(spec, Given) else None


def data_of(data: Data) -> str:
    """A spec of data, whatever they were given as."""
    return str(data) if isinstance(data, Path) else data if isinstance(data, str) else Given(data)


def data_if_any(data: Data | None) -> str | None:
    """The same of data that may be left out."""
    return None if data is None else data_of(data)


def sizes_of(given: Sizes | None) -> InputSizes | None:
    """Sizes, also of example inputs."""
    if given is None:
        return None
    from torch import Tensor

    from edgespa.models.inputs import InputSize

    examples = (given,) if isinstance(given, Tensor) else given
    if not any(isinstance(each, Tensor) for each in examples):
        return given  # type: ignore[return-value]
    found = [
        InputSize(tuple(each.shape), None if each.is_floating_point() else str(each.dtype).removeprefix("torch."))
        for each in examples
        if isinstance(each, Tensor)
    ]
    return found[0].shape if len(found) == 1 and found[0].dtype is None else tuple(found)


def options_of(
    mean: Values | None,
    std: Values | None,
    limit: int | None,
    seed: int,
    labels: str | Path | None,
    class_offset: int | None,
    pixels: PixelSettings,
) -> DataOptions:
    """How the data become inputs."""
    from edgespa.api.options import DataOptions

    def several(value: Values | None) -> tuple[float, ...] | None:
        return None if value is None else (float(value),) if isinstance(value, (int, float)) else tuple(value)

    named = Path(labels) if labels else None
    return DataOptions(several(mean), several(std), limit, seed, named, class_offset, pixels)


def budget_of(latency_ms: float | None, device: str) -> LatencyBudget | None:
    """A latency that is asked for, on a device."""
    if latency_ms is None:
        return None
    from edgespa.device import load_device
    from edgespa.latency.stopwatch import LatencyBudget

    return LatencyBudget(latency_ms, load_device(device))


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as configurations take them: a list is as good as a tuple."""
    return {name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()}


def parted(settings: Mapping[str, Any]) -> tuple[PixelSettings, dict[str, Any]]:
    """What settings say of how an image becomes an input, and all else, as configurations take it."""
    from edgespa.config import PixelSettings

    pixels = {name: each for name, each in settings.items() if name in PixelSettings.model_fields}
    rest = {name: each for name, each in settings.items() if name not in pixels}
    return PixelSettings.parse(pixels, "images"), settings_of(rest)


def path_of(bundle: str | Path | Result) -> Path:
    """Where a bundle or a task file lies."""
    return bundle.path if isinstance(bundle, (Bundle, TaskFile)) else Path(str(bundle))


def devices_of(names: str | Sequence[str]) -> list[Device]:
    """Profiles by name, one or several."""
    from edgespa.device import load_device

    return [load_device(name) for name in dict.fromkeys([names] if isinstance(names, str) else names)]


def errors_of(outcomes: Sequence[Outcome[Any]]) -> dict[str, EdgespaError]:
    """What failed on some; on the only one it is raised."""
    errors = {each.device.name: each.error for each in outcomes if each.error is not None}
    if len(outcomes) == 1 and errors:
        raise next(iter(errors.values()))
    return errors


def file_of(path: str | Path | None) -> Path | None:
    """A path, if any."""
    return None if path is None else Path(path)


def text_of(path: str | Path | None) -> str | None:
    """A path as the recipes take it, if any."""
    return None if path is None else str(path)


@contextlib.contextmanager
def told(text: str, progress: Tell) -> Iterator[Progress]:
    """The callback, or one that draws a bar."""
    if callable(progress):
        yield progress
        return
    with bar(text, enabled=progress is not False) as report:
        yield report
