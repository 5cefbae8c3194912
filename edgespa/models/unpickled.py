"""Pickles of ``torch.save``, of which nothing is made but tensors and plain containers.

torch reads them (``weights_only``), and every class or function that a file names besides (``argparse.Namespace``,
numpy's scalars, a tool's own configuration) is read as an object without content; of numpy's arrays it is kept what
they say of themselves (`edgespa.models.arrays`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import torch
from torch.serialization import safe_globals

from edgespa.errors import WeightsError
from edgespa.models.arrays import NUMPY, Nothing

log = logging.getLogger(__name__)

OBJECTS = "holds Python objects besides tensors, and edgespa unpickles none"
SAVE = "save model.state_dict() instead of the model, or write it with safetensors.torch.save_file"
_NAMED = re.compile(r"GLOBAL ([\w.]+)")
_FILLED = re.compile(r"Can only (SETITEM|extend|append).*_Nothing(\d+)'", re.DOTALL)
_MOST_TRIES = 100
MOST_PACKED, _SMALL_WHOLE = 8, 1 << 28
_SCRIPTED = "__torch__"


class Fields(Nothing):
    """Stands for an object of TorchScript, which is its fields.

    Attributes:
        fields: By name; empty where it keeps something else.
    """

    def __setstate__(self, state: object) -> None:
        self.fields = state if isinstance(state, dict) else {}


def load_plainly(source: Path | io.BytesIO, path: Path) -> object:
    """What ``torch.save`` wrote, with nothing made of it but tensors and plain containers.

    Args:
        source: The file, or its content.
        path: Of the file, for messages.

    Raises:
        WeightsError: It is damaged, or of a form that cannot be read so.
    """
    stand_ins: dict[str, type] = {}
    # Of the older format torch does not say beforehand, and what is wrong with a file, loading says.
    with contextlib.suppress(Exception):
        for name in torch.serialization.get_unsafe_globals_in_checkpoint(source):
            stand_ins[name] = _stand_in(len(stand_ins), name)
    for _ in range(_MOST_TRIES):
        if isinstance(source, io.BytesIO):
            source.seek(0)
        try:
            with safe_globals([(kind, name) for name, kind in stand_ins.items()]):
                content = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no error of its own: a damaged file shows as almost any class
            if not isinstance(error, pickle.UnpicklingError) or not _learn(str(error), stand_ins):
                raise _unreadable(path, error, stand_ins) from error
            continue
        if stand_ins:
            log.info("%s names %s: what is no tensor there was not made", path, ", ".join(stand_ins))
        return content
    raise WeightsError(f"weights {path}: {OBJECTS}", SAVE)


def require_as_stored(source: Path | io.BytesIO, path: Path) -> None:
    """Refuse a file that unpacks to far more than it is: torch packs nothing, and weights cannot be packed well.

    Args:
        source: The file, or its content.
        path: Of the file, for messages.

    Raises:
        WeightsError: Before anything is unpacked.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            whole = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # the older format, or damaged
        return
    size = len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size
    if whole > max(MOST_PACKED * size, _SMALL_WHOLE):
        raise WeightsError(f"weights {path}: would unpack to {whole:,} bytes", SAVE)


def _stand_in(number: int, name: str, instead: type | None = None) -> type:
    """A class of which no object is made, with a name that an error of torch can be told by."""
    if instead is None and name in NUMPY:
        return NUMPY[name]
    if instead is None:
        scripted = name == _SCRIPTED or name.startswith(f"{_SCRIPTED}.")
        return type(f"_Nothing{number}", (Fields if scripted else Nothing,), {})
    return type(f"_Nothing{number}", (), {"__new__": lambda *_, **__: instead()})


def _learn(error: str, stand_ins: dict[str, type]) -> bool:
    """Whether an error says something new: another class, or that one is filled as a mapping or as a list is."""
    named = _NAMED.search(error)
    whole = (named[1] if "." in named[1] else f"builtins.{named[1]}") if named else ""
    if whole and whole not in stand_ins:
        stand_ins[whole] = _stand_in(len(stand_ins), whole)
        return True
    filled = _FILLED.search(error)
    name = list(stand_ins)[int(filled[2])] if filled and int(filled[2]) < len(stand_ins) else None
    if filled is None or name is None:
        return False
    stand_ins[name] = _stand_in(int(filled[2]), name, dict if filled[1] == "SETITEM" else list)
    return True


def _unreadable(path: Path, error: Exception, names: Collection[str]) -> WeightsError:
    if isinstance(error, pickle.UnpicklingError) and (names or "global" in str(error).lower()):
        return WeightsError(f"weights {path}: {OBJECTS}", SAVE)
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return WeightsError(
        f"weights {path}: not a whole torch.save file: {reason[0]}",
        "download or copy the file again, or save the weights as .safetensors",
    )
