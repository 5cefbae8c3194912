"""What a model file says of itself, read back: the keys of `edgespa.exporting.facts.Facts`, whatever the format.

Each format has its own place for it: ``metadata_props`` of ONNX files, an entry of the zip behind a TFLite or an
ExecuTorch file and inside of a ``.pt2`` program, a literal of Python source, and a file beside the two of ncnn, whose
text has no place for anything else. Nothing of a file is run, and no more of it is read than a reader bears.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgespa.bundle import Manifest
from edgespa.errors import EdgespaError
from edgespa.exporting.converter import SAYS_SUFFIX
from edgespa.exporting.facts import Facts
from edgespa.system.bounds import readable
from edgespa.system.quiet import first_line

ENTRY = "edgespa.json"
"""Name of the entry in a zip file."""
MOST_BYTES = 8 << 20
_AS_VALUES = ("class_names", "imgsz", "mean", "std", "preprocessing", "decoding", "inputs", "outputs")
_SAME_ANYWHERE = (
    "task", "objective", "class_names", "license", "base", "base_weights", "base_digest", "preprocessing", "decoding",
)  # fmt: skip
_LITERAL = re.compile(r"^FACTS = (\{\n.*?^\})$", re.MULTILINE | re.DOTALL)


def can_say(path: Path) -> bool:
    """Whether files of a name like this one are of a format that has a place for it.

    Args:
        path: Of any file.
    """
    return _reader(path) is not None


def read_said(path: Path) -> dict[str, str]:
    """What a file says of itself; empty if it says nothing that can be read.

    Args:
        path: A model file: ``.onnx`` (and ``.onnx.gz``), ``.tflite``, ``.pte``, ``.pt2``, ``.param`` or ``.py``.

    Raises:
        EdgespaError: It is not what its name says.
        OSError: It cannot be read.
    """
    read = _reader(path)
    if read is None:
        return {}
    try:
        found = read(path)
    except (ValueError, RecursionError, MemoryError, SyntaxError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def text_of(entries: Mapping[str, str]) -> str:
    """Keys and texts as a file of their own: JSON in one order.

    Args:
        entries: Of `Facts.entries`.
    """
    return json.dumps(dict(entries), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def values_of(said: Mapping[str, str]) -> dict[str, Any]:
    """The same with lists and numbers in place of their texts, for programs; ``names`` is left out, being the classes.

    Args:
        said: Of `read_said`; it may be anybody's.
    """
    values: dict[str, Any] = {}
    for key, text in said.items():
        if key == "names" and "class_names" in said:
            continue
        values[readable(key)] = _value(text) if key in _AS_VALUES else readable(text)
    return values


def bundle_says(manifest: Manifest, classes: tuple[str, ...]) -> dict[str, str]:
    """The same keys for a bundle, from its manifest: what each of its files is to say.

    Args:
        manifest: Of the bundle.
        classes: Of its labels.
    """
    facts = Facts(
        task=manifest.task,
        objective=manifest.learns,
        base=manifest.base,
        classes=classes,
        preprocess=manifest.preprocessing,
        decoding=manifest.decoding,
        version=manifest.edgespa_version,
    )
    return facts.entries(manifest.inputs, manifest.outputs, pixels=False)


def differing(said: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that a file has otherwise than another, of those that do not depend on its format.

    Args:
        said: Of the file.
        wanted: Of the other.
    """
    return tuple(key for key in _SAME_ANYWHERE if said.get(key) != wanted.get(key))


def _reader(path: Path) -> Callable[[Path], Any] | None:
    name = path.name.lower()
    return next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)


def _onnx(path: Path) -> dict[str, str]:
    content = path.read_bytes() if path.suffix.lower() == ".onnx" else _unpacked(path)
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise EdgespaError(
            f"{path}: not a readable ONNX file: {first_line(error)}", "copy the file again, or export it again"
        ) from error
    return {entry.key: entry.value for entry in model.metadata_props}


def _unpacked(path: Path) -> bytes:
    """A graph without its weights; what is larger than a graph is none."""
    with gzip.open(path) as stream:
        try:
            content = stream.read(16 * MOST_BYTES + 1)
        except (EOFError, OSError, ValueError):
            return b""
    return content if len(content) <= 16 * MOST_BYTES else b""


def _zipped(path: Path) -> Any:
    """The entry of a zip file, alone or in the folder that torch puts all of it into."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [each for each in archive.infolist() if re.fullmatch(rf"([^/]+/extra/)?{ENTRY}", each.filename)]
            if len(names) != 1:
                return {}
            with archive.open(names[0]) as stream:
                return json.loads(stream.read(MOST_BYTES).decode("utf-8"))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):  # the second: packed in another way
        return {}


def _beside(path: Path) -> Any:
    other = path.with_suffix(SAYS_SUFFIX)
    if not other.is_file() or other.stat().st_size > MOST_BYTES:
        return {}
    return json.loads(other.read_text(encoding="utf-8"))


def _literal(path: Path) -> Any:
    if path.stat().st_size > MOST_BYTES:
        return {}
    found = _LITERAL.search(path.read_text(encoding="utf-8"))
    return ast.literal_eval(found[1]) if found is not None else {}


def _value(text: str) -> Any:
    try:
        return _readable(json.loads(text, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return readable(text)


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [_readable(each) for each in value]
    if isinstance(value, dict):
        return {readable(str(key)): _readable(each) for key, each in value.items()}
    return value


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".onnx": _onnx,
    ".onnx.gz": _onnx,
    ".tflite": _zipped,
    ".pte": _zipped,
    ".pt2": _zipped,
    ".param": _beside,
    ".py": _literal,
}
