"""The best smaller file of a precision, tried in several ways, judged on images and timed; or why there is none."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting.config import ExportConfig
from edgespa.exporting.journal import Journal
from edgespa.exporting.parity import File
from edgespa.exporting.ranges import Observed, Range, find_ranges
from edgespa.exporting.samples import Samples
from edgespa.exporting.sensitivity import Choice, choose, rank
from edgespa.system.quiet import first_line

log = logging.getLogger(__name__)

RANK_IMAGES = 8
TIMED_RUNS, WARM_UPS = 15, 2
LEAST_EXCESS_MS = 0.1
"""Below it, slower is the cost of a call: the network is too small for int8 to show."""
# The proof is on other images than those that a file is chosen by: some of the tolerance is kept for it.
_SHARE = 0.85
# A file with a few layers in int8 that is as large as float32 costs conversions and gains nothing.
_MOST_IN_FLOAT, _LEAST_GAIN = 0.75, 0.95

Open = Callable[[Path], File]
Tried = Callable[[int, int], None]


def _nobody(done: int, total: int) -> None:
    """Nobody is told."""


class Quantiser(Protocol):
    """What `OnnxQuantiser` and `TfliteQuantiser` have in common."""

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def alike(self) -> tuple[tuple[str, ...], ...]: ...  # noqa: D102
    @property
    def joins(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def float_layers(self) -> tuple[str, ...]: ...  # noqa: D102

    unfit: dict[str, str]
    weight_ways: tuple[str, ...]
    rest_ways: tuple[str, ...]
    stores_terms: bool

    def observe(self, feeds: Sequence[Sequence[Any]]) -> dict[str, Observed]: ...  # noqa: D102
    def write_static(  # noqa: D102
        self,
        path: Path,
        ranges: dict[str, Range],
        *,
        only: Any = (),
        without: Any = (),
        joined: bool = False,
        rest: str | None = None,
        terms: bool = False,
    ) -> None: ...
    def write_weights(self, path: Path, way: str) -> None: ...  # noqa: D102
    def write_half(self, path: Path) -> None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Made:
    """A smaller file.

    Attributes:
        how: How it was made, for the manifest.
        float_layers: Layers that stay in float.
        time_ratio: Its CPU time of one inference against the fp32 file's, one thread, on this machine.
    """

    how: str | None = None
    float_layers: tuple[str, ...] = ()
    time_ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a smaller file loses in a measure, where that is what it is chosen by.

    Attributes:
        of: Measures a file: how much worse it is than the program, in the measure's units.
        most: It may lose so much.
        title: Of the measure, in words.
    """

    of: Callable[[File], float]
    most: float
    title: str


class NotUseful(Exception):
    """There is no such file that is worth shipping; the message says why, with figures."""


def make(
    precision: str,
    quantiser: Quantiser,
    plain: Path,
    path: Path,
    feeds: Sequence[Sequence[Any]],
    judge: Samples | None,
    open_file: Open,
    config: ExportConfig,
    journal: Journal | None = None,
    loss: Loss | None = None,
    tried: Tried = _nobody,
) -> Made:
    """Write the best file of a precision.

    Args:
        precision: ``fp16``, ``int8`` or ``int8-weights``.
        quantiser: Of the fp32 file.
        plain: The fp32 file.
        path: The file to write.
        feeds: Calibration inputs in the file's layout, for int8.
        judge: Calibration images and the program's outputs; the proof's samples if there are none. None for fp16.
        open_file: Loads a file.
        config: Tolerance, methods, slowdown.
        journal: Of what was measured on the way before, with the same file, calibration, judge and loss.
        loss: In place of the tolerance.
        tried: Told ``(done, total)`` where layers are tried one after the other, which takes long.

    Raises:
        NotUseful: If the precision cannot be had within the tolerance, or not without being slower; or a file that is
            there to be smaller (``fp16``, ``int8-weights``) is not.
        ExportError: If the quantiser fails.
    """
    try:
        if precision == "fp16":
            quantiser.write_half(path)
            return _smaller(Made(), path, plain)
        if not quantiser.layers:
            raise NotUseful("it has no layer with weights that int8 is made for")
        assert judge is not None
        search = _Search(quantiser, plain, path, judge, open_file, config, journal, loss, tried)
        return search.static(feeds) if precision == "int8" else _smaller(search.weights(), path, plain)
    except (EdgespaError, NotUseful):
        raise
    except Exception as error:
        raise ExportError(
            f"{path.name} cannot be made from the fp32 file: {first_line(error)}",
            f"leave out --precision {precision}, or run again with --debug for the quantiser's own words",
        ) from error


