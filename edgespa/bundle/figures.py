"""The figures of a manifest: how far a file is off, how often it decides alike, how well it does."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from edgespa.config import Strict
from edgespa.objectives.measures import NAME, Measure, measure_named
from edgespa.system.bounds import Name

MAX_FP32_ERROR = 1e-3
"""A float32 file whose own relative bound is wider proves nothing, whoever wrote the manifest."""
MAX_ROUNDING = 0.05
"""The same where each component is bounded by what rounding explains: of a network that adds 1e4 and takes it away."""

Metric = Literal[
    "max_abs_error", "relative_error", "cosine", "top1_agreement", "component_error", "correlation", "tolerance_used"
]
_ERRORS = ("max_abs_error", "relative_error", "component_error", "tolerance_used")
MeasureName = Annotated[str, Field(pattern=f"^{NAME}$", max_length=64)]


class Part(Strict):
    """A part of a manifest; what a later version of the same schema says besides is kept, and means nothing here."""

    # NaN and infinity are not JSON: a figure that is not a number has no place in a manifest.
    model_config = ConfigDict(allow_inf_nan=False, extra="allow")


class Parity(Part):
    """How far a file's outputs are from the program's; see `edgespa.device.runner.compare` for the formulas.

    Attributes:
        inputs: What went in, for example ``"64 images of fashion:test"``.
        count: How many samples that were.
        max_abs_error: max|a - b|, a the file's and b the program's outputs.
        relative_error: max|a - b| / max|b|.
        cosine: Cosine between the flattened outputs; the least over all outputs.
        top1_agreement: Fraction of these samples with the same largest output, None where that means nothing.
        component_error: rms(a - b) of the worst component of an output, against its own spread over samples; None in
            bundles of older versions, as are all figures of components.
        correlation: Of the worst component that varies; None if none does.
        tolerance_used: max|a - b| of the worst component against what rounding explains: at most 1 in a float32 file.
        worst: The component of ``component_error``, in numpy's words.
        components: How many components the outputs have.
        varying: How many of them depend on the input. Of the others the proof says little.
        bound: Limit per metric: errors may not exceed it, cosine, correlation and agreement may not fall below it.
    """

    inputs: str
    count: int = Field(gt=0)
    max_abs_error: float = Field(ge=0)
    relative_error: float = Field(ge=0)
    cosine: float
    top1_agreement: float | None = Field(default=None, ge=0, le=1)
    component_error: float | None = Field(default=None, ge=0)
    correlation: float | None = Field(default=None, ge=-1, le=1)
    tolerance_used: float | None = Field(default=None, ge=0)
    worst: str | None = None
    components: int | None = Field(default=None, ge=0)
    varying: int | None = Field(default=None, ge=0)
    bound: dict[Metric, float] = Field(min_length=1)

    def failures(self) -> tuple[str, ...]:
        """One phrase per bound that is not kept; empty when the file is proved."""
        found = []
        for metric, limit in self.bound.items():
            value = getattr(self, metric)
            if value is None:
                found.append(f"{metric} is bounded but was not measured")
            elif metric in _ERRORS and not value <= limit:
                found.append(f"{metric} {value:.3g} is above {limit:.3g}")
            elif metric not in _ERRORS and not value >= limit:
                found.append(f"{metric} {value:.6g} is below {limit:.6g}")
        return tuple(found)


class Proof(Part):
    """One file in one more runtime, or in other numbers, than those of its `Parity`, where the bundle was made.

    Attributes:
        runtime: Name and version.
        arithmetic: In which numbers layers in float32 were computed, read back from the runtime.
        machine: The processor's kind, such as ``x86_64``: elsewhere the same runtime may compute otherwise.
        holds: Whether it keeps its bounds there.
        failures: What it does not keep, in words; or why it does not run.
        count: Of samples, those of the parity; 0 where it does not run.
        component_error: As in `Parity`; None where it was not measured.
        relative_error: As in `Parity`.
        correlation: As in `Parity`.
        tolerance_used: As in `Parity`.
        worst: As in `Parity`.
        bound: What it was held to: in less than float32, as files in half precision are.
    """

    runtime: str = Field(pattern="^[a-z][a-z0-9_]*( .{1,64})?$", max_length=128)
    arithmetic: str = Field(default="fp32", pattern="^[a-z0-9]+$", max_length=16)
    machine: str = Field(max_length=64)
    holds: bool
    failures: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(default=(), max_length=32)
    count: int = Field(default=0, ge=0)
    component_error: float | None = Field(default=None, ge=0)
    relative_error: float | None = Field(default=None, ge=0)
    correlation: float | None = Field(default=None, ge=-1, le=1)
    tolerance_used: float | None = Field(default=None, ge=0)
    worst: str | None = None
    bound: dict[Metric, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.holds == bool(self.failures) or (self.holds and not (self.count and self.bound)):
            raise ValueError("a proof either holds, with its figures, or says what does not")
        return self


class Agreement(Part):
    """How often a file decides as the program does, on ``count`` samples of ``data`` (its name in words).

    Attributes:
        value: Fraction of the samples with the same top class, or of labels with the same sign.
        what: Which of them.
        count: Samples.
        data: Their name.
    """

    value: float = Field(ge=0, le=1)
    what: Literal["top class", "signs", "top class of a pixel"]
    count: int = Field(gt=0)
    data: str


class Quality(Part):
    """How well a file does on ``count`` samples of ``data`` (its name in words).

    Attributes:
        value: Of the measure: for classes top-1 accuracy; for labels of which any may be right, the fraction of
            decisions that are; for numbers R2; for masks the mean intersection over union.
        count: Samples.
        data: Their name.
        measure: A name of `edgespa.objectives.measures.MEASURES`, or of the user's own.
        title: Of a measure of the user's own: in words.
        percent: Likewise: whether it is a fraction.
        rises: Likewise: the more the better.
        others: Further measures of the same samples, by name.
    """

    value: float = Field(allow_inf_nan=False)
    count: int = Field(gt=0)
    data: str
    measure: MeasureName = "accuracy"
    title: Name | None = None
    percent: bool = False
    rises: bool = True
    others: dict[MeasureName, float] = Field(default_factory=dict, max_length=64)

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if (self.of.percent and not 0 <= self.value <= 1) or (self.measure == "r2" and self.value > 1):
            raise ValueError(f"{self.of.title} {self.value:g}: that cannot be")
        return self

    @property
    def of(self) -> Measure:
        """The measure."""
        return measure_named(self.measure, self.title or "", percent=self.percent, rises=self.rises)

    @property
    def figure(self) -> str:
        """The value alone, as a table shows it."""
        return self.of.figure(self.value)

    def __str__(self) -> str:
        return self.figure if self.measure == "accuracy" else f"{self.of.title} {self.figure}"
