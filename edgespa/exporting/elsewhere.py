"""A file in the other runtimes that are here, and in the other numbers that they compute in: does it hold there?

A proof belongs to a file, a runtime, an arithmetic and a processor. What a file is shipped for is its `Parity`; these
say what else was looked at where the bundle was made, and who may not be picked.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable

from edgespa.bundle import Metric, Parity, Proof
from edgespa.device import runner
from edgespa.device.runner.check import HALF_ERROR
from edgespa.device.runner.processor import processor_flags
from edgespa.device.runner.runtimes import RUNTIMES, is_there
from edgespa.errors import ExportError
from edgespa.exporting.parity import File
from edgespa.exporting.samples import Samples

log = logging.getLogger(__name__)

PLAIN = "fp32"
_FIGURES = ("component_error", "relative_error", "correlation", "tolerance_used", "worst")


def ways_beside(kind: str, precision: str, proved_in: str) -> list[tuple[str, str]]:
    """Runtimes that are here and in which numbers each can compute, but for what the file was proved in.

    Not those that are programs, and build for minutes what is for this machine alone: `edgespa profile` proves them.

    Args:
        kind: The file's format.
        precision: Of the file; int8 is int8 in whatever numbers the rest is.
        proved_in: Name and version of the runtime, in float32.
    """
    flags, usual = processor_flags(), proved_in.partition(" ")[0]
    found = []
    for each in RUNTIMES:
        if each.kind == kind and each.program is None and (each.name == usual or is_there(each)):
            numbers = [PLAIN, *(each.model.others(flags) if precision != "int8" else [])]
            found += [(each.name, way) for way in numbers if (each.name, way) != (usual, PLAIN)]
    return found


def proofs_elsewhere(
    open_in: Callable[[str, str], File], ways: list[tuple[str, str]], samples: Samples, precision: str, parity: Parity
) -> tuple[Proof, ...]:
    """What each of the ways makes of the samples; one that misses its bound is told, and is no reason to stop.

    Args:
        open_in: Opens the file in a runtime and an arithmetic.
        ways: Of `ways_beside`.
        samples: What the file was proved on.
        precision: Of the file.
        parity: Its own proof, whose bound holds in float32.
    """
    found = []
    for name, arithmetic in ways:
        bound: dict[Metric, float] = dict(parity.bound)
        if precision == PLAIN and arithmetic != PLAIN:
            bound = {"component_error": HALF_ERROR}
        proof = _proof(open_in, name, arithmetic, samples, bound)
        if not proof.holds:
            where = f"{proof.runtime} ({arithmetic})"
            log.warning("%s: %s; it is not picked for this file here", where, "; ".join(proof.failures))
        found.append(proof)
    return tuple(found)


def _proof(
    open_in: Callable[[str, str], File], name: str, arithmetic: str, samples: Samples, bound: dict[Metric, float]
) -> Proof:
    machine = platform.machine()
    try:
        file = open_in(name, arithmetic)
        _, metrics, failures = file.judged(samples, bound)
    except (ExportError, runner.RunnerError) as error:
        said = str(error)[:1000]
        return Proof(runtime=name, arithmetic=arithmetic, machine=machine, holds=False, failures=(said,))
    return Proof(
        runtime=file.runtime,
        arithmetic=file.arithmetic,
        machine=machine,
        holds=not failures,
        failures=tuple(each[:1000] for each in failures[:32]),
        count=samples.count,
        bound=bound,
        **{key: metrics[key] for key in _FIGURES if metrics["finite"] and key in metrics},
    )
