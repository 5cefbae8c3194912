"""The proof of an exported file: its outputs against the program's, through the runner that goes into the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.bundle import Accuracy, Metric, Parity, TensorSpec, Weights
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.device import runner
from edgespa.errors import ExportError, ParityError
from edgespa.evaluate import MEASURES, quality
from edgespa.export.trial import crash_of
from edgespa.graph.program import Program
from edgespa.quiet import first_line, quiet

Array = NDArray[Any]
Progress = Callable[[float, float | None, str], None]

FP32_RELATIVE_ERROR = 1e-4
FP16_COSINE = 0.99
LEAST_SPREAD = 10 * FP32_RELATIVE_ERROR
"""Where outputs differ less between samples, the proof says little."""
SAMPLE_BYTES = 4 << 20
MAX_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """What files are proved on: inputs in the program's layout, and what the program makes of them.

    Attributes:
        inputs: One array per input, batch first.
        outputs: One array per output.
        description: What the inputs are, in words.
    """

    inputs: list[Array]
    outputs: list[Array]
    description: str

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])

    @property
    def spread(self) -> float:
        """How far outputs differ between samples, relative to the largest; of the output where that is most.

        Zero for a program that ignores its inputs. A file that computes something else errs by about as much.
        """
        return max(
            float((array.max(axis=0) - array.min(axis=0)).max() / max(np.abs(array).max(), np.finfo(np.float32).tiny))
            for array in (each.astype(np.float64) for each in self.outputs if each.size)
        )


def draw_samples(program: Program, data: Prepared | None, seed: int, pixels: Preprocess | None = None) -> Samples:
    """Real images if there are any, else seeded noise: at most 64, and no more than 4 MiB with their outputs.

    Args:
        program: In evaluation form.
        data: Images to draw from; every n-th one is taken, so that all classes occur.
        seed: Of the noise.
        pixels: Noise is to be of whole pixel values, normalised like this.
    """
    one = program.example_inputs(batch=1)
    size = sum(array.nbytes for array in run_program(program, one))
    size += sum(tensor.numel() * tensor.element_size() for tensor in one)
    budget = max(2, min(MAX_SAMPLES, SAMPLE_BYTES * len(one[0]) // size))
    if data is not None and len(data):
        count = min(budget, len(data))
        inputs: Sequence[torch.Tensor] = (data.tensor(np.linspace(0, len(data) - 1, count).astype(np.int64)),)
        description = f"{count} images of {data.name}"
    elif pixels is not None:
        inputs = (_noise_of_pixels(program, pixels, budget, seed),)
        description = f"{len(inputs[0])} samples of uniformly random pixels"
    else:
        inputs = program.example_inputs(batch=budget, seed=seed)
        description = f"{len(inputs[0])} samples of standard normal noise"
    outputs = run_program(program, inputs)
    if not all(np.isfinite(array).all() for array in outputs):
        raise ExportError(
            f"the program's own outputs are not finite on {description}",
            "check --mean and --std, and the weights of the model",
        )
    return Samples([tensor.numpy() for tensor in inputs], outputs, description)


def _noise_of_pixels(program: Program, how: Preprocess, count: int, seed: int) -> torch.Tensor:
    size = fixed_batch(program) or count
    shape = (size, how.channels, how.height, how.width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (how.mean, how.std))
    return torch.from_numpy(((pixels / np.float32(255) - mean) / std).astype(np.float32))


@torch.no_grad()
def run_program(program: Program, inputs: Sequence[torch.Tensor]) -> list[Array]:
    """The program's outputs, as a flat list; a fixed batch that is not full is filled with its last sample."""
    count = len(inputs[0])
    size = fixed_batch(program) or count
    results = []
    for start in range(0, count, size):
        part = [tensor[torch.arange(start, start + size).clamp(max=count - 1)] for tensor in inputs]
        results.append(torch.utils._pytree.tree_leaves(program(*part)))
    return [torch.cat([result[i] for result in results])[:count].numpy() for i in range(len(results[0]))]


def fixed_batch(program: Program) -> int | None:
    """The only batch size that a program takes; None if it takes any."""
    return None if program.dynamic_batch else int(program.inputs[0].shape[0])


def bound_for(precision: str, int8_cosine: float) -> dict[Metric, float]:
    """What a file has to keep to be shipped.

    Args:
        precision: Of the file.
        int8_cosine: Least cosine of files with int8 in them.
    """
    if precision == "fp32":
        return {"relative_error": FP32_RELATIVE_ERROR}
    return {"cosine": FP16_COSINE if precision == "fp16" else int8_cosine}


