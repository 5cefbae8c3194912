"""Saved programs (``.pt2``), opened only when nothing in them can run code.

``torch.export.load`` unpickles some entries, evaluates text as Python (sizes, guards, names), resolves operators by
dotted name, imports the classes of containers, and loads native libraries if the archive has any. So the file is read
once, into memory, and looked through: only the entries of a plain program are taken, as plain tensors and a graph of
operators that do nothing but compute (`edgespa.graph.operators`), with every text of a known form
(`edgespa.models.fields`). What torch then loads is a new archive of just that: not the file, which another reader of
zip files might understand in another way.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgespa.errors import ModelError
from edgespa.models.fields import Refused, checked_program, checked_weights
from edgespa.models.imports import nearest_path
from edgespa.system.files import expanded

_SUFFIX = ".pt2"
_PROGRAM = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": "data/weights/",
    "data/constants/model_constants_config.json": "data/constants/",
}
_ENTRY = re.compile(
    r"models/model\.json|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|archive_format|archive_version|byteorder|version|\.data/[\w.]+|extra/.*"
)
_COPIED = ("archive_format", "archive_version")
_SMALL = 1 << 20
"""Elements of a tensor that may be more than its entry has: one number, expanded."""
_MOST_JSON = 1 << 28


def is_pt2(spec: str) -> bool:
    """True if a model spec names a saved program rather than a module.

    Args:
        spec: A model spec.
    """
    return spec.endswith(_SUFFIX)


def is_onnx(spec: str) -> bool:
    """True if a model spec names an ONNX file.

    Args:
        spec: A model spec.
    """
    return spec.lower().endswith(".onnx") and not spec.startswith(("hf:", "timm:", "torchvision:"))


def load_pt2(path: Path | str) -> ExportedProgram:
    """Load a program that ``torch.export.save`` wrote, after checking that loading it runs nothing else.

    Args:
        path: The ``.pt2`` file.

    Returns:
        The program, as saved, without its example inputs and guards.

    Raises:
        ModelError: The file is missing, damaged, of an older format, or holds more than a program.
    """
    path = expanded(path)
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file", nearest_path(path) or "check the path, relative to the current folder"
        )
    try:
        packed = _packed(path.read_bytes(), path)
    except Refused as error:
        raise _refusal(path, str(error)) from error
    except (zipfile.BadZipFile, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _not_whole(path, error) from error
    except (RuntimeError, RecursionError) as error:  # encrypted, or JSON without an end
        raise _not_whole(path, error) from error
    try:
        return torch.export.load(packed)
    except Exception as error:  # whatever a format of another torch version leads to
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot load this program: {type(error).__name__}: {error}",
            "save it again with torch.export.save under this version of torch",
        ) from error


def _packed(content: bytes, path: Path) -> io.BytesIO:
    """A new archive of what is taken over from a file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        # Of a file that was cut off, Python may find the end of a zip file stored inside of it.
        if min((entry.header_offset for entry in entries), default=1) != 0:
            raise zipfile.BadZipFile("the list of its entries is not its own")
        root = _require_known(entries, len(content), path)
        result = io.BytesIO()
        # What is read by the names of this list is all that goes on.
        names = {entry.filename.partition("/")[2]: entry for entry in entries}

        def read(name: str) -> bytes:
            try:
                return archive.read(names[name])
            except zipfile.BadZipFile as error:
                raise zipfile.BadZipFile(f"entry {root}/{name} is damaged: {error}") from error

        if names.get("byteorder") is not None and read("byteorder") != b"little":
            raise ValueError("it was saved on a machine with another order of bytes")
        writer = torch._C.PyTorchFileWriter(result)
        for name in _COPIED:
            text = read(name)
            writer.write_record(name, text, len(text))
        writer.write_record("byteorder", b"little", 6)
        program = checked_program(_json(read(_PROGRAM)))
        for config, folder in _CONFIGS.items():
            values = checked_weights(_json(read(config)))
            _put(writer, config, json.dumps(values).encode())
            for name, each in values["config"].items():
                _require_stored(name, each["tensor_meta"], names[f"{folder}{each['path_name']}"].file_size)
            for entry in dict.fromkeys(each["path_name"] for each in values["config"].values()):
                _put(writer, f"{folder}{entry}", read(f"{folder}{entry}"))
        _put(writer, _PROGRAM, json.dumps(program).encode())
        _put(writer, _INPUTS, b"")
        writer.write_end_of_file()
    result.seek(0)
    return result


def _put(writer: Any, name: str, content: bytes) -> None:
    writer.write_record(name, content, len(content))


def _require_known(entries: list[zipfile.ZipInfo], size: int, path: Path) -> str:
    """The folder that everything in an archive lies in.

    Raises:
        Refused: If something is not of a plain program, or larger than the file.
        ModelError: If there is no program in it.
    """
    roots = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    if len(roots) != 1 or _PROGRAM not in names:
        raise ModelError(
            f"{path}: a zip file without a program in it ({_PROGRAM} is missing)",
            "give a file from torch.export.save(program, path); weights alone go to --weights",
        )
    if len(set(names)) != len(names):
        raise Refused("two entries of the same name")
    for name in names:
        if not _ENTRY.fullmatch(name):
            raise Refused(f"entry {name}")
    # torch stores everything as it is: what claims more bytes than the file has would only fill the memory.
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise Refused("entries that are larger than the file, or compressed")
    return roots.pop()


def _json(content: bytes) -> Any:
    if len(content) > _MOST_JSON:
        raise Refused(f"a text of {len(content):,} bytes")
    return json.loads(content)


def _require_stored(name: str, meta: dict[str, Any], size: int) -> None:
    """Refuse a tensor of more elements than its entry has.

    Raises:
        Refused: With its name.
    """
    sizes, strides = ([int(each["as_int"]) for each in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    if len(sizes) != len(strides) or min([*sizes, *strides, offset]) < 0:
        raise Refused(f"the tensor {name} of sizes {sizes} and strides {strides}")
    elements = math.prod(sizes)
    if elements > max(size, _SMALL) or (elements and not size):
        raise Refused(f"the tensor {name} of {elements:,} elements in {size:,} bytes")


def _not_whole(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: not a whole saved program: {error}", "save it again with torch.export.save(program, path)"
    )


def _refusal(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: refused, because loading {what} could run code, write files or fill the memory",
        "save a program of tensors and operators only, with torch.export.save; or name the model that it was made of: "
        "path/file.py:factory",
    )
