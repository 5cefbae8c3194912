"""What of a file must not be computed in int8, by what its activations held: pure.

One scale stands for all of an activation. Three kinds of places are lost by that, whatever the images:

- what holds infinities, or numbers that stand for them;
- what puts parts of very unlike size together: of the small ones few levels are left, of scores in 0..1 beside boxes in
  pixels one;
- what an output is made of directly, where one of its components moves by less than a few levels: one number about 1013
  becomes 1013.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from edgespa.quantisation.ranges import HUGE, Observed

UNLIKE = 8.0
"""Ratio of widths from which parts are unlike: 32 of 256 levels are left."""
LEAST_STEPS = 1.0
"""Least standard deviation of a component, in levels: 0.96 is the correlation of what is left with what was."""
LEVELS = 255


@dataclasses.dataclass(frozen=True)
class Part:
    """An operator that might be computed in int8.

    Attributes:
        name: Of it.
        inputs: Activations that it reads in int8.
        outputs: Activations that it writes in int8.
        joins: Whether it puts its inputs together, so that the scale of its output has to serve all.
        shown: Activations whose components show what is lost here: its outputs, where an output of the network is made
            of them without weights in between; or the last sum that they go into on that way, as of a sum none of its
            terms has to say all.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    joins: bool = False
    shown: tuple[str, ...] = ()


def unfit(parts: Iterable[Part], observed: Mapping[str, Observed]) -> dict[str, str]:
    """The parts that must stay in float, with the reasons.

    Args:
        parts: All there are.
        observed: What activations held; a part is judged by those that are in it.
    """
    found = {}
    for part in parts:
        reason = _endless(part, observed) or _unlike(part, observed) or _still(part, observed)
        if reason is not None:
            found[part.name] = reason
    return found


def _endless(part: Part, observed: Mapping[str, Observed]) -> str | None:
    if all(observed[name].finite for name in (*part.inputs, *part.outputs) if name in observed):
        return None
    return f"it holds values that are not finite, or beyond {HUGE:.0e}"


def _unlike(part: Part, observed: Mapping[str, Observed]) -> str | None:
    seen = [observed[name].width for name in part.inputs if name in observed]
    whole = max((observed[name].width for name in part.outputs if name in observed), default=0.0)
    # What is zero for all images is exact on any scale.
    least = min((width for width in seen if width > 0), default=whole)
    if not part.joins or not least or whole < UNLIKE * least:
        return None
    return f"it puts parts together of which one is {whole / least:.3g} times as wide as another"


def _still(part: Part, observed: Mapping[str, Observed]) -> str | None:
    level = max((observed[name].width for name in part.outputs if name in observed), default=0.0) / LEVELS
    for name in part.shown if level else ():
        spread = observed[name].spread if name in observed else None
        least = spread.least() if spread is not None else None
        if least is not None and least < LEAST_STEPS * level:
            return f"a component of the output moves by {least:.2g} between images, and a level of int8 is {level:.2g}"
    return None


class Shown:
    """What shows the losses of an activation; asked and told from the outputs of a network to its inputs.

    Args:
        outputs: Of the network.
    """

    def __init__(self, outputs: Iterable[str]) -> None:
        self._by: dict[str, str | None] = dict.fromkeys(outputs)  # None: it does so itself

    def of(self, outputs: Iterable[str]) -> tuple[str, ...]:
        """What shows the losses of an operator with these outputs; nothing if weights lie in between."""
        return tuple(self._by[name] or name for name in outputs if name in self._by)

    def passed(self, inputs: Iterable[str], outputs: Iterable[str], *, sums: bool) -> None:
        """An operator without weights.

        Args:
            inputs: Activations that it reads.
            outputs: Activations that it writes.
            sums: Whether it adds its inputs.
        """
        names, shown = list(inputs), self.of(outputs)
        for name in names if shown else ():
            later = next((self._by[each] for each in outputs if each in self._by), None)
            by = later or (shown[0] if sums and len(names) > 1 else None)
            self._by[name] = None if name in self._by and self._by[name] is None else by
