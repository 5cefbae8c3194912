"""A folder that is written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgespa.bundle.files import walk_files
from edgespa.bundle.paths import MANIFEST
from edgespa.errors import BundleError, OutputExistsError
from edgespa.system.files import make_held_folder, name_file, remove_abandoned, sibling, uninterrupted

_log = logging.getLogger(__name__)


class WholeFolder:
    """Builds a bundle's folder beside its target and renames it into place.

    Leaving the with block without `install`, by whatever exception or none, removes all that was written.

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
        self._held: int | None = None
        self._last_resort: weakref.finalize[..., Any] | None = None
        self._check_target()

    @property
    def path(self) -> Path:
        """The hidden folder to write into; it is on the target's file system."""
        if self._temporary is None:
            raise RuntimeError(f"{type(self).__name__}.path exists only inside its with block and before it is done")
        return self._temporary

    def __enter__(self) -> Self:
        self._check_target()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        for kind in ("tmp", "old") if os.path.lexists(self.target) else ("tmp",):
            remove_abandoned(self.target, kind)  # of a process that was killed
        temporary = sibling(self.target, "tmp")
        # Set first: an interrupt straight after mkdir must still find the folder to remove. One that hits between
        # this method and the block, where nothing can catch it, leaves the rest to the end of the process.
        self._temporary = temporary
        self._last_resort = weakref.finalize(self, _remove_own, temporary, os.getpid())
        self._held = make_held_folder(temporary)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            if self._temporary is not None:
                _remove(self._temporary)
                self._temporary = None
            if self._held is not None:
                os.close(self._held)
                self._held = None
            if self._aside is not None and os.path.lexists(self.target):
                _remove(self._aside)
            if self._last_resort is not None:
                self._last_resort.detach()
        name_file(error, self.target)

    def install(self) -> None:
        """Flush everything to the disk and put the folder in its place.

        Raises:
            OutputExistsError: The target has appeared in the meantime.
            BundleError: A link or special file was written.
        """
        folder = self.path
        mode = folder.stat().st_mode & 0o666  # as the umask says; what converters write may be executable
        for name in walk_files(folder):
            (folder / name).chmod(mode)
            _sync(folder / name)
        for parent, _, _ in os.walk(folder):
            _sync(Path(parent))
        self._rename(folder)
        _sync(self.target.parent)
        self._temporary = None

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

    def _rename(self, folder: Path) -> None:
        self._check_target()
        if not os.path.lexists(self.target):
            try:
                os.rename(folder, self.target)
            except OSError as error:
                if os.path.lexists(self.target):  # it appeared between the look and the rename
                    raise OutputExistsError(self.target) from error
                raise
            return
        self._aside = sibling(self.target, "old")
        try:
            os.rename(self.target, self._aside)
            os.rename(folder, self.target)
        except BaseException:
            if not os.path.lexists(self.target):
                os.rename(self._aside, self.target)
            raise


def _looks_like_bundle(folder: Path) -> bool:
    # A web page's folder has a manifest.json too: a name alone is not enough to delete a folder.
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema_version", "edgespa_version"} <= values.keys()


def _remove_own(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a child that was forked
        _remove(folder)


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
