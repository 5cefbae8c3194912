"""What the converters of both formats share."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Literal

from edgespa.config import Preprocess
from edgespa.errors import MissingExtraError
from edgespa.exporting.versions import DEFAULT, Target

Layout = Literal["nhwc", "nchw"]


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

    Raises:
        MissingExtraError: With the extra to install.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
