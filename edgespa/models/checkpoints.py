"""Checkpoints of training tools: the state dict among what else they keep, and the names of its tensors.

Nothing of a file is run: torch reads tensors and plain containers alone (``weights_only``), and every class or function
that the file names besides (``argparse.Namespace``, numpy's scalars, a tool's own configuration) is read as an object
without content. What is taken where a file has more than one state dict is told, and can be said: ``FILE:KEY``.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import shlex
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from edgespa.errors import WeightsError
from edgespa.system.bounds import shown
from edgespa.system.files import expanded
from edgespa.system.quiet import NOTE
from edgespa.system.recognised import is_torchscript

log = logging.getLogger(__name__)

NESTS = ("state_dict", "model_state_dict", "model")
_OTHER_NESTS = (
    "model_state", "net", "network", "module", "weights", "params", "teacher", "student", "backbone", "encoder",
)  # fmt: skip
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged|shadow)(_|$)", re.IGNORECASE)
_NO_MODEL = re.compile(r"optim|sched|scaler|callback|loops|hyper_param", re.IGNORECASE)
_COUNTERS = ("total_ops", "total_params", "n_averaged")
_NAMED = re.compile(r"GLOBAL ([\w.]+)")
_FILLED = re.compile(r"Can only (SETITEM|extend|append).*_Nothing(\d+)'", re.DOTALL)
_MOST_TRIES = 100
_SHOWN = 5
_SAVE = "save model.state_dict() instead of the model, or write it with safetensors.torch.save_file"


class _Nothing:
    """Stands for an object of a class that is not made."""

    def __new__(cls, *_: Any, **__: Any) -> _Nothing:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def split_key(spec: str) -> tuple[str, str | None]:
    """``FILE:KEY`` -> file and key; a file whose name has a colon is a file.

    Args:
        spec: As typed after ``--weights``.
    """
    head, colon, key = spec.rpartition(":")
    if not colon or not key or not head or expanded(spec).exists() or not expanded(head).is_file():
        return spec, None
    return head, key


def read_torch(path: Path) -> object:
    """What ``torch.save`` wrote, with nothing made of it but tensors and plain containers.

    Raises:
        WeightsError: It is damaged, or of a form that cannot be read so.
    """
    _require_as_stored(path)
    _require_no_script(path)
    stand_ins: dict[str, type] = {}
    # Of the older format torch does not say beforehand, and what is wrong with a file, loading says.
    with contextlib.suppress(Exception):
        for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
            stand_ins[name] = _stand_in(len(stand_ins))
    for _ in range(_MOST_TRIES):
        try:
            with safe_globals([(kind, name) for name, kind in stand_ins.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no error of its own: a damaged file shows as almost any class
            if not isinstance(error, pickle.UnpicklingError) or not _learn(str(error), stand_ins):
                raise _unreadable(path, error, stand_ins) from error
            continue
        if stand_ins:
            log.info("%s names %s: what is no tensor there was not made", path, ", ".join(stand_ins))
        return content
    raise WeightsError(f"weights {path}: {_OBJECTS}", _SAVE)


def _unpacked(path: Path, key: str | None) -> str:
    """What turns a pickled model into weights, where its maker is trusted."""
    inner = "" if key is None else f"[{key!r}]"
    return (
        "ask its maker for the file of model.state_dict(); or make weights of it where its package is installed, and only if "
        "you trust it, for this runs what is in it:\n"
        "    import torch, safetensors.torch\n"
        f"    model = torch.load({str(path)!r}, map_location='cpu', weights_only=False){inner}\n"
        f"    safetensors.torch.save_model(model.float(), {path.stem + '.safetensors'!r})"
    )


def _require_no_script(path: Path) -> None:
    """Refuse what ``torch.jit.save`` wrote: a program of its own.

    Raises:
        WeightsError: With what makes weights of it.
    """
    if is_torchscript(path):
        raise WeightsError(
            f"weights {path}: a TorchScript program (torch.jit.save), which is not loaded here, for it may run operators "
            "that read and write files",
            "if you trust its maker, take its weights: torch.save(torch.jit.load("
            f"{str(path)!r}, map_location='cpu').state_dict(), 'weights.pth')",
        )


def _require_as_stored(path: Path) -> None:
    """Refuse a file that unpacks to far more than it is: torch packs nothing, and weights cannot be packed well.

    Raises:
        WeightsError: Before anything is unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # the older format, or damaged
        return
    if whole > max(_MOST_PACKED * path.stat().st_size, _SMALL_WHOLE):
        raise WeightsError(f"weights {path}: would unpack to {whole:,} bytes", _SAVE)


