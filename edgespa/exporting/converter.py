"""What the converters of all formats share."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from edgespa.config import Preprocess
from edgespa.errors import MissingExtraError
from edgespa.exporting.versions import DEFAULT, Target

Layout = Literal["nhwc", "nchw"]
WEIGHTS_SUFFIX, HALF_SUFFIX, SAYS_SUFFIX = ".bin", ".half", ".json"
_IN_PARTS, _WITH_HALF = ".param", ".pte"


@dataclasses.dataclass(frozen=True)
class Form:
    """What a file is to look like, besides its precision.

    Attributes:
        target: Opset and IR version of ONNX files.
        batch: A fixed batch size; None: free in ONNX files where the program's is, 1 in TFLite files.
        layout: Of the images that TFLite files take and give.
        pixels: The normalisation that goes into the file, whose input is then uint8 [N, H, W, C]; None for none.
        names: Of the inputs and of the outputs; None for numbers.
    """

    target: Target = DEFAULT
    batch: int | None = None
    layout: Layout = "nhwc"
    pixels: Preprocess | None = None
    names: tuple[Sequence[str], Sequence[str]] | None = None

    def plain(self) -> Form:
        """A form that has the names of this one and is otherwise as the program is."""
        return Form(names=self.names)


def require(packages: Iterable[str], extra: str) -> None:
    """Say at once if a package is missing, without importing any.

    Args:
        packages: As they are imported; of what is a folder without a file of its own, a part of it.
        extra: That brings them.

    Raises:
        MissingExtraError: With the extra to install.
    """
    for package in packages:
        try:
            there = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:  # of a part, when the whole is not there
            there = False
        if not there:
            raise MissingExtraError(package.partition(".")[0], extra)


def parts(path: Path) -> tuple[Path, ...]:
    """What belongs to a model file and lies beside it: the weights of an ncnn file; of others nothing."""
    return (path.with_suffix(WEIGHTS_SUFFIX),) if path.suffix == _IN_PARTS else ()


def size_of(path: Path) -> int:
    """Bytes of a model file with its parts."""
    return sum(each.stat().st_size for each in (path, *parts(path)))


def copy(source: Path, path: Path) -> None:
    """Copy a model file with its parts."""
    for own, other in zip((source, *parts(source)), (path, *parts(path)), strict=True):
        shutil.copyfile(own, other)


def remove(path: Path) -> None:
    """Remove a model file with its parts, and what else was laid beside it, as far as they are there."""
    beside = (part.with_suffix(suffix) for part in parts(path) for suffix in (HALF_SUFFIX, SAYS_SUFFIX))
    half = (path.with_suffix(HALF_SUFFIX),) if path.suffix == _WITH_HALF else ()
    for each in (path, *parts(path), *beside, *half):
        each.unlink(missing_ok=True)
