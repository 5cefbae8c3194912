"""How well a program does on a data set, by the measures of an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from edgespa.data import Prepared
from edgespa.data.inputs import Inputs, arguments, moved, samples_in
from edgespa.distributed.processes import ALONE, Processes
from edgespa.errors import ConfigError, DataError, EdgespaError
from edgespa.graph.program import Program
from edgespa.models.detectors import Detector
from edgespa.models.interface import output_shapes
from edgespa.objectives.base import Objective, on_device
from edgespa.objectives.kinds import objective_named
from edgespa.objectives.measures import Measure

BATCH_SIZE = 250
_FEW = 8
MOST_BYTES = 1 << 28
"""Of the outputs of a batch."""
Progress = Callable[[float, float | None, str], None]
Watch = Callable[[Any, Any], None]
"""Told the answers of a batch, from `Objective.take`, and what is right; batches come in the order of the data."""


@dataclass(frozen=True)
class Evaluation:
    """What an objective measured on all of some data.

    Attributes:
        measures: What was measured, the one that decides first.
        values: Their values.
        blind: The first one's value for the best answers that do not depend on the input; None where nobody knows.
        count: Of how many samples.
    """

    measures: tuple[Measure, ...]
    values: tuple[float, ...]
    blind: float | None
    count: int

    @property
    def value(self) -> float:
        """Of the measure that decides."""
        return self.values[0]

    def named(self, prefix: str, suffix: str = "") -> Mapping[str, float]:
        """All values by name, such as ``test_accuracy``."""
        return {
            f"{prefix}_{measure.name}{suffix}": value for measure, value in zip(self.measures, self.values, strict=True)
        }


def objective_for(data: Prepared, detector: Detector | None = None) -> Objective:
    """The objective that comes with edgespa and is made for a kind of data.

    Args:
        data: The data.
        detector: What there is to know of the network, if it is a detector.

    Raises:
        ConfigError: The data are for an objective of the user's own.
    """
    return objective_named(data.kind).bound(detector)


class Tally:
    """What an objective measures, put together from batches and processes.

    Args:
        objective: Whose measures.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._parts: list[Tensor] = []
        self._samples = 0

    def add(self, own: Tensor, samples: int) -> None:
        """What a batch adds.

        Args:
            own: From `Objective.sums`.
            samples: Of how many it is.
        """
        own = own.cpu()
        if self._objective.gathers:
            shift = torch.zeros(own.shape[1], dtype=own.dtype)
            shift[0] = self._samples
            self._parts.append(own + shift)
        else:
            self._parts = [self._parts[0] + own if self._parts else own]
        self._samples += samples

    def whole(self, processes: Processes = ALONE) -> Tensor:
        """Of all batches of all processes.

        Args:
            processes: Each has added its own; the main one has samples whenever there are any, others may have none.
        """
        width = int(processes.from_main(torch.tensor(self._parts[0].shape[-1] if self._parts else 0)))
        if not self._objective.gathers:
            own = self._parts[0] if self._parts else torch.zeros(width, dtype=torch.float64)
            return torch.tensor(processes.totals(own.tolist()), dtype=torch.float64)
        rows = torch.cat([torch.zeros((0, width), dtype=torch.float64), *self._parts])
        mine = [0.0] * processes.count
        mine[processes.index] = float(self._samples)
        samples = [int(count) for count in processes.totals(mine)]
        mine[processes.index] = float(len(rows))
        counts = [int(count) for count in processes.totals(mine)]
        everything = torch.zeros((sum(counts), width), dtype=torch.float64)  # zeros where the rows of others are
        first = sum(counts[: processes.index])
        everything[first : first + len(rows)] = rows
        everything[first : first + len(rows), :1] += sum(samples[: processes.index])
        return processes.total(everything)


