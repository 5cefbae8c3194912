"""What a Python user has at hand, as the recipes take it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

from edgespa.api.results import Bundle, Result
from edgespa.api.shell import current
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError, EdgespaError
from edgespa.models.given import Given
from edgespa.system.progress import bar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    from edgespa.api.options import DataOptions, Progress
    from edgespa.config import PixelSettings, Strict
    from edgespa.device.board import Device
    from edgespa.device.fleet import Outcome
    from edgespa.latency.stopwatch import LatencyBudget
    from edgespa.models.inputs import InputSize, InputSizes

    Model = str | Path | nn.Module | TaskFile
    Data = str | Path | Dataset[Any] | DataLoader[Any] | tuple[Any, ...] | Tensor
    Sizes = str | Tensor | Sequence[int] | Sequence[str | InputSize | Tensor | Sequence[int]]
    Labels = str | Path | Sequence[str]
    Tell = Progress | bool | None
    Values = float | Sequence[float]

S = TypeVar("S", bound="Strict")


def model_of(model: Model) -> tuple[str, str | None]:
    """The spec of a model; and of a task whose base was given in Python, that base."""
    if isinstance(model, TaskFile):
        return str(model.path), model.given
    if isinstance(model, (str, Path)):
        return (model if isinstance(model, Given) else str(model)), None
    if isinstance(model, type):
        raise ConfigError(f"{model.__name__} is a class, not a model", f"give one of it: {model.__name__}()")
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
    """Sizes, also of example inputs, or as they are typed.

    Raises:
        ConfigError: If they are none.
    """
    if given is None:
        return None
    from torch import Tensor

    from edgespa.models.inputs import InputSize

    several: Any = given
    if isinstance(several, (str, Tensor, InputSize)) or _is_shape(several):
        several = (several,)
    if not isinstance(several, Sequence) or not several:
        raise _no_sizes(given)
    found = tuple(map(_size_of, several))
    return found[0].shape if len(found) == 1 and found[0].dtype is None else found


def _size_of(given: Any) -> InputSize:
    """Of one input."""
    from torch import Tensor

    from edgespa.models.inputs import InputSize

    if isinstance(given, InputSize):
        return given
    if isinstance(given, str):
        return InputSize.parse(given)
    if isinstance(given, Tensor):
        kind = None if given.is_floating_point() else str(given.dtype).removeprefix("torch.")
        return InputSize(tuple(given.shape), kind)
    if not _is_shape(given):
        raise _no_sizes(given)
    return InputSize.parse(",".join(map(str, given)))


def _is_shape(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and all(isinstance(each, Number) for each in given)


def _no_sizes(given: object) -> ConfigError:
    return ConfigError(
        f"input_shape: {str(given)[:80]!r} is no sizes of an input",
        "give the batch first, (1, 3, 224, 224), an example input, or a tuple of either for several inputs",
    )


def options_of(
    mean: Values | None,
    std: Values | None,
    limit: int | None,
    seed: int,
    labels: Labels | None,
    class_offset: int | None,
    objective: str | None,
    pixels: PixelSettings,
    eval_limit: int | None = None,
    skip_bad_files: bool = False,
) -> DataOptions:
    """How the data become inputs."""
    from edgespa.api.options import DataOptions

    def numbers(value: Values | None) -> tuple[float, ...] | None:
        return None if value is None else (float(value),) if isinstance(value, (int, float)) else tuple(value)

    named = None if labels is None else file_of_names(labels) or several(labels)
    given = limit, seed, named, class_offset, objective, pixels
    return DataOptions(numbers(mean), numbers(std), *given, skip_bad=skip_bad_files, eval_limit=eval_limit)


def file_of_names(labels: Labels | None) -> Path | None:
    """The file of class names, where they are not given themselves."""
    return Path(labels) if isinstance(labels, (str, Path)) else None


def latency_of(
    latency_ms: float | None, device: str, threads: int, variant: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], LatencyBudget | None]:
    """The settings of adapt or prune, and the latency that their density is found by, if that is asked for.

    Channel counts are aligned as the device's latency table has found it of its runtime, or else as its profile says,
    if the settings do not.

    Args:
        latency_ms: Of one inference; None where a density is said.
        device: Where.
        threads: With how many.
        variant: Of what file.
        settings: What was said.

    Raises:
        ConfigError: Some of them do not go together.
        DeviceError: There is no such device.
    """
    if latency_ms is None:
        for name, value, usual in (("device", device, LOCAL), ("threads", threads, 1), ("variant", variant, VARIANT)):
            if value != usual:
                raise ConfigError(f"{name}={value!r} is for latency_ms=X", "leave it out, or ask for a latency")
        return dict(settings), None
    for name in ("density", "budget"):
        if name in settings:
            raise ConfigError(
                f"{name} and latency_ms exclude each other: the density is found", "leave one of them out"
            )
    from edgespa.device import load_device

    board = load_device(device)  # said before torch is loaded

    from edgespa.latency.stopwatch import LatencyBudget
    from edgespa.latency.table import load_table, table_path

    try:
        table = load_table(table_path(board.name, variant, threads))
    except ConfigError:  # told where it is used
        table = None
    step = board.round_to if table is None else table.step
    asked = {"round_to": step, **settings, "density": 1.0, "budget": "channels"}
    return asked, LatencyBudget(latency_ms, board, threads, variant)


LOCAL = "local"
VARIANT = "onnx-fp32"


def weighed_by(settings: Mapping[str, Any]) -> Path | None:
    """The file of class weights, where that is how they are given."""
    found = settings.get("class_weights")
    return Path(found) if isinstance(found, (str, Path)) and found not in ("none", "balanced") else None


def require_of_method(method: str, others: Mapping[str, Any]) -> None:
    """Refuse what a method of pruning does not look at.

    Args:
        method: Its name.
        others: What is for others, by name; None and False where it is not given.

    Raises:
        ConfigError: It names them.
    """
    odd = [name for name, value in others.items() if value is not None and value is not False]
    if odd:
        raise ConfigError(
            f"{', '.join(odd)}: not for the method {method}",
            "leave it out" + ("" if method == "sls" else ", or take method='sls', which removes blocks"),
        )


def runtime_of(device: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the profile of a device says of the files that are written for it.

    Raises:
        ConfigError: The settings say it too.
        DeviceError: There is no such device.
    """
    if device is None:
        return {}
    if settings.get("onnx_runtime") is not None:
        raise ConfigError("device names an ONNX Runtime too", "leave out onnx_runtime")
    from edgespa.device import load_device

    board = load_device(device)
    oldest = board.oldest_onnx_runtime()
    known: dict[str, Any] = {"int8_ratio": board.int8_ratio(), "half_for_gpu": board.gpu is not None}
    if board.takes_symmetric and settings.get("int8_scheme") is None:
        known["int8_scheme"] = "symmetric"
    return {**known, **({"onnx_runtime": oldest} if oldest else {})}


