"""Weight files: read without unpickling code, fitted strictly, and told apart by a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgespa.errors import ModelError, WeightsError
from edgespa.models.checkpoints import below, read_torch, split_key, state_dict_in, with_names_of, without_counters
from edgespa.models.imports import nearest_path
from edgespa.system.files import expanded
from edgespa.system.quiet import NOTE

logger = logging.getLogger(__name__)

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pyth", ".th", ".ts", ".torchscript", ".jit", ".pkl")
_LISTED, _LONGEST = 5, 100
_MISFIT_HINT = "use the model that these weights were saved from, with the same number of classes"


@dataclass(frozen=True)
class WeightSource:
    """What a library's model is filled with.

    Attributes:
        pretrained: The library's own weights, from its cache or the network.
        state: Else these, if any; else the network stays untrained.
        name: Where ``state`` comes from, for messages.
        classes: For so many the last layer is made, whatever the weights have; None: for as many as they have.
    """

    pretrained: bool
    state: Mapping[str, Tensor] | None = None
    name: str = ""
    classes: int | None = None


def with_new_head(model: nn.Module, state: Mapping[str, Tensor], classes: int | None) -> Mapping[str, Tensor]:
    """Weights in which a last layer of another number of classes is the model's own, as it was made.

    Args:
        model: With a last layer of so many classes.
        state: Tensor name to tensor.
        classes: The number; None: nothing is another's.
    """
    if classes is None:
        return state
    own: dict[str, Tensor] = model.state_dict()
    given, _ = with_names_of(without_counters(state, own), own)
    fresh = [
        name
        for name, tensor in own.items()
        if name in given and is_other_head(tuple(given[name].shape), tuple(tensor.shape), classes)
    ]
    tell_new_head(fresh, classes)
    return {**given, **{name: own[name] for name in fresh}}


def head_hint(model: nn.Module, state: Mapping[str, Tensor], spec: str) -> str | None:
    """How a model is named that weights fit whose last layer has another number of classes; None where it is not that.

    Args:
        model: With a last layer of its own number.
        state: Tensor name to tensor.
        spec: Of the model.
    """
    own: dict[str, Tensor] = model.state_dict()
    given, _ = with_names_of(without_counters(state, own), own)
    other = [(tuple(given[name].shape), tuple(own[name].shape)) for name in own if name in given]
    other = [(found, wanted) for found, wanted in other if found != wanted]
    counts = {found[:1] for found, wanted in other if found and found[1:] == wanted[1:]}
    if not other or len(other) > _OF_A_HEAD or len(counts) != 1 or any(a[1:] != b[1:] for a, b in other):
        return None
    return f"they are of a model with {counts.pop()[0]} classes: name it {spec},classes={other[0][0][0]}"


_OF_A_HEAD = 2


def is_other_head(found: Sequence[int], wanted: Sequence[int], classes: int) -> bool:
    """Whether a tensor is of a last layer of another number of classes, and nothing else is different.

    Args:
        found: Its shape.
        wanted: That of the model.
        classes: How many the model has.
    """
    return bool(found) and tuple(found) != tuple(wanted) and (classes, *found[1:]) == tuple(wanted)


def tell_new_head(fresh: Sequence[str], classes: int) -> None:
    """Say which tensors nobody has trained."""
    if fresh:
        logger.log(NOTE, "a new last layer of %d classes, untrained: %s", classes, some_names(list(fresh)))


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU, executing nothing that is in it.

    Args:
        path: ``.safetensors``, or ``.pt`` / ``.pth`` / ``.bin`` / ``.ckpt`` as written by ``torch.save``, or ``.pkl``
            by ``pickle.dump``; these may nest the state dict among what else a training tool keeps. ``FILE:KEY`` says
            which state dict is meant, or the prefix of the names that are.

    Returns:
        Tensor name to tensor.

    Raises:
        WeightsError: The file is missing, corrupt, or holds anything but tensors.
    """
    file, key = split_key(str(path))
    path = expanded(file)
    if not path.is_file():
        hint = nearest_path(path) or "check the path, relative to the current folder"
        raise WeightsError(f"weights {path}: no such file", hint)
    if path.suffix == ".safetensors":
        try:
            return _part(load_file(path), key, path)
        except (SafetensorError, OSError, ValueError) as error:
            hint = "download or copy the file again, and compare its size with the original"
            raise WeightsError(f"weights {path}: not a whole safetensors file: {error}", hint) from error
    if path.suffix in _TORCH_SUFFIXES:
        try:
            return _of_checkpoint(path, key)
        except RecursionError as error:
            raise WeightsError(
                f"weights {path}: mappings in mappings without an end", "save model.state_dict()"
            ) from error
    raise WeightsError(f"weights {path}: unknown kind of file", "give a .safetensors, .pt or .pth file")


def _of_checkpoint(path: Path, key: str | None) -> dict[str, Tensor]:
    content = read_torch(path)
    if key is not None and isinstance(content, Mapping) and not _is_key(content, key):
        with contextlib.suppress(WeightsError):  # that there is no such key is what is to be told
            return _part(state_dict_in(content, path), key, path)
    return state_dict_in(content, path, key)


def _is_key(content: Mapping[Any, Any], key: str) -> bool:
    """Whether a checkpoint has something of that name, and not only tensors that begin so."""
    first = key.partition(".")[0]
    return any(isinstance(value, Mapping) and str(name) in (key, first) for name, value in content.items())


def _part(state: dict[str, Tensor], key: str | None, path: Path) -> dict[str, Tensor]:
    if key is None:
        return state
    part = below(state, key)
    if not part:
        raise WeightsError(f"weights {path}: no names begin with {key!r}", f"they are: {some_names(list(state))}")
    return part


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model in place; every name, shape and kind of number must fit.

    A prefix of all names that the model's names do not have (``module.`` of data parallel, ``_orig_mod.`` of
    ``torch.compile``, ``backbone.``) is taken off, and one that only the model's have is put on. Counters of thop are
    left out. Half-precision weights are widened to the model's dtype.

    Args:
        model: The model; left as it was, or partly written, if an error is raised.
        state: Tensor name to tensor.
        source: Where the weights come from, for the message.

    Raises:
        WeightsError: With the count and the first five of the missing, the unexpected and the wrong names.
    """
    expected: dict[str, Tensor] = model.state_dict()
    given, inside = with_names_of(without_counters(state, expected), expected)
    # The counter of a batch norm is no weight: old files lack it, and the module then starts it at 0.
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    wrong = [
        f"{name} {_kind(given[name])} instead of {_kind(expected[name])}"
        for name in expected
        if name in given and _kind(given[name]) != _kind(expected[name])
    ]
    if inside:
        count = sum(name.startswith(inside[0]) for name in given)
        raise WeightsError(
            f"weights {source} hold more than the model: all of its {len(expected)} tensors are below "
            f"{' and below '.join(map(repr, inside))}, beside {len(given) - count} others",
            "take those alone: --weights "
            + shlex.quote(f"{source}{'.' if split_key(source)[1] else ':'}{inside[0].rstrip('.')}"),
        )
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


def _kind(tensor: Tensor) -> str:
    """Shape and kind of number: integers that stand for quantised weights must not pass for floats."""
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:  # nested ones have no shape
        return "nested" if tensor.is_nested else "without values" if tensor.is_meta else "sparse"
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    if tensor.is_complex():
        return f"{shape} complex"
    return f"{shape} float" if tensor.is_floating_point() else f"{shape} integer"


def some_names(names: list[str]) -> str:
    """The first names of a list that may be long, for a message."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    short = (name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..." for name in names[:_LISTED])
    return ", ".join(short) + more


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