def _stand_in(number: int, instead: type | None = None) -> type:
    """A class of which no object is made, with a name that an error of torch can be told by."""
    if instead is None:
        return type(f"_Nothing{number}", (_Nothing,), {})
    return type(f"_Nothing{number}", (), {"__new__": lambda *_, **__: instead()})


def _learn(error: str, stand_ins: dict[str, type]) -> bool:
    """Whether an error says something new: another class, or that one is filled as a mapping or as a list is."""
    named = _NAMED.search(error)
    whole = (named[1] if "." in named[1] else f"builtins.{named[1]}") if named else ""
    if whole and whole not in stand_ins:
        stand_ins[whole] = _stand_in(len(stand_ins))
        return True
    filled = _FILLED.search(error)
    name = list(stand_ins)[int(filled[2])] if filled and int(filled[2]) < len(stand_ins) else None
    if filled is None or name is None:
        return False
    stand_ins[name] = _stand_in(int(filled[2]), dict if filled[1] == "SETITEM" else list)
    return True


_MOST_PACKED, _SMALL_WHOLE = 8, 1 << 28
_OBJECTS = "holds Python objects besides tensors, and edgespa unpickles none"


def _unreadable(path: Path, error: Exception, names: Collection[str]) -> WeightsError:
    if isinstance(error, pickle.UnpicklingError) and (names or "global" in str(error).lower()):
        return WeightsError(f"weights {path}: {_OBJECTS}", _SAVE)
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return WeightsError(
        f"weights {path}: not a whole torch.save file: {reason[0]}",
        "download or copy the file again, or save the weights as .safetensors",
    )


