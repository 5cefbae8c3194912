"""What measuring and checking give: models that are written to ``profiles/`` and read back from there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from edgespa import __version__
from edgespa.config import Strict
from edgespa.device.host import Clock, Conditions, Host, Usage
from edgespa.device.runner.runtimes import serves
from edgespa.errors import DeviceError


class Answer(Strict):
    """What a runner says, or was saved of it; what another version says besides is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Operator(Answer):
    """What one operator of a file takes.

    Attributes:
        name: As the runtime calls it.
        op: What it computes.
        us: Microseconds of a run.
    """

    name: str = Field(max_length=200)
    op: str = Field(max_length=200)
    us: float = Field(ge=0, le=1e9, allow_inf_nan=False)


class Measurement(Answer):
    """What ``run.py --bench`` says of one process, and what the machine was like meanwhile.

    Latencies are of one inference in ms, memory in KiB. Percentiles that need more runs than there were are None: p95
    needs 130, p99 662 (MLPerf's early stopping). ``peak_*_kib`` is the peak of the process after the runtime was
    imported, the file loaded, the runs done; of a runtime that is a program, that of its own process.

    Attributes:
        cores: That the process was bound to, ``4-7``; None for any.
        compute_ms: The median without what brings data to a GPU and back, where the runtime tells it.
        major_faults: Pages that had to be read from the disk during the runs.
        arithmetic: In which numbers layers in float32 were computed, as the runtime says; None of an older runner.
        operators: What each operator takes, where that was asked for and the runtime tells it.
        pieces_ms: Medians of at most 60 equal pieces of the run, one behind the other.
        steady: Whether latencies showed no trend; None where there are too few
            (`edgespa.device.measure.judge.is_steady`).
        doubts: Why the figures are not clean, in words; empty where nothing speaks against them.
        unknown: What could not be looked at, and why.
        clock: Of the processor, while it ran.
        usage: Of the cores, by it and by others.
        before: The machine before the process.
        after: And after it.
        samples: And meanwhile, where that was asked for.
    """

    variant: str
    file: str
    size_bytes: int
    sha256: str
    runtime: str
    provider: str
    arithmetic: str | None = None
    python: str
    machine: str
    threads: int
    affinity: int | None
    cores: str | None = None
    batch: int
    import_ms: float
    build_ms: float | None = None
    load_ms: float
    first_run_ms: float
    warmup_runs: int
    runs: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float | None
    p99_ms: float | None
    compute_ms: float | None = None
    peak_import_kib: int | None
    peak_load_kib: int | None
    peak_run_kib: int | None
    major_faults: int | None = None
    pieces_ms: tuple[float, ...] = ()
    operators: tuple[Operator, ...] | None = Field(default=None, max_length=400)
    steady: bool | None = None
    doubts: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    clock: Clock | None = None
    usage: Usage | None = None
    before: Conditions | None = None
    after: Conditions | None = None
    samples: tuple[Conditions, ...] = ()


