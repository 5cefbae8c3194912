"""From wherever it lies to a folder: nothing is used, and nothing large fetched, before it was looked at.

The manifest of a bundle comes first, bounded, and the signature over it is checked before any other file is asked for.
Sizes and digests of all files are then known: each is written to a hidden folder beside the output, refused at the
first byte too many, and the folder is renamed into place when every digest was right.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from edgespa.bundle.archive import Contents
from edgespa.bundle.files import parse_manifest
from edgespa.bundle.limits import MAX_MANIFEST_BYTES
from edgespa.bundle.manifest import FileEntry, Manifest
from edgespa.bundle.opened import Approval
from edgespa.bundle.paths import MANIFEST, SIGNATURE
from edgespa.bundle.signature import MAX_SIGNATURE_BYTES
from edgespa.bundle.whole import WholeFolder
from edgespa.errors import OutputExistsError, RegistryError
from edgespa.registry.artifact import TASK_SUFFIX, is_base
from edgespa.system.files import folder_beside

MAX_TASK_BYTES = 8 << 30
Tell = Callable[[int, int, str], None]
"""Bytes that are there, of all, and the file that comes."""


class Source(Protocol):
    """Where files lie.

    Attributes:
        where: In words, for messages.
    """

    where: str

    def paths(self) -> Iterable[str]:
        """Of all files that are there."""

    def small(self, path: str, most: int) -> bytes:
        """A file as a whole, of at most so many bytes."""

    def require(self, manifest: Manifest) -> None:
        """Refuse what is not there as a bundle's manifest has it; nothing is fetched for it."""

    def entry(self, path: str) -> FileEntry:
        """Size and digest of a file, as its place says."""

    def copy(self, entry: FileEntry, target: Checked) -> None:
        """Write a file; what is wrong with it is seen by the target."""