def settings_of(settings: Mapping[str, Any], config: type[Strict]) -> dict[str, Any]:
    """Settings as a configuration takes them: a list is as good as a tuple, and one of them as a list of one.

    Args:
        settings: By name.
        config: That takes them.
    """
    found = {}
    for name, value in settings.items():
        field = config.model_fields.get(name)
        takes_several = field is not None and get_origin(field.annotation) is tuple
        found[name] = several(value) if takes_several or isinstance(value, list) else value
    return found


def configured(config: type[S], settings: Mapping[str, Any], verb: Callable[..., Any]) -> S:
    """The configuration that settings of a verb are.

    Raises:
        ConfigError: One is not known, and the message names the nearest name that the verb takes; or not allowed.
    """
    return config.parse(settings_of(settings, config), verb.__name__, inspect.signature(verb).parameters)


def several(value: Any) -> tuple[Any, ...]:
    """One or several, as several: a text is one."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def parted(settings: Mapping[str, Any]) -> tuple[PixelSettings, dict[str, Any]]:
    """What settings say of how an image becomes an input, and all else."""
    from edgespa.config import PixelSettings

    pixels = {name: each for name, each in settings.items() if name in PixelSettings.model_fields}
    rest = {name: each for name, each in settings.items() if name not in pixels}
    return PixelSettings.parse(pixels, "images"), rest


def path_of(bundle: str | Path | Result) -> Path:
    """Where a bundle or a task file lies.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(bundle, (Bundle, TaskFile)):
        return bundle.path
    if isinstance(bundle, (str, Path)):
        return Path(bundle)
    raise ConfigError(f"a {type(bundle).__name__} is no file", "give a path, or what export, prune or adapt gave")


def devices_of(names: str | Sequence[str], groups: str | Sequence[str] = ()) -> list[Device]:
    """Profiles by name, one or several, and those of groups.

    Raises:
        ConfigError: There is neither.
        DeviceError: There is no such device or group.
    """
    from edgespa.device.groups import chosen

    found = chosen(several(names), several(groups))
    if not found:
        raise ConfigError("no device is named, and no group", "name one of: edgespa devices list; or a group of them")
    return found


def errors_of(outcomes: Sequence[Outcome[Any]], named: str | Sequence[str] | None) -> dict[str, EdgespaError]:
    """What failed, by device; where the only one was named by itself, it is raised."""
    errors = {each.device.name: each.error for each in outcomes if each.error is not None}
    if isinstance(named, str) and errors:
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
    with bar(text, enabled=progress is not False and not current().quiet, lines=current().lines) as report:
        yield report
