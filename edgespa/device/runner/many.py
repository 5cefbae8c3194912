"""A folder of images, one after the other, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.inputs import ARRAY_FILES

PICTURES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".tga", ".jp2", ".avif", ".heic"),
)
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""What drawn pictures are written as, by their names."""


def natural(path: Path) -> tuple[list[Any], str]:
    """The order that people have: frame2 before frame10."""
    pieces = re.split(r"([0-9]+)", path.name)  # every second one is a number
    return [int(piece) if i % 2 else piece.casefold() for i, piece in enumerate(pieces)], path.name


def files_of(folder: Path) -> list[Path]:
    """Images and arrays of a folder, not of those inside of it, in natural order."""
    try:
        names = [path for path in folder.iterdir() if path.suffix.lower() in (*PICTURES, *ARRAY_FILES)]
        found = [path for path in names if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise RunnerError(f"cannot read the folder {folder}: {error}") from error
    if not found:
        raise RunnerError(f"{folder} holds no images ({' '.join(PICTURES[:4])} ...) and no .npy or .npz files")
    return sorted(found, key=natural)


def targets_of(given: Path, files: list[Path], output: Path, overwrite: bool) -> list[Path | None]:
    """Where a drawn picture goes for each file; refused before anything is run where it cannot.

    Args:
        given: What was asked about, a file or a folder.
        files: That file, or those of the folder.
        output: A file, or for a folder one that is made.
        overwrite: Whether files that are there may be replaced.
    """
    targets: list[Path | None]
    if given.is_dir():
        if output.exists() and (not output.is_dir() or os.path.samefile(output, given)):
            raise RunnerError(f"{given} is a folder: --output has to be another folder, not {output}")
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        names = [path.name if path.suffix.lower() in WRITTEN else f"{path.name}.png" for path in pictures]
        made = {path: output / name for path, name in zip(pictures, names)}
        if len(set(made.values())) < len(made):
            raise RunnerError(f"two files of {given} would be drawn to one name: rename one of {_twice(names)}")
        targets = [made.get(path) for path in files]
    elif output.is_dir():
        raise RunnerError(f"{output} is a folder, and {given} one file: name a file, such as {output / given.stem}.png")
    else:
        targets = [output]
        if given.exists() and output.exists() and os.path.samefile(output, given):
            raise RunnerError(f"--output {output} is the image itself: name another file")
    wanted = [target for target in targets if target is not None]
    for target in wanted:
        if target.suffix.lower() not in WRITTEN:
            raise RunnerError(f"--output {target}: pictures are written as {', '.join(WRITTEN)}")
    there = [target for target in wanted if target.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise RunnerError(f"{there[0]}{more}: --overwrite replaces what is there, or name another --output")
    return targets


def _twice(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def write_picture(picture: Any, target: Path) -> None:
    """Write an image of Pillow beside its place, and rename it into it."""
    kind = WRITTEN[target.suffix.lower()]
    if kind != "PNG" and picture.mode.startswith("I"):  # the others have 8 bits
        picture = picture.point(lambda value: value * (255 / 65535)).convert("L")
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            picture.save(stream, format=kind, **({"quality": 90} if kind in ("JPEG", "WEBP") else {}))
        os.replace(str(beside), str(target))
    except (OSError, ValueError, KeyError) as error:
        raise RunnerError(f"cannot write {target}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
