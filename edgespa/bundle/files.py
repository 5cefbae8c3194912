"""Reading a bundle: its manifest, and every file against its digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgespa import __version__
from edgespa.bundle.external import external_files
from edgespa.bundle.limits import MAX_MANIFEST_BYTES, whole_number
from edgespa.bundle.manifest import SCHEMA_VERSION, Manifest
from edgespa.bundle.paths import MANIFEST, is_unlisted
from edgespa.errors import BundleError
from edgespa.models.imports import nearest_path
from edgespa.system.recognised import hint_of_bundle

MOST_FOLDERS = 100
"""Within each other: more than the longest path of a file has room for."""
_DAMAGED = "the bundle was damaged or changed after it was written: copy it again, or export it again"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal; reads it in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal_of(values: Mapping[str, Any]) -> str:
    """SHA-256 over a manifest's values but its ``seal``, as JSON with sorted keys, no spaces and in ASCII.

    Args:
        values: As JSON has them.

    Raises:
        ValueError: A value has no form in JSON.
    """
    rest = {key: value for key, value in values.items() if key != "seal"}
    return hashlib.sha256(
        json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    ).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle; the other files are not looked at.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: There is no manifest, or it is malformed, inconsistent, edited or of another schema version.
    """
    return parse_manifest(read_manifest_bytes(path), str(path / MANIFEST))


def read_manifest_bytes(path: Path) -> bytes:
    """The manifest of a bundle's folder as it lies there.

    Raises:
        BundleError: There is none, or it is too large to be one.
    """
    file = path / MANIFEST
    if not path.is_dir() or not os.path.lexists(file):
        why = "it has no manifest.json" if path.is_dir() else "there is no such folder"
        if path.is_file():
            why = "it is a file"
        hint = hint_of_bundle(path) or (None if path.exists() else nearest_path(path))
        raise BundleError(f"{path} is not a bundle: {why}", hint or "give the folder that `edgespa export` wrote")
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file} is not a plain file", _DAMAGED)
    with file.open("rb") as stream:
        content = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES >> 20} MiB", _DAMAGED)
    return content


def parse_manifest(content: bytes, where: str) -> Manifest:
    """A manifest from its bytes.

    Args:
        content: JSON in UTF-8.
        where: Its name, for messages.

    Raises:
        BundleError: It is malformed, inconsistent, edited or of another schema version.
    """
    try:
        values = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=whole_number,
            object_pairs_hook=_refuse_repeated_keys,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not valid JSON: {error}", _DAMAGED) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is not int:
        raise BundleError(f"{where} has no schema version", "this is not a manifest of an edgespa bundle")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{where} has schema version {version}; edgespa {__version__} reads version {SCHEMA_VERSION}",
            "update edgespa to read this bundle" if version > SCHEMA_VERSION else "export the bundle again",
        )
    try:
        manifest = Manifest.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise BundleError(f"{where}: {first_problem(error)}", _hint(values)) from error
    if not manifest.files:
        raise BundleError(f"{where}: files: the list is empty", _DAMAGED)
    if manifest.seal != seal_of(values):
        raise BundleError(
            f"{where} was edited: its seal is not that of its contents",
            "export the bundle again; what a bundle says of itself is not changed by hand",
        )
    return manifest


def verify_files(path: Path) -> Manifest:
    """Check every file of a bundle against its manifest.

    Args:
        path: The bundle's folder.

    Returns:
        The manifest.

    Raises:
        BundleError: A file is missing, truncated, changed, not listed, or a link; the message names it.
    """
    manifest = read_manifest(path)
    present = set(walk_files(path))
    for entry in manifest.files:
        file = path / entry.path
        if entry.path not in present:
            raise BundleError(f"{path}: {entry.path} is missing", _DAMAGED)
        size = file.stat().st_size
        if size != entry.size_bytes:
            state = "truncated" if size < entry.size_bytes else "too long"
            raise BundleError(f"{path}: {entry.path} is {state}: {size} of {entry.size_bytes} bytes", _DAMAGED)
        if sha256_file(file) != entry.sha256:
            raise BundleError(f"{path}: {entry.path} has changed: its SHA-256 is not the manifest's", _DAMAGED)
    extra = sorted(name for name in present - {entry.path for entry in manifest.files} if not is_unlisted(name))
    if extra:
        name = extra[0] if extra[0].isprintable() else repr(extra[0])
        raise BundleError(f"{path}: {name} is not in the manifest", "remove it, or export the bundle again")
    for variant in manifest.variants:
        if variant.format == "onnx" and variant.weights is None:
            _require_listed(path, variant.file, {entry.path for entry in manifest.files})
    return manifest


def _require_listed(folder: Path, name: str, listed: set[str]) -> None:
    """Refuse a model that refers to files which no digest covers; what is no whole model refers to nothing."""
    with contextlib.suppress(ValueError):
        for other in external_files((folder / name).read_bytes()):
            if other not in listed:
                raise BundleError(
                    f"{folder}: {name} refers to {other[:100]!r}, which is not in the manifest",
                    "its weights are outside of digests and signature: export the bundle again",
                )


def walk_files(folder: Path, prefix: str = "") -> Iterator[str]:
    """Relative paths of all plain files, in order; a link or a special file is refused."""
    if prefix.count("/") > MOST_FOLDERS:
        raise BundleError(f"{str(folder)[:200]}... has folders within folders without an end", _DAMAGED)
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name
        else:
            what = "a link" if entry.is_symlink() else "not a plain file"
            raise BundleError(f"{entry.path} is {what}", "a bundle holds plain files only: replace it by a copy")


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, with its path."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"{path}: {first['msg']}" if path else first["msg"]


def _hint(values: Mapping[str, Any]) -> str:
    writer = values.get("edgespa_version")
    if isinstance(writer, str) and writer != __version__:
        return f"it says that edgespa {writer[:20]!r} wrote it, this is {__version__}: use that version, or {_DAMAGED}"
    return _DAMAGED


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may each believe another one of them.
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return values
