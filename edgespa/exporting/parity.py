"""The proof of an exported file: its outputs against the program's, through the runner that goes into the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgespa.bundle import MAX_FP32_ERROR, MAX_ROUNDING, Metric, Parity, TensorSpec, Weights
from edgespa.config import Preprocess
from edgespa.device import runner
from edgespa.device.runner.check import HALF_ERROR
from edgespa.errors import ExportError, ParityError
from edgespa.exporting.converter import parts
from edgespa.exporting.samples import Samples
from edgespa.exporting.trial import crash_of
from edgespa.system.quiet import first_line, quiet

Array = NDArray[Any]


def bound_for(precision: str, int8_error: float, explained: float = 0.0) -> dict[Metric, float]:
    """What a file has to keep to be shipped.

    Args:
        precision: Of the file.
        int8_error: Largest error of a component of files with int8 in them, against its spread.
        explained: Of a float32 file: `Samples.explained`, at most `MAX_ROUNDING`.
    """
    if precision == "fp32":
        return {"tolerance_used": 1.0, "relative_error": max(MAX_FP32_ERROR, min(explained, MAX_ROUNDING))}
    return {"component_error": HALF_ERROR if precision == "fp16" else int8_error}


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
        runtime: The runtime by its name; None for the one that files of the format are proved in.
        arithmetic: In which numbers it is to compute layers in float32; None for its own.
        signature: By which a file with several is called.
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
        *,
        runtime: str | None = None,
        arithmetic: str | None = None,
        signature: str | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        variant = {
            "name": name,
            "file": path.name,
            "format": kind,
            "parts": [each.name for each in parts(path)],
            "inputs": [spec.model_dump() for spec in inputs],
            "outputs": [spec.model_dump() for spec in outputs],
            "preprocess": pixels.model_dump() if pixels else None,
            "weights": weights.model_dump() if weights else None,
            "signature": signature,
            "picked": runtime,
            "arithmetic": arithmetic,
        }
        self._variant = variant
        if (signal := crash_of(path.parent, variant, threads)) is not None:
            raise ParityError(f"{name}: the runtime crashes on the file ({signal})", _REPORT)
        try:
            with quiet(f"loading {name}"):
                module, self.runtime = runner.import_runtime(kind, runtime)
                self._model = runner.open_model(path.parent, variant, threads, module)
        except runner.RunnerError as error:
            raise ExportError(f"{name}: the exported file does not load: {error}", _REPORT) from error

    @property
    def arithmetic(self) -> str:
        """In which numbers layers in float32 are computed, as the runtime says."""
        return str(self._model.arithmetic())

    def __call__(self, inputs: list[Array], alone: int = 0) -> list[Array]:
        """Outputs in the program's layout; so many of the samples are run one by one, see `runner.infer`."""
        try:
            return runner.infer(self._model, inputs, alone)
        except Exception as error:  # the runtimes raise whatever they like
            raise ExportError(f"{self.name}: the exported file does not run: {first_line(error)}", _REPORT) from error

    def own_inputs(self, inputs: list[Array]) -> list[Array]:
        """Inputs of the program in the layout and type of the file, pixels where it takes pixels."""
        arrays = runner.as_the_file_takes(inputs, self._variant)
        return [array.astype(spec.dtype, copy=False) for array, spec in zip(arrays, self.inputs, strict=True)]

    def error(self, samples: Samples) -> float:
        """Error of the worst component, against its spread; at least 1 if one is constant, infinite if not finite."""
        return _error(samples.compare(self(samples.inputs)))

    def largest_error(self, samples: Samples) -> float:
        """The same as `prove` looks at it: on all samples, and on the few that are recorded, where it may be larger."""
        outputs = self(samples.inputs, alone=samples.count // 2)
        few = 0 < len(samples.recorded) < samples.count
        return max(_error(samples.compare(outputs)), _error(samples.compare_recorded(outputs)) if few else 0.0)

    def judged(self, samples: Samples, bound: dict[Metric, float]) -> tuple[list[Array], dict[str, Any], list[str]]:
        """Outputs, figures on all samples, and which bounds they, or those on the recorded ones, do not keep."""
        outputs = self(samples.inputs, alone=samples.count // 2)
        metrics = samples.compare(outputs)
        limits = {str(metric): limit for metric, limit in bound.items()}
        failures = runner.exceeded(metrics, limits)
        if not failures and 0 < len(samples.recorded) < samples.count:
            failures = runner.exceeded(samples.compare_recorded(outputs), limits)
        return outputs, metrics, failures

    def prove(self, samples: Samples, bound: dict[Metric, float]) -> Parity:
        """Compare with the program, on all samples, and on those that are recorded, for they are what is checked later.

        Raises:
            ParityError: If a bound is not kept; it says the figure.
        """
        outputs, metrics, failures = self.judged(samples, bound)
        limits = {str(metric): limit for metric, limit in bound.items()}
        if failures:
            figures = "; ".join(failures)
            lossy = _HALF if self.name.endswith("fp16") else _LOSSY
            raise ParityError(
                f"{self.name} does not compute what the program computes on {samples.description}: {figures}",
                _way_on(samples, outputs, limits) if "tolerance_used" in bound else lossy,
            )
        measured = {key: metrics[key] for key in Parity.model_fields if key in metrics}
        return Parity(inputs=samples.description, count=samples.count, bound=bound, **measured)


def _error(metrics: Mapping[str, Any]) -> float:
    if not metrics["finite"]:
        return float("inf")
    return max(float(metrics["component_error"]), float(metrics["constant"] > 0))


_REPORT = "this is a fault of a converter or of edgespa: please report the model; --format leaves this format out"
_HALF = "numbers of 16 bits hold about three digits: leave out --precision fp16"
_LOSSY = "calibrate on images of the task, or leave out the precision, or raise --int8-tolerance"


def _way_on(samples: Samples, outputs: list[Array], limits: dict[str, float]) -> str:
    """A hint; with the option that allows more where it would."""
    if runner.exceeded(samples.tolerant(MAX_FP32_ERROR).compare(outputs), limits):
        return _REPORT
    return f"{_REPORT}, and where you know that it does no harm, --fp32-tolerance allows up to {MAX_FP32_ERROR:g}"