def _smaller(made: Made, path: Path, plain: Path) -> Made:
    ours, theirs = path.stat().st_size, plain.stat().st_size
    if ours >= theirs:
        raise NotUseful(f"it is not smaller than fp32: {ours:,} bytes instead of {theirs:,}; its layers are too small")
    return made


class _Search:
    """Files are written to one place beside the target, which gets the best."""

    def __init__(
        self,
        quantiser: Quantiser,
        plain: Path,
        path: Path,
        judge: Samples,
        open_file: Open,
        config: ExportConfig,
        journal: Journal | None = None,
        loss: Loss | None = None,
        tried: Tried = _nobody,
    ) -> None:
        self._tell = tried
        self._quantiser = quantiser
        self._plain = plain
        self._path = path
        self._trial = path.with_name(f"trial-{path.name}")
        self._judge = judge
        self._open = open_file
        self._config = config
        self._journal = journal or Journal(None)
        self._loss = loss
        self._most = loss.most if loss is not None else _SHARE * config.int8_tolerance

    @property
    def _count(self) -> int:
        return len(self._quantiser.layers) + len(self._quantiser.float_layers)

    def static(self, feeds: Sequence[Sequence[Any]]) -> Made:
        """The method whose ranges come nearest; then, if that is not near enough, layers in float."""
        observed = self._quantiser.observe(feeds)
        if not self._quantiser.layers:
            raise NotUseful(f"no layer can be in int8: {'; '.join(self._quantiser.unfit.values())}")
        found = {method: find_ranges(observed, method) for method in self._config.methods}
        errors = {method: self._error(method, ranges) for method, ranges in found.items()}
        method = min(errors, key=errors.__getitem__)
        choice = Choice((), self._off(method, found[method]), 0)
        if not choice.error <= self._most:
            choice = self._with_float(method, found[method], choice.error)
        self._quantiser.write_static(self._path, found[method], without=choice.float_layers)
        in_float = (*self._quantiser.float_layers, *choice.float_layers)
        self._improve(found[method], in_float)
        ours, theirs = self._path.stat().st_size, self._plain.stat().st_size
        if len(in_float) > _MOST_IN_FLOAT * self._count and ours > _LEAST_GAIN * theirs:
            raise NotUseful(
                f"{len(in_float)} of {self._count} layers would have to stay in float: {ours:,} bytes instead of "
                f"{theirs:,}; with all in int8 {self._words(self._off(method, found[method]))}"
            )
        ratio, words = self._time(self._path)
        expected = self._config.int8_ratio
        if expected is not None:
            words = f"about {expected:.2f} of its time on the device"
        most = self._config.int8_slowdown
        if most is not None and (expected or ratio) > most:
            kept = f"{len(in_float)} of {self._count} layers in float"
            what = "slower than fp32" if (expected or ratio) > 1 else f"not at {most:g} of fp32's time"
            error = "error" if self._loss is None else f"loss of {self._loss.title}"
            raise NotUseful(f"it is {what}: {words}, {error} {choice.error:.3g}, {kept}")
        return Made(method, in_float, round(ratio, 3))

    def weights(self) -> Made:
        """The first way within the tolerance."""
        errors = {}
        for way in self._quantiser.weight_ways:
            self._quantiser.write_weights(self._path, way)
            errors[way] = self._misses(self._path)
            if errors[way] <= self._most:
                return Made(way, (), round(self._time(self._path)[0], 3))
        words = ", ".join(f"{way} {error:.3g}" for way, error in errors.items())
        above = f"the error of a component is above {self._most:.3g} of its spread"
        if self._loss is not None:
            above = f"it loses more than {self._most:.3g} of {self._loss.title}"
        raise NotUseful(f"{above}: {words}")

    def _improve(self, ranges: dict[str, Range], float_layers: tuple[str, ...]) -> None:
        """Smaller weights for the layers that stay in float, int8 for what lies between the others, smaller constants.

        Decided without a clock: the same command gives the same bytes, on a busy machine as on any other.
        """
        how: dict[str, Any] = {}
        for way in self._quantiser.rest_ways if float_layers else ():
            if self._serves(ranges, float_layers, {"rest": way}, smaller=True):
                how = {"rest": way}
                break
        # Between layers in float it is one conversion more on either side: MobileNetV3 took 1.4 times as long.
        if self._quantiser.joins and 2 * len(float_layers) <= self._count:
            joined = {**how, "joined": True}
            how = joined if self._serves(ranges, float_layers, joined, smaller=False) else how
        if self._quantiser.stores_terms:
            self._serves(ranges, float_layers, {**how, "terms": True}, smaller=True)

    def _serves(
        self, ranges: dict[str, Range], float_layers: tuple[str, ...], how: Mapping[str, Any], *, smaller: bool
    ) -> bool:
        """Keep a file that is near enough, and smaller if it has to be."""
        good = False
        try:
            self._quantiser.write_static(self._trial, ranges, without=float_layers, **how)
            if not smaller or self._trial.stat().st_size < self._path.stat().st_size:
                good = self._misses(self._trial) <= self._most
        except Exception as error:  # whatever quantiser or runtime make of it: there is a file without
            log.debug("%s: %s", how, error)
        if good:
            self._trial.replace(self._path)
        self._trial.unlink(missing_ok=True)
        return good

    def _with_float(self, method: str, ranges: dict[str, Range], plain_error: float) -> Choice:
        few = self._judge.part(slice(RANK_IMAGES))
        alike = {layers[0]: layers for layers in self._quantiser.alike}

        def alone(first: str) -> float:
            self._tell(list(alike).index(first), len(alike))
            return self._journal.error(f"{method}, {first} alone", lambda: self._tried(few, ranges, only=alike[first]))

        def all_of(firsts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(layer for first in firsts for layer in alike[first])

        harm = rank(tuple(alike), alone)
        budget = None
        if self._loss is not None:  # as harm adds up, so does what is lost
            budget = sum(harm.values()) * (self._most / plain_error if math.isfinite(plain_error) else 0.0)
        choice = choose(
            harm, lambda firsts: self._off(method, ranges, all_of(firsts)), self._most, least=1, budget=budget
        )
        if choice is None:
            raise NotUseful(
                f"{self._words(plain_error)}, and more than {self._most:.3g} with any number of layers in float"
            )
        return dataclasses.replace(choice, float_layers=all_of(choice.float_layers))

    def _words(self, off: float) -> str:
        if self._loss is not None:
            return f"it loses {off:.3g} of {self._loss.title}"
        return f"the error of a component is {off:.3g} of its spread"

    def _misses(self, path: Path) -> float:
        """How far a file is off, by what is asked for."""
        file = self._open(path)
        return file.error(self._judge) if self._loss is None else self._loss.of(file)

    def _off(self, method: str, ranges: dict[str, Range], without: tuple[str, ...] = ()) -> float:
        """The same of a file with some layers in float."""
        if self._loss is None:
            return self._error(method, ranges, without)
        what = f"{method}, without {sorted(without)}, loss"
        return self._journal.error(what, lambda: self._written(self._misses, ranges, without=without))

    def _error(self, method: str, ranges: dict[str, Range], without: tuple[str, ...] = ()) -> float:
        what = f"{method}, without {sorted(without)}"
        return self._journal.error(what, lambda: self._tried(self._judge, ranges, without=without))

    def _tried(self, judge: Samples, ranges: dict[str, Range], **layers: Any) -> float:
        return self._written(lambda path: self._open(path).error(judge), ranges, **layers)

    def _written(self, measure: Callable[[Path], float], ranges: dict[str, Range], **layers: Any) -> float:
        try:
            self._quantiser.write_static(self._trial, ranges, **layers)
            return measure(self._trial)
        finally:
            self._trial.unlink(missing_ok=True)

    def _time(self, path: Path) -> tuple[float, str]:
        """CPU time of one inference against the fp32 file; 1 where there is little difference."""
        smaller, plain = self._open(path), self._open(self._plain)
        inputs = [array[:1] for array in self._judge.inputs]
        ours, theirs = interleaved_ms(lambda: smaller(inputs), lambda: plain(inputs))
        words = f"{ours:.2f} ms of CPU time instead of {theirs:.2f}"
        return (ours / theirs if abs(ours - theirs) > LEAST_EXCESS_MS else min(1.0, ours / theirs)), words


def interleaved_ms(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Medians of the CPU time of two functions, run in turns so that both meet the same machine.

    Args:
        first: One.
        second: The other.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(WARM_UPS + TIMED_RUNS):
        for function, kept in zip((first, second), times, strict=True):
            began = time.process_time_ns()
            function()
            if run >= WARM_UPS:
                kept.append((time.process_time_ns() - began) / 1e6)
    return statistics.median(times[0]), max(statistics.median(times[1]), 1e-6)
