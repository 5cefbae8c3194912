"""What files are proved on: inputs, what the program makes of them, and what differences are judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgespa.bundle import OutputSet
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.data.inputs import arguments
from edgespa.device import runner
from edgespa.errors import ExportError
from edgespa.exporting.exact import UNSURE, exact_outputs
from edgespa.exporting.sets import find_sets, steady
from edgespa.graph.program import Program
from edgespa.models.interface import runs_whole

Array = NDArray[Any]

MAX_SAMPLES = 64
LEAST_SAMPLES = 4
MEMORY_BYTES = 256 << 20
"""Of inputs and outputs together."""
MAX_RECORDED, RECORDED_BYTES = 32, 4 << 20
"""Of what of them is recorded in the bundle: a slow board runs them all, too."""
_THIN = 3
"""Of an output larger than its share every third index, and so on: odd, for upsampling by 2 would show one phase."""
_LEAST_SHARE = 0.05
"""Of its spread: a component of which a float32 file may be off by more hardly varies."""
EXACT_SAMPLES, EXACT_BYTES, DRAWS = 16, 64 << 20, 6
"""So many are repeated in double precision, as far as their outputs are no more than this, in single precision."""
_RUN_BYTES = 2 << 20
"""Of the inputs of one run; what a network holds in between is ten times as much and more."""


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
        return _bytes(
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


def _steps(one: Array, most: int) -> tuple[int, ...]:
    """How an output [1, ...] is thinned to so many bytes: its longest dimension by a third, again and again."""
    steps = [1] * (one.ndim - 1)
    while steps and runner.thinned(one, tuple(steps)).nbytes > most:
        sizes = runner.thinned(one, tuple(steps)).shape[1:]
        steps[int(np.argmax(sizes))] *= _THIN
    return tuple(steps)


def judged(
    program: Program,
    inputs: Sequence[Tensor],
    description: str,
    tolerance: float = runner.TOLERANCE,
    sets: tuple[OutputSet, ...] = (),
) -> Samples:
    """Samples of given inputs.

    Args:
        program: With plain outputs.
        inputs: Batch first.
        description: What they are.
        tolerance: Of float32 files, of the spread of a component.
        sets: From `find_sets`.

    Raises:
        ExportError: If the program's own outputs are not finite.
    """
    outputs = run_program(program, inputs)
    if not all(np.isfinite(array).all() for array in outputs):
        raise ExportError(
            f"the program's own outputs are not finite on {description}",
            "check --mean and --std, and the weights of the model",
        )
    scales = runner.scales_of(outputs, _rounded(program, inputs, outputs, sets), tolerance)
    return Samples([tensor.numpy() for tensor in inputs], outputs, description, scales, sets)


def _rounded(
    program: Program, inputs: Sequence[Tensor], outputs: list[Array], sets: tuple[OutputSet, ...]
) -> list[tuple[Array, Array, Array | None]] | None:
    """Of each output some samples, the same in double precision, and again with every operator a little wrong.

    Where entries are chosen inside the graph the latter would be another choice, and says nothing.
    """
    places = _roughest(outputs)
    chosen = [tensor[torch.from_numpy(places)] for tensor in inputs]
    exact = _in_batches(lambda *part: exact_outputs(program, part), program, chosen)
    if exact is None:
        return None
    own = [array[places] for array in outputs]
    if sets:
        for each in sets:
            exact = runner.reordered(exact, own, [list(pair) for pair in each.axes])
        return [(*pair, None) for pair in zip(own, exact, strict=True)]
    rough = _in_batches(lambda *part: exact_outputs(program, part, UNSURE), program, chosen)
    if rough is not None:
        rough = _noisiest_again(program, chosen, exact, rough)
    return [
        (array, once, rough[index] if rough else None)
        for index, (array, once) in enumerate(zip(own, exact, strict=True))
    ]


def _noisiest_again(program: Program, inputs: Sequence[Tensor], exact: list[Array], rough: list[Array]) -> list[Array]:
    """The outputs with noise, of the sample that has the most of it over `DRAWS` of them.

    Where a network amplifies rounding in one image a thousandfold, that image has nearly all of the noise, and one draw
    leaves some of a thousand components a hundredth of what is theirs.
    """
    far = [np.abs(noisy - once).reshape(len(once), -1).mean(axis=1) for noisy, once in zip(rough, exact, strict=True)]
    worst = int(np.argmax(sum(each / max(float(each.max()), np.finfo(np.float64).tiny) for each in far)))
    one = [tensor[worst : worst + 1] for tensor in inputs]
    squares = [np.square(noisy[worst] - once[worst]) for noisy, once in zip(rough, exact, strict=True)]
    for draw in range(1, DRAWS):
        again = _in_batches(lambda *part, draw=draw: exact_outputs(program, part, UNSURE, draw), program, one)
        for index, outputs in enumerate(again or []):
            squares[index] = squares[index] + np.square(outputs[0] - exact[index][worst])
    result = [array.copy() for array in rough]
    for index, total in enumerate(squares):
        result[index][worst] = exact[index][worst] + np.sqrt(total / DRAWS)
    return result


def _roughest(outputs: list[Array]) -> Array:
    """Places of the samples to repeat in double precision: some, and those whose outputs are farthest from the others.

    Rounding is ten times larger in one image than in another where a network amplifies it, and so is what it says.
    """
    count = len(outputs[0])
    wanted = max(2, min(EXACT_SAMPLES, EXACT_BYTES // max(1, _bytes(outputs) // count)))
    far = np.zeros(count)
    for array in (each for each in outputs if each.size and each.dtype.kind == "f"):
        mean = array.mean(axis=0, dtype=np.float64)
        apart = np.array([np.abs(one - mean).max() for one in array])
        far = np.maximum(far, apart / max(apart.max(), np.finfo(np.float32).tiny))
    farthest = np.argsort(-far, kind="stable")[: wanted // 2]
    places: Array = np.union1d(np.arange(min(count, wanted // 2)), farthest)
    return places


def draw_samples(
    program: Program,
    data: Prepared | None,
    seed: int,
    pixels: Preprocess | None = None,
    *,
    preprocess: Preprocess | None = None,
    tolerance: float = runner.TOLERANCE,
    most: int = MAX_SAMPLES,
) -> Samples:
    """Real images if there are any, else noise that every machine makes anew.

    Args:
        program: In evaluation form, with plain outputs.
        data: Images to draw from; every n-th one is taken, so that all classes occur.
        seed: Of inputs that are neither images nor float32.
        pixels: Noise is to be of whole pixel values, normalised like this.
        preprocess: What the manifest says of images; they are recorded as pixels where it is theirs.
        tolerance: Of float32 files, of the spread of a component.
        most: So many samples, where 256 MiB are enough for them.
    """
    one = _samples_first(program, program.example_inputs(batch=1))
    input_bytes, output_bytes = (_bytes(arrays) // len(one[0]) for arrays in (_numpy(one), run_program(program, one)))
    count = max(LEAST_SAMPLES, min(most, MEMORY_BYTES // max(1, input_bytes + output_bytes)))
    sets = find_sets(program)
    if data is not None and len(data):
        places = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).astype(np.int64))
        inputs: list[Tensor] = samples_of(program, data, places)
        kept = _steady(program, inputs) if sets else np.arange(len(places))
        places, inputs = places[kept], [each[kept] for each in inputs]
        what = "samples" if data.preprocess is None else "images"
        samples = judged(program, inputs, f"{len(places)} {what} of {data.name}", tolerance, sets)
        return _with_images(samples, data, places, preprocess)
    size = fixed_batch(program) or count
    count = -(-count // size) * size
    inputs, stored = _noise(program, count, seed, pixels)
    what = "uniformly random pixels" if pixels is not None else "uniform noise"
    kept = _steady(program, inputs) if sets else np.arange(count)
    if len(kept) < count:  # the recipe makes them all
        inputs = [tensor[kept] for tensor in inputs]
        stored = {f"input_{index}": array for index, array in enumerate(_numpy(inputs))}
    samples = judged(program, inputs, f"{len(inputs[0])} samples of {what}", tolerance, sets)
    whole = [array for key, array in stored.items() if key.startswith("input")]
    recorded = _recorded(samples.count, samples.recorded_bytes + _bytes(whole) // samples.count)
    if len(recorded) == samples.count:
        return dataclasses.replace(samples, recorded=recorded, stored=stored)
    # The first ones, for that is what a shorter recipe makes.
    first = range(len(recorded))
    short = {
        key: array[list(first)] if key.startswith("input") else np.array([len(first), *array[1:]], dtype=np.int64)
        for key, array in stored.items()
    }
    return dataclasses.replace(samples, recorded=tuple(first), stored=short)


def samples_of(program: Program, data: Prepared, places: Array) -> list[Tensor]:
    """Some samples of data as a program's files take them: along the first dimension of each input.

    Args:
        program: With plain inputs.
        data: The samples.
        places: Which.
    """
    return samples_in_front(program, data, arguments(data.tensor(places)))


def samples_in_front(program: Program, data: Prepared, inputs: Sequence[Tensor]) -> list[Tensor]:
    """A batch of data as a program's files take it, see `samples_of`.

    Args:
        program: With plain inputs; a batch of 1 where the data's is not first in all of them.
        data: Where the batch is from.
        inputs: All inputs, as `edgespa.data.Prepared.batches` gives them.
    """
    found = []
    for tensor, axis, spec in zip(inputs, data.axes, program.inputs, strict=True):
        first = tensor.movedim(axis, 0)
        # A sample is all of a run, see `_samples_first`; where a run's first size is 1 that is the sample's.
        found.append(first.unsqueeze(axis + 1) if axis and spec.shape[0] != 1 else first)
    return found


def _steady(program: Program, inputs: Sequence[Tensor]) -> Array:
    """Places of the samples whose choices rounding cannot change; of all, where hardly any are."""
    size = fixed_batch(program) or len(inputs[0])
    found = torch.cat(
        [steady(program, _arguments(program, inputs, at, size))[:size] for at in range(0, len(inputs[0]), size)]
    )[: len(inputs[0])]
    places: Array = np.flatnonzero(found.numpy())
    return places if len(places) >= LEAST_SAMPLES else np.arange(len(found))


def _recorded(count: int, size: int) -> tuple[int, ...]:
    """Which of the samples are recorded, at so many bytes each."""
    fit = max(min(LEAST_SAMPLES, count), min(count, MAX_RECORDED, RECORDED_BYTES // max(1, size)))
    return tuple(int(place) for place in np.linspace(0, count - 1, fit).astype(np.int64))


def _with_images(samples: Samples, data: Prepared, places: Array, preprocess: Preprocess | None) -> Samples:
    """Images are recorded as pixels, a quarter of what they are as numbers, where the same numbers come of those."""
    if data.preprocess is not None and data.preprocess == preprocess and not data.preprocessed:
        pixels = data.pixels(places).numpy()
        recorded = _recorded(samples.count, samples.recorded_bytes + pixels[0].nbytes)
        chosen = pixels[list(recorded)]
        made = runner.normalised(chosen, data.preprocess.model_dump())
        if np.array_equal(made, samples.inputs[0][list(recorded)]):
            return dataclasses.replace(samples, recorded=recorded, stored={"pixels_0": chosen})
    recorded = _recorded(samples.count, samples.recorded_bytes + sum(each[0].nbytes for each in samples.inputs))
    stored = {f"input_{index}": each[list(recorded)] for index, each in enumerate(samples.inputs)}
    return dataclasses.replace(samples, recorded=recorded, stored=stored)


def _noise(program: Program, count: int, seed: int, pixels: Preprocess | None) -> tuple[list[Tensor], dict[str, Array]]:
    """Inputs, and how they are recorded: by their sizes alone where every machine makes them anew."""
    inputs, stored = [], {}
    drawn = _samples_first(program, program.example_inputs(batch=count, seed=seed))
    for number, tensor in enumerate(drawn):
        if fixed_batch(program):
            tensor = torch.cat([tensor] * (count // len(tensor)))
        shape = tuple(tensor.shape)
        if pixels is not None:
            inputs.append(torch.from_numpy(runner.normalised(runner.noise_pixels(number, shape), pixels.model_dump())))
            stored[f"noise_pixels_{number}"] = np.array(shape, dtype=np.int64)
        elif tensor.dtype == torch.float32:
            inputs.append(torch.from_numpy(runner.noise(number, shape)))
            stored[f"noise_{number}"] = np.array(shape, dtype=np.int64)
        else:
            inputs.append(tensor)
            stored[f"input_{number}"] = tensor.numpy()
    return inputs, stored


@torch.no_grad()
def run_program(program: Program, inputs: Sequence[Tensor]) -> list[Array]:
    """The program's outputs, as a flat list; a fixed batch that is not full is filled with its last sample.

    Of a program that `runs_whole` the samples are along one more dimension, where a tensor's first size is not 1.
    """
    return _in_batches(lambda *part: _numpy(tree_leaves(program(*part))), program, inputs) or []


def runs_of(program: Program, inputs: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    """What the program takes of some samples, run by run; the last ones, where they do not fill a batch, are left out.

    Args:
        program: With plain inputs.
        inputs: As for `run_program`.
        most: Samples of a run, where the program takes any number.
    """
    inputs = _samples_first(program, inputs)
    count = len(inputs[0])
    size = fixed_batch(program) or min(most, count)
    return [_arguments(program, inputs, start, size) for start in range(0, count - size + 1, size)] if size else []


def _in_batches(
    run: Callable[..., list[Array] | None], program: Program, inputs: Sequence[Tensor]
) -> list[Array] | None:
    inputs = _samples_first(program, inputs)
    count = len(inputs[0])
    size = fixed_batch(program) or max(1, min(count, _RUN_BYTES * count // max(1, sum(each.nbytes for each in inputs))))
    results = []
    for start in range(0, count, size):
        result = run(*_arguments(program, inputs, start, size))
        if result is None:
            return None
        results.append([_as_sample(array) for array in result] if runs_whole(program) else result)
    return [np.concatenate([result[i] for result in results])[:count] for i in range(len(results[0]))]


def _samples_first(program: Program, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Inputs of one run as those of one sample; others as they are."""
    if not runs_whole(program):
        return inputs
    return [
        _as_sample(tensor) if tensor.dim() == len(spec.shape) and spec.shape[0] != 1 else tensor
        for tensor, spec in zip(inputs, program.inputs, strict=True)
    ]


def _as_sample(tensor: Any) -> Any:
    """A tensor or an array of one run with its sample first."""
    return tensor if tensor.shape[:1] == (1,) else tensor[None]


def _arguments(program: Program, inputs: Sequence[Tensor], at: int, size: int) -> list[Tensor]:
    """What a run takes of some samples."""
    if runs_whole(program):
        pairs = zip(inputs, program.inputs, strict=True)
        return [tensor[at] if tensor.dim() > len(spec.shape) else tensor[at : at + 1] for tensor, spec in pairs]
    return [tensor[torch.arange(at, at + size).clamp(max=len(tensor) - 1)] for tensor in inputs]


def fixed_batch(program: Program) -> int | None:
    """The only number of samples that a program takes at a time; None if it takes any."""
    return None if program.dynamic_batch else 1 if runs_whole(program) else int(program.inputs[0].shape[0])


def _bytes(arrays: Sequence[Array]) -> int:
    return sum(array.nbytes for array in arrays)


def _numpy(tensors: Sequence[Tensor]) -> list[Array]:
    return [tensor.numpy() for tensor in tensors]
