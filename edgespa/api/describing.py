"""What a model file or a bundle says of itself, for people and programs; nothing of it is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespa.api.results import Result
from edgespa.api.tables import Table
from edgespa.bundle import MANIFEST, open_bundle
from edgespa.config import Preprocess
from edgespa.errors import EdgespaError, ModelError
from edgespa.exporting.said import bundle_says, can_say, differing, read_said, values_of
from edgespa.pixels.words import steps

_MOST_CLASSES, _MOST_OTHERS = 12, 12
_NO_MODELS = (".tflite", ".pte", ".param", ".py", ".tar")
_WORDS = {
    "description": "",
    "task": "task",
    "objective": "objective",
    "class_names": "classes",
    "inputs": "takes",
    "preprocessing": "an image is",
    "outputs": "gives",
    "license": "licence",
    "base": "base",
    "base_weights": "weights",
    "base_digest": "digest of it",
    "edgespa_version": "edgespa",
}
_IN_OTHERS = ("names", "imgsz", "mean", "std", "input", "decoding", "producer")


@dataclasses.dataclass(frozen=True, repr=False)
class Description(Result):
    """What a file or a bundle says of itself.

    Attributes:
        file: Its path.
        kind: ``bundle``, or the suffix of a file's format: ``onnx``, ``tflite``, ``pte``, ``param``, ``pt2``, ``py``.
        size_bytes: Of the file, or of all files of the bundle.
        says: By key, as `edgespa.exporting.facts.Facts.entries` has them, with lists in place of their texts.
        files: Of a bundle: ``variant``, ``file``, ``size_bytes``, and ``says``: ``the same``, ``nothing``, or the keys
            that differ.
    """

    file: str
    kind: str
    size_bytes: int
    says: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...] = ()

    def _title(self) -> str:
        what = "a bundle" if self.kind == "bundle" else f"a file of .{self.kind}"
        return f"{self.file}: {what}, {self.size_bytes:,} bytes"

    def _tables(self) -> Sequence[Table]:
        if not self.files:
            return []
        rows = tuple((each["variant"], each["file"], f"{each['size_bytes']:,}", each["says"]) for each in self.files)
        return [Table(("variant", "file", "bytes", "says"), rows, right=("bytes",))]

    def _notes(self) -> Sequence[str]:
        return said_lines(self.says) or ["it says nothing of itself: edgespa writes that at export"]


def can_be_described(spec: str) -> bool:
    """Whether what is given as a model is a bundle, or a file that says what it is and cannot be opened as a model.

    Args:
        spec: As it was typed.
    """
    path = Path(spec)
    if (path / MANIFEST).is_file():
        return True
    if path.suffix.lower() == ".py":  # somebody's own, whose factory was not named, says nothing
        return path.is_file() and bool(read_said(path))
    return path.is_file() and (path.suffix.lower() in _NO_MODELS or path.name.lower().endswith(".onnx.gz"))


def describe(path: Path) -> Description:
    """Read what a file or bundle says of itself.

    Args:
        path: A model file, or a bundle as a folder or packed.

    Raises:
        ModelError: There is no such file, or it is none of these.
        BundleError: The bundle is damaged.
    """
    if path.is_dir() or (path.is_file() and not can_say(path)):
        return _bundle(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file", "check the path, relative to the current folder")
    return Description(str(path), _kind(path), path.stat().st_size, values_of(read_said(path)))


def said_lines(says: Mapping[str, Any]) -> list[str]:
    """What is said, a line each; empty where there is nothing.

    Args:
        says: Of `edgespa.exporting.said.values_of`.
    """
    return [f"{word}: {text}" if word else text for word, text in _rows(says)]


def _rows(says: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, word in _WORDS.items():
        if key in says and (text := _text(key, says)):
            yield word, text
    others = [key for key in says if key not in _WORDS and key not in _IN_OTHERS]
    for key in others[:_MOST_OTHERS]:
        yield _short(key, 40), _short(str(says[key]), 200)
    if len(others) > _MOST_OTHERS:
        yield "and", f"{len(others) - _MOST_OTHERS:,} more, see --json"


def _text(key: str, says: Mapping[str, Any]) -> str:
    value = says[key]
    if key == "class_names" and isinstance(value, list):
        shown = ", ".join(_short(str(each), 60) for each in value[:_MOST_CLASSES])
        return f"{len(value):,}: {shown}{', ...' if len(value) > _MOST_CLASSES else ''}"
    if key in ("inputs", "outputs") and isinstance(value, list):
        return "; ".join(_tensor(each) for each in value[:_MOST_CLASSES])
    if key == "preprocessing" and isinstance(value, dict):
        try:
            phrases = list(steps(Preprocess.parse(value, "the file")))
        except EdgespaError:
            return "prepared in a way that this edgespa does not know, see --json"
        inside = says.get("input") == "pixels"
        return "; ".join(phrases[: -1 if inside else None]) + ("; the file normalises it" if inside else "")
    return _short(str(value), 400)


def _tensor(each: Any) -> str:
    if not isinstance(each, dict):
        return _short(str(each), 60)
    shape = each.get("shape")
    sizes = ", ".join(map(str, shape)) if isinstance(shape, list) else str(shape)
    layout = each.get("layout")
    text = f"{each.get('name')} {each.get('dtype')} [{sizes}]"
    return _short(text if layout in (None, "other") else f"{text} {layout}", 120)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _bundle(path: Path) -> Description:
    with open_bundle(path) as opened:
        wanted = bundle_says(opened.manifest, opened.classes)
        files = []
        for variant in opened.manifest.variants:
            said = read_said(opened.folder / variant.file)
            differs = differing(said, wanted)
            says = "nothing" if not said else "the same" if not differs else f"otherwise: {', '.join(differs)}"
            files.append(
                {"variant": variant.name, "file": variant.file, "size_bytes": variant.size_bytes, "says": says}
            )
        size = sum(entry.size_bytes for entry in opened.manifest.files)
    return Description(str(path), "bundle", size, values_of(wanted), tuple(files))


def _kind(path: Path) -> str:
    return "onnx" if path.name.lower().endswith(".onnx.gz") else path.suffix.lower().lstrip(".")
