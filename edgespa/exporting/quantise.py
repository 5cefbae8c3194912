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

import numpy as np
from numpy.typing import NDArray

from edgespa.bundle import INT8_STEPS
from edgespa.errors import EdgespaError, ExportError
from edgespa.exporting.config import ExportConfig
from edgespa.exporting.converter import size_of
from edgespa.exporting.corrections import Correction
from edgespa.exporting.journal import Journal
from edgespa.exporting.parity import File
from edgespa.exporting.samples import Samples
from edgespa.exporting.trained import TRAINED
from edgespa.quantisation.ranges import Observed, Range, find_ranges
from edgespa.quantisation.sensitivity import Choice, choose, rank
from edgespa.system.quiet import first_line

log = logging.getLogger(__name__)

RANK_IMAGES = 8
_BESIDE_TRAINED = "minmax"
TIMED_RUNS, WARM_UPS = 15, 2
LEAST_EXCESS_MS = 0.1
"""Below it, slower is the cost of a call: the network is too small for int8 to show."""
# The proof is on other images than those that a file is chosen by: some of the tolerance is kept for it.
_SHARE = 0.85
# A file with a few layers in int8 that is as large as float32 costs conversions and gains nothing.
_MOST_IN_FLOAT, _LEAST_GAIN = 0.75, 0.95

Open = Callable[[Path], File]
Tried = Callable[[int, int, str], None]
Correct = Callable[[Mapping[str, NDArray[np.float32]], str, Callable[[int, int], None]], dict[str, Correction]]
"""From the weights of layers and the way of finding ranges; told how far it is."""


def _nobody(done: int, total: int, text: str) -> None:
    """Nobody is told."""


def _nothing(*_: Any) -> dict[str, Correction]:
    """No layer is corrected."""
    return {}