class File:
    """An exported file, loaded by the bundle's runner.

    Args:
        path: The file.
        name: Of its variant.
        kind: Its format.
        inputs: As the manifest has them.
        outputs: As the manifest has them.
        threads: For the runtime.
        pixels: The normalisation that is in the file.
        weights: What its weights are made of, where it has none.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        kind: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int,
        pixels: Preprocess | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        variant = {
            "name": name,
            "file": path.name,
            "format": kind,
            "inputs": [spec.model_dump() for spec in inputs],
            "outputs": [spec.model_dump() for spec in outputs],
            "preprocess": pixels.model_dump() if pixels else None,
            "weights": weights.model_dump() if weights else None,
        }
        self._variant = variant
        if (signal := crash_of(path.parent, variant, threads)) is not None:
            raise ParityError(f"{name}: the runtime crashes on the file ({signal})", _REPORT)
        try:
            with quiet(f"loading {name}"):
                runtime, self.runtime = runner.import_runtime(kind)
                self._model = runner.open_model(path.parent, variant, threads, runtime)
        except runner.RunnerError as error:
            raise ExportError(f"{name}: the exported file does not load: {error}", _REPORT) from error

    def __call__(self, inputs: list[Array]) -> list[Array]:
        """Outputs in the program's layout."""
        try:
            return runner.infer(self._model, inputs)
        except Exception as error:  # the runtimes raise whatever they like
            raise ExportError(f"{self.name}: the exported file does not run: {first_line(error)}", _REPORT) from error

    def own_inputs(self, inputs: list[Array]) -> list[Array]:
        """Inputs of the program in the layout and type of the file, pixels where it takes pixels."""
        arrays = runner.as_the_file_takes(inputs, self._variant)
        return [array.astype(spec.dtype, copy=False) for array, spec in zip(arrays, self.inputs, strict=True)]

    def cosine(self, samples: Samples) -> float:
        """Cosine between its outputs and the program's; -1 if they are not finite."""
        metrics = runner.compare(self(samples.inputs), samples.outputs)
        return float(metrics["cosine"]) if metrics["finite"] else -1.0

    def prove(self, samples: Samples, bound: dict[Metric, float]) -> Parity:
        """Compare with the program.

        Raises:
            ParityError: If a bound is not kept; it says the figure.
        """
        metrics = runner.compare(self(samples.inputs), samples.outputs)
        failures = runner.exceeded(metrics, {str(metric): limit for metric, limit in bound.items()})
        if failures:
            figures = "; ".join(failures)
            raise ParityError(
                f"{self.name} does not compute what the program computes on {samples.description}: {figures}",
                _LOSSY if "cosine" in bound else _REPORT,
            )
        measured = {key: metrics[key] for key in ("max_abs_error", "relative_error", "cosine", "top1_agreement")}
        return Parity(inputs=samples.description, count=samples.count, bound=bound, **measured)

    def accuracy(self, data: Prepared, progress: Progress | None = None) -> Accuracy:
        """How well it does on labelled data, or such with targets; see `edgespa.evaluate.quality`.

        Raises:
            DataError: If there are no images, or they have neither classes nor targets.
        """

        def told(done: float, total: float | None, _text: str) -> None:
            if progress:
                progress(done, total, f"accuracy of {self.name}")

        return accuracy_of(lambda images: self([images.numpy()])[0], data, told)


def accuracy_of(run: Callable[[Tensor], Array], data: Prepared, progress: Progress | None = None) -> Accuracy:
    """How well something that runs does; see `edgespa.evaluate.quality`.

    Args:
        run: From images ``[N, C, H, W]`` to outputs ``[N, K]``.
        data: With labels or targets.
        progress: Told ``(done, total, text)`` in batches.
    """
    value = quality(lambda images: torch.from_numpy(run(images)), data, batch_size=_BATCH, progress=progress)
    return Accuracy.model_validate(
        {"value": value, "count": len(data), "data": data.name, "measure": MEASURES[data.kind]}
    )


_BATCH = 100
_REPORT = "this is a fault of a converter or of edgespa: no bundle was written; please report the model"
_LOSSY = "calibrate on images of the task, or leave out the precision, or raise --int8-tolerance"

__all__ = ["File", "Samples", "accuracy_of", "bound_for", "draw_samples", "fixed_batch", "run_program"]