class Checked:
    """A file that is written, and takes no byte more than it should have.

    Args:
        stream: Where it goes.
        entry: What it should be.
        where: It comes from, for messages.
        told: Is told of each piece.
    """

    def __init__(
        self, stream: BinaryIO, entry: FileEntry, where: str, told: Callable[[int], None] = lambda _: None
    ) -> None:
        self.entry, self.where = entry, where
        self._stream, self._told, self._digest, self.written = stream, told, hashlib.sha256(), 0

    def write(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            RegistryError: It is more than there should be.
        """
        self.written += len(piece)
        if self.written > self.entry.size_bytes:
            raise RegistryError(f"{self.where}: {self.entry.path} has more than {self.entry.size_bytes:,} bytes", _BAD)
        self._digest.update(piece)
        self._stream.write(piece)
        self._told(len(piece))

    def is_right(self) -> bool:
        """Whether all of it was written, and is what it should be."""
        return self.written == self.entry.size_bytes and self._digest.hexdigest() == self.entry.sha256

    def finish(self) -> None:
        """Say that all of it was written.

        Raises:
            RegistryError: It is not what it should be.
        """
        if self.written != self.entry.size_bytes:
            of = f"{self.written:,} of {self.entry.size_bytes:,} bytes"
            raise RegistryError(f"{self.where}: {self.entry.path} is cut off: {of}", "try again")
        if self._digest.hexdigest() != self.entry.sha256:
            raise RegistryError(f"{self.where}: {self.entry.path} has changed: its SHA-256 is another", _BAD)


_BAD = "do not use it: it was damaged or exchanged where it lies; ask who pushed it"


def fetch_bundle(
    source: Source, target: Path, approval: Approval, *, overwrite: bool = False, tell: Tell = lambda *_: None
) -> Manifest:
    """Make the folder of a bundle, whole or not at all.

    Args:
        source: Where it lies.
        target: The folder to make.
        approval: Sees manifest and signature before anything else is fetched.
        overwrite: Replace a bundle that is there.
        tell: How far it is.

    Raises:
        BundleError: Its manifest is not one that edgespa writes.
        SignatureError: It is not signed as asked.
        RegistryError: A file is not there, or not as the manifest has it.
        OutputExistsError: The target is there already.
    """
    content = source.small(MANIFEST, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(content, f"{source.where}: {MANIFEST}")
    signed = SIGNATURE in set(source.paths())
    signature = source.small(SIGNATURE, MAX_SIGNATURE_BYTES) if signed else None
    approval(Contents(manifest, content, signature))
    source.require(manifest)
    total = sum(entry.size_bytes for entry in manifest.files)
    with WholeFolder(target, overwrite=overwrite) as folder:
        require_space(folder.path, total)
        (folder.path / MANIFEST).write_bytes(content)
        if signature is not None:
            (folder.path / SIGNATURE).write_bytes(signature)
        told = _Told(total, tell)
        for entry in manifest.files:
            path = folder.path / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(source, entry, path, told)
        folder.install()
    return manifest


def task_entries(source: Source, *, with_base: bool) -> tuple[FileEntry, FileEntry | None]:
    """The task file of an artifact, and its base where that is wanted.

    Raises:
        RegistryError: There is no task file or several, or the base is wanted and not there.
    """
    paths = sorted(source.paths())
    tasks = [each for each in paths if each.endswith(TASK_SUFFIX) and "/" not in each]
    bases = [each for each in paths if is_base(each)]
    if len(tasks) != 1 or len(bases) > 1:
        what = "neither a bundle nor a task file"
        if tasks:
            what = f"{len(tasks)} task files and {len(bases)} bases"
        raise RegistryError(f"{source.where} holds {what}", "name what `edgespa push` has pushed")
    if with_base and not bases:
        raise RegistryError(
            f"{source.where} holds no base beside {tasks[0]}", "leave out --with-base, or push it with its base"
        )
    entries = [source.entry(each) for each in (*tasks, *(bases if with_base else ()))]
    for entry in entries:
        if entry.size_bytes > MAX_TASK_BYTES:
            raise RegistryError(
                f"{source.where}: {entry.path} would have {entry.size_bytes:,} bytes, more than {MAX_TASK_BYTES:,}",
                _BAD,
            )
    return entries[0], entries[1] if with_base else None


def fetch_task(
    source: Source,
    folder: Path,
    check: Callable[[Path], None],
    *,
    with_base: bool = False,
    overwrite: bool = False,
    tell: Tell = lambda *_: None,
) -> tuple[FileEntry, FileEntry | None]:
    """Put a task file into a folder, and its base beside it, if that is not there from another task.

    Args:
        source: Where it lies.
        folder: Made if it is not there.
        check: Looks at the task file before it is in its place, and raises if it is none.
        with_base: Fetch the base too.
        overwrite: Replace a task file of that name.
        tell: How far it is.

    Returns:
        The task file, and the base if it was wanted.

    Raises:
        RegistryError: A file is not there, or not as its place says.
        OutputExistsError: A file of that name is there.
    """
    task, base = task_entries(source, with_base=with_base)
    if (folder / task.path).exists() and not overwrite:
        raise OutputExistsError(folder / task.path)
    wanted = [task, *([base] if base is not None and not _is_there(folder / base.path, base) else [])]
    folder.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder / task.path) as place:
        require_space(place, sum(each.size_bytes for each in wanted))
        told = _Told(sum(each.size_bytes for each in wanted), tell)
        for entry in wanted:
            _write(source, entry, place / entry.path, told)
        check(place / task.path)
        for entry in reversed(wanted):  # the task last: where it is, its base is
            os.replace(place / entry.path, folder / entry.path)
    return task, base


def _is_there(path: Path, entry: FileEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size_bytes:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256


class _Told:
    """Adds up pieces of several files."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def piece(self, path: str) -> Callable[[int], None]:
        def add(size: int) -> None:
            self.done += size
            self.tell(self.done, self.total, path)

        return add


def _write(source: Source, entry: FileEntry, path: Path, told: _Told) -> None:
    with path.open("xb") as stream:
        target = Checked(stream, entry, source.where, told.piece(entry.path))
        source.copy(entry, target)
        target.finish()
        stream.flush()
        os.fsync(stream.fileno())


def require_space(folder: Path, needed: int) -> None:
    """Refuse what the disk has no room for.

    Raises:
        OSError: There is less.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free", str(folder.parent))
