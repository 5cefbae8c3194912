"""What files are proved on: inputs, what the program makes of them, and what differences are judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import OutputSet
from edgespa.device import runner

Array = NDArray[Any]

LEAST_SAMPLES = 4
MAX_RECORDED, RECORDED_BYTES = 32, 4 << 20
"""Of what of them is recorded in the bundle: a slow board runs them all, too."""
_THIN = 3
"""Of an output larger than its share every third index, and so on: odd, for upsampling by 2 would show one phase."""
_LEAST_SHARE = 0.05
"""Of its spread: a component of which a float32 file may be off by more hardly varies."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """What files are proved on.

    Attributes:
        inputs: One array per input, in the program's layout, batch first.
        outputs: What the program makes of them, one array per output.
        description: What the inputs are, in words.
        scales: What differences are judged by, see `edgespa.device.runner.scales_of`; None: the spread of ``outputs``.
        sets: Outputs whose entries have no order of their own.
        recorded: Positions of the samples that go into the bundle.
        stored: Their inputs as ``selfcheck.npz`` has them, see `edgespa.device.runner.Recorded`.
    """

    inputs: list[Array]
    outputs: list[Array]
    description: str
    scales: dict[str, Array] | None = None
    sets: tuple[OutputSet, ...] = ()
    recorded: tuple[int, ...] = ()
    stored: dict[str, Array] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])

    @property
    def explained(self) -> float:
        """What rounding explains of max|a - b| / max|b|, of the output where that is most; 0 where it is not known."""
        shares = [0.0]
        for index, array in enumerate(self.outputs):
            axes = range(1, array.ndim) or (0,)
            found = [(self.scales or {}).get(f"allowed_{index}_{axis}") for axis in axes]
            allowed = [float(each.max()) for each in found if each is not None and each.size]
            top = float(np.abs(array).max(initial=0.0))
            if allowed and top and array.dtype.kind == "f":
                shares.append(min(allowed) / top)
        return max(shares)

    @property
    def decides(self) -> bool:
        """Whether the first output has a top class: no map, nor the best of many, of which that is the first."""
        return self.outputs[0].ndim == 2 and not any((0, 1) in each.axes for each in self.sets)

    @property
    def weak(self) -> str | None:
        """Why the proof on them says little; None where it says enough."""
        if self.count < LEAST_SAMPLES:
            return "there is only 1 sample" if self.count == 1 else f"there are only {self.count} samples"
        scales = runner.scales_of(self.outputs) if self.scales is None else self.scales
        varies = [
            each & (scales[f"allowed{key[6:]}"] <= _LEAST_SHARE * scales[f"scale{key[6:]}"])
            for key, each in scales.items()
            if key.startswith("varies")
        ]
        count, seen = sum(map(len, varies)), int(sum(each.sum() for each in varies))
        if 2 * seen >= count:
            return None
        return f"{count - seen:,} of {count:,} components of the outputs hardly vary on {self.description}"

    def tolerant(self, tolerance: float) -> Samples:
        """The same, where a float32 file may be off by this much of the spread of each component that varies.

        Args:
            tolerance: Of the spread.
        """
        scales = dict(runner.scales_of(self.outputs) if self.scales is None else self.scales)
        for key in [each for each in scales if each.startswith("allowed")]:
            spread = scales[f"scale{key[7:]}"] * scales[f"varies{key[7:]}"]
            scales[key] = np.maximum(scales[key], tolerance * spread)
        return dataclasses.replace(self, scales=scales)

    def part(self, places: Sequence[int] | slice) -> Samples:
        """Some of them, judged by the spread over all.

        Args:
            places: Which.
        """
        chosen = places if isinstance(places, slice) else list(places)
        return dataclasses.replace(
            self,
            inputs=[array[chosen] for array in self.inputs],
            outputs=[array[chosen] for array in self.outputs],
            scales=runner.scales_of(self.outputs) if self.scales is None else self.scales,
            recorded=(),
        )

    def compare(self, outputs: list[Array]) -> dict[str, Any]:
        """How far a file's outputs are from the program's; see `edgespa.device.runner.compare`.

        Args:
            outputs: In the program's layout.
        """
        sets = [each.model_dump() for each in self.sets]
        return runner.compare(outputs, self.outputs, self.scales, sets)

    def compare_recorded(self, outputs: list[Array]) -> dict[str, Any]:
        """The same as whoever checks the bundle compares: of the samples, and of the positions, that are recorded.

        Args:
            outputs: Of all samples.
        """
        sets = [each.model_dump() for each in self.sets]
        return runner.compare(self._kept(outputs), self._kept(self.outputs), self._kept_scales(), sets)

    def record(self) -> dict[str, Array]:
        """The arrays of ``selfcheck.npz``."""
        outputs = {f"output_{index}": array for index, array in enumerate(self._kept(self.outputs))}
        every = {
            f"every_{index}": np.array(steps) for index, steps in enumerate(self._every) if max(steps, default=1) > 1
        }
        return {**self.stored, **outputs, **every, **self._kept_scales()}

    @property
    def recorded_bytes(self) -> int:
        """Of the outputs of one sample."""
        return bytes_of(
            [runner.thinned(array[:1], steps) for array, steps in zip(self.outputs, self._every, strict=True)]
        )

    @property
    def _every(self) -> list[tuple[int, ...]]:
        """Of each output every so-many-th index of each of its dimensions is recorded; of sets all are."""
        whole = {index for each in self.sets for index, _ in each.axes}
        most = RECORDED_BYTES // LEAST_SAMPLES // len(self.outputs)
        return [
            (1,) * (array.ndim - 1) if index in whole else _steps(array[:1], most)
            for index, array in enumerate(self.outputs)
        ]

    def _kept(self, outputs: list[Array]) -> list[Array]:
        places = list(self.recorded)
        return [runner.thinned(array, steps)[places] for array, steps in zip(outputs, self._every, strict=True)]

    def _kept_scales(self) -> dict[str, Array]:
        kept = {}
        for key, array in (self.scales or {}).items():
            _, index, axis = key.split("_")
            kept[key] = array[:: self._every[int(index)][int(axis) - 1]] if int(axis) else array
        return kept


def recorded_places(count: int, size: int) -> tuple[int, ...]:
    """Which of the samples are recorded, at so many bytes each."""
    fit = max(min(LEAST_SAMPLES, count), min(count, MAX_RECORDED, RECORDED_BYTES // max(1, size)))
    return tuple(int(place) for place in np.linspace(0, count - 1, fit).astype(np.int64))


def _steps(one: Array, most: int) -> tuple[int, ...]:
    """How an output [1, ...] is thinned to so many bytes: its longest dimension by a third, again and again."""
    steps = [1] * (one.ndim - 1)
    while steps and runner.thinned(one, tuple(steps)).nbytes > most:
        sizes = runner.thinned(one, tuple(steps)).shape[1:]
        steps[int(np.argmax(sizes))] *= _THIN
    return tuple(steps)


def bytes_of(arrays: Sequence[Array]) -> int:
    """Of all of them."""
    return sum(array.nbytes for array in arrays)