def state_dict_in(content: object, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint.

    Args:
        content: From `read_torch`.
        path: Of the file, for messages.
        key: The one that is meant, by its key; with more than one level with dots between.

    Raises:
        WeightsError: There is none, or more than one and it is not said which.
    """
    parts, prefix = _parts(content, key, path)
    for part in parts:
        assert isinstance(content, Mapping)
        content = content[part]
    while isinstance(content, Mapping) and not any(_is_weight(value) for value in content.values()):
        inner = {
            str(name): value
            for name, value in content.items()
            if isinstance(value, Mapping) and _has_tensors(value) and not _NO_MODEL.search(str(name))
        }
        chosen = _chosen(inner, path)
        if chosen is None:
            break
        content = inner[chosen]
    if isinstance(content, _Nothing):
        raise WeightsError(f"weights {path}: a whole model, pickled: {_OBJECTS}", _unpacked(path, None))
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"weights {path}: holds a {type(content).__name__}, not a state dict", "save model.state_dict()"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if not tensors:
        whole = [str(name) for name, value in content.items() if isinstance(value, _Nothing)]
        if whole:
            named = next((name for name in NESTS if name in whole), whole[0])
            what = f"a whole model, pickled, under {shown(named)}"
            raise WeightsError(f"weights {path}: {what}: {_OBJECTS}", _unpacked(path, named))
        found = f"these entries are no tensors: {_some(others)}" if others else "the state dict is empty"
        raise WeightsError(
            f"weights {path}: {found}", f"save model.state_dict(), alone or under one of: {', '.join(NESTS)}"
        )
    if prefix:
        tensors = below(tensors, prefix)
        if not tensors:
            raise WeightsError(
                f"weights {path}: no names begin with {prefix!r} below {'.'.join(parts)}", "check the key"
            )
    if others:
        log.log(NOTE, "weights %s: left out what is no tensor: %s", path, _some(others))
    return tensors


def _is_weight(value: object) -> bool:
    """Whether a tensor is more than a number, such as the best accuracy that scripts keep beside a state dict."""
    return isinstance(value, Tensor) and (value.is_nested or value.numel() != 1)


def _parts(content: object, key: str | None, path: Path) -> tuple[list[str], str]:
    """The keys on the way to the one that is said, and what is a prefix of names there."""
    rest, parts = key or "", []
    while rest:
        known = [str(name) for name in content] if isinstance(content, Mapping) else []
        part = next((name for name in sorted(known, key=len, reverse=True) if f"{rest}.".startswith(f"{name}.")), None)
        if part is None:
            raise WeightsError(
                f"weights {path}: there is no {key!r} in it", f"what there is: {_some(known) or 'no names'}"
            )
        assert isinstance(content, Mapping)
        content, rest = content[part], rest[len(part) + 1 :]
        parts.append(part)
        if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
            break
    return parts, rest


def _has_tensors(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a state dict, or has one in it; an optimiser's state is by numbers."""
    return any(
        isinstance(name, str) and (isinstance(each, Tensor) or (isinstance(each, Mapping) and _has_tensors(each)))
        for name, each in value.items()
    )


def _chosen(inner: Mapping[str, Any], path: Path) -> str | None:
    """The key of the state dict that is taken: a usual one, else the only one; averaged ones if there is no other."""
    plain = [name for name in inner if not _AVERAGED.search(name)]
    averaged = [name for name in inner if name not in plain]
    usual = next((name for name in (*NESTS, *_OTHER_NESTS) if name in plain), None)
    if usual is None and len(plain) > 1:
        raise WeightsError(
            f"weights {path}: holds more than one state dict: {_some(list(inner))}",
            f"say which: --weights {shlex.quote(f'{path}:{plain[0]}')}",
        )
    chosen = usual or next(iter(plain), None)
    if chosen is None and len(averaged) > 1:
        raise WeightsError(
            f"weights {path}: holds more than one state dict: {_some(averaged)}",
            f"say which: --weights {shlex.quote(f'{path}:{averaged[0]}')}",
        )
    chosen = chosen or next(iter(averaged), None)
    others = [name for name in inner if name != chosen]
    if chosen is not None and others:
        log.log(
            NOTE, "weights %s: those under %s are taken, not %s (--weights %s:%s)",
            path, chosen, _some(others), *map(shlex.quote, (str(path), others[0])),
        )  # fmt: skip
    return chosen


def without_counters(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """A state dict without what thop and torch's averaging count in, of which the model knows nothing.

    Args:
        state: Tensor name to tensor.
        expected: The model's names.
    """
    counters = {name for name in state if name.rpartition(".")[2] in _COUNTERS and name not in expected}
    return {name: value for name, value in state.items() if name not in counters}


def with_names_of(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict by the model's own names, where all that differs is one prefix of all of its names, or the model's.

    Args:
        state: Tensor name to tensor.
        expected: Of the model.

    Returns:
        The state dict, and prefixes below which there is all that the model has, beside other tensors.
    """
    wanted = {name for name in expected if not name.endswith("num_batches_tracked")}
    if not wanted or wanted <= state.keys():
        return dict(state), ()
    found = []
    for prefix in _prefixes(state):
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if wanted <= inside.keys():
            if len(inside) == len(state):
                return inside, ()
            found.append(prefix)
    for prefix in _prefixes(expected):
        if all(name.startswith(prefix) for name in wanted):
            longer = {prefix + name: value for name, value in state.items()}
            if wanted <= longer.keys():
                return longer, ()
    return dict(state), tuple(found)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it.

    Args:
        state: Tensor name to tensor.
        prefix: With or without the dot at its end.
    """
    prefix = f"{prefix.rstrip('.')}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _prefixes(names: Collection[str]) -> list[str]:
    """All that a name may begin with up to one of its dots, the shortest first."""
    found = set()
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:count]) + "." for count in range(1, len(parts) + 1)}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
