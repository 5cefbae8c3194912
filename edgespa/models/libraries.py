"""Models of torchvision, timm and transformers, each imported when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.errors import EdgespaError, MissingExtraError, ModelError
from edgespa.imports import nearest, nearest_path
from edgespa.models.weights import fit_weights, misfit

logger = logging.getLogger(__name__)

# torchvision comes with timm, which requires it.
_EXTRAS = MappingProxyType({"torchvision": "timm", "timm": "timm", "transformers": "models"})
_NO_DOWNLOAD = (
    "pass --weights FILE with the weights on this machine, or --weights random for an untrained network; "
    "if the message speaks of the network, check the connection"
)
# torchvision's builders set these for their pretrained weights; the auxiliary heads only serve training.
_TORCHVISION_BUILD: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "googlenet": {"transform_input": True, "aux_logits": False},
        "inception_v3": {"transform_input": True, "aux_logits": False},
    }
)
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class WeightSource:
    """What a library's model is filled with.

    Attributes:
        pretrained: The library's own weights, from its cache or the network.
        state: Else these, if any; else the network stays untrained.
        name: Where ``state`` comes from, for messages.
    """

    pretrained: bool
    state: Mapping[str, Tensor] | None = None
    name: str = ""


class LogitsOnly(nn.Module):
    """A transformers classifier that returns its logits.

    Args:
        core: Model whose output has ``logits``.
    """

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: [N, C, H, W], normalised.

        Returns:
            Logits [N, classes].
        """
        logits: Tensor = self.core(pixel_values=images).logits
        return logits


def build(library: str, name: str, source: WeightSource) -> nn.Module:
    """Build a model of a library and fill it.

    Args:
        library: A key of `LIBRARIES`.
        name: The library's name for the model; a folder too for ``hf``.
        source: Where its weights come from.

    Returns:
        The model: images [N, C, H, W] to logits [N, classes].

    Raises:
        MissingExtraError: The library is not installed.
        ModelError: It cannot be imported, has no such model, or its weights cannot be had.
        WeightsError: ``source.state`` does not fit.
    """
    package, builder = LIBRARIES[library]
    module = _import(package)
    if not name:
        raise ModelError(f"{library}: no model named", f"write {library}:NAME")
    try:
        return builder(module, name, source)
    except EdgespaError:
        raise
    except Exception as error:  # whatever the library, its hub or the network raises
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if source.pretrained:
            raise ModelError(f"{library}:{name}: no pretrained weights: {reason}", _NO_DOWNLOAD) from error
        hint = "hf:NAME needs its configuration from the network: give hf:FOLDER" if library == "hf" else None
        raise ModelError(f"{library}:{name} cannot be built: {reason}", hint) from error


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
            f"install the build of {package} that belongs to torch {torch.__version__}",
        ) from error


def _unknown(library: str, name: str, known: list[str]) -> ModelError:
    near = nearest(name, known)
    hint = f"nearest: {', '.join(near)}" if near else f"{library} has {len(known)} models, for example {known[0]}"
    return ModelError(f"{library} has no image classifier named '{name}'", hint)


def _torchvision(module: ModuleType, name: str, source: WeightSource) -> nn.Module:
    models: Any = importlib.import_module(f"{module.__name__}.models")
    known: list[str] = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    options: dict[str, Any] = dict(_TORCHVISION_BUILD.get(name, {}))
    unused = _AUXILIARY if options else ()
    state, origin = source.state, source.name
    if source.pretrained:
        entry: Any = models.get_model_weights(name).DEFAULT
        # Fetched here and not by the builder, because the builder would unpickle whatever the file holds.
        state, origin = entry.get_state_dict(progress=False, check_hash=True, weights_only=True), str(entry)
        options["num_classes"] = len(entry.meta["categories"])
    if unused:
        options["init_weights"] = state is None
    model: nn.Module = models.get_model(name, weights=None, **options)
    if state is not None:
        fit_weights(
            model,
            {key: value for key, value in state.items() if not key.removeprefix("module.").startswith(unused)},
            origin,
        )
    return model


def _timm(module: ModuleType, name: str, source: WeightSource) -> nn.Module:
    timm: Any = module
    # A colon means a hub address, which only the hub can judge; a dot separates the tag of the weights.
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=source.pretrained)
    if source.state is not None:
        fit_weights(model, source.state, source.name)
    return model


def _transformers(module: ModuleType, name: str, source: WeightSource) -> nn.Module:
    transformers: Any = module
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise ModelError(f"hf:{name}: the folder has no config.json", "give the folder that save_pretrained wrote")
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"hf:{name}: no such folder", nearest_path(folder) or "check the path")
    where = str(folder) if local else name
    common = {"trust_remote_code": False, "local_files_only": local}
    auto = transformers.AutoModelForImageClassification
    if source.pretrained:
        core, report = auto.from_pretrained(where, dtype=torch.float32, output_loading_info=True, **common)
        if report["missing_keys"]:
            # A backbone without a classifier: its head is new, and seeded.
            logger.warning("hf:%s has no weights for %s: left random", name, ", ".join(sorted(report["missing_keys"])))
        return LogitsOnly(core)
    config = transformers.AutoConfig.from_pretrained(where, **common)
    core = auto.from_config(config, trust_remote_code=False)
    return LogitsOnly(core if source.state is None else _filled(core, source.state, source.name))


def _filled(core: Any, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    # The library's own loader, because names on disk are not always those of the modules. It warns and goes on where
    # weights do not fit, so its report is turned into an error. A file saved from `LogitsOnly` has a prefix more.
    given = {key.removeprefix("core."): value for key, value in state.items()}
    model: nn.Module
    model, report = type(core).from_pretrained(
        None, config=core.config, state_dict=given, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    wrong = [f"{name} {tuple(got)} instead of {tuple(wanted)}" for name, got, wanted in report["mismatched_keys"]]
    if report["missing_keys"] or report["unexpected_keys"] or wrong:
        raise misfit(origin, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), sorted(wrong))
    return model


LIBRARIES: Mapping[str, tuple[str, Callable[[ModuleType, str, WeightSource], nn.Module]]] = MappingProxyType(
    {
        "torchvision": ("torchvision", _torchvision),
        "timm": ("timm", _timm),
        "hf": ("transformers", _transformers),
    }
)
"""Prefix of the spec -> package, and the function that builds a model of it."""
