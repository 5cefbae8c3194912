"""Batches of a data set through a file, each answered once: what an earlier process has answered stays.

A folder holds ``000000.batch`` and so on, each an ``.npz`` file: ``pixels_0``, uint8 of the model's size, or
``input_0``... as the program takes them. What the file says of each is written beside, into a folder of the variant's,
as a line of JSON, types and shapes, and the bytes of the arrays behind it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable  # for annotations only: Python 3.8 cannot subscript it
from pathlib import Path
from typing import Any

import numpy as np

from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.models import infer, open_model, running
from edgespa.device.runner.runtimes import import_runtime
from edgespa.pixels.values import normalised

BATCH, ANSWER = ".batch", ".answer"


def answer_batches(
    folder: Path,
    manifest: dict[str, Any],
    variant: dict[str, Any],
    given: Path,
    into: str,
    threads: int,
    name: str | None,
    loaded: Callable[[], None],
    timed: Callable[[], Callable[[], None]],
) -> dict[str, Any]:
    """Run all batches of a folder that have no answer yet through a variant.

    Args:
        folder: Of the bundle.
        manifest: Of the bundle.
        variant: Of the manifest.
        given: The folder of batches.
        into: The folder in it that answers are written into.
        threads: Of the runtime.
        name: Of the runtime; the usual one where nothing is said.
        loaded: Called when the file is loaded.
        timed: Begins the time of one batch; what it gives ends it.

    Returns:
        ``answered``: how many batches now, ``runtime``, and the ``arithmetic`` that it says it computed in.
    """
    if not into or Path(into).name != into or into.startswith("."):
        raise RunnerError(f"{into!r} is no name of a folder")
    answers = given / into
    answers.mkdir(exist_ok=True)
    found, runtime = import_runtime(variant["format"], name or variant.get("picked"))
    model = open_model(folder, variant, threads, found)
    loaded()
    answered = 0
    for batch in sorted(given.glob(f"*{BATCH}")):
        target = answers / f"{batch.stem}{ANSWER}"
        if target.exists():
            continue
        done = timed()
        with running(variant):
            outputs = infer(model, _batch_inputs(batch, manifest))
        done()
        _write_answer(target, outputs)
        answered += 1
    return {"answered": answered, "runtime": runtime, "arithmetic": model.arithmetic()}


def _batch_inputs(path: Path, manifest: dict[str, Any]) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "pixels_0" in arrays:
                return [normalised(arrays["pixels_0"], manifest["preprocessing"])]
            return [arrays[f"input_{number}"] for number in range(len(arrays.files))]
    except Exception as error:
        raise RunnerError(f"cannot read {path}: {error}") from error


def _write_answer(target: Path, outputs: list[np.ndarray]) -> None:
    whole = [np.ascontiguousarray(each) for each in outputs]
    new = target.with_name(f".{target.name}.tmp")
    try:
        with new.open("wb") as file:
            told = {"arrays": [[each.dtype.str, list(each.shape)] for each in whole]}
            file.write(json.dumps(told).encode() + b"\n")
            for each in whole:
                file.write(each.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(new), str(target))
    except OSError as error:
        raise RunnerError(f"cannot write {target}: {error}") from error
