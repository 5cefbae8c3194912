"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgespa.bundle.files import first_problem, read_manifest, seal_of, sha256_file, walk_files
from edgespa.bundle.limits import MAX_MANIFEST_BYTES
from edgespa.bundle.manifest import Manifest, Pick
from edgespa.bundle.paths import MANIFEST, SIGNATURE, is_unlisted
from edgespa.bundle.whole import WholeFolder
from edgespa.errors import BundleError, ParityError
from edgespa.system.files import write_whole


class BundleWriter(WholeFolder):
    """Writes a bundle whole or not at all.

    Usage::

        with BundleWriter(target) as writer:
            (writer.path / "model.onnx").write_bytes(...)
            manifest = writer.commit(manifest_without_files)

    Leaving the block without a commit, by whatever exception or none, removes all that was written.

    Args:
        target: The folder to make. Missing parents are made.
        overwrite: Replace a bundle that is there; it is removed only after the new one is in place.
        sign: From the manifest's bytes to the signature that lies beside them, for example an
            `edgespa.bundle.signature.Signer`.

    Raises:
        OutputExistsError: The target exists and ``overwrite`` is false.
        BundleError: The target exists and is something else than a bundle or an empty folder.
    """

    def __init__(self, target: Path, *, overwrite: bool = False, sign: Callable[[bytes], bytes] | None = None) -> None:
        super().__init__(target, overwrite=overwrite)
        self.sign = sign

    def commit(self, manifest: Manifest) -> Manifest:
        """Add the list of files, write the manifest, sign it if asked to, and put the bundle in its place.

        Args:
            manifest: The manifest; its ``files`` and ``seal`` are ignored.

        Returns:
            The manifest as written.

        Raises:
            BundleError: A variant's file was not written, a link was, or a value is not JSON.
            ParityError: A variant does not keep its own bounds.
            OutputExistsError: The target has appeared in the meantime.
        """
        folder = self.path
        for variant in manifest.variants:
            if failures := variant.parity.failures():
                raise ParityError(
                    f"{variant.name} does not compute what the program computes: {'; '.join(failures)}",
                    "no bundle was written; export without that variant",
                )
        complete, content = self._complete(manifest, folder)
        (folder / MANIFEST).write_bytes(content)
        if self.sign is not None:
            (folder / SIGNATURE).write_bytes(self.sign(content))
        self.install()
        return complete

    def _complete(self, manifest: Manifest, folder: Path) -> tuple[Manifest, bytes]:
        """The manifest with its list of files and its seal, and its bytes."""
        names = [name for name in walk_files(folder) if not is_unlisted(name)]
        entries = [
            {"path": name, "size_bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            for name in names
        ]
        return _sealed({**manifest.model_dump(), "files": entries}, self.target)


def picked(folder: Path, pick: Pick, sign: Callable[[bytes], bytes] | None = None) -> Manifest:
    """Write down in a bundle what ``run.py`` takes by itself; its other files stay as they are.

    Args:
        folder: Of the bundle, whose files have been checked.
        pick: Of its variants.
        sign: Makes a new signature.

    Returns:
        The manifest as written.

    Raises:
        BundleError: It is signed, and nobody signs the new one; or it has no such variant.
        EdgespaError: It cannot be written.
    """
    if sign is None and (folder / SIGNATURE).exists():
        raise BundleError(
            f"{folder} is signed: what it picks is part of what is signed",
            f"remove {SIGNATURE}, pick, and sign it again: edgespa sign",
        )
    manifest, content = _sealed({**read_manifest(folder).model_dump(), "pick": pick.model_dump()}, folder)
    write_whole(folder / MANIFEST, content)
    if sign is not None:
        write_whole(folder / SIGNATURE, sign(content))
    return manifest


def _sealed(values: dict[str, Any], target: Path) -> tuple[Manifest, bytes]:
    try:
        whole = Manifest.model_validate({**values, "seal": None})
        if not whole.files:
            raise ValueError("files: none was written")
        # Through JSON first: the seal is over what a reader gets.
        found = json.loads(json.dumps(whole.model_dump(), ensure_ascii=False, allow_nan=False))
        found["seal"] = seal_of(found)
        content = (json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{len(content):,} bytes are more than the {MAX_MANIFEST_BYTES:,} that are read")
        return whole.model_copy(update={"seal": found["seal"]}), content
    except ValidationError as error:
        raise BundleError(f"{target}: the manifest is inconsistent: {first_problem(error)}") from error
    except ValueError as error:
        raise BundleError(f"{target}: the manifest cannot be written: {error}") from error
