"""The folders and files of a data set, on disk or in an archive, by their paths below its root."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
)


@dataclass
class Tree:
    """Folders and image files below a root, all as paths relative to it; the root is ``""``."""

    images: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    subfolders: dict[str, set[str]] = field(default_factory=dict)

    def add_folder(self, folder: str) -> None:
        """A folder, and those above it."""
        while folder:
            parent, _, name = folder.rpartition("/")
            self.subfolders.setdefault(parent, set()).add(name)
            folder = parent

    def add_file(self, path: str) -> None:
        """A file, and the folders above it."""
        folder, _, name = path.rpartition("/")
        self.add_folder(folder)
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
            self.images.setdefault(folder, []).append(path)
        else:
            self.others.setdefault(folder, []).append(path)

    def children(self, folder: str) -> list[str]:
        """Names of the folders in one, in order."""
        return sorted(self.subfolders.get(folder, ()))

    def has(self, folder: str) -> bool:
        """Whether there is one of that path."""
        parent, _, name = folder.rpartition("/")
        return name in self.subfolders.get(parent, ())


def join(folder: str, name: str) -> str:
    """The path of something in a folder, which may be the root."""
    return f"{folder}/{name}" if folder and name else folder or name
