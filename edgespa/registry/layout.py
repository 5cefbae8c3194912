"""An artifact as an OCI image layout: a folder of blobs by their digests, which any tool for registries copies.

github.com/opencontainers/image-spec, image-layout.md. No daemon and no registry is needed; the same files give the
same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgespa.bundle.files import walk_files
from edgespa.bundle.limits import MAX_MANIFEST_BYTES, whole_number
from edgespa.bundle.manifest import FileEntry, Manifest
from edgespa.errors import BundleError, OutputExistsError, RegistryError
from edgespa.registry.artifact import ARTIFACT, OCI_MANIFEST, Artifact, Layer, read_artifact, same_as, to_json
from edgespa.registry.fetching import Checked
from edgespa.system.files import folder_beside, open_plain
from edgespa.system.recognised import is_layout

MARK, INDEX = "oci-layout", "index.json"
_BLOBS = Path("blobs", "sha256")
_NAME = "org.opencontainers.image.ref.name"
_MARKED = b'{"imageLayoutVersion":"1.0.0"}'
_MAX_INDEX = 1 << 20
_PIECE = 1 << 20
_NOT_OURS = "give a folder that is an artifact, as edgespa pack BUNDLE --layout=oci writes it"


def write_layout(artifact: Artifact, output: Path, tag: str, *, overwrite: bool = False) -> int:
    """Write an artifact as a folder, whole or not at all.

    Args:
        artifact: What is written.
        output: The folder.
        tag: Its name in the index.
        overwrite: Replace a layout that is there.

    Returns:
        Bytes of all files in it.

    Raises:
        OutputExistsError: The output is there already.
        BundleError: It is there and no layout.
    """
    require_layout_possible(output, overwrite=overwrite)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(output) as place:
        new = place / "layout"
        (new / _BLOBS).mkdir(parents=True)
        head = Layer("", OCI_MANIFEST, artifact.digest.removeprefix("sha256:"), len(artifact.manifest))
        described = {
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT,
            "digest": head.digest,
            "size": head.size_bytes,
            "annotations": {_NAME: tag},
        }
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        }
        (new / MARK).write_bytes(_MARKED)
        (new / INDEX).write_bytes(to_json(index))
        (new / _BLOBS / head.sha256).write_bytes(artifact.manifest)
        for blob in artifact.blobs:
            with artifact.contents[blob.digest].open() as source, (new / _BLOBS / blob.sha256).open("xb") as target:
                shutil.copyfileobj(source, target, _PIECE)
            if _digest(new / _BLOBS / blob.sha256) != blob.sha256:
                raise BundleError(f"{blob.path} changes while it is written", "let only one program write there")
        size = sum((new / name).stat().st_size for name in walk_files(new))
        if overwrite and output.is_dir():
            os.rename(output, place / "old")
        os.rename(new, output)
    return size


def require_layout_possible(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that is there, or is something else.

    Raises:
        OutputExistsError: It is there already.
        BundleError: It is there and no layout.
    """
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise OutputExistsError(output)
    if output.is_symlink() or not output.is_dir() or (any(output.iterdir()) and not is_layout(output)):
        raise BundleError(
            f"{output} is neither an OCI layout nor empty and is not replaced", "choose another --output, or remove it"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class LayoutSource:
    """The one artifact of an OCI image layout, to be fetched from there: `edgespa.registry.fetching.Source`.

    Args:
        folder: Of the layout.

    Raises:
        RegistryError: It is none, holds several artifacts, or one of another kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)
        entries = self._index()
        if len(entries) != 1:
            raise RegistryError(f"{folder} holds {len(entries)} artifacts, and one is asked for", _NOT_OURS)
        digest, size = entries[0].get("digest"), entries[0].get("size")
        if not isinstance(digest, str) or not digest.startswith("sha256:") or not digest[7:].isalnum():
            raise RegistryError(f"{folder}: {INDEX} names no manifest by its sha256", _NOT_OURS)
        content = self._blob(digest[7:], size if isinstance(size, int) else -1)
        self.layers = read_artifact(content, self.where)

    def _index(self) -> list[dict[str, object]]:
        try:
            with open_plain(self.folder / INDEX) as stream:
                content = stream.read(_MAX_INDEX + 1)
            values = json.loads(content, parse_int=whole_number)
            found = values["manifests"]
            if len(content) > _MAX_INDEX or not all(isinstance(each, dict) for each in found):
                raise ValueError("it is no index")
            return list(found)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RegistryError(f"{self.folder}: {INDEX} cannot be read: {error}", _NOT_OURS) from error

    def _blob(self, sha256: str, size: int) -> bytes:
        entry = FileEntry(path="manifest", size_bytes=max(0, min(size, MAX_MANIFEST_BYTES)), sha256=sha256)
        return self._read(entry)

    def _read(self, entry: FileEntry) -> bytes:
        held = io.BytesIO()
        target = Checked(held, entry, self.where)
        self.copy(entry, target)
        target.finish()
        return held.getvalue()

    def paths(self) -> Iterable[str]:
        """Of its files."""
        return self.layers

    def small(self, path: str, most: int) -> bytes:
        """A file as a whole; see `edgespa.registry.fetching.Source`."""
        entry = self.entry(path)
        if entry.size_bytes > most:
            raise RegistryError(f"{self.where}: {path} would have {entry.size_bytes:,} bytes, more than {most:,}")
        return self._read(entry)

    def require(self, manifest: Manifest) -> None:
        """Refuse layers that are not the bundle's files."""
        same_as(manifest, self.layers, self.where)

    def entry(self, path: str) -> FileEntry:
        """Size and digest of a layer."""
        if path not in self.layers:
            raise RegistryError(f"{self.where} has no {path}", _NOT_OURS)
        layer = self.layers[path]
        return FileEntry(path=path, size_bytes=layer.size_bytes, sha256=layer.sha256)

    def copy(self, entry: FileEntry, target: Checked) -> None:
        """Write a blob."""
        path = self.folder / _BLOBS / entry.sha256
        if path.is_symlink() or not path.is_file():
            raise RegistryError(f"{self.where}: the blob of {entry.path} is missing", "copy the folder again")
        with open_plain(path) as stream:
            while piece := stream.read(_PIECE):
                target.write(piece)
