"""Models of torchvision, timm and transformers, each imported when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn

from edgespa.errors import EdgespaError, MissingExtraError, ModelError, WeightsError
from edgespa.models import huggingface
from edgespa.models.imports import mismatched, nearest
from edgespa.models.network import hub, hub_as_it_is, require_fetchable
from edgespa.models.weights import WeightSource, fit_weights, head_hint, with_new_head
from edgespa.system.files import expanded

# torchvision comes with timm, which requires it.
_EXTRAS = MappingProxyType({"torchvision": "timm", "timm": "timm", "transformers": "models"})
_WITHOUT = "without a network give --weights FILE, or --weights random for an untrained one"
_WITHOUT_HUB = "without a network give the folder that save_pretrained wrote: hf:FOLDER"
# torchvision's builders set these for their pretrained weights; the auxiliary heads only serve training.
_TORCHVISION_BUILD: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "googlenet": {"transform_input": True, "aux_logits": False},
        "inception_v3": {"transform_input": True, "aux_logits": False},
    }
)
_WEIGHTS_ONLY, _UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_PARTS = ("segmentation", "video")
_NOT_TAKEN: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "quantization": (
            "is rounded to int8 already",
            "give the float network; --precision int8 of edgespa export rounds what is left",
        ),
        "optical_flow": (
            "compares two images step by step, which is no network of edgespa's objectives",
            "name a factory that returns the module, with an --input-shape for each of its images",
        ),
    }
)
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def build(library: str, name: str, source: WeightSource) -> nn.Module:
    """Build a model of a library and fill it.

    Args:
        library: A key of `LIBRARIES`.
        name: The library's name for the model; a folder too for ``hf``.
        source: Where its weights come from.

    Returns:
        The model: images [N, C, H, W] to logits [N, classes]; one of ``hf`` to whatever its class answers.

    Raises:
        MissingExtraError: The library is not installed.
        ModelError: It cannot be imported, has no such model, or its weights cannot be had.
        WeightsError: ``source.state`` does not fit.
    """
    package, builder = LIBRARIES[library]
    module = _import(package)
    if not name:
        raise ModelError(f"{library}: no model named", f"write {library}:NAME")
    unreachable: str | None = None
    try:
        with _nothing_unpickled(), _reaching(library, name, source) as unreachable:
            return builder(module, name, source)
    except EdgespaError:
        raise
    except Exception as error:  # whatever the library, its hub or the network raises
        reason = unreachable or f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if library == "hf" and expanded(name).is_dir():
            raise ModelError(
                f"hf:{name} cannot be built: {reason}",
                "check its config.json: the class under architectures has to fit the rest of it",
            ) from error
        wanted = f"it fetches {_fetched(module, library, name)}; "
        if source.pretrained:
            without = _WITHOUT_HUB if library == "hf" else _WITHOUT
            raise ModelError(f"{library}:{name}: no pretrained weights: {reason}", wanted + without) from error
        hint = wanted + _WITHOUT_HUB if library == "hf" else None
        raise ModelError(f"{library}:{name} cannot be built: {reason}", hint) from error


@contextlib.contextmanager
def _reaching(library: str, name: str, source: WeightSource) -> Iterator[str | None]:
    """Ask once whether the hub answers, where something is wanted of it; the libraries ask for half a minute."""
    if library == "hf":
        local = name.startswith("//") or expanded(name).is_dir()
    else:
        local = not source.pretrained or library == "torchvision"
    if local or name.startswith("local-dir:"):
        yield None
        return
    with hub_as_it_is() as reason:
        yield reason


def _fetched(module: Any, library: str, name: str) -> str:
    """What would be fetched, as an address, as far as the library says."""
    try:
        if library == "torchvision":
            return str(importlib.import_module(f"{module.__name__}.models").get_model_weights(name).DEFAULT.url)
        if library == "timm":
            told = module.get_pretrained_cfg(name)
            return f"{hub()}/{told.hf_hub_id}" if told.hf_hub_id else str(told.url)
    except Exception:  # of a library that says it otherwise
        return "its weights"
    return f"{hub()}/{name}"


@contextlib.contextmanager
def _nothing_unpickled() -> Iterator[None]:
    """Let every ``torch.load`` take tensors alone, whatever a library asks for: older timm loads folders with more."""
    before = os.environ.get(_WEIGHTS_ONLY), os.environ.pop(_UNSAFE, None)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        for name, value in zip((_WEIGHTS_ONLY, _UNSAFE), before, strict=True):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _import(package: str) -> ModuleType:
    # `sys.modules` first (find_spec does that): an entry of None there also means "not to be had".
    try:
        absent = importlib.util.find_spec(package) is None
    except ValueError:
        absent = True
    if absent:
        raise MissingExtraError(package, _EXTRAS[package])
    try:
        return importlib.import_module(package)
    except Exception as error:  # a build that does not match torch raises RuntimeError, not ImportError
        raise ModelError(
            f"{package} is installed but cannot be imported: {type(error).__name__}: {error}",
            mismatched(package),
        ) from error


def _unknown(library: str, name: str, known: list[str]) -> ModelError:
    near = nearest(name, known)
    hint = f"nearest: {', '.join(near)}" if near else f"{library} has {len(known)} models, for example {known[0]}"
    what = "classifier, detector or segmenter" if library == "torchvision" else "image classifier"
    return ModelError(f"{library} has no {what} named '{name}'", hint)


def _torchvision(module: ModuleType, name: str, source: WeightSource) -> nn.Module:
    models: Any = importlib.import_module(f"{module.__name__}.models")
    known: list[str] = models.list_models(module=models)
    detectors: list[str] = models.list_models(module=models.detection) if hasattr(models, "detection") else []
    parts = [getattr(models, part) for part in _PARTS if hasattr(models, part)]
    others = [each for part in parts for each in models.list_models(module=part)]
    if name in detectors:
        return _torchvision_detector(models, name, source)
    for part, (what, hint) in _NOT_TAKEN.items():
        if hasattr(models, part) and name in models.list_models(module=getattr(models, part)):
            raise ModelError(f"torchvision:{name} {what}", hint)
    if name not in known + others:
        raise _unknown("torchvision", name, known + detectors + others)
    options: dict[str, Any] = dict(_TORCHVISION_BUILD.get(name, {}))
    unused: tuple[str, ...] = _AUXILIARY if options else ()
    segments = hasattr(models, "segmentation") and name in models.list_models(module=models.segmentation)
    if segments:  # its builder would fetch a backbone, and a second head serves training alone
        options["weights_backbone"] = None
        unused = ("aux_classifier.",)
        if not name.startswith("lraspp"):
            options["aux_loss"] = False
    state, origin = source.state, source.name
    if source.pretrained:
        entry: Any = models.get_model_weights(name).DEFAULT
        require_fetchable(entry.url, Path(torch.hub.get_dir()) / "checkpoints")
        # Fetched here and not by the builder, because the builder would unpickle whatever the file holds.
        state, origin = entry.get_state_dict(progress=False, check_hash=True, weights_only=True), str(entry)
        options["num_classes"] = len(entry.meta["categories"])
    if source.classes is not None:
        options["num_classes"] = source.classes
    if unused == _AUXILIARY:
        options["init_weights"] = state is None
    model: nn.Module = models.get_model(name, weights=None, **options)
    if state is not None:
        used = {key: value for key, value in state.items() if not key.removeprefix("module.").startswith(unused)}
        _fill(model, used, origin, f"torchvision:{name}", source.classes)
    return model


def _torchvision_detector(models: Any, name: str, source: WeightSource) -> nn.Module:
    """With the weights of the whole, or none: its builder would fetch those of a backbone otherwise.

    Some are built with other norms for their weights, so the builder loads them; `build` has seen to it that nothing is
    unpickled.
    """
    entry: Any = None
    if source.classes is not None:
        raise ModelError(
            f"torchvision:{name} is a detector, whose last layers depend on more than the number of classes",
            f"name a factory, file.py:build, that returns torchvision.models.detection.{name}(num_classes="
            f"{source.classes + 1}, ...), the background being one of them",
        )
    if source.pretrained:
        entry = models.get_model_weights(name).DEFAULT
        require_fetchable(entry.url, Path(torch.hub.get_dir()) / "checkpoints")
    model: nn.Module = models.get_model(name, weights=entry, weights_backbone=None, progress=False)
    if source.state is not None:
        fit_weights(model, source.state, source.name)
    return model


def _timm(module: ModuleType, name: str, source: WeightSource) -> nn.Module:
    timm: Any = module
    # A colon means a hub address, which only the hub can judge; a dot separates the tag of the weights.
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    options = {} if source.classes is None else {"num_classes": source.classes}
    model: nn.Module = timm.create_model(name, pretrained=source.pretrained, **options)
    if source.state is not None:
        _fill(model, source.state, source.name, f"timm:{name}", source.classes)
    return model


def _fill(model: nn.Module, state: Mapping[str, Any], origin: str, spec: str, classes: int | None) -> None:
    """Fit weights, those of another last layer aside where its classes were named.

    Raises:
        WeightsError: They do not fit; where it is the number of classes alone, it says how the model is named.
    """
    try:
        fit_weights(model, with_new_head(model, state, classes), origin)
    except WeightsError as error:
        hint = head_hint(model, state, spec) if classes is None else None
        raise WeightsError(error.message, hint or error.hint) from error


LIBRARIES: Mapping[str, tuple[str, Callable[[ModuleType, str, WeightSource], nn.Module]]] = MappingProxyType(
    {
        "torchvision": ("torchvision", _torchvision),
        "timm": ("timm", _timm),
        "hf": ("transformers", huggingface.build),
    }
)
"""Prefix of the spec -> package, and the function that builds a model of it."""