def batch_size(program: object, most: int = BATCH_SIZE) -> int:
    """How many samples at a time give outputs of no more than `MOST_BYTES`.

    Args:
        program: Of a `Program` the outputs are known; of others nothing is.
        most: However small they are.
    """
    if not isinstance(program, Program):
        return most
    sizes = [math.prod(size or 1 for size in shape) for shape in output_shapes(program)]
    return max(1, min(most, MOST_BYTES // max(4 * sum(sizes), 1)))


@torch.no_grad()
def evaluate(
    run: Callable[..., Any],
    data: Prepared,
    objective: Objective | None = None,
    *,
    batch: int = BATCH_SIZE,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    watch: Watch | None = None,
) -> Evaluation:
    """Run all of some data through a program and measure.

    Args:
        run: Gives what the program gives, for inputs ``[N, C, H, W]``, or for several inputs.
        data: What is right is known of each sample.
        objective: Whose measures; that of the data's kind where nothing is said.
        batch: Samples at a time; the results do not depend on it.
        progress: Told ``(done, total, text)`` in batches.
        processes: Each takes its part of every batch, on its device.
        watch: Sees each batch, for figures of classes and samples.

    Raises:
        DataError: If the data are empty or nothing is known of them, or the outputs are no answers, or no numbers.
    """
    objective = objective or objective_for(data)
    total = data.num_batches(batch)
    if not total:
        raise DataError("no images to evaluate on", "give a data set with at least one image")
    require_answered(data, objective)
    tally = Tally(objective)
    for index, (inputs, targets) in enumerate(_batches(data, batch, processes)):
        tally.add(sums_of(run(*arguments(inputs)), targets, data, objective, watch), samples_in(inputs))
        if progress:
            progress(index + 1, total, "evaluate")
    whole = tally.whole(processes)
    table = data.targets.table
    return Evaluation(objective.measures, objective.values(whole, table), objective.blind(whole, table), len(data))


def accuracy(program: Callable[[Tensor], Any], data: Prepared, *, batch_size: int = BATCH_SIZE) -> float:
    """Top-1 accuracy, in [0, 1].

    Args:
        program: Gives logits ``[N, classes]`` for inputs ``[N, C, H, W]``.
        data: Labelled data.
        batch_size: Samples at a time.

    Raises:
        DataError: If the data are empty, or have no classes, or the outputs are no logits of theirs.
    """
    if data.kind != "classes":
        raise DataError(f"{data.name} has no classes to compare with", "give labelled data")
    return evaluate(program, data, batch=batch_size).value


@torch.no_grad()
def require_answers(program: Program, data: Prepared, objective: Objective | None = None) -> None:
    """Refuse a program whose outputs are no answers to the data, before anything long begins.

    Args:
        program: In evaluation form.
        data: That it is to be trained or measured on.
        objective: What is learned; that of the data's kind where nothing is said.

    Raises:
        DataError: It says what the program gives; also if it tells apart more classes than the data have.
    """
    (objective or objective_for(data)).take(program(*program.example_inputs()), data, own=True)


@torch.no_grad()
def require_measures(program: Program, data: Prepared, objective: Objective) -> None:
    """Refuse an objective whose measures do not come out, on a few samples, before anything long begins.

    Args:
        program: In evaluation form.
        data: That it is to be measured on.
        objective: What is learned.

    Raises:
        ConfigError: It says what it gives instead.
        DataError: If the outputs are no answers, or no numbers.
    """
    inputs, targets = next(iter(data.batches(min(_FEW, len(data)))))
    try:
        sums: Any = sums_of(program(*arguments(inputs)), targets, data, objective)
        dims = 1 + objective.gathers
        if not isinstance(sums, Tensor) or sums.dim() != dims or sums.dtype != torch.float64:
            found = f"{sums.dtype} {list(sums.shape)}" if isinstance(sums, Tensor) else type(sums).__name__
            raise ConfigError(
                f"sums of the objective {objective.name} gives {found}",
                f"give float64 {'[n]' if dims == 1 else '[rows, n]'}: .double()",
            )
        table = data.targets.table
        tally = Tally(objective)
        tally.add(sums, samples_in(inputs))
        values: Any = objective.values(tally.whole(), None if table is None else table[: samples_in(inputs)])
    except ZeroDivisionError:  # of a few samples there may be none of a kind
        return
    except EdgespaError:
        raise
    except Exception as error:  # code of the user's
        raise ConfigError(
            f"the objective {objective.name} cannot measure {data.name}: {type(error).__name__}: {error}",
            "correct its sums and values: they are called after each epoch",
        ) from error
    if not isinstance(values, tuple | list) or len(values) != len(objective.measures):
        given = f"{len(values)} values" if isinstance(values, tuple | list) else f"a {type(values).__name__}"
        raise ConfigError(
            f"the objective {objective.name} has {len(objective.measures)} measures, and its values gives {given}",
            "give a number for each measure, in their order",
        )


def sums_of(output: Any, targets: Any, data: Prepared, objective: Objective, watch: Watch | None = None) -> Tensor:
    """What a batch adds to the measures.

    Args:
        output: What a program gives for it.
        targets: What is right.
        data: What it is a batch of.
        objective: Whose measures.
        watch: Told the answers too.

    Raises:
        DataError: If the output is no answer, or no number.
    """
    outputs = objective.take(output, data)
    if any(bool(torch.isnan(each).any()) for each in _pytree.tree_leaves(outputs) if isinstance(each, Tensor)):
        raise DataError(
            f"the network's outputs on {data.name} are not numbers",
            "check its weights, and --mean and --std; where it was trained just now, train with a lower --lr",
        )
    if watch is not None:
        watch(outputs, targets)
    return objective.sums(outputs, targets)


def require_answered(data: Prepared, objective: Objective) -> None:
    """Refuse data of which it is not known what is right.

    Raises:
        DataError: With the name of the data.
    """
    if (objective.answers != "none" or objective.of_base) and not data.answered:
        raise DataError(f"{data.name} has no classes to compare with", "give labelled data")


def _batches(data: Prepared, size: int, processes: Processes) -> Iterator[tuple[Inputs, Any]]:
    for inputs, targets in data.batches(size, shuffle_seed=None, part=processes.part):
        if samples_in(inputs):  # the last batch may be smaller than the number of processes
            yield moved(inputs, processes.device), on_device(targets, processes.device)
