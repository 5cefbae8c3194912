"""Weight files: read without unpickling code, fitted strictly, and told apart by a digest."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgespa.errors import ModelError, WeightsError
from edgespa.imports import nearest_path

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_NESTS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_LISTED = 5
_MISFIT_HINT = "use the model that these weights were saved from, with the same number of classes"


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


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU, executing nothing that is in it.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.bin`` / ``.ckpt`` as written by ``torch.save``; the latter
            may nest the state dict under ``state_dict``, ``model_state_dict`` or ``model``.

    Returns:
        Tensor name to tensor.

    Raises:
        WeightsError: The file is missing, corrupt, or holds anything but tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        hint = nearest_path(path) or "check the path, relative to the current folder"
        raise WeightsError(f"weights {path}: no such file", hint)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            hint = "download or copy the file again, and compare its size with the original"
            raise WeightsError(f"weights {path}: not a whole safetensors file: {error}", hint) from error
    if path.suffix in _TORCH_SUFFIXES:
        return _state_dict_in(_torch_load(path), path)
    raise WeightsError(f"weights {path}: unknown kind of file", "give a .safetensors, .pt or .pth file")


def _torch_load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own: a damaged file shows as almost any class
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise WeightsError(
                f"weights {path}: holds Python objects besides tensors, and edgespa unpickles none",
                "save model.state_dict() instead of the model, or write it with safetensors.torch.save_file",
            ) from error
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise WeightsError(
            f"weights {path}: not a whole torch.save file: {reason[0]}",
            "download or copy the file again, or save the weights as .safetensors",
        ) from error


def _state_dict_in(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"weights {path}: holds a {type(content).__name__}, not a state dict", "save model.state_dict()"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = f"these entries are no tensors: {some_names(others)}" if others else "the state dict is empty"
        raise WeightsError(
            f"weights {path}: {found}", f"save model.state_dict(), alone or under one of: {', '.join(_NESTS)}"
        )
    return {str(name): value for name, value in content.items()}


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model in place; every name, shape and kind of number must fit.

    A prefix that a wrapper left on all names (``module.`` of data parallel, ``_orig_mod.`` of ``torch.compile``) is
    taken off. Half-precision weights are widened to the model's dtype.

    Args:
        model: The model; left as it was, or partly written, if an error is raised.
        state: Tensor name to tensor.
        source: Where the weights come from, for the message.

    Raises:
        WeightsError: With the count and the first five of the missing, the unexpected and the wrong names.
    """
    expected: dict[str, Tensor] = model.state_dict()
    given = _without_wrapper(state, expected)
    # The counter of a batch norm is no weight: old files lack it, and the module then starts it at 0.
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    wrong = [
        f"{name} {_kind(given[name])} instead of {_kind(expected[name])}"
        for name in expected
        if name in given and _kind(given[name]) != _kind(expected[name])
    ]
    if wrong:
        raise misfit(source, missing, unexpected, wrong)
    try:
        # Also tried with missing or unexpected names: modules translate the names of their own older versions.
        model.load_state_dict(given, strict=True)
    except (RuntimeError, KeyError) as error:
        if not missing and not unexpected:
            raise WeightsError(f"weights {source} do not fit the model: {error}", _MISFIT_HINT) from error
        raise misfit(source, missing, unexpected, wrong) from error


def misfit(source: str, missing: list[str], unexpected: list[str], wrong: list[str]) -> WeightsError:
    """The error for weights that do not fit, with the count and the first five of each kind.

    Args:
        source: Where the weights come from.
        missing: Names that the model has and the weights lack.
        unexpected: Names that the weights have and the model lacks.
        wrong: Names with what is and what should be their shape.
    """
    kinds = (("missing", missing), ("unexpected", unexpected), ("of wrong shape or kind", wrong))
    report = "; ".join(f"{len(names)} {label}: {some_names(names)}" for label, names in kinds if names)
    return WeightsError(f"weights {source} do not fit the model: {report}", _MISFIT_HINT)


def _without_wrapper(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    given = dict(state)
    for _ in range(len(_WRAPPERS)):
        for prefix in _WRAPPERS:
            worn = bool(given) and all(name.startswith(prefix) for name in given)
            if worn and not all(name.startswith(prefix) for name in expected):
                given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def _kind(tensor: Tensor) -> str:
    """Shape and kind of number: integers that stand for quantised weights must not pass for floats."""
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    if tensor.is_complex():
        return f"{shape} complex"
    return f"{shape} float" if tensor.is_floating_point() else f"{shape} integer"


def some_names(names: list[str]) -> str:
    """The first names of a list that may be long, for a message."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Digest of a state dict that depends on nothing but its names, dtypes, shapes and values.

    For each tensor in order of name, SHA-256 takes the UTF-8 bytes of the JSON text ``[name, dtype, [sizes]]``
    (Python's ``json.dumps``, dtype without "torch."), a newline, and the elements in row-major order as little-endian
    bytes. Device, strides, the order of the mapping and the file format do not matter.

    Args:
        state: Tensor name to dense tensor, of any shape (also 0-dimensional) and dtype.

    Returns:
        ``"sha256:"`` and 64 hexadecimal digits.

    Raises:
        ModelError: A tensor is sparse, quantised, or on the meta device, and so has no plain bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ModelError(
                f"{name}: a {'quantised' if tensor.is_quantized else tensor.layout} tensor on {tensor.device} "
                "has no plain bytes to take a digest of",
                "give the model in dense floating point, with its weights loaded",
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, dtype, list(tensor.shape)]).encode() + b"\n")
        plain = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        raw = plain.view(torch.uint8)
        # A complex number is two floats, each with its own byte order.
        width = plain.element_size() // (2 if plain.is_complex() else 1)
        if sys.byteorder == "big" and width > 1:
            raw = raw.reshape(-1, width).flip(1).contiguous()
        digest.update(raw.numpy().data)
    return f"sha256:{digest.hexdigest()}"
