"""Saved programs (``.pt2``), opened only when nothing in them can run code.

``torch.export.load`` unpickles some entries, evaluates size expressions as Python text, resolves operators by dotted
name from the ``torch`` module, and loads native libraries if the archive has any. So the archive is looked through
first: only the entries of a plain program, pickles that ``weights_only`` accepts, operators of ``torch.ops`` and plain
arithmetic, and size expressions over known functions pass.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgespa.errors import ModelError
from edgespa.imports import nearest_path

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
_OPERATOR = re.compile(
    r"torch\.ops\.(?!_*load)\w+(\.\w+)+|torch\._?sym_\w+|math\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|index|pos)"
)
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION_WORD = re.compile(
    r"Add|Mul|Pow|Integer|Rational|Float|Max|Min|Mod|Abs|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Piecewise|ExprCondPair|true|false|True|False"
    r"|evaluate|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift"
    r"|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|IsNonOverlappingAndDenseIndicator|TruncToFloat"
    r"|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|floor|ceiling"
)
_SYMBOL_NAME = re.compile(r"[a-z]{1,4}\d+")


def is_pt2(spec: str) -> bool:
    """True if a model spec names a saved program rather than a module.

    Args:
        spec: A model spec.
    """
    return spec.endswith(_SUFFIX)


def load_pt2(path: Path | str) -> ExportedProgram:
    """Load a program that ``torch.export.save`` wrote, after checking that loading it runs nothing else.

    Args:
        path: The ``.pt2`` file.

    Returns:
        The program, as saved.

    Raises:
        ModelError: The file is missing, damaged, of an older format, or holds more than a program.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file", nearest_path(path) or "check the path, relative to the current folder"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            # Of a file that was cut off, Python may find the end of a zip file stored inside of it; torch would not.
            if min((entry.header_offset for entry in archive.infolist()), default=1) != 0:
                raise zipfile.BadZipFile("the list of its entries is not its own")
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{path}: entry {damaged} is damaged", "save the program again with torch.export.save")
            _check(archive, path)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"{path}: not a whole saved program: {error}", "save it again with torch.export.save(program, path)"
        ) from error
    try:
        return torch.export.load(path)
    except Exception as error:  # whatever a format of another torch version leads to
        raise ModelError(
            f"{path}: torch {torch.__version__} cannot load this program: {type(error).__name__}: {error}",
            "save it again with torch.export.save under this version of torch",
        ) from error


def _check(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive with anything in it that loading would execute."""
    entries = [name for name in archive.namelist() if not name.endswith("/")]
    roots = {name.partition("/")[0] for name in entries}
    names = [name.partition("/")[2] for name in entries]
    if len(roots) != 1 or _PROGRAM not in names:
        raise ModelError(
            f"{path}: a zip file without a program in it ({_PROGRAM} is missing)",
            "give a file from torch.export.save(program, path); weights alone go to --weights",
        )
    if len(set(names)) != len(names):
        raise _refusal(path, "two entries of the same name")
    for name in names:
        if not _ENTRY.fullmatch(name):
            raise _refusal(path, f"entry {name}")
    root = roots.pop()
    for key, value in _pairs(json.loads(archive.read(f"{root}/{_PROGRAM}"))):
        if key == "expr_str" and not _is_plain_expression(value):
            raise _refusal(path, f"the size expression {value!r}")
        if key == "target" and isinstance(value, str) and not _is_plain_operator(value):
            raise _refusal(path, f"the operator {value!r}")
    for config, folder in _CONFIGS.items():
        if config in names:
            for key, value in _pairs(json.loads(archive.read(f"{root}/{config}"))):
                if key == "path_name" and f"{folder}{value}" not in names:
                    raise _refusal(path, f"a payload outside of its folder: {value!r}")
                if isinstance(value, dict) and value.get("use_pickle"):
                    _check_pickle(archive.read(f"{root}/{folder}{value['path_name']}"), path)
    if _INPUTS in names:
        _check_pickle(archive.read(f"{root}/{_INPUTS}"), path)


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _pairs(value)


def _is_plain_operator(target: str) -> bool:
    # Input and output specs use the same key for names of parameters, which are not looked up in torch.
    looked_up = target.startswith(("torch", "math", "_operator", "#"))
    return not looked_up or ("__" not in target and _OPERATOR.fullmatch(target) is not None)


def _is_plain_expression(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    rest = _SYMBOL.sub("s0", text)
    if "__" in rest or not re.fullmatch(r"[\w\s(),.=+\-*/<>&|~']*", rest) or re.search(r"[A-Za-z_)]\s*\.", rest):
        return False
    numbers_out = re.sub(r"(Float|Integer|Rational)\('[\d.eE+\-]+'(, precision=\d+)?\)", "0", rest)
    if "'" in numbers_out:
        return False
    words = re.findall(r"[A-Za-z_]\w*", numbers_out)
    return all(_EXPRESSION_WORD.fullmatch(word) or _SYMBOL_NAME.fullmatch(word) for word in words)


def _check_pickle(payload: bytes, path: Path) -> None:
    if not payload:
        return
    try:
        torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _refusal(path, "a pickle with more than tensors") from error


def _refusal(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: refused, because loading {what} could run code",
        "save a program of tensors and operators only, with torch.export.save",
    )
