"""The bundle as it lies on the device: its manifest, and its files against their digests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from edgespa.bundle.limits import MAX_MANIFEST_BYTES, MAX_VARIANTS, picture_problem, shapes_problem, whole_number


class RunnerError(Exception):
    """Something that the user can put right."""


def read_bundle(folder: Path) -> dict[str, Any]:
    """The manifest as plain values; refused unless its seal says that it is as it was written."""
    path = folder / "manifest.json"
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
        manifest = json.loads(content.decode("utf-8"), parse_int=whole_number)
    except (OSError, ValueError, RecursionError) as error:
        raise RunnerError(f"cannot read {path}: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != 1:
        raise RunnerError(f"manifest.json has schema version {version}; this run.py reads version 1")
    if not isinstance(manifest.get("variants"), list) or not manifest["variants"]:
        raise RunnerError("manifest.json lists no variants")
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    seal = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
    if manifest.get("seal") != seal:
        raise RunnerError("manifest.json was edited: its seal is not that of its contents; copy the bundle again")
    large = oversized(manifest)
    if large:
        raise RunnerError(f"manifest.json describes {large}")
    return dict(manifest)


def oversized(manifest: dict[str, Any]) -> str | None:
    """What a manifest describes that is too large, in words; its seal says nothing about that."""
    if len(manifest["variants"]) > MAX_VARIANTS:
        return f"{len(manifest['variants']):,} variants: more than {MAX_VARIANTS}"
    for each in [manifest, *manifest["variants"]]:
        for what in ("inputs", "outputs"):
            found = shapes_problem(what, [spec["shape"] for spec in each[what]])
            if found:
                return found
        how = each.get("preprocessing") or each.get("preprocess")
        found = how and picture_problem(how["channels"], how["height"], how["width"])
        if found:
            return str(found)
    return None


def size_names(manifest: dict[str, Any]) -> list[str]:
    """Sizes of the input that the files take, height and width, the usual one first."""
    sizes = manifest.get("sizes") or []
    first = ["x".join(str(side) for side in manifest["inputs"][0]["shape"][-2:])] if sizes else []
    return first + [str(each["name"]) for each in sizes]


def at_size(manifest: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The manifest as if it had that size alone, and the usual one where nothing is said."""
    names = size_names(manifest)
    if name is None or name in names[:1]:
        return manifest
    if name not in names:
        raise RunnerError(f"there is no size {name}: " + (", ".join(names) or "the files take one size"))
    own = manifest["sizes"][names.index(name) - 1]
    found = {**manifest, **{key: value for key, value in own.items() if key != "name"}, "sizes": []}
    large = oversized(found)
    if large:
        raise RunnerError(f"manifest.json describes {large} at {name}")
    return found


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the bundle; a name that leads elsewhere is refused."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise RunnerError(f"{name} is not a file of this bundle")
    return folder / name


def altered(folder: Path, manifest: dict[str, Any], names: list[str]) -> list[str]:
    """One phrase for each of these files that is not as the manifest says."""
    listed = {entry["path"]: entry for entry in manifest["files"]}
    found = []
    for name in names:
        entry, path = listed.get(name), folder / name
        if entry is None or not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != entry["size_bytes"] or sha256(path) != entry["sha256"]:
            found.append(f"{name} has changed: its size or SHA-256 is not the manifest's")
    return found


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
