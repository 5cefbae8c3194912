"""Models of transformers, as what their configuration says they are, reduced to what they answer about images."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgespa.errors import ModelError, WeightsError
from edgespa.models.imports import nearest_path
from edgespa.models.weights import WeightSource, is_other_head, misfit, some_names, tell_new_head
from edgespa.system.files import expanded
from edgespa.system.quiet import quiet

logger = logging.getLogger(__name__)

_ANSWERS = (
    "logits", "pred_boxes", "class_queries_logits", "masks_queries_logits", "pred_masks", "predicted_depth",
    "reconstruction", "keypoints", "heatmaps", "flow", "alphas", "image_embeds",
)  # fmt: skip
_FEATURES = ("feature_maps", "last_hidden_state", "pooler_output")
_FEW = 1 << 24
_IMAGES, _POOLING = "pixel_values", "add_pooling_layer"


class Answers(nn.Module):
    """A transformers model that takes images alone and gives what it answers, or features where it has no head.

    Args:
        core: Model whose output is a mapping of named fields.
    """

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, images: Tensor) -> Any:
        """Run the model.

        Args:
            images: [N, C, H, W], normalised.

        Returns:
            Its only answer, such as logits [N, classes] or [N, classes, h, w]; several by name, such as ``logits`` and
            ``pred_boxes``.

        Raises:
            ModelError: If its output has no field that is known to be an answer.
        """
        output = self.core(pixel_values=images)
        found: dict[str, Any] = {}
        for names in (_ANSWERS, _FEATURES):
            found = found or {name: output[name] for name in names if output.get(name) is not None}
        if not found:
            raise ModelError(
                f"{type(self.core).__name__} gives {', '.join(output)}, none of which is known to be an answer",
                "name a factory that wraps the model and returns the tensors that are wanted",
            )
        return next(iter(found.values())) if len(found) == 1 else found


def in_cache(name: str) -> str:
    """The folder of a model in the hub's cache, of ``//org/name`` or ``//org/name@revision``; other names as they are.

    Args:
        name: Behind ``hf:``.

    Raises:
        ModelError: It is not there; nothing is downloaded.
    """
    if not name.startswith("//"):
        return name
    repository, at, revision = name.removeprefix("//").partition("@")
    wrong = at and (_REVISION.fullmatch(revision) is None or ".." in revision)
    if _REPOSITORY.fullmatch(repository) is None or ".." in repository or wrong:
        raise ModelError(f"hf:{name} names no model on the hub", "write hf://ORG/NAME or hf://ORG/NAME@REVISION")
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        return str(hub.snapshot_download(repository, revision=revision or None, local_files_only=True))
    except Exception as error:  # of the library, whose names change
        wanted = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"hf:{name} is not in the hub's cache on this machine, and nothing is downloaded",
            f"fetch it first: hf download {repository}{wanted}",
        ) from error


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")


def build(transformers: Any, name: str, source: WeightSource) -> nn.Module:
    """Build the model that a configuration describes, and fill it.

    Args:
        transformers: The library.
        name: A name on the hub, ``//org/name@revision`` in its cache, or a folder of ``save_pretrained``.
        source: Where its weights come from.

    Raises:
        ModelError: There is no such folder, the class is unknown here, or it takes something else than images.
        WeightsError: Weights are missing: the library would make them up.
    """
    name = in_cache(name)
    folder = expanded(name)
    local = folder.is_dir()
    if local and not (folder / "config.json").is_file():
        raise ModelError(f"hf:{name}: the folder has no config.json", "give the folder that save_pretrained wrote")
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"hf:{name}: no such folder", nearest_path(folder) or "check the path")
    where = str(folder) if local else name
    common = {"trust_remote_code": False, "local_files_only": local}
    config = transformers.AutoConfig.from_pretrained(where, **common)
    kind = _class_of(transformers, config, name)
    if source.classes is not None:
        config.num_labels = source.classes
    if source.pretrained and local:
        _require_stored(kind, config, folder, name)
    if source.pretrained:
        return Answers(
            _loaded(kind, where, f"of hf:{name}", classes=source.classes, config=config, local_files_only=local)
        )
    if source.state is None:
        return Answers(kind(config))
    # A file saved from `Answers` has a prefix more.
    given = {key.removeprefix("core."): value for key, value in source.state.items()}
    own = {"config": config, "state_dict": given, "strict": True}
    return Answers(_loaded(kind, None, source.name, classes=source.classes, **own))


def _require_stored(kind: Any, config: Any, folder: Path, name: str) -> None:
    """Refuse a configuration that asks for more than the folder holds, before memory is taken for it.

    Raises:
        WeightsError: With both numbers.
    """
    try:
        with torch.device("meta"):
            wanted = sum(parameter.numel() for parameter in kind(config).parameters())
    except Exception:  # a class that computes with its weights as it is built: the loader will tell
        return
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if wanted > max(held, _FEW):
        raise WeightsError(
            f"hf:{name}: its config.json asks for {wanted:,} parameters, and the folder has {held:,} bytes",
            "give the folder that save_pretrained wrote, with its weights",
        )


def _class_of(transformers: Any, config: Any, name: str) -> Any:
    """The class that the configuration names; a configuration without a name is that of a classifier."""
    names = list(config.architectures or ())
    if not names:
        auto = transformers.AutoModelForImageClassification
        if type(config) not in auto._model_mapping:
            raise ModelError(
                f"hf:{name}: its config.json does not say which class it is (no architectures)",
                "write the name of the class into its list of architectures",
            )
        found = auto._model_mapping[type(config)]
        found = found[0] if isinstance(found, tuple | list) else found
    else:
        found = getattr(transformers, names[0], None)
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            raise ModelError(
                f"hf:{name} is a {names[0]}, which transformers {transformers.__version__} does not have",
                "install the version of transformers that has it; code that comes with a model is not run: name a "
                "factory of your own for it",
            )
    if found.main_input_name != _IMAGES:
        raise ModelError(
            f"hf:{name} is a {found.__name__}, which takes {found.main_input_name} and not images",
            "give a model for images, or name a factory that wraps it in a module whose forward takes images",
        )
    return found


def _loaded(
    kind: Any, where: str | None, origin: str, *, classes: int | None = None, strict: bool = False, **options: Any
) -> nn.Module:
    """A model with weights from the library's own loader, for names on disk are not always those of the modules.

    It makes up what is missing and goes on where weights do not fit, so its report is turned into an error.

    Raises:
        WeightsError: With the names that are missing or do not fit; if it is strict, also with those that are not read.
    """
    model: nn.Module
    with quiet("transformers"):  # it tells in a table what is told below
        model, report = kind.from_pretrained(
            where, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing = [key for key in sorted(report["missing_keys"]) if not key.endswith("num_batches_tracked")]
    pooling = _POOLING not in options and _POOLING in inspect.signature(kind.__init__).parameters
    if pooling and missing and all(key.startswith("pooler.") for key in missing):
        # Saved without its pooling layer, which no configuration tells.
        return _loaded(kind, where, origin, classes=classes, strict=strict, **options, **{_POOLING: False})
    unexpected = sorted(report["unexpected_keys"])
    others = sorted((key, tuple(got), tuple(wanted)) for key, got, wanted in report["mismatched_keys"])
    fresh = [key for key, got, wanted in others if classes is not None and is_other_head(got, wanted, classes)]
    wrong = [f"{key} {got} instead of {wanted}" for key, got, wanted in others if key not in fresh]
    tell_new_head(fresh, classes or 0)
    if missing or wrong or (strict and unexpected):
        error = misfit(origin, missing, unexpected, wrong)
        raise WeightsError(
            error.message,
            f"they are not those of a whole {kind.__name__}: correct the architectures in its config.json, or name a "
            "factory that builds the model, with a new head if one is to be learned",
        )
    if unexpected:
        logger.warning("weights %s: a %s does not use %s", origin, kind.__name__, some_names(unexpected))
    return model
