"""Rounded weights and moved biases of a program's layers, for the layers of its files: found by what they hold."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from edgespa.exporting.lowering import with_heads, without_batch_norms
from edgespa.graph.program import Program
from edgespa.quantisation.walk import Corrected, Told, corrected

log = logging.getLogger(__name__)

Turn = Callable[[torch.Tensor], NDArray[np.float32]]
_NEAR = 1e-4
"""Of the largest weight: what converters make of a weight, norms put into it in another order, is nearer."""


@dataclasses.dataclass(frozen=True)
class Correction:
    """Of one layer of a file.

    Attributes:
        rows: Its weights on the int8 grid, a row for each output channel, in the file's order.
        shift: Added to the bias of each output channel.
    """

    rows: NDArray[np.float32]
    shift: NDArray[np.float32]

    def without_shift(self) -> Correction:
        """The rounded weights alone."""
        return Correction(self.rows, np.zeros_like(self.shift))


class Corrections:
    """What to do to the layers of a program, found once for each way of finding ranges and for all formats.

    Args:
        program: That files were made of.
        samples: Inputs of some runs, as the program takes them.
    """

    def __init__(self, program: Program, samples: Sequence[Sequence[torch.Tensor]]) -> None:
        self._given, self._samples = program, samples
        self._known: dict[tuple[str, bool], dict[str, Corrected]] = {}

    @cached_property
    def _program(self) -> Program:
        return without_batch_norms(with_heads(self._given), convolutions=True)

    def of(
        self,
        layers: Mapping[str, NDArray[np.float32]],
        method: str,
        *,
        symmetric: bool = False,
        told: Told | None = None,
    ) -> dict[str, Correction]:
        """Corrections of a file's layers; of those that are no layer of the program, none.

        Args:
            layers: The weights of each, a row for each output channel.
            method: Of finding ranges.
            symmetric: Whether zero is the middle of each range.
            told: How far it is.
        """
        if (method, symmetric) not in self._known:
            try:
                found = self._found(method, symmetric, told)
            except Exception as error:  # operators may refuse what is run alone: the file without is there
                log.warning("weights go to their nearest levels, as the program cannot be run beside itself: %s", error)
                found = {}
            self._known[method, symmetric] = found
        return matched(layers, self._known[method, symmetric].values())

    def _found(self, method: str, symmetric: bool, told: Told | None) -> dict[str, Corrected]:
        if not self._samples:
            return {}
        return corrected(self._program, self._samples, method, symmetric=symmetric, told=told)


def matched(layers: Mapping[str, NDArray[np.float32]], known: Iterable[Corrected]) -> dict[str, Correction]:
    """Layers of a file by those of the program that have the same weights, channels first or last.

    Args:
        layers: The weights of each, a row for each output channel.
        known: Of the program.
    """
    every = list(known)
    found = {}
    for name, (place, turn) in placed(layers, [each.before for each in every]).items():
        found[name] = Correction(turn(every[place].weight), every[place].shift.numpy())
    return found


def placed(layers: Mapping[str, NDArray[np.float32]], weights: Sequence[torch.Tensor]) -> dict[str, tuple[int, Turn]]:
    """By layer of a file, which weight of a program it has, and how that is turned there; none where it is not sure.

    Args:
        layers: The weights of each, a row for each output channel.
        weights: Of the program.
    """
    by_shape: dict[tuple[int, ...], list[tuple[int, Turn]]] = {}
    for place, weight in enumerate(weights):
        shape = weight.shape
        turns: tuple[Turn, ...] = (
            (_first, _last) if len(shape) > 2 and shape[1] > 1 and weight[0, 0].numel() > 1 else (_first,)
        )
        for turn in turns:
            by_shape.setdefault((shape[0], weight[0].numel()), []).append((place, turn))
    found = {}
    for name, rows in layers.items():
        fitting = [
            (place, turn)
            for place, turn in by_shape.get(rows.shape, [])
            if np.allclose(turn(weights[place]), rows, rtol=0, atol=_NEAR * float(np.abs(rows).max(initial=0.0)))
        ]
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def _first(weight: torch.Tensor) -> NDArray[np.float32]:
    return weight.flatten(1).numpy()


def _last(weight: torch.Tensor) -> NDArray[np.float32]:
    return weight.movedim(1, -1).flatten(1).numpy()
