"""One file for a whole bundle: what ``edgespa pack`` writes and every command takes in place of a folder.

It is a plain tar file (ustar, not compressed): manifest.json, its signature if there is one, then the files of the
manifest in its order, each with one and the same owner, time and mode; 1024 zero bytes at the end. `profiles/` stays
out. Thus the same bundle gives the same bytes, anywhere.

Reading is strict. A header must be, byte for byte, the one that packing a plain file of its name and size gives, and
the members must be those of the manifest, whose sizes say how long the archive is before anything is written. So
there is no room for links, devices, paths that lead elsewhere, repetitions, extensions of the format or bombs, and one
archive has one reading.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgespa.bundle.files import parse_manifest, read_manifest_bytes, verify_files
from edgespa.bundle.limits import MAX_MANIFEST_BYTES
from edgespa.bundle.manifest import Manifest
from edgespa.bundle.paths import MANIFEST, MAX_PATH_BYTES, SIGNATURE, path_problem
from edgespa.bundle.whole import WholeFolder
from edgespa.errors import BundleError
from edgespa.system.files import refuse_existing, whole_file
from edgespa.system.recognised import hint_of_bundle

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_SIGNATURE_BYTES = 64 << 10
MAX_MEMBER_BYTES = 8**11 - 1
"""What the eleven octal digits of a header can say: 8 GiB."""

_PIECE = 1 << 20
_NOT_PACKED = "an archive is what `edgespa pack` writes: pack the bundle again, or copy the archive again"
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK": "zip",
}

Sink = Callable[[str, int], BinaryIO]
"""From a member's name and size to the stream that its content is written to."""


@dataclass(frozen=True)
class Contents:
    """What stands at the head of an archive.

    Attributes:
        manifest: Of the bundle.
        manifest_bytes: As they are signed.
        signature: If there is one.
    """

    manifest: Manifest
    manifest_bytes: bytes
    signature: bytes | None


Approve = Callable[[Contents], None]
"""Raises if the contents are not to be had."""


def pack(bundle: Path, output: Path, *, overwrite: bool = False) -> int:
    """Write a bundle as one file, whole or not at all.

    Args:
        bundle: The bundle's folder; every file is checked.
        output: The archive.
        overwrite: Replace a file that is there.

    Returns:
        Its size in bytes.

    Raises:
        BundleError: The bundle is damaged, or changes meanwhile; or the output would lie inside of it.
        OutputExistsError: The output is there already.
    """
    refuse_existing(output, overwrite)
    manifest = verify_files(bundle)
    if output.resolve().is_relative_to(bundle.resolve()):
        raise BundleError(f"{output} would lie inside of the bundle, and damage it", "write the archive elsewhere")
    content = read_manifest_bytes(bundle)
    if parse_manifest(content, str(bundle / MANIFEST)) != manifest:
        raise BundleError(f"{bundle} changes while it is packed", "let only one program write there")
    heads = [(MANIFEST, content)]
    if (bundle / SIGNATURE).is_file():
        heads.append((SIGNATURE, (bundle / SIGNATURE).read_bytes()))
    with whole_file(output) as stream:
        for name, head in heads:
            stream.write(header(name, len(head)) + head + _padding(len(head)))
        for entry in manifest.files:
            stream.write(header(entry.path, entry.size_bytes))
            with (bundle / entry.path).open("rb") as source:
                digest = _copy(source, stream, entry.size_bytes)
                if digest != entry.sha256 or source.read(1):
                    raise BundleError(f"{bundle}: {entry.path} changes while it is packed", "let only one write there")
            stream.write(_padding(entry.size_bytes))
        stream.write(END)
        return stream.tell()


def unpack(archive: Path, target: Path, *, overwrite: bool = False, approve: Approve | None = None) -> Manifest:
    """Make the bundle's folder from an archive, whole or not at all; digests are checked on the way.

    Args:
        archive: What `pack` wrote.
        target: The folder to make.
        overwrite: Replace a bundle that is there.
        approve: Sees manifest and signature before anything is written, and raises if it will not have them.

    Raises:
        BundleError: The archive is damaged, or something that `pack` does not write.
        OutputExistsError: The target is there already.
    """
    with WholeFolder(target, overwrite=overwrite) as folder:

        def sink(name: str, size: int) -> BinaryIO:
            if name == MANIFEST:  # the first one: by then the archive is known to be as long as it should
                _require_space(archive, folder.path)
            path = folder.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")

        contents = read_archive(archive, sink, approve)
        folder.install()
    return contents.manifest


def _require_space(archive: Path, folder: Path) -> None:
    needed, free = archive.stat().st_size, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free", str(folder.parent))


def read_archive(archive: Path, sink: Sink | None = None, approve: Approve | None = None) -> Contents:
    """Check an archive from end to end.

    Args:
        archive: What `pack` wrote.
        sink: Where members go; None for nowhere.
        approve: As for `unpack`.

    Raises:
        BundleError: The archive is damaged, or something that `pack` does not write.
    """
    with _open(archive) as stream:
        return _Reader(stream, str(archive)).read(sink or (lambda name, size: Path(os.devnull).open("wb")), approve)


