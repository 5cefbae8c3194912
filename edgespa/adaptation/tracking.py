"""What a training tells trackers of others, TensorBoard and MLflow: figures by step, as the training log has them.

A tracker must not cost the training. What it does not take (a full disk, a server that went away) is kept and offered
again, ever more seldom; it is told once, and once more in the end if something is still missing. Only what is wrong at
the beginning is an error, before anything long is done.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from edgespa.errors import ConfigError, MissingExtraError
from edgespa.system.quiet import first_line
from edgespa.tasks.unfinished import SUFFIX

log = logging.getLogger(__name__)

FACT = "tracked"
"""Under which the state of a training has where it is tracked."""
FIRST_PAUSE_S = 30.0
"""After a failure; each further one doubles it."""
_MOST_PAUSE_S = 1800.0
_MOST_WAITING = 100_000
_TAGS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "validation": "validation/{measure}",
    "density": "network/density",
    "parameters": "network/parameters",
    "macs": "network/macs",
    "seconds": "time/epoch_seconds",
    "cpu_seconds": "time/epoch_cpu_seconds",
}
_PASSWORD = re.compile(r"//[^/\s@]*@")
FINISHED, FAILED, LEFT = "FINISHED", "FAILED", "KILLED"
_PART: ContextVar[str | None] = ContextVar("part", default=None)
"""The name of what is trained as a part of longer work."""


class Row(NamedTuple):
    """Figures at a training step.

    Attributes:
        step: Training steps that are behind.
        at: Seconds since 1970.
        figures: By tag.
    """

    step: int
    at: float
    figures: Mapping[str, float]


class Sink(Protocol):
    """A tracker. Anything that it raises is caught.

    Attributes:
        option: That asks for it.
        place: Where it writes, as it can be shown: without a password.
    """

    option: str
    place: str

    def reach(self) -> None:
        """See whether anything can be written there, without a run."""

    def begin(self, name: str, config: Mapping[str, Any], resumed: str | None, step: int) -> str:
        """Open a run.

        Args:
            name: Of the task.
            config: Of the training, as plain values.
            resumed: The run that is gone on with, as `begin` named it; None for a new one.
            step: From which on it goes on; what the run has beyond it comes again.

        Returns:
            The run, for going on with it.
        """

    def add(self, rows: Sequence[Row]) -> None:
        """Write figures; all of them or, where that fails, none that a second try would double."""

    def end(self, status: str) -> None:
        """Close the run: `FINISHED`, `FAILED`, or `LEFT` to be gone on with."""


class _Patient:
    """A sink whose failures cost nothing but its figures."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._waiting: list[Row] = []
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._told = False

    def add(self, rows: Sequence[Row], *, last: bool = False) -> None:
        self._waiting += rows
        del self._waiting[:-_MOST_WAITING]
        if not self._waiting or (time.monotonic() < self._not_before and not last):
            return
        try:
            self.sink.add(self._waiting)
        except Exception as error:
            self._not_before = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
            if not self._told:
                log.warning(
                    "%s %s does not take what is told: %s; the training goes on, and it is tried again",
                    self.sink.option,
                    self.sink.place,
                    _said(error),
                )
            self._told = True
            return
        if self._told:
            log.warning("%s %s has what it did not take before", self.sink.option, self.sink.place)
        self._waiting, self._pause_s, self._told = [], FIRST_PAUSE_S, False

    def end(self, status: str) -> None:
        if self._waiting:
            self.add((), last=True)
        if self._waiting:
            log.warning("%s %s lacks the figures of %d steps", self.sink.option, self.sink.place, len(self._waiting))
        try:
            self.sink.end(status)
        except Exception as error:
            if not self._told:
                what = self.sink.option, self.sink.place, _said(error)
                log.warning("%s %s: the run could not be closed: %s", *what)


def _name_of(output: Path) -> str:
    """Of a run: what its training writes; part of longer work (``small.resume/healed-1.spa``) is named by that, too."""
    longer = output.absolute().parent
    return f"{longer.stem}-{output.stem}" if longer.suffix == SUFFIX else output.stem


@contextlib.contextmanager
def part_named(name: str) -> Iterator[None]:
    """What is trained while the block runs is a part of longer work, whose places were looked at when that began.

    A tracker that went away since then is said, and costs the part nothing but its figures.

    Args:
        name: Of its run.
    """
    token = _PART.set(name)
    try:
        yield
    finally:
        _PART.reset(token)


