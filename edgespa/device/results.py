"""What measuring and checking give: models that are written to ``profiles/`` and read back from there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field

from edgespa import __version__
from edgespa.config import Strict
from edgespa.device.host import Conditions, Host
from edgespa.errors import DeviceError


class Measurement(Strict):
    """What ``run.py --bench`` says of one process; latencies of one inference in ms, memory in KiB.

    Percentiles that need more runs than there were are None: p95 needs 130, p99 662 (MLPerf's early stopping).
    ``peak_*_kib`` is the peak of the process after the runtime was imported, the file loaded, the runs done.
    """

    variant: str
    file: str
    size_bytes: int
    sha256: str
    runtime: str
    provider: str
    python: str
    machine: str
    threads: int
    affinity: int | None
    batch: int
    import_ms: float
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
    peak_import_kib: int | None
    peak_load_kib: int | None
    peak_run_kib: int | None


class VariantProfile(Strict):
    """One variant at one number of threads; each figure is the median over the rounds.

    Attributes:
        bundle: Name of the bundle's folder.
        spread: (largest - smallest) / median of the rounds' ``p50_ms``; None for one round, which shows none.
        rounds: The measurements themselves.
    """

    bundle: str
    variant: str
    threads: int
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
    rounds: tuple[Measurement, ...] = Field(min_length=1)

    @classmethod
    def of(cls, bundle: str, rounds: Sequence[Measurement]) -> Self:
        """Summarise the rounds of one variant at one number of threads."""
        first = rounds[0]
        medians = [each.p50_ms for each in rounds]
        figures = {
            name: _median([getattr(each, name) for each in rounds])
            for name in ("load_ms", "first_run_ms", "min_ms", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
        }
        peaks = [each.peak_run_kib for each in rounds if each.peak_run_kib is not None]
        return cls.model_validate(
            {
                "bundle": bundle,
                "variant": first.variant,
                "threads": first.threads,
                "size_bytes": first.size_bytes,
                **figures,
                "peak_kib": max(peaks, default=None),
                "spread": (max(medians) - min(medians)) / statistics.median(medians) if len(medians) > 1 else None,
                "rounds": tuple(rounds),
            }
        )


class Ratio(Strict):
    """p50 latency of a bundle's variant over that of the other bundle's, measured in alternation.

    Attributes:
        ratio: Median over the rounds of (p50 here / p50 there); below 1 is faster.
        low: Smallest of the rounds' ratios.
        high: Largest of them.
    """

    variant: str
    threads: int
    ratio: float
    low: float
    high: float


class Skipped(Strict):
    """A variant that was not measured, and why."""

    bundle: str
    variant: str
    reason: str


class Profile(Strict):
    """One profiling run: the machine, the settings, the results.

    Attributes:
        device: ``"local"``: the machine that edgespa itself ran on.
        results: The bundle's variants first, then those of ``against``, in the order of their manifests.
        ratios: Bundle over ``against``, for the variants that both have; empty without ``against``.
        skipped: Variants whose runtime is not installed.
    """

    schema_version: Literal[1] = 1
    edgespa_version: str = __version__
    created: str
    device: str
    host: Host
    before: Conditions
    after: Conditions
    rounds: int
    bundle: str
    against: str | None
    results: tuple[VariantProfile, ...]
    ratios: tuple[Ratio, ...]
    skipped: tuple[Skipped, ...]

    def result(self, bundle: str, variant: str, threads: int = 1) -> VariantProfile:
        """One result.

        Raises:
            DeviceError: It was not measured.
        """
        for each in self.results:
            if (each.bundle, each.variant, each.threads) == (bundle, variant, threads):
                return each
        raise DeviceError(f"{bundle}: {variant} was not measured with {threads} threads", "profile it first")


class Listed(Strict):
    """What ``run.py`` without options says of one variant.

    Attributes:
        runtime: Name and version of what would run it; None where nothing can.
        reason: Why not.
    """

    name: str
    file: str
    format: str
    precision: str
    size_bytes: int
    runtime: str | None
    reason: str | None


class Check(Strict):
    """What ``run.py --selfcheck`` says of one variant; the figures are None where it did not run.

    Attributes:
        name: The variant.
        status: ``"not run"`` where the runtime or ``selfcheck.npz`` is not there.
        failures: Bounds that are exceeded, the error, or why it was not run.
    """

    name: str
    status: Literal["passed", "failed", "not run"]
    runtime: str | None
    failures: tuple[str, ...]
    count: int | None = None
    max_abs_error: float | None = None
    relative_error: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    finite: bool | None = None
    bound: dict[str, float] = Field(default_factory=dict)


def _median(values: list[Any]) -> float | None:
    return None if any(value is None for value in values) else statistics.median(values)
