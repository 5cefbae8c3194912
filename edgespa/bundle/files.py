"""Reading a bundle: its manifest, and every file against its digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from edgespa import __version__
from edgespa.bundle.manifest import MANIFEST, SCHEMA_VERSION, Manifest, is_unlisted
from edgespa.errors import BundleError

_DAMAGED = "the bundle was damaged or changed after it was written: copy it again, or export it again"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal; reads it in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle; the other files are not looked at.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: There is no manifest, or it is malformed, inconsistent or of another schema version.
    """
    file = path / MANIFEST
    if not path.is_dir() or not file.exists():
        why = "it has no manifest.json" if path.is_dir() else "there is no such folder"
        raise BundleError(f"{path} is not a bundle: {why}", "give the folder that `edgespa export --output` wrote")
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file} is not a plain file", _DAMAGED)
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is not valid JSON: {error}", _DAMAGED) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is not int:
        raise BundleError(f"{file} has no schema version", "this is not a manifest of an edgespa bundle")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{file} has schema version {version}; edgespa {__version__} reads version {SCHEMA_VERSION}",
            "update edgespa to read this bundle" if version > SCHEMA_VERSION else "export the bundle again",
        )
    try:
        manifest = Manifest.model_validate_json(text, strict=True)
        if not manifest.files:
            raise BundleError(f"{file}: files: the list is empty", _DAMAGED)
        return manifest
    except ValidationError as error:
        raise BundleError(f"{file}: {first_problem(error)}", _DAMAGED) from error


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
        raise BundleError(f"{path}: {extra[0]} is not in the manifest", "remove it, or export the bundle again")
    return manifest


def walk_files(folder: Path, prefix: str = "") -> Iterator[str]:
    """Relative paths of all plain files, in order; a link or a special file is refused."""
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
