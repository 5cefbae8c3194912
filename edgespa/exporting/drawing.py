"""How the samples of a proof are drawn, images or noise, and what rounding explains of each output on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgespa.bundle import OutputSet
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.device import runner
from edgespa.errors import ExportError
from edgespa.exporting.exact import UNSURE, exact_outputs
from edgespa.exporting.running import (
    arguments_of,
    as_arrays,
    fixed_batch,
    in_batches,
    run_program,
    samples_first,
    samples_of,
)
from edgespa.exporting.samples import LEAST_SAMPLES, Array, Samples, bytes_of, recorded_places
from edgespa.exporting.sets import find_sets, steady
from edgespa.graph.program import Program

MAX_SAMPLES = 64
MEMORY_BYTES = 256 << 20
"""Of inputs and outputs together."""
EXACT_SAMPLES, EXACT_BYTES, DRAWS = 16, 64 << 20, 6
"""So many are repeated in double precision, as far as their outputs are no more than this, in single precision."""


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
    one = samples_first(program, program.example_inputs(batch=1))
    input_bytes, output_bytes = (
        bytes_of(arrays) // len(one[0]) for arrays in (as_arrays(one), run_program(program, one))
    )
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
        stored = {f"input_{index}": array for index, array in enumerate(as_arrays(inputs))}
    samples = judged(program, inputs, f"{len(inputs[0])} samples of {what}", tolerance, sets)
    whole = [array for key, array in stored.items() if key.startswith("input")]
    recorded = recorded_places(samples.count, samples.recorded_bytes + bytes_of(whole) // samples.count)
    if len(recorded) == samples.count:
        return dataclasses.replace(samples, recorded=recorded, stored=stored)
    # The first ones, for that is what a shorter recipe makes.
    first = range(len(recorded))
    short = {
        key: array[list(first)] if key.startswith("input") else np.array([len(first), *array[1:]], dtype=np.int64)
        for key, array in stored.items()
    }
    return dataclasses.replace(samples, recorded=tuple(first), stored=short)


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
    exact = in_batches(lambda *part: exact_outputs(program, part), program, chosen)
    if exact is None:
        return None
    own = [array[places] for array in outputs]
    if sets:
        for each in sets:
            exact = runner.reordered(exact, own, [list(pair) for pair in each.axes])
        return [(*pair, None) for pair in zip(own, exact, strict=True)]
    rough = in_batches(lambda *part: exact_outputs(program, part, UNSURE), program, chosen)
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
        again = in_batches(lambda *part, draw=draw: exact_outputs(program, part, UNSURE, draw), program, one)
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
    wanted = max(2, min(EXACT_SAMPLES, EXACT_BYTES // max(1, bytes_of(outputs) // count)))
    far = np.zeros(count)
    for array in (each for each in outputs if each.size and each.dtype.kind == "f"):
        mean = array.mean(axis=0, dtype=np.float64)
        apart = np.array([np.abs(one - mean).max() for one in array])
        far = np.maximum(far, apart / max(apart.max(), np.finfo(np.float32).tiny))
    farthest = np.argsort(-far, kind="stable")[: wanted // 2]
    places: Array = np.union1d(np.arange(min(count, wanted // 2)), farthest)
    return places


def _steady(program: Program, inputs: Sequence[Tensor]) -> Array:
    """Places of the samples whose choices rounding cannot change; of all, where hardly any are."""
    size = fixed_batch(program) or len(inputs[0])
    found = torch.cat(
        [steady(program, arguments_of(program, inputs, at, size))[:size] for at in range(0, len(inputs[0]), size)]
    )[: len(inputs[0])]
    places: Array = np.flatnonzero(found.numpy())
    return places if len(places) >= LEAST_SAMPLES else np.arange(len(found))


def _with_images(samples: Samples, data: Prepared, places: Array, preprocess: Preprocess | None) -> Samples:
    """Images are recorded as pixels, a quarter of what they are as numbers, where the same numbers come of those."""
    if data.preprocess is not None and data.preprocess == preprocess and not data.preprocessed:
        pixels = data.pixels(places).numpy()
        recorded = recorded_places(samples.count, samples.recorded_bytes + pixels[0].nbytes)
        chosen = pixels[list(recorded)]
        made = runner.normalised(chosen, data.preprocess.model_dump())
        if np.array_equal(made, samples.inputs[0][list(recorded)]):
            return dataclasses.replace(samples, recorded=recorded, stored={"pixels_0": chosen})
    recorded = recorded_places(samples.count, samples.recorded_bytes + sum(each[0].nbytes for each in samples.inputs))
    stored = {f"input_{index}": each[list(recorded)] for index, each in enumerate(samples.inputs)}
    return dataclasses.replace(samples, recorded=recorded, stored=stored)


def _noise(program: Program, count: int, seed: int, pixels: Preprocess | None) -> tuple[list[Tensor], dict[str, Array]]:
    """Inputs, and how they are recorded: by their sizes alone where every machine makes them anew."""
    inputs, stored = [], {}
    drawn = samples_first(program, program.example_inputs(batch=count, seed=seed))
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
