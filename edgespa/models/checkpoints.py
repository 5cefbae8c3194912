"""Checkpoints of training tools: the state dict among what else they keep, and the names of its tensors.

Nothing of a file is run (`edgespa.models.unpickled`). What is taken where a file has more than one state dict is told,
and can be said: ``FILE:KEY``.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from edgespa.errors import WeightsError
from edgespa.models.arrays import Nothing, with_tensors
from edgespa.models.plain_pickles import is_plain_pickle, read_plain_pickle
from edgespa.models.scripted import weights_of_script
from edgespa.models.unpickled import MOST_PACKED, OBJECTS, load_plainly, require_as_stored
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
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTERS = ("total_ops", "total_params", "n_averaged")
_SHOWN = 5
PICKLED = "a whole model, pickled"


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
    """What ``torch.save`` or ``pickle.dump`` wrote, with nothing made of it but tensors and plain containers.

    Of TorchScript it is the weights; numpy arrays become tensors where there are no others.

    Raises:
        WeightsError: It is damaged, or of a form that cannot be read so.
    """
    require_as_stored(path, path)
    if is_torchscript(path):
        return weights_of_script(path)
    content = read_plain_pickle(path) if is_plain_pickle(path) else load_plainly(path, path)
    return with_tensors(content, path, MOST_PACKED * path.stat().st_size)


def _unpacked(path: Path, key: str | None) -> str:
    """What turns a pickled model into weights, where its maker is trusted."""
    inner = "" if key is None else f"[{key!r}]"
    plain = path.is_file() and is_plain_pickle(path)
    call = (
        f"pickle.loads(pathlib.Path({str(path)!r}).read_bytes())"
        if plain
        else f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    )
    return (
        "ask its maker for the file of model.state_dict(); or make weights of it where its package is installed, and "
        "only if you trust it, for this runs what is in it:\n"
        f"    import {'pathlib, pickle' if plain else 'torch'}, safetensors.torch\n"
        f"    model = {call}{inner}\n"
        f"    safetensors.torch.save_model(model.float(), {path.stem + '.safetensors'!r})"
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
    opened: list[object] = []
    while isinstance(content, Mapping) and not any(_is_weight(value) for value in content.values()):
        if any(content is each for each in opened):
            raise WeightsError(f"weights {path}: a mapping in itself, without an end", "save model.state_dict()")
        opened.append(content)
        inner = {
            str(name): value
            for name, value in content.items()
            if isinstance(value, Mapping) and _has_tensors(value) and not _NO_MODEL.search(str(name))
        }
        chosen = _chosen(inner, path)
        if chosen is None:
            break
        content = inner[chosen]
    if isinstance(content, Nothing):
        raise WeightsError(f"weights {path}: {PICKLED}: {OBJECTS}", _unpacked(path, None))
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"weights {path}: holds a {type(content).__name__}, not a state dict", "save model.state_dict()"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if not tensors:
        whole = [str(name) for name, value in content.items() if isinstance(value, Nothing)]
        if whole:
            named = next((name for name in NESTS if name in whole), whole[0])
            what = f"{PICKLED}, under {shown(named)}"
            raise WeightsError(f"weights {path}: {what}: {OBJECTS}", _unpacked(path, named))
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


def _has_tensors(value: Mapping[Any, Any], seen: set[int] | None = None) -> bool:
    """Whether a mapping is a state dict, or has one in it; an optimiser's state is by numbers.

    A file may have mappings in circles, or one in another many times over: each is looked at once.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(
        isinstance(name, str) and (isinstance(each, Tensor) or (isinstance(each, Mapping) and _has_tensors(each, seen)))
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
    if chosen in averaged:
        log.log(NOTE, "weights %s: those under %s are taken, which are averaged; there are no others", path, chosen)
    elif chosen is not None and others:
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
    if not any(_WRAPPERS.search(name) for name in expected):
        state = _unwrapped(state)
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


def _unwrapped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """By the names without what ``torch.compile`` and sharding put around modules, unless two become one."""
    plain = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    return plain if len(plain) == len(state) else state


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
    return sorted(found, key=lambda prefix: (bool(_AVERAGED.search(prefix.rstrip("."))), prefix.count("."), prefix))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
