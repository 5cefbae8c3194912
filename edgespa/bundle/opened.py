"""A bundle to work with, whether it lies there as a folder or as one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgespa.bundle.archive import Contents, unpack
from edgespa.bundle.files import read_manifest_bytes, verify_files
from edgespa.bundle.manifest import Manifest
from edgespa.bundle.paths import LABELS, SIGNATURE
from edgespa.bundle.signature import MAX_SIGNATURE_BYTES, Signed, check_signature
from edgespa.errors import BundleError
from edgespa.system.guarded import private_folder


@dataclass(frozen=True)
class OpenBundle:
    """A bundle whose files are all as its manifest says.

    Attributes:
        given: What the user named.
        folder: Where its files lie; for an archive a temporary folder of the archive's name.
        manifest: Its manifest.
        is_signed: Whether there is a signature; whether it is good is said by ``signed``.
        signed: By whom, where that was asked.
    """

    given: Path
    folder: Path
    manifest: Manifest
    is_signed: bool
    signed: Signed | None

    @property
    def packed(self) -> bool:
        """Whether it is an archive."""
        return self.given != self.folder

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs; empty where they are not known."""
        path = self.folder / LABELS
        return tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()


@contextlib.contextmanager
def open_bundle(
    path: Path, *, signers: Path | None = None, identity: str | None = None, revoked: Path | None = None
) -> Iterator[OpenBundle]:
    """Check every file of a bundle against its manifest, and its signature; an archive is unpacked for the while.

    Args:
        path: The bundle's folder, or what `edgespa.bundle.archive.pack` made of it.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them; None for any.
        revoked: Keys that are not accepted any more.

    Raises:
        BundleError: The bundle is damaged or incomplete, or no bundle.
        SignatureError: It is not signed by one of the signers.
    """
    if path.is_dir() or not path.exists():
        content, signature = read_manifest_bytes(path), _signature_in(path)
        signed = None
        if signers is not None:
            signed = check_signature(content, signature, signers, identity, str(path), revoked=revoked)
        manifest = verify_files(path)
        if read_manifest_bytes(path) != content:
            raise BundleError(f"{path} changes while it is checked", "let only one program write there")
        yield OpenBundle(path, path, manifest, signature is not None, signed)
        return
    seal = Approval(path, signers, identity, revoked)
    with private_folder() as temporary:
        folder = temporary / (path.name.removesuffix(".tar") or "bundle")
        manifest = unpack(path, folder, approve=seal)
        yield OpenBundle(path, folder, manifest, seal.is_signed, seal.signed)


class Approval:
    """Lets an archive be unpacked if it is signed by one of those who may; before anything is written.

    Args:
        archive: For messages.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them; None for any.
        revoked: Keys that are not accepted any more.

    Attributes:
        is_signed: Whether there is a signature.
        signed: By whom, where that was asked.
    """

    def __init__(
        self, archive: Path, signers: Path | None, identity: str | None = None, revoked: Path | None = None
    ) -> None:
        self.archive, self.signers, self.identity, self.revoked = archive, signers, identity, revoked
        self.is_signed = False
        self.signed: Signed | None = None

    def __call__(self, contents: Contents) -> None:
        """Look at what stands at the head of the archive.

        Raises:
            SignatureError: It is not signed by one of the signers.
        """
        self.is_signed = contents.signature is not None
        if self.signers is not None:
            found = (contents.manifest_bytes, contents.signature)
            where = str(self.archive)
            self.signed = check_signature(*found, self.signers, self.identity, where, revoked=self.revoked)


def _signature_in(folder: Path) -> bytes | None:
    file = folder / SIGNATURE
    if not file.exists():
        return None
    if file.is_symlink() or not file.is_file():
        raise BundleError(f"{file} is not a plain file", "replace it by a copy")
    with file.open("rb") as stream:
        return stream.read(MAX_SIGNATURE_BYTES)