def _no_ranges() -> Mapping[str, Range]:
    """No range is given."""
    return {}


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
    whole: bool

    def observe(self, feeds: Sequence[Sequence[Any]]) -> dict[str, Observed]: ...  # noqa: D102
    def weights(self) -> dict[str, NDArray[np.float32]]: ...  # noqa: D102
    def around(self, layer: str) -> tuple[str, str]: ...  # noqa: D102
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
        corrections: Mapping[str, Correction] = ...,
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
        errors: Of int8 with all layers in it, by what was done: each way of finding ranges with every weight to its
            nearest level; then, with the nearest of those, what `edgespa.quantisation` does besides.
    """

    how: str | None = None
    float_layers: tuple[str, ...] = ()
    time_ratio: float | None = None
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)


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
    judge: Samples,
    open_file: Open,
    config: ExportConfig,
    journal: Journal | None = None,
    loss: Loss | None = None,
    tried: Tried = _nobody,
    correct: Correct = _nothing,
    trained: Callable[[], Mapping[str, Range]] = _no_ranges,
) -> Made:
    """Write the best file of a precision.

    Args:
        precision: ``fp16``, ``int8`` or ``int8-weights``.
        quantiser: Of the fp32 file.
        plain: The fp32 file.
        path: The file to write.
        feeds: Calibration inputs in the file's layout, for int8.
        judge: Calibration images and the program's outputs; the proof's samples if there are none.
        open_file: Loads a file.
        config: Tolerance, methods, slowdown.
        journal: Of what was measured on the way before, with the same file, calibration, judge and loss.
        loss: In place of the tolerance.
        tried: Told ``(done, total, text)`` where layers are tried one after the other, which takes long.
        correct: Gives rounded weights and moved biases.
        trained: Gives the ranges that the weights were trained with, by activation: then weights go to their nearest
            levels, as they did there; what has none gets it from calibration images.

    Raises:
        NotUseful: If the precision cannot be had within the tolerance, or not without being slower; or a file that is
            there to be smaller (``fp16``, ``int8-weights``) is not.
        ExportError: If the quantiser fails.
    """
    try:
        if precision == "fp16":
            quantiser.write_half(path)
        elif not quantiser.layers:
            raise NotUseful("it has no layer with weights that int8 is made for")
        search = _Search(quantiser, plain, path, judge, open_file, config, journal, loss, tried, correct, trained)
        if precision == "int8":
            return search.static(feeds)
        return _smaller(search.half() if precision == "fp16" else search.weights(), path, plain)
    except (EdgespaError, NotUseful):
        raise
    except Exception as error:
        raise ExportError(
            f"{path.name} cannot be made from the fp32 file: {first_line(error)}",
            f"leave out --precision {precision}, or run again with --debug for the quantiser's own words",
        ) from error


def _smaller(made: Made, path: Path, plain: Path) -> Made:
    ours, theirs = size_of(path), size_of(plain)
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
        correct: Correct = _nothing,
        trained: Callable[[], Mapping[str, Range]] = _no_ranges,
    ) -> None:
        self._trained = trained
        self._tell, self._correct = tried, correct
        self._corrections: dict[str, Correction] = {}
        self._corrected = ""
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
        trained = self._trained()
        if trained:
            found = {TRAINED: {**find_ranges(observed, _BESIDE_TRAINED), **trained}}
        else:
            found = {method: find_ranges(observed, method) for method in self._config.methods}
        errors = {method: self._error(method, ranges) for method, ranges in found.items()}
        method = min(errors, key=errors.__getitem__)
        if not trained:  # else the weights have learned to be right at their nearest levels
            self._improve_layers(method, found[method], errors)
        choice = Choice((), self._off(method, found[method]), 0)
        if not choice.error <= self._most and self._quantiser.whole:
            raise NotUseful(f"{self._words(choice.error)}, and a file that is in int8 as a whole has no layer in float")
        if not choice.error <= self._most:
            choice = self._with_float(method, found[method], choice.error)
        self._write(self._path, found[method], without=choice.float_layers)
        in_float = (*self._quantiser.float_layers, *choice.float_layers)
        self._improve(found[method], in_float)
        ours, theirs = self._path.stat().st_size, self._plain.stat().st_size
        if len(in_float) > _MOST_IN_FLOAT * self._count and ours > _LEAST_GAIN * theirs:
            raise NotUseful(
                f"{len(in_float)} of {self._count} layers would have to stay in float: {ours:,} bytes instead of "
                f"{theirs:,}; with all in int8 {self._words(self._off(method, found[method]))}"
            )
        error = "error" if self._loss is None else f"loss of {self._loss.title}"
        kept = f", {error} {choice.error:.3g}, {len(in_float)} of {self._count} layers in float"
        ratio = self._fast_enough(self._config.int8_ratio, kept)
        known = {each: round(error, 6) for each, error in errors.items() if math.isfinite(error)}
        return Made(method, in_float, ratio, known)

    def half(self) -> Made:
        """What is written already."""
        return Made(time_ratio=self._fast_enough(None, judged=not self._config.half_for_gpu))

    def _fast_enough(self, expected: float | None, more: str = "", *, judged: bool = True) -> float:
        """Its time against float32 on this machine.

        Raises:
            NotUseful: It takes longer than is allowed, where it is for, as far as that is known, else here.
        """
        ratio, words = self._time(self._path)
        if expected is not None:
            words = f"about {expected:.2f} of its time on the device"
        most = self._config.int8_slowdown
        if judged and most is not None and (expected or ratio) > most:
            what = "slower than fp32" if (expected or ratio) > 1 else f"not at {most:g} of fp32's time"
            raise NotUseful(f"it is {what}: {words}{more}")
        return round(ratio, 3)

    def _improve_layers(self, method: str, ranges: dict[str, Range], errors: dict[str, float]) -> None:
        """Rounded weights, and moved biases too, if the outputs come nearer by them."""

        def told(done: int, total: int) -> None:
            self._tell(done, total, f"round the weights of layer {done} of {total}")

        moved = self._correct(self._quantiser.weights(), method, told)
        if not moved:
            return
        rounded = {name: each.without_shift() for name, each in moved.items()}
        best = errors[method]
        for what, corrections in zip(INT8_STEPS, (rounded, moved), strict=True):
            before = self._corrections, self._corrected
            self._corrections, self._corrected = corrections, f", {what}"
            errors[what] = self._error(method, ranges)
            if errors[what] < best:
                best = errors[what]
            else:
                self._corrections, self._corrected = before

    def _write(self, path: Path, ranges: dict[str, Range], **how: Any) -> None:
        corrections = self._corrections
        if how.get("only"):  # biases make up for what the layers before have lost, too
            corrections = {name: each.without_shift() for name, each in corrections.items()}
        self._quantiser.write_static(path, ranges, corrections=corrections, **how)

    def weights(self) -> Made:
        """The first way within the tolerance."""
        errors = {}
        for way in self._quantiser.weight_ways:
            self._quantiser.write_weights(self._path, way)
            errors[way] = self._misses(self._path)
            if errors[way] <= self._most:
                return Made(way, (), self._fast_enough(None))
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
            self._write(self._trial, ranges, without=float_layers, **how)
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
            at, count = list(alike).index(first), len(alike)
            self._tell(at, count, f"which layers stay in float, {at} of {count}")
            what = f"{method}{self._corrected}, {first} alone"
            return self._journal.error(what, lambda: self._tried(few, ranges, only=alike[first]))

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
        what = f"{method}{self._corrected}, without {sorted(without)}, loss"
        return self._journal.error(what, lambda: self._written(self._misses, ranges, without=without))

    def _error(self, method: str, ranges: dict[str, Range], without: tuple[str, ...] = ()) -> float:
        what = f"{method}{self._corrected}, without {sorted(without)}"
        return self._journal.error(what, lambda: self._tried(self._judge, ranges, without=without))

    def _tried(self, judge: Samples, ranges: dict[str, Range], **layers: Any) -> float:
        return self._written(lambda path: self._open(path).error(judge), ranges, **layers)

    def _written(self, measure: Callable[[Path], float], ranges: dict[str, Range], **layers: Any) -> float:
        try:
            self._write(self._trial, ranges, **layers)
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