def _open(archive: Path) -> BinaryIO:
    if not archive.is_file():
        why = "it is not a file" if archive.exists() else "there is no such file or folder"
        raise BundleError(f"{archive} is not a packed bundle: {why}", "give what `edgespa pack` wrote")
    return archive.open("rb")


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member: POSIX ustar, mode 644, owner 0, time 0.

    Raises:
        BundleError: The name or the size does not fit.
    """
    encoded = name.encode("utf-8")
    if not 0 < len(encoded) <= MAX_PATH_BYTES or not 0 <= size <= MAX_MEMBER_BYTES:
        raise BundleError(f"{name!r} of {size} bytes does not fit into an archive", "shorten its name")
    number = b"0000000\0"
    before = encoded.ljust(100, b"\0") + b"0000644\0" + number + number + b"%011o\0" % size + b"%011o\0" % 0
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(64 + 16 + 155 + 12)
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


class _Reader:
    def __init__(self, stream: BinaryIO, where: str) -> None:
        self._stream = stream
        self._where = where
        self._size = os.fstat(stream.fileno()).st_size
        self._seen: list[str] = []

    def read(self, sink: Sink, approve: Approve | None) -> Contents:
        """Go through the archive once."""
        contents, next_name, next_size = self.head()
        if approve is not None:
            approve(contents)
        files = contents.manifest.files
        used = self._stream.tell() - BLOCK  # the header of the first file has been read
        expected = used + sum(BLOCK + entry.size_bytes + len(_padding(entry.size_bytes)) for entry in files) + len(END)
        if self._size != expected:
            state = f"is truncated: {self._size} of" if self._size < expected else f"has {self._size} instead of"
            raise self._error(f"{state} {expected} bytes")
        for name, content in ((MANIFEST, contents.manifest_bytes), (SIGNATURE, contents.signature)):
            if content is not None:
                with sink(name, len(content)) as target:
                    target.write(content)
        listed = {entry.path for entry in files}
        for index, entry in enumerate(files):
            name, size = (next_name, next_size) if index == 0 else self._header()
            if name != entry.path:
                what = "is not in the manifest" if name not in listed else "does not stand where it should"
                raise self._error(what, name)
            if size != entry.size_bytes:
                raise self._error(f"has {size} instead of {entry.size_bytes} bytes", name)
            with sink(name, size) as target:
                if self._copy(target, size) != entry.sha256:
                    raise self._error("has changed: its SHA-256 is not the manifest's", name)
        if self._stream.read(len(END) + 1) != END:
            raise self._error("has something after its last file")
        return contents

    def head(self) -> tuple[Contents, str, int]:
        """Manifest and signature, and the header that comes next."""
        name, size = self._header()
        if name != MANIFEST:
            raise self._error(f"begins with {name!r} instead of {MANIFEST}")
        content = self._small(MANIFEST, size, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(content, f"{self._where}: {MANIFEST}")
        name, size = self._header()
        signature = None
        if name == SIGNATURE:
            signature = self._small(SIGNATURE, size, MAX_SIGNATURE_BYTES)
            name, size = self._header()
        return Contents(manifest, content, signature), name, size

    def _small(self, name: str, size: int, limit: int) -> bytes:
        if size > limit:
            raise self._error(f"its {name} would have {size} bytes, more than {limit}")
        target = io.BytesIO()
        self._copy(target, size)
        return target.getvalue()

    def _copy(self, target: BinaryIO, size: int) -> str:
        digest = _copy(self._stream, target, size)
        rest = self._stream.read(len(_padding(size)))
        if digest is None or len(rest) < len(_padding(size)):
            raise self._error("is truncated")
        if any(rest):
            raise self._error("has something between its files")
        return digest

    def _header(self) -> tuple[str, int]:
        block = self._stream.read(BLOCK)
        if len(block) < BLOCK:
            raise self._error("is truncated" if self._seen else self._foreign(block))
        if block == bytes(BLOCK):
            raise self._error("ends too early" if self._seen else "is empty")
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.TarError, ValueError) as error:
            what = f"is damaged after {self._seen[-1]!r}" if self._seen else self._foreign(block)
            raise self._error(what) from error
        if odd := _oddity(member):
            raise self._error(odd, member.name)
        if block != header(member.name, member.size):
            raise self._error("has a header that `edgespa pack` does not write", member.name)
        if member.name in self._seen:
            raise self._error("occurs twice", member.name)
        self._seen.append(member.name)
        return member.name, member.size

    def _foreign(self, block: bytes) -> str:
        if block[5:9] == b"\0\0\0{":  # safetensors: the size of a JSON header, then the header
            return "is a task file or other tensors, not a bundle"
        kind = next((kind for magic, kind in _MAGICS.items() if block.startswith(magic)), None)
        return f"is a {kind} file, not a plain archive" if kind else "is not an archive, or damaged at its beginning"

    def _error(self, what: str, member: str | None = None) -> BundleError:
        subject = self._where if member is None else f"{self._where}: {member!r}"
        return BundleError(f"{subject} {what}", hint_of_bundle(Path(self._where)) or _NOT_PACKED)


def _oddity(member: tarfile.TarInfo) -> str | None:
    """What is wrong with a member, in words; None for a plain file with a plain name."""
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}"
    if member.isdir():
        return "is a folder, which an archive has no need of"
    if member.ischr() or member.isblk() or member.isfifo():
        return "is a device or a pipe"
    if member.type != tarfile.REGTYPE:
        return "uses an extension of the format"
    if problem := path_problem(member.name):
        return problem
    if not 0 <= member.size <= MAX_MEMBER_BYTES:
        return f"would have {member.size} bytes"
    return None


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> str | None:
    """Copy so many bytes; their SHA-256, or None where there are not so many."""
    digest = hashlib.sha256()
    while size:
        piece = source.read(min(size, _PIECE))
        if not piece:
            return None
        digest.update(piece)
        target.write(piece)
        size -= len(piece)
    return digest.hexdigest()


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


__all__ = ["Contents", "header", "pack", "read_archive", "unpack"]
