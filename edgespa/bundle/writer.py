"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from edgespa.bundle.files import first_problem, sha256_file, walk_files
from edgespa.bundle.manifest import MANIFEST, Manifest, is_unlisted
from edgespa.errors import BundleError, OutputExistsError, ParityError

_log = logging.getLogger(__name__)


class BundleWriter:
    """Writes a bundle whole or not at all.

    Usage::

        with BundleWriter(target) as writer:
            (writer.path / "model.onnx").write_bytes(...)
            manifest = writer.commit(manifest_without_files)

    Leaving the block without a commit, by whatever exception or none, removes all that was written.

    Args:
        target: The folder to make. Missing parents are made.
        overwrite: Replace a bundle that is there; it is removed only after the new one is in place.

    Raises:
        OutputExistsError: The target exists and ``overwrite`` is false.
        BundleError: The target exists and is something else than a bundle or an empty folder.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = Path(os.path.abspath(target))
        self.overwrite = overwrite
        self._temporary: Path | None = None
        self._aside: Path | None = None
        self._check_target()

    @property
    def path(self) -> Path:
        """The hidden folder to write into; it is on the target's file system."""
        if self._temporary is None:
            raise RuntimeError("BundleWriter.path exists only inside its with block and before commit")
        return self._temporary

    def __enter__(self) -> Self:
        self._check_target()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._sibling("tmp")
        # Set first: an interrupt straight after mkdir must still find the folder to remove.
        self._temporary = temporary
        temporary.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            _remove(self._temporary)
            self._temporary = None
        if self._aside is not None and os.path.lexists(self.target):
            _remove(self._aside)

    def commit(self, manifest: Manifest) -> Manifest:
        """Add the list of files, write the manifest, and put the bundle in its place.

        Args:
            manifest: The manifest; its ``files`` are ignored.

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
        names = [name for name in walk_files(folder) if not is_unlisted(name)]
        entries = [
            {"path": name, "size_bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            for name in names
        ]
        try:
            complete = Manifest.model_validate({**manifest.model_dump(), "files": entries})
            text = json.dumps(complete.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            content = text.encode("utf-8")
            if not complete.files:
                raise ValueError("files: none was written")
        except ValidationError as error:
            raise BundleError(f"{self.target}: the manifest is inconsistent: {first_problem(error)}") from error
        except ValueError as error:
            raise BundleError(f"{self.target}: the manifest cannot be written: {error}") from error
        (folder / MANIFEST).write_bytes(content)
        for name in walk_files(folder):
            _sync(folder / name)
        for parent, _, _ in os.walk(folder):
            _sync(Path(parent))
        self._install(folder)
        _sync(self.target.parent)
        self._temporary = None
        return complete

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self.overwrite:
            raise OutputExistsError(self.target)
        if self.target.is_symlink() or not self.target.is_dir():
            raise BundleError(f"{self.target} is not a folder and is not replaced", "choose another --output")
        if any(self.target.iterdir()) and not _looks_like_bundle(self.target):
            raise BundleError(
                f"{self.target} is neither a bundle nor empty and is not replaced",
                "choose another --output, or remove that folder yourself",
            )

    def _install(self, folder: Path) -> None:
        self._check_target()
        if not os.path.lexists(self.target):
            try:
                os.rename(folder, self.target)
            except OSError as error:
                if os.path.lexists(self.target):  # it appeared between the look and the rename
                    raise OutputExistsError(self.target) from error
                raise
            return
        self._aside = self._sibling("old")
        try:
            os.rename(self.target, self._aside)
            os.rename(folder, self.target)
        except BaseException:
            if not os.path.lexists(self.target):
                os.rename(self._aside, self.target)
            raise

    def _sibling(self, kind: str) -> Path:
        return self.target.with_name(f".{self.target.name}.{kind}-{secrets.token_hex(4)}")


def _looks_like_bundle(folder: Path) -> bool:
    # A web page's folder has a manifest.json too: a name alone is not enough to delete a folder.
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema_version", "edgespa_version"} <= values.keys()


def _remove(folder: Path) -> None:
    def warn(function: Any, path: str, error: BaseException | tuple[Any, ...]) -> None:
        if os.path.lexists(path):
            _log.warning("could not remove %s; remove it yourself", path)

    shutil.rmtree(folder, onerror=warn)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