class VariantProfile(Answer):
    """One variant at one number of threads on one provider; each figure is the median over the rounds.

    Attributes:
        bundle: Name of the bundle's folder.
        cores: That it was bound to, ``4-7``; None for any.
        runtime: By the name of its package.
        provider: What of it computed.
        arithmetic: In which numbers layers in float32 were computed.
        clean: No round was throttled, slowed down, short of cores, beside other work or swapping; None where nothing
            speaks against it, but not all of that could be read.
        doubts: Why not, in words.
        unknown: What could not be read, and why.
        steady: Every round had settled; None where a run was too short to tell.
        spread: (largest - smallest) / median of the rounds' ``p50_ms``; None for one round, which shows none.
        rounds: The measurements themselves.
    """

    bundle: str
    variant: str
    threads: int
    cores: str | None = None
    size_bytes: int
    load_ms: float
    first_run_ms: float
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float | None
    p99_ms: float | None
    peak_kib: int | None
    spread: float | None
    runtime: str | None = None
    provider: str | None = None
    arithmetic: str | None = None
    clean: bool | None = True
    doubts: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    steady: bool | None = None
    rounds: tuple[Measurement, ...] = Field(min_length=1)

    @property
    def on_threads(self) -> str:
        """``4 threads on cores 4-7``."""
        bound = f" on cores {self.cores}" if self.cores else ""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}{bound}"

    @classmethod
    def of(cls, bundle: str, rounds: Sequence[Measurement]) -> Self:
        """Summarise the rounds of one variant at one number of threads."""
        first = rounds[0]
        medians = [each.p50_ms for each in rounds]
        figures = {
            name: _median([getattr(each, name) for each in rounds])
            for name in ("load_ms", "first_run_ms", "min_ms", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
        }
        doubts = tuple(dict.fromkeys(what for each in rounds for what in each.doubts))
        unknown = tuple(dict.fromkeys(what for each in rounds for what in each.unknown))
        steady = [each.steady for each in rounds]
        peaks = [each.peak_run_kib for each in rounds if each.peak_run_kib is not None]
        return cls.model_validate(
            {
                "bundle": bundle,
                "variant": first.variant,
                "threads": first.threads,
                "cores": first.cores,
                "size_bytes": first.size_bytes,
                **figures,
                "peak_kib": max(peaks, default=None),
                "spread": (max(medians) - min(medians)) / statistics.median(medians) if len(medians) > 1 else None,
                "runtime": first.runtime.partition(" ")[0],
                "provider": first.provider,
                "arithmetic": first.arithmetic,
                "clean": False if doubts else None if unknown else True,
                "doubts": doubts,
                "unknown": unknown,
                "steady": False if False in steady else None if None in steady else True,
                "rounds": tuple(rounds),
            }
        )


class Ratio(Answer):
    """p50 latency of a bundle's variant over that of the other bundle's, measured in alternation.

    Attributes:
        runtime: As it was asked for; None for the runner's own choice.
        provider: Likewise.
        arithmetic: Likewise.
        cores: That both were bound to; None for any.
        ratio: Median over the rounds of (p50 here / p50 there); below 1 is faster.
        low: Smallest of the rounds' ratios.
        high: Largest of them.
    """

    variant: str
    threads: int
    runtime: str | None = None
    provider: str | None = None
    arithmetic: str | None = None
    cores: str | None = None
    ratio: float
    low: float
    high: float


class Estimate(Answer):
    """What a variant should take by the device's published latencies (`estimate.py`): no measurement.

    Attributes:
        latency_ms: Of one inference, batch 1, on the CPU.
    """

    variant: str
    threads: int
    latency_ms: float


class Skipped(Answer):
    """A variant that was not measured, and why."""

    bundle: str
    variant: str
    reason: str


class Proved(Answer):
    """Whether a file computes what it should, in one runtime on the device.

    Attributes:
        runtime: By the name of its package.
        arithmetic: In which numbers layers in float32 were computed.
        provider: What of the runtime computed.
        holds: Its recorded outputs come out there, within the manifest's bounds; of a float32 file that is computed in
            less, within those of half precision.
        component_error: Of the worst component; None where it did not run.
        failures: Why not.
    """

    variant: str
    runtime: str
    arithmetic: str | None = None
    provider: str | None = None
    holds: bool
    component_error: float | None = None
    failures: tuple[str, ...] = ()


class Profile(Answer):
    """One profiling run: the machine, the settings, the results.

    Attributes:
        device: Name of the device's profile; ``"local"``: the machine that edgespa itself ran on.
        emulated: The device is an emulator: what it computes is right, its times mean nothing.
        results: The bundle's variants first, then those of ``against``, in the order of their manifests.
        ratios: Bundle over ``against``, for the variants that both have; empty without ``against``.
        skipped: Variants whose runtime is not installed, or which none of the asked providers runs.
        estimates: What the bundle's variants should take there; empty where nothing is published for the device.
        bytes_sent: Of files, that went to the device for this.
        proofs: Of the bundle's variants, in each runtime and its numbers, where more than the usual one was asked for.
    """

    schema_version: Literal[1] = 1
    edgespa_version: str = __version__
    created: str
    device: str
    emulated: bool = False
    host: Host
    before: Conditions
    after: Conditions
    rounds: int
    bundle: str
    against: str | None
    results: tuple[VariantProfile, ...]
    ratios: tuple[Ratio, ...]
    skipped: tuple[Skipped, ...]
    estimates: tuple[Estimate, ...] = ()
    bytes_sent: int = 0
    proofs: tuple[Proved, ...] = ()

    @property
    def fastest(self) -> VariantProfile | None:
        """Of the bundle's results that of least median latency whose proof, in the same way, holds.

        Of runtimes that can serve a program: one that is started for each run is there to be compared with.
        """
        holding = {(each.variant, each.runtime, each.provider, each.arithmetic) for each in self.proofs if each.holds}
        own = [each for each in self.results if each.bundle == self.bundle and serves(str(each.runtime))]
        proved = [each for each in own if (each.variant, each.runtime, each.provider, each.arithmetic) in holding]
        return min(proved, key=lambda each: each.p50_ms, default=None)

    @property
    def clean(self) -> bool | None:
        """Whether all results are; None where none is not, and of some it is not known."""
        found = [each.clean for each in self.results]
        return False if False in found else None if None in found else True

    def result(self, bundle: str, variant: str, threads: int = 1) -> VariantProfile:
        """One result.

        Raises:
            DeviceError: It was not measured.
        """
        for each in self.results:
            if (each.bundle, each.variant, each.threads) == (bundle, variant, threads):
                return each
        raise DeviceError(f"{bundle}: {variant} was not measured with {threads} threads", "profile it first")


class Listed(Answer):
    """What ``run.py`` without options says of one variant.

    Attributes:
        runtime: Name and version of what would run it; None where nothing can.
        reason: Why not.
        others: Runtimes that are there for it beside the usual one.
        arithmetics: By runtime, in which numbers beside float32 it can compute there.
    """

    name: str
    file: str
    format: str
    precision: str
    size_bytes: int
    runtime: str | None
    reason: str | None
    others: tuple[str, ...] = ()
    arithmetics: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class Check(Answer):
    """What ``run.py --selfcheck`` says of one variant; the figures are None where it did not run.

    Attributes:
        name: The variant.
        status: ``"not run"`` where the runtime or ``selfcheck.npz`` is not there.
        failures: Bounds that are exceeded, the error, or why it was not run.
        farther: So many times as far off as where it was proved, where that is more than other samples explain.
    """

    name: str
    status: Literal["passed", "failed", "not run"]
    runtime: str | None
    failures: tuple[str, ...]
    arithmetic: str | None = None
    count: int | None = None
    max_abs_error: float | None = None
    relative_error: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    component_error: float | None = None
    correlation: float | None = None
    tolerance_used: float | None = None
    worst: str | None = None
    worst_used: str | None = None
    components: int | None = None
    varying: int | None = None
    constant: int | None = None
    lost: int | None = None
    finite: bool | None = None
    farther: float | None = None
    bound: dict[str, float] = Field(default_factory=dict)

    @property
    def remark(self) -> str | None:
        """What is odd about a file that keeps its bounds; None where nothing is."""
        if self.status != "passed" or self.farther is None:
            return None
        return (
            f"{self.name}: within its bounds, but {self.farther:.1f} times as far off as where it was exported "
            f"(error {self.component_error:.2g}): this runtime computes otherwise, or the file is not the one"
        )


def _median(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else statistics.median(values)
