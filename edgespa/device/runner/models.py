"""Model files, opened and run: arrays in the program's layout go in and come out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.bundle.limits import MAX_ELEMENTS
from edgespa.device.runner.bundle import RunnerError, inside
from edgespa.device.runner.runtimes import model_of

CHUNK = 8  # samples at a time where the batch is free: small boards have little memory
CHUNK_ELEMENTS = 1 << 22  # of their inputs, or one sample


def chunk_of(elements: int) -> int:
    """Samples at a time, by the numbers of one of them."""
    return max(1, min(CHUNK, CHUNK_ELEMENTS // max(1, elements)))


def open_model(folder: Path, variant: dict[str, Any], threads: int, runtime: Any) -> Any:
    """Load a variant's file in a runtime that was imported.

    In the variant ``provider`` and ``arithmetic`` may ask: what takes their place is refused.
    """
    try:
        opened = model_of(runtime, variant["format"])(runtime, inside(folder, variant["file"]), variant, threads)
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"{variant['name']}: cannot load {variant['file']}: {error}") from error
    provider = variant.get("provider")
    if provider and opened.provider() != provider:
        raise RunnerError(f"{variant['name']}: {provider} is not there: {opened.provider()} takes its place")
    asked = variant.get("arithmetic")
    if asked and opened.arithmetic() != asked:  # read back from the runtime, which may take what it likes
        raise RunnerError(f"{variant['name']}: it is computed in {opened.arithmetic()} here, not in {asked}")
    return opened


@contextlib.contextmanager
def running(variant: dict[str, Any]) -> Iterator[None]:
    """Name the variant whose inference fails; the runtimes raise whatever they like."""
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"{variant['name']} does not run: {error}") from error


def infer(model: Any, arrays: list[np.ndarray], alone: int = 0) -> list[np.ndarray]:
    """Outputs for any number of samples, in pieces of the file's batch size.

    A file may take and give one sample whole: with a batch of 1 that is not the first dimension of everything, as of
    outputs [T, N, C]. The samples of what does not begin with 1 are then along one more dimension, before all others.

    Args:
        model: An opened model.
        arrays: One per input, in the program's layout; all with the same first size, the samples.
        alone: So many of them are run one by one where the file takes any number: it may be right for one of the two.
    """
    if takes_whole(model):
        return _one_by_one(model, arrays)
    batch = model.inputs[0]["shape"][0]
    count = len(arrays[0])
    elements = sum(array.size for array in arrays) // max(1, count)
    size = batch if isinstance(batch, int) else chunk_of(elements)
    if size * elements > MAX_ELEMENTS:  # each may be within its bounds, and what they make together not
        raise RunnerError(f"a batch of {size:,} samples of {elements:,} numbers is more than {MAX_ELEMENTS:,}")
    if isinstance(batch, int):
        alone = 0
    edges = [*range(alone), *range(alone, count, size), count]
    pieces = []
    for start, end in zip(edges, edges[1:]):
        part = [array[start:end] for array in arrays]
        missing = size - len(part[0]) if isinstance(batch, int) else 0
        if missing:  # a fixed batch must be full: repeat the last sample, drop its results
            part = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in part]
        results = model.results(model.run(model.feed(part)))
        pieces.append([result[: len(result) - missing] for result in results])
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))]


def takes_whole(model: Any) -> bool:
    """Whether a run of a file is one sample: its sizes are fixed, and not all tensors have the same first one."""
    firsts = {spec["shape"][0] if len(spec["shape"]) else 1 for spec in (*model.inputs, *model.outputs)}
    return len(firsts) > 1 and all(isinstance(first, int) for first in firsts)


def _one_by_one(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    runs = []
    for spec, array in zip(model.inputs, arrays):
        single = array.ndim == len(spec["shape"]) and spec["shape"][0] != 1
        runs.append(list(array[None] if single else array if array.ndim > len(spec["shape"]) else array[:, None]))
    if len({len(own) for own in runs}) > 1:
        raise RunnerError(f"the inputs are of {', '.join(str(len(own)) for own in runs)} samples")
    pieces = []
    for part in zip(*runs):
        results = model.results(model.run(model.feed(list(part))))
        pieces.append([result if result.shape[:1] == (1,) else result[None] for result in results])
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))]
