"""Weights of TorchScript files (``torch.jit.save``), without loading the program.

``torch.jit.load`` compiles what is under ``code/`` and runs the ``__setstate__`` of its classes, whose operators may
read and write files. The weights need none of that: they are a pickle and its storages. Those alone are put into a new
archive, which is read like any other file of weights; a module is its fields, the name of a tensor the way to it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgespa.errors import WeightsError
from edgespa.models.unpickled import Fields, load_plainly

_PICKLE = "data.pkl"
_DEPTH, _MOST = 100, 200_000


def weights_of_script(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript file by the names that its state dict has.

    Args:
        path: The file; that it does not unpack to more than it is was looked at.

    Raises:
        WeightsError: It is damaged, or keeps its weights without names, as a frozen one does.
    """
    try:
        content = load_plainly(_without_code(path), path)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(
            f"weights {path}: not a whole TorchScript file: {error}", "download or copy the file again"
        ) from error
    found: dict[str, Tensor] = {}
    for name, tensor in _tensors(content, "", 0, [0], path):
        found[name] = tensor
    if not found:
        raise WeightsError(
            f"weights {path}: a TorchScript program whose weights have no names (a frozen one)",
            "give the file from before torch.jit.freeze, or the state dict of the module that it was made of",
        )
    return found


def _without_code(path: Path) -> io.BytesIO:
    """The pickle and the storages of a file, as an archive of ``torch.save``."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        writer: Any = torch._C.PyTorchFileWriter(result)
        for name, entry in entries.items():
            if name in (_PICKLE, "byteorder") or name.startswith("data/"):
                content = archive.read(entry)
                writer.write_record(name, content, len(content))
        writer.write_end_of_file()
    result.seek(0)
    return result


def _tensors(value: object, name: str, depth: int, seen: list[int], path: Path) -> Iterator[tuple[str, Tensor]]:
    """What is below an object, with bounds: modules may be shared, and a file may have a circle of them."""
    seen[0] += 1
    if depth > _DEPTH or seen[0] > _MOST:
        raise WeightsError(f"weights {path}: modules in modules without an end", "save the state dict of the module")
    if isinstance(value, Tensor):
        yield name, value
    fields: Mapping[Any, Any] = getattr(value, "fields", {}) if isinstance(value, Fields) else {}
    for key, each in fields.items():
        if isinstance(key, str) and isinstance(each, Tensor | Fields):
            yield from _tensors(each, f"{name}.{key}" if name else key, depth + 1, seen, path)
