"""What a library records of the images that its model was trained on: their size and how they became inputs."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from edgespa.system.files import expanded
from edgespa.system.quiet import first_line, quiet

log = logging.getLogger(__name__)

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_RESAMPLING = MappingProxyType({0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"})
_PIXEL = 1 / 255


@dataclass(frozen=True)
class Recorded:
    """How images became inputs when a model was trained, as far as its library says.

    Attributes:
        size: Channels, height and width of the input; None where that is not said.
        mean: Subtracted from pixels in [0, 1], per channel; None where that is not said.
        std: Divided by, likewise.
        otherwise: In words, what was done to images there and is done in another way here; empty where nothing was.
    """

    size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    otherwise: str = ""


def recorded(spec: str, model: nn.Module) -> Recorded | None:
    """What the library of a model records; None for a model of no library, or where nothing can be read.

    Args:
        spec: Its spec, ``timm:NAME``, ``torchvision:NAME`` or ``hf:NAME-OR-FOLDER``.
        model: As `edgespa.models.load_model` built it.
    """
    library, _, name = spec.partition(":")
    read = _READERS.get(library)
    if read is None:
        return None
    try:
        return read(name, model)
    except Exception as error:  # whatever a library makes of its own records: the model itself is there
        log.warning("%s: what it records of its images cannot be read: %s", spec, first_line(error))
        return None


def of_timm(config: Mapping[str, Any]) -> Recorded:
    """From timm's ``pretrained_cfg``.

    Args:
        config: Its ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``, if it has them.
    """
    size = config.get("input_size")
    share = float(config.get("crop_pct") or 1)
    mode = config.get("crop_mode") or "center"
    done = _resizing(config.get("interpolation") or "bicubic", squashed=mode == "squash")
    if share < 1:
        done.append(f"cropped to {share:.4g} of that")
    return Recorded(
        tuple(size) if size else None, _values(config.get("mean")), _values(config.get("std")), _words(done)
    )


def of_torchvision(transforms: Any) -> Recorded:
    """From the transforms of torchvision's weights.

    Args:
        transforms: ``crop_size``, ``resize_size``, ``mean``, ``std``, ``interpolation``.
    """
    crop, resize = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    done = _resizing(str(transforms.interpolation.value), to=resize)
    if resize != crop:
        done.append(f"cropped to {crop}")
    return Recorded((3, crop, crop), _values(transforms.mean), _values(transforms.std), _words(done))


def of_transformers(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Recorded:
    """From the configuration of a transformers model and that of its image processor.

    Args:
        config: Of the model: ``image_size``, ``num_channels``.
        processor: What ``preprocessor_config.json`` says; empty where there is none.
    """
    crops = bool(processor.get("do_center_crop"))
    resized, cropped = _sides(processor.get("size")), _sides(processor.get("crop_size") if crops else None)
    height, width = _sides(config.get("image_size")) or cropped or resized or (0, 0)
    size = (int(config.get("num_channels") or 3), height, width) if height and width else None
    if not processor:
        return Recorded(size)
    mean, std = _scaled(processor)
    asked = processor.get("size")
    squashed = not crops and not (isinstance(asked, Mapping) and "shortest_edge" in asked)
    done = []
    if processor.get("do_resize", True):
        # With shortest_edge alone transformers' ConvNeXT resizes by crop_pct and crops.
        resample = processor.get("resample", 2)
        done = _resizing(
            _RESAMPLING.get(int(resample), "bilinear"), to=resized[0] if resized else None, squashed=squashed
        )
    if cropped and cropped != resized:
        done.append(f"cropped to {cropped[0]}")
    share = processor.get("crop_pct")
    if isinstance(share, float | int) and share < 1:
        done.append(f"cropped to {share:.4g} of that")
    if processor.get("do_flip_channel_order"):
        done.append("and their channels put into the order blue, green, red")
    return Recorded(size, mean, std, _words(done))


def _scaled(processor: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of pixels in [0, 1], whatever scale a processor has first: ``pixel * factor [- 1]``."""
    factor = float(processor.get("rescale_factor") or _PIXEL) if processor.get("do_rescale", True) else 1.0
    mean, std = _values(processor.get("image_mean")), _values(processor.get("image_std"))
    if not processor.get("do_normalize", mean is not None):
        mean, std = (0.0,), (1.0,)
    if mean is None or std is None:
        return None, None
    if processor.get("include_top"):  # EfficientNet divides once more
        std = tuple(value * value for value in std)
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    whole = factor * 255
    return tuple((value + offset) / whole for value in mean), tuple(value / whole for value in std)


def _values(found: Any) -> tuple[float, ...] | None:
    if found is None:
        return None
    return (float(found),) if isinstance(found, float | int) else tuple(float(value) for value in found)


def _sides(found: Any) -> tuple[int, int] | None:
    """Height and width, from a number, a pair, or transformers' ``{"height": ...}``, ``{"shortest_edge": ...}``."""
    if isinstance(found, Mapping):
        found = (found["height"], found["width"]) if "height" in found else found.get("shortest_edge")
    if isinstance(found, int):
        return found, found
    return (int(found[0]), int(found[1])) if isinstance(found, list | tuple) and len(found) == 2 else None


def _resizing(interpolation: str, *, to: int | None = None, squashed: bool = False) -> list[str]:
    """What differs from a bilinear resize of the whole image; several steps make a sentence in `_words`."""
    how = "" if interpolation == "bilinear" else f" ({interpolation})"
    if squashed:
        return [f"resized{how}"] if how else []
    side = f" with the shorter side to {to}" if to else ""
    return [f"resized{how}{side}, keeping their proportions"]


def _words(done: list[str]) -> str:
    return ", ".join(done)


def _timm(name: str, model: nn.Module) -> Recorded | None:
    config: Any = getattr(model, "pretrained_cfg", None)
    return of_timm(config) if config else None


def _torchvision(name: str, model: nn.Module) -> Recorded | None:
    models: Any = importlib.import_module("torchvision.models")
    transforms = getattr(models.get_model_weights(name).DEFAULT, "transforms", None)
    return None if transforms is None else of_torchvision(transforms())


def _transformers(name: str, model: nn.Module) -> Recorded | None:
    core: Any = getattr(model, "core", None)
    config = core.config.to_dict()
    wrapped = config.get("pretrained_cfg")  # a timm model in transformers' clothes
    return of_timm(wrapped) if wrapped else of_transformers(config, _processor(name))


def _processor(name: str) -> Mapping[str, Any]:
    """The settings of a model's image processor; empty where it has none."""
    folder = expanded(name)
    local = folder.is_dir()
    content: Any = {}
    for file in _PROCESSOR_FILES:
        path: Path | None = folder / file
        if not local:
            hub: Any = importlib.import_module("transformers.utils")
            found = hub.cached_file(name, file, _raise_exceptions_for_missing_entries=False)
            path = Path(found) if found else None
        if path is not None and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content = content.get("image_processor", content)
            break
    if not content or "image_mean" in content or content.get("do_normalize") is False:
        return dict(content)
    # What the file leaves out the class of the processor has.
    transformers: Any = importlib.import_module("transformers")
    with quiet("transformers"):
        made = transformers.AutoImageProcessor.from_pretrained(
            str(folder) if local else name, trust_remote_code=False, local_files_only=local
        )
    return {**made.to_dict(), "do_normalize": bool(getattr(made, "do_normalize", False))}


_READERS: Mapping[str, Callable[[str, nn.Module], Recorded | None]] = MappingProxyType(
    {"timm": _timm, "torchvision": _torchvision, "hf": _transformers}
)
