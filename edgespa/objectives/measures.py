"""What says how well something does: the name, the words and the direction of each measure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NAME = "[a-z][a-z0-9]*"
"""What a measure may be called: it is a part of the names of metrics, which `_` divides."""


@dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        name: As it is recorded: lower-case letters and digits.
        title: In words, such as ``mIoU``.
        percent: It is a fraction, shown in per cent.
        rises: The more the better; else the less.
    """

    name: str
    title: str
    percent: bool = False
    rises: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise ValueError(f"a measure is called {self.name!r}: use lower-case letters and digits, a letter first")

    def figure(self, value: float) -> str:
        """The value alone: a fraction in per cent, a number as it is."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"

    def merit(self, value: float) -> float:
        """The value, or its negative: the more the better."""
        return value if self.rises else -value


ACCURACY = Measure("accuracy", "accuracy", percent=True)
R2 = Measure("r2", "R2")
MIOU = Measure("miou", "mIoU", percent=True)
PIXEL_ACCURACY = Measure("pixelaccuracy", "pixel accuracy", percent=True)
MAP = Measure("map", "mAP@50:95", percent=True)
MAP50 = Measure("map50", "mAP@50", percent=True)
ERROR = Measure("error", "relative error", rises=False)
COSINE = Measure("cosine", "cosine")
AGREEMENT = Measure("agreement", "agreement", percent=True)
PCK = Measure("pck", "PCK@0.1", percent=True)
NME = Measure("nme", "NME", rises=False)
PSNR = Measure("psnr", "PSNR (dB)")
SSIM = Measure("ssim", "SSIM")
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        each.name: each
        for each in (ACCURACY, R2, MIOU, PIXEL_ACCURACY, MAP, MAP50, PCK, NME, PSNR, SSIM, ERROR, COSINE, AGREEMENT)
    }
)
"""Those of the objectives that come with edgespa, by name."""


def measure_named(name: str, title: str = "", *, percent: bool = False, rises: bool = True) -> Measure:
    """One of `MEASURES`; or one that is told here, as an objective of the user's own has.

    Args:
        name: As it is recorded.
        title: In words; the name where nothing is said.
        percent: It is a fraction.
        rises: The more the better.
    """
    return MEASURES.get(name) or Measure(name, title or name, percent, rises)
