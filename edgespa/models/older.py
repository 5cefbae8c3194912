"""Saved programs as torch wrote them up to 2.7: a program in JSON beside pickles of its tensors.

Of the program, the texts are checked like those of today's files. Of the pickles nothing is made but tensors, and only
plain ones go on; example inputs and extra files are not read. What torch is given is what was checked, in memory.
"""

from __future__ import annotations

import importlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgespa.errors import ModelError, WeightsError
from edgespa.models.fields import Refused, checked_program, checked_tensor_name
from edgespa.models.unpickled import load_plainly, require_as_stored

_PROGRAM = "serialized_exported_program.json"
_TENSORS = ("serialized_state_dict.pt", "serialized_constants.pt")
_VERSION = "version"
_MOST_JSON, _LONGEST = 1 << 28, 20
_SMALL = 1 << 20
"""Elements of a tensor that may be more than its storage has: one number, expanded."""


def is_older(archive: zipfile.ZipFile) -> bool:
    """Whether it is a program in the older format.

    Args:
        archive: Of the file.
    """
    return _PROGRAM in archive.namelist()


def load_older(archive: zipfile.ZipFile, size: int, path: Path) -> ExportedProgram:
    """The program of a file in the older format.

    Args:
        archive: Of the file.
        size: Of the file, in bytes.
        path: Of the file, for messages.

    Raises:
        Refused: Something in it could run code, or claims more than the file has.
        ModelError: It is of a version that this torch does not read.
    """
    entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise Refused("entries that are larger than the file, or compressed")
    # Of a file that was cut off, Python may find the end of a zip file stored inside of it.
    if min((entry.header_offset for entry in entries), default=1) != 0:
        raise zipfile.BadZipFile("the list of its entries is not its own")
    if len({entry.filename for entry in entries}) != len(entries):
        raise Refused("two entries of the same name")
    serde: Any = importlib.import_module("torch._export.serde.serialize")
    newest = importlib.import_module("torch._export.serde.schema").SCHEMA_VERSION[0]
    version = archive.read(_VERSION)[:_LONGEST].decode().partition(".")[0]
    if version != str(newest):
        raise ModelError(
            f"{path}: a program of version {version[:_LONGEST]!r} of torch.export; torch {torch.__version__} reads "
            f"version {newest}",
            "export the model again: torch.export.save(program, path)",
        )
    content = archive.read(_PROGRAM)
    if len(content) > _MOST_JSON:
        raise Refused(f"a text of {len(content):,} bytes")
    program = checked_program(_with_kinds(json.loads(content)))
    state, constants = (_tensors(archive.read(name), name, path) for name in _TENSORS)
    artifact = serde.SerializedArtifact(json.dumps(program).encode(), state, constants, b"")
    try:
        loaded: ExportedProgram = serde.deserialize(artifact)
    except Exception as error:  # whatever a format of another torch version leads to
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot load a program as old as this: {type(error).__name__}: {error}",
            "export the model again with this version of torch: torch.export.save(program, path)",
        ) from error
    return loaded


def _with_kinds(values: Any) -> Any:
    """A program whose arguments say what they are, as they do since: their names are not those of values."""
    nodes = values["graph_module"]["graph"]["nodes"]
    for node in nodes:
        for argument in node["inputs"]:
            argument.setdefault("kind", None)
    return values


def _tensors(content: bytes, name: str, path: Path) -> dict[str, Tensor]:
    """Plain tensors by their names.

    Raises:
        Refused: There is something else.
    """
    source = io.BytesIO(content)
    try:
        require_as_stored(source, path)
        found = load_plainly(source, path)
    except WeightsError as error:
        raise Refused(f"the pickle {name}") from error
    if not isinstance(found, Mapping):
        raise Refused(f"the pickle {name}")
    result = {}
    for key, value in found.items():
        if not isinstance(key, str) or type(value) not in (Tensor, torch.nn.Parameter):
            raise Refused(f"what is no tensor in {name}")
        checked_tensor_name(key)
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise Refused(f"a tensor that has no plain bytes ({key})")
        held = value.untyped_storage().nbytes() // value.element_size()
        if value.numel() > max(held, _SMALL) or (value.numel() and not held):
            raise Refused(f"the tensor {key} of {value.numel():,} elements in a storage of {held:,}")
        result[key] = value
    return result
