"""From a model spec to a module in eval mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram

from edgespa.errors import ModelError, WeightsError
from edgespa.models.checkpoints import PICKLED
from edgespa.models.given import Given
from edgespa.models.imports import (
    find_object,
    is_module_spec,
    library_name,
    nearest,
    nearest_path,
    split_file_spec,
)
from edgespa.models.libraries import LIBRARIES, build
from edgespa.models.plain import store_computed_weights
from edgespa.models.saved import is_onnx, is_pt2
from edgespa.models.weights import WeightSource, fit_weights, read_weights
from edgespa.system.files import expanded, is_there
from edgespa.system.recognised import hint_of_model, is_torchscript

_FORMS = (
    "write path/file.py:factory, package.module:factory, torchvision:NAME, timm:NAME, hf:NAME-OR-FOLDER "
    "or a .pt2 or .onnx file"
)
_SEED = 0
_RANDOM = "random"


def load_model(spec: str, weights: str | None = None) -> nn.Module:
    """Build a model from its spec and load its weights.

    All random initialisation draws from torch's CPU generator, seeded with 0 for the duration of the call, so that the
    same spec gives the same model in every process; the generator's state is restored afterwards. A factory that seeds
    by itself is left to do so.

    Args:
        spec: One of

            - ``path/file.py:factory``: the file is executed under a private module name, with its folder on
              ``sys.path`` while it and the factory run. ``factory`` is called without arguments; it may also be a
              module instance, which is copied.
            - ``package.module:factory``: the same from an importable module.
            - ``torchvision:NAME``, ``timm:NAME``: an image classifier of that library. Behind any name of a library
              ``,classes=N``: with a last layer of N classes, made anew unless the weights have one of so many.
            - ``hf:NAME`` or ``hf:FOLDER``: a model of transformers, of the class that its configuration names, made to
              return its answers alone: the logits of a classifier, logits and boxes of a detector, features of a model
              without a head.
            - a `Given` module, which is copied.
        weights: None for the library's pretrained weights, or for what the factory made; ``"random"`` for a library's
            untrained network; else a weight file (see `read_weights`), which must fit exactly.

    Returns:
        The module, in eval mode, on the device it was built on.

    Raises:
        ModelError: The spec is malformed, names nothing, or building the model failed.
        WeightsError: The weight file is missing, corrupt, or does not fit.
        MissingExtraError: The library is not installed.
    """
    if is_pt2(spec):
        raise ModelError(f"{spec} is a saved program, not a module", "load it with load_pt2")
    if is_onnx(spec):
        raise ModelError(f"{spec} is an ONNX file, not a module", "open it with open_program")
    state = None if weights is None or weights == _RANDOM else read_weights(weights)
    library, name, classes = library_name(spec)
    with _seeded():
        if library in LIBRARIES:
            return build(library, name, WeightSource(weights is None, state, weights or "", classes)).eval()
        if weights == _RANDOM:
            raise ModelError(
                f"{spec}: 'random' weights are for torchvision, timm and hf models; a factory makes its own",
                "leave --weights out, or name a factory that loads no weights",
            )
        model = _copied(spec.value, spec) if isinstance(spec, Given) else _from_factory(spec)
    if state is not None:
        fit_weights(model, state, weights or "")
    store_computed_weights(model.eval())
    return model


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed torch's CPU generator, and only that one, then put its state back."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(_SEED)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _from_factory(spec: str) -> nn.Module:
    if split_file_spec(spec) is None and not is_module_spec(spec):
        raise ModelError(f"'{spec}' is not a model", _what_is_meant(spec))
    try:
        found = find_object(spec, ModelError, "factory")
    except ModelError as error:
        # "torchvison:resnet50" reads as a module of that name that is not installed.
        library, _, name = spec.partition(":")
        near = nearest(library, LIBRARIES, 1)
        if near and isinstance(error.__cause__, ModuleNotFoundError):
            raise ModelError(error.message, f"did you mean {near[0]}:{name}?") from error
        raise
    if isinstance(found.value, nn.Module):
        return _copied(found.value, spec)
    if not callable(found.value):
        raise ModelError(
            f"{spec} is a {type(found.value).__name__}, not a factory",
            "name a function that takes no arguments and returns a torch.nn.Module",
        )
    made = found.call()
    if isinstance(made, ExportedProgram):
        raise ModelError(f"{spec} returned a program", "save it with torch.export.save and give the .pt2 file")
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{spec} returned a {type(made).__name__}, not a torch.nn.Module",
            "let the factory return the module itself",
        )
    return _whole(made, spec)


def _copied(model: nn.Module, spec: str) -> nn.Module:
    try:
        return copy.deepcopy(_whole(model, spec)).cpu()
    except RuntimeError as error:  # weights that hooks compute
        raise ModelError(
            f"{spec} is a module that cannot be copied: {error}", "name a function that builds a fresh one"
        ) from error


def _whole(model: nn.Module, spec: str) -> nn.Module:
    """Refuse a module that has no Python to trace, or no weights yet."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{spec} is a TorchScript module, which torch.export cannot trace", "return the module before torch.jit"
        )
    lazy = next(
        (name for name, tensor in model.named_parameters() if isinstance(tensor, nn.UninitializedParameter)), None
    )
    if lazy is not None:
        raise ModelError(
            f"{spec}: {lazy} has no shape yet (a lazy module)", "let the factory run the module once on an example"
        )
    return model


def _what_is_meant(spec: str) -> str:
    path = expanded(spec)
    if path.suffix in (".pt", ".pth", ".pkl") and path.is_file() and not is_torchscript(path):
        try:
            read_weights(spec)
        except WeightsError as error:
            if PICKLED in error.message and error.hint is not None:
                return f"it is {PICKLED}, and nothing of it is run: {error.hint}"
    if (hint := hint_of_model(spec)) is not None:
        return hint
    if path.is_dir():
        return f"for a transformers folder write hf:{spec}; otherwise {_FORMS}"
    near = nearest_path(path) if path.suffix and not is_there(path) else None
    if near is None and path.suffix in (".safetensors", ".pt", ".pth", ".pkl"):
        return f"weights need the model that they belong to: MODEL --weights {spec}"
    return f"{near} Otherwise {_FORMS}" if near else _FORMS
