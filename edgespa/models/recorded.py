"""What a library records of the images that its model was trained on: their size and how they became inputs."""

from __future__ import annotations

import importlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from edgespa.config import PixelSettings, resized_to
from edgespa.models.huggingface import in_cache
from edgespa.models.imports import library_name
from edgespa.pixels.placement import CROP, LETTERBOX, STRETCH
from edgespa.system.files import expanded
from edgespa.system.quiet import first_line, quiet

log = logging.getLogger(__name__)

_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_RESAMPLING = MappingProxyType({0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"})
_PIXEL = 1 / 255
_TIMM_MODES = MappingProxyType({"center": CROP, "squash": STRETCH, "border": LETTERBOX})
_TIMM_SHARE = 0.875
# What the classes of transformers' processors do that is not in their files.
_SQUARES = ("Beit", "Deit", "DeiT", "Data2Vec", "ViT")
_SHARES = MappingProxyType({"Levit": 224 / 256, "LeViT": 224 / 256, "ConvNext": 224 / 256, "PoolFormer": 0.9})
_CONVNEXT_LARGE = 384
_UNLIKE = ("Perceiver",)  # crops first
_NOT_DONE = ("do_pad", "do_thumbnail", "do_align_long_axis", "keep_aspect_ratio")


@dataclass(frozen=True)
class Recorded:
    """How images became inputs when a model was trained, as far as its library says.

    Attributes:
        size: Channels, height and width of the input; None where that is not said.
        mean: Subtracted from pixels in [0, 1], per channel; None where that is not said.
        std: Divided by, likewise.
        settings: All else that is said, for an input of that size.
        otherwise: In words, what was done to images there that is not done here; empty where nothing was.
        share: Of the resized image that is seen, where the library computes sizes by that.
    """

    size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    settings: PixelSettings = field(default_factory=PixelSettings)
    otherwise: str = ""
    share: float | None = None

    def for_input(self, channels: int, height: int, width: int) -> dict[str, Any]:
        """The settings that are said, for an input of any size."""
        said = self.settings.said()
        if self.share is not None:
            said["resize_to"] = _whole((height, width), self.share)
        elif self.size is not None:
            said["resize_to"] = resized_to(said.get("resize_to"), self.size[1:], (height, width))
        if channels not in (3, 4):  # what was said of colours
            said.pop("channel_order", None)
        if len(said.get("padding", ())) not in (1, channels):
            said.pop("padding", None)
        return said


def recorded(spec: str, model: nn.Module) -> Recorded | None:
    """What the library of a model records; None for a model of no library, or where nothing can be read.

    Args:
        spec: Its spec, ``timm:NAME``, ``torchvision:NAME`` or ``hf:NAME-OR-FOLDER``.
        model: As `edgespa.models.load_model` built it.
    """
    library, name, _ = library_name(spec)
    read = _READERS.get(library)
    if read is None:
        return None
    try:
        return read(name, model)
    except Exception as error:  # whatever a library makes of its own records: the model itself is there
        log.warning("%s: what it records of its images cannot be read: %s", spec, first_line(error))
        return None


def of_timm(config: Mapping[str, Any]) -> Recorded:
    """From timm's ``pretrained_cfg``, as its ``create_transform`` reads it for evaluation.

    Args:
        config: Its ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``, if it has them.
    """
    size, mean = config.get("input_size"), _values(config.get("mean"))
    share = float(config.get("crop_pct") or _TIMM_SHARE)
    mode = _TIMM_MODES[config.get("crop_mode") or "center"]
    said: dict[str, Any] = {"resize": mode, "interpolation": config.get("interpolation") or "bicubic"}
    if size:
        said["resize_to"] = _whole(size[1:], share)
        if mode == LETTERBOX and mean:  # beside the picture is the colour that becomes 0
            said["padding"] = tuple(round(255 * value) for value in mean)
    own = tuple(size) if size else None
    return Recorded(own, mean, _values(config.get("std")), PixelSettings(**said), share=share)


def _whole(size: Sequence[int], share: float) -> tuple[int, int]:
    return math.floor(size[0] / share), math.floor(size[1] / share)


def of_torchvision(transforms: Any) -> Recorded:
    """From the transforms of torchvision's weights.

    Args:
        transforms: ``crop_size``, ``resize_size``, ``mean``, ``std``, ``interpolation``, of a classifier. Those of
            segmentation have no ``crop_size``, and those of detection nothing at all: the model does it itself.
    """
    mean, std = getattr(transforms, "mean", (0.0,)), getattr(transforms, "std", (1.0,))
    shortest, crop = getattr(transforms, "resize_size", None), getattr(transforms, "crop_size", None)
    if shortest is None:
        return Recorded(None, _values(mean), _values(std))
    said: dict[str, Any] = {"interpolation": str(transforms.interpolation.value)}
    if crop is None:
        how = f"resized until their shorter side was {int(shortest[0])}, and given to the network as they were then"
        return Recorded(None, _values(mean), _values(std), PixelSettings(**said), how)
    said.update(resize=CROP, resize_to=(int(shortest[0]),) * 2)
    if shortest[0] < crop[0]:  # its crop pads with black
        said["padding"] = (0,)
    return Recorded((3, int(crop[0]), int(crop[-1])), _values(mean), _values(std), PixelSettings(**said))


def of_transformers(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Recorded:
    """From the configuration of a transformers model and that of its image processor.

    Args:
        config: Of the model: ``image_size``, ``num_channels``.
        processor: What ``preprocessor_config.json`` says; empty where there is none.
    """
    crops = bool(processor.get("do_center_crop"))
    cropped = _sides(processor.get("crop_size")) if crops else None
    shown = cropped or _sides(processor.get("size"))
    height, width = _sides(config.get("image_size")) or shown or (0, 0)
    size = (int(config.get("num_channels") or 3), height, width) if height and width else None
    if not processor:
        return Recorded(size)
    mean, std = _scaled(processor)
    said: dict[str, Any] = {}
    otherwise = ""
    if processor.get("do_flip_channel_order"):
        said["channel_order"] = "bgr"
    if processor.get("do_resize", True):
        resample = processor.get("resample")
        said["interpolation"] = "bilinear" if resample is None else _RESAMPLING[int(resample)]
        how, to = _resizing(processor)
        if to is None or shown is None:
            otherwise = f"resized as {_kind(processor) or 'its image processor'} does it, which is not done here"
        else:
            said.update(resize=how, resize_to=resized_to(to, shown, (height, width)))
            if to[0] < shown[0] or to[1] < shown[1]:  # their crop pads with black
                said["padding"] = (0,)
    elif crops:
        otherwise = "cropped without being resized"
    return Recorded(size, mean, std, PixelSettings(**said), otherwise)


def _resizing(processor: Mapping[str, Any]) -> tuple[str, tuple[int, int] | None]:
    """How an image processor resizes, and to what; None where that is of no fixed size."""
    asked, crops, kind = processor.get("size"), bool(processor.get("do_center_crop")), _kind(processor)
    if kind.startswith(_UNLIKE) or any(processor.get(name) for name in _NOT_DONE):
        return STRETCH, None
    if isinstance(asked, int) and crops and not kind.startswith(_SQUARES):
        asked = {"shortest_edge": asked}
    sides = _sides(asked)
    if not isinstance(asked, Mapping) or {"height", "width"} <= set(asked):
        return STRETCH, sides
    share = processor.get("crop_pct") or next((own for name, own in _SHARES.items() if kind.startswith(name)), None)
    if sides is None or len(asked) > 1 or not (crops or share):
        return STRETCH, None
    if share is None:
        return CROP, sides
    if not crops and sides[0] >= _CONVNEXT_LARGE:
        return STRETCH, sides
    return CROP, (int(sides[0] / float(share)),) * 2


def _kind(processor: Mapping[str, Any]) -> str:
    """The name of its class; empty where it is not said."""
    return str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")


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
    """The settings of a model's image processor, of files that are here; empty where there are none."""
    name = in_cache(name)
    folder = expanded(name)
    local = folder.is_dir()
    content: Any = {}
    for file in _PROCESSOR_FILES:
        path: Path | None = folder / file
        if not local:
            hub: Any = importlib.import_module("transformers.utils")
            found = hub.cached_file(name, file, local_files_only=True, _raise_exceptions_for_missing_entries=False)
            path = Path(found) if found else None
        if path is not None and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content = content.get("image_processor", content)
            break
    if not content and not local:
        log.warning(
            "hf:%s: how its images became inputs is in its %s, which is not on this machine and is not downloaded: "
            "hf download %s %s",
            *(name, _PROCESSOR_FILES[0]) * 2,
        )
    whole = content.get("do_normalize") is False or {"do_normalize", "image_mean"} <= set(content)
    if not content or whole:
        return dict(content)
    # What the file leaves out the class of the processor has.
    transformers: Any = importlib.import_module("transformers")
    with quiet("transformers"):
        made = transformers.AutoImageProcessor.from_pretrained(
            str(folder) if local else name, trust_remote_code=False, local_files_only=True
        )
    return {**made.to_dict(), **content, "do_normalize": bool(getattr(made, "do_normalize", False))}


_READERS: Mapping[str, Callable[[str, nn.Module], Recorded | None]] = MappingProxyType(
    {"timm": _timm, "torchvision": _torchvision, "hf": _transformers}
)