class Trackers:
    """Those that a training is told to; without any, nothing is done. Closes its runs as a context manager.

    Args:
        sinks: Where to.
        name: Of the task.
        part: A sink that cannot be begun with is left out.
    """

    def __init__(self, sinks: Sequence[Sink] = (), name: str = "", *, part: bool = False) -> None:
        self._sinks = list(sinks)
        self._name, self._part = name, part
        self._open: list[_Patient] = []
        self._runs: dict[str, str] = {}
        self._latest: dict[str, tuple[int, float]] = {}
        self._steps, self._measure, self._last = 1, "measure", 0

    @classmethod
    def of(cls, tensorboard: Path | None, mlflow: str | None, output: Path) -> Self:
        """The trackers that are asked for.

        Args:
            tensorboard: The folder that TensorBoard looks into.
            mlflow: The address of an MLflow server, or its store.
            output: What the training writes in the end; its name is the run's.

        Raises:
            MissingExtraError: One is not installed.
        """
        require_trackers(tensorboard, mlflow)
        sinks: list[Sink] = []
        if tensorboard is not None:
            from edgespa.adaptation.in_tensorboard import TensorBoard

            sinks.append(TensorBoard(tensorboard))
        if mlflow is not None:
            from edgespa.adaptation.in_mlflow import MLflow

            sinks.append(MLflow(mlflow))
        part = _PART.get()
        return cls(sinks, part or _name_of(output), part=part is not None)

    def reach(self) -> None:
        """See whether all of them can be written.

        Raises:
            ConfigError: One cannot.
        """
        for sink in self._sinks:
            try:
                sink.reach()
            except Exception as error:
                raise _refusal(sink, error) from error

    def begin(
        self, config: Mapping[str, Any], *, steps: int, measure: str, resumed: object = None, step: int | None = None
    ) -> dict[str, str]:
        """Open a run in each.

        Args:
            config: Of the training, as plain values.
            steps: Training steps of an epoch.
            measure: Name of what is measured on what is held out.
            resumed: Of the state that is gone on with: what `begin` gave.
            step: Training steps that are behind; None where the training begins.

        Returns:
            The runs, by option, for the state.

        Raises:
            ConfigError: One cannot be written.
        """
        self._steps, self._measure = steps, measure
        before = resumed if isinstance(resumed, Mapping) and step is not None else {}
        for sink in self._sinks:
            run = before.get(sink.option)
            try:
                known = run if isinstance(run, str) else None
                self._runs[sink.option] = sink.begin(self._name, config, known, step or 0)
            except Exception as error:
                if not self._part:
                    raise _refusal(sink, error) from error
                log.warning("%s %s: %s; %s is not told there", sink.option, sink.place, _said(error), self._name)
                continue
            self._open.append(_Patient(sink))
        return {**{str(name): run for name, run in before.items() if isinstance(run, str)}, **self._runs}

    def write(self, event: str, **values: Any) -> None:
        """What the training log says.

        Args:
            event: ``prune`` or ``epoch``.
            **values: Numbers and texts.
        """
        if not self._open:
            return
        # What is removed between two steps is first seen in the next one: the end of an epoch keeps its own figures.
        step = int(values["step"]) + 1 if event == "prune" else int(values["epoch"]) * self._steps
        self._last = max(self._last, step)
        figures = {_TAGS[key].format(measure=self._measure): value for key, value in values.items() if key in _TAGS}
        self._add(step, figures)

    def figures(self, metrics: Mapping[str, Any]) -> None:
        """What is measured of the task in the end.

        Args:
            metrics: By name.
        """
        self._add(self._last, {f"result/{name}": value for name, value in metrics.items()})

    def _add(self, step: int, figures: Mapping[str, Any]) -> None:
        numbers = {
            tag: float(value)
            for tag, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        numbers = {tag: value for tag, value in numbers.items() if self._latest.get(tag) != (step, value)}
        self._latest |= {tag: (step, value) for tag, value in numbers.items()}
        if numbers:
            for each in self._open:
                each.add([Row(step, time.time(), numbers)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = FINISHED if kind is None else FAILED if issubclass(kind, Exception) else LEFT
        while self._open:
            self._open.pop().end(status)


def _refusal(sink: Sink, error: Exception) -> ConfigError:
    hint = f"give another place, or leave out {sink.option}: the training does not need it"
    if isinstance(error, ModuleNotFoundError):  # edgespa's extra has the small MLflow, for servers
        hint = f"that kind of place needs {error.name}, which is not installed; or {hint}"
    return ConfigError(f"{sink.option} {sink.place}: {_said(error)}", hint)


def _said(error: Exception) -> str:
    """What an error says in a line, without a name and password in an address."""
    return _PASSWORD.sub("//", first_line(error))


def require_trackers(tensorboard: Path | None, mlflow: str | None) -> None:
    """Say at once what cannot be tracked, without importing anything.

    Args:
        tensorboard: The folder.
        mlflow: The address.

    Raises:
        MissingExtraError: With the extra to install.
        ConfigError: The folder cannot be one.
    """
    for wanted, package in ((tensorboard, "tensorboard"), (mlflow, "mlflow")):
        if wanted is not None and importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, package)
    if tensorboard is not None and tensorboard.exists() and not tensorboard.is_dir():
        raise ConfigError(f"--tensorboard {tensorboard} is a file", "name a folder, which TensorBoard looks into")
    if mlflow is not None and not mlflow.strip():
        raise ConfigError("--mlflow is empty", "give a server's address, http://HOST:PORT, or sqlite:///FILE.db")
