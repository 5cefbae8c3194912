"""In what portions a roll-out reaches its devices, and when it is stopped: numbers alone."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgespa.errors import ConfigError

_STEP = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Waves:
    """Up to how many of the devices each wave reaches, those of the waves before it among them.

    Attributes:
        steps: Each a number of devices, or a share of all in percent.
    """

    steps: tuple[tuple[float, bool], ...]

    @classmethod
    def parse(cls, text: str) -> Waves:
        """Read ``1,10%,100%``.

        Raises:
            ConfigError: It is not that, or a wave is smaller than the one before it.
        """
        steps = []
        for part in text.split(","):
            found = _STEP.fullmatch(part)
            percent = found is not None and found.group(2) == "%"
            number = float(found.group(1)) if found is not None else 0.0
            if found is None or not number or (number > 100 if percent else number != int(number)):
                raise ConfigError(
                    f"waves: '{part.strip()[:40]}' is no number of devices, and no share of them in percent",
                    "say, up to how many devices each wave reaches: --wave 1,10%,100%",
                )
            steps.append((number, percent))
        for (first, share), (second, other) in itertools.pairwise(steps):
            if share == other and second <= first:
                raise ConfigError(
                    f"waves: {text[:40]}: a wave reaches no more devices than the one before it",
                    "say, up to how many devices each wave reaches: --wave 1,10%,100%",
                )
        return cls(tuple(steps))

    def ends(self, count: int) -> tuple[int, ...]:
        """Up to which device each wave reaches.

        Args:
            count: Of all devices.

        Returns:
            Rising; a wave that would have none of its own is left out. A share is rounded up.
        """
        found: list[int] = []
        for number, percent in self.steps:
            end = min(count, math.ceil(round(count * number / 100, 6)) if percent else int(number))
            if end > (found[-1] if found else 0):
                found.append(end)
        return tuple(found)


ALL = Waves(((100.0, True),))
"""One wave, with all devices in it."""


def share_of(text: str) -> float:
    """Read ``5%``, or ``0.05``: 0 to 1.

    Raises:
        ConfigError: It is no share.
    """
    plain = text.strip()
    try:
        value = float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"'{plain[:40]}' is no share", "give it in percent, 5%, or from 0 to 1")
    return value


class Judge:
    """Counts what went wrong in a wave.

    Args:
        size: Devices of the wave.
        most: The share of them that may; None for any.
    """

    def __init__(self, size: int, most: float | None) -> None:
        self.size, self.most, self.bad = size, most, 0

    @property
    def exceeded(self) -> bool:
        """Whether more went wrong than may, whatever comes of the others."""
        return self.most is not None and self.bad > self.most * self.size + 1e-9

    def in_words(self) -> str:
        """What was counted, for people."""
        most = "" if self.most is None else f", and {self.most:.0%} may be"
        return f"{self.bad} of {self.size} ({self.bad / max(1, self.size):.0%}) are not well{most}"


def portions(count: int, waves: Waves) -> Sequence[range]:
    """The devices of each wave, by their places.

    Args:
        count: Of all devices.
        waves: What was asked for.
    """
    ends = waves.ends(count)
    return [range(begin, end) for begin, end in zip((0, *ends), ends, strict=False)]
