"""What is seen of answers beyond the measures of the whole: by class, what is taken for what, and the worst samples.

A `Closer` is told each batch (`edgespa.objectives.evaluate.evaluate`, ``watch``) and gives, in the end, plain values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from edgespa.data.boxes import Objects
from edgespa.findings.evaluation import OVERLAP, SURE, Column, Confusion, OfClass, Wrong
from edgespa.findings.stored import MAX_ROWS
from edgespa.objectives.average_precision import average_precisions_of_classes
from edgespa.objectives.base import Objective
from edgespa.objectives.boxes import Boxes
from edgespa.objectives.measures import ACCURACY, MAP, MAP50, MIOU
from edgespa.pixels.boxes import overlaps

PRECISION = Column(name="precision", title="precision", percent=True)
RECALL = Column(name="recall", title="recall", percent=True)
F1 = Column(name="f1", title="F1", percent=True)
IOU = Column(name="iou", title="IoU", percent=True)
ABSOLUTE = Column(name="absoluteerror", title="absolute error", rises=False)

Named = Callable[[int], str]


@dataclass(frozen=True)
class Closely:
    """What was seen of the answers to all of some data.

    Attributes:
        counted: What is counted of each class.
        columns: Figures of each class.
        by_sample: What the value of a sample is.
        classes: One for each class.
        confusions: The most frequent first.
        confusions_left_out: So many more pairs there are.
        wrong: The samples.
        wrong_count: How many are wrong in all.
    """

    counted: Literal["images", "labels", "pixels", "objects", "samples"] = "samples"
    columns: tuple[Column, ...] = ()
    by_sample: Column | None = None
    classes: tuple[OfClass, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    confusions_left_out: int = 0
    wrong: tuple[Wrong, ...] = ()
    wrong_count: int | None = None


class Closer(ABC):
    """Looks at the answers of batches, in the order of the data.

    Args:
        objective: Whose answers.
        classes: How many classes the data have.
        name: The file of a sample by its position.
        most: So many wrong samples are kept.
    """

    def __init__(self, objective: Objective, classes: int, name: Named, most: int) -> None:
        self.objective, self.classes, self.most = objective, classes, most
        self._name = name
        self._worst: list[tuple[float, Wrong]] = []
        self.seen = 0

    def __call__(self, outputs: Any, targets: Any) -> None:
        """One batch.

        Args:
            outputs: From `Objective.take`.
            targets: What is right.
        """
        self.seen += self.add(outputs, targets)

    @abstractmethod
    def add(self, outputs: Any, targets: Any) -> int:
        """One batch; it says of how many samples it is."""

    @abstractmethod
    def result(self) -> Closely:
        """Of all batches."""

    def keep(self, rank: float, index: int, **what: Any) -> None:
        """Keep a sample, unless there are enough that rank higher.

        Args:
            rank: The higher the earlier.
            index: Its position in the data.
            **what: Fields of `Wrong`.
        """
        if not self.most:
            return
        self._worst.append((rank, Wrong(file=self._name(index), index=index, **what)))
        if len(self._worst) > 4 * self.most:
            self._worst = self._ranked()

    def _ranked(self) -> list[tuple[float, Wrong]]:
        return sorted(self._worst, key=lambda each: (-each[0], each[1].index))[: self.most]

    @property
    def worst(self) -> tuple[Wrong, ...]:
        """Those that rank highest."""
        return tuple(each for _, each in self._ranked())


class CloserClasses(Closer):
    """One of several classes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pairs: Counter[tuple[int, int]] = Counter()  # a square of thousands of classes is mostly empty
        self._wrong = 0

    def add(self, outputs: Tensor, targets: Tensor) -> int:
        """See `Closer.add`."""
        shares = probabilities(outputs)
        sure, said = shares.max(1)
        self._pairs.update(zip(targets.tolist(), said.tolist(), strict=True))
        for place in (said != targets).nonzero().flatten().tolist():
            self._wrong += 1
            right, answer = int(targets[place]), int(said[place])
            self.keep(
                float(sure[place]),
                self.seen + place,
                right=right,
                said=answer if answer < self.classes else None,  # a model may know more classes than the data have
                confidence=float(sure[place]),
                confidence_right=float(shares[place, right]),
            )
        return len(targets)

    def result(self) -> Closely:
        """See `Closer.result`."""
        confusions, more = _confusions(self._pairs, self.classes)
        classes = _by_pairs(self._pairs, self.classes, precisions)
        columns = (PRECISION, RECALL, F1)
        return Closely("images", columns, None, classes, confusions, more, self.worst, self._wrong)


class CloserLabels(Closer):
    """Any of several labels."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._both, self._there, self._said = (np.zeros(self.classes, np.int64) for _ in range(3))
        self._wrong = 0

    def add(self, outputs: Tensor, targets: Tensor) -> int:
        """See `Closer.add`."""
        said, there = (outputs > 0).cpu(), (targets > 0.5).cpu()
        self._both += (said & there).sum(0).numpy()
        self._there += there.sum(0).numpy()
        self._said += said.sum(0).numpy()
        right = (said == there).double().mean(1)
        for place in (right < 1).nonzero().flatten().tolist():
            self._wrong += 1
            self.keep(1 - float(right[place]), self.seen + place, value=float(right[place]))
        return len(targets)

    def result(self) -> Closely:
        """See `Closer.result`."""
        rows = zip(self._both.tolist(), self._there.tolist(), self._said.tolist(), strict=True)
        classes = tuple(
            OfClass(index=index, count=there, said=said, both=both, figures=precisions(both, there, said))
            for index, (both, there, said) in enumerate(rows)
        )
        columns = (PRECISION, RECALL, F1)
        return Closely("labels", columns, Column.of(ACCURACY), classes, wrong=self.worst, wrong_count=self._wrong)


class CloserPixels(Closer):
    """A class for each pixel."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pairs: Counter[tuple[int, int]] = Counter()

    def add(self, outputs: Tensor, targets: Tensor) -> int:
        """See `Closer.add`."""
        for place in range(len(targets)):
            sums = self.objective.sums(outputs[place : place + 1], targets[place : place + 1])
            own = sums.cpu().numpy().astype(np.int64).reshape(self.classes, self.classes)
            if not own.any():  # nobody says what is right of any of its pixels
                continue
            rights, answers = own.nonzero()
            for pair in zip(rights.tolist(), answers.tolist(), strict=True):
                self._pairs[pair] += int(own[pair])
            value = self.objective.values(sums, None)[0]
            self.keep(1 - value, self.seen + place, value=value)
        return len(targets)

    def result(self) -> Closely:
        """See `Closer.result`."""
        confusions, more = _confusions(self._pairs, self.classes)
        classes = _by_pairs(self._pairs, self.classes, _overlap)
        columns = (IOU, PRECISION, RECALL)
        return Closely("pixels", columns, Column.of(MIOU), classes, confusions, more, self.worst)


class CloserBoxes(Closer):
    """Objects with a box each."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rows: list[NDArray[np.float64]] = []
        self._hit, self._there, self._said = (np.zeros(self.classes, np.int64) for _ in range(3))
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._wrong = 0

    def add(self, outputs: Any, targets: Sequence[Objects]) -> int:
        """See `Closer.add`."""
        rows = self.objective.sums(outputs, targets).cpu().numpy()
        for place in range(len(targets)):
            own = rows[rows[:, 0] == place]
            missed, false = self._one(own[own[:, 1] == 0], own[own[:, 1] == 1])
            if missed or false:
                self._wrong += 1
                self.keep(missed + false, self.seen + place, missed=missed, false=false)
        rows[:, 0] += self.seen
        self._rows.append(rows)
        return len(targets)

    def _one(self, there: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[int, int]:
        """How many objects of a picture are not found, and how many boxes are of none."""
        sure = found[found[:, 7] >= SURE]
        sure = sure[(-sure[:, 7]).argsort(kind="stable")]
        counts, taken = there[:, 7] == 0, np.zeros(len(there), bool)
        np.add.at(self._there, there[counts, 2].astype(int), 1)
        missed = int(counts.sum())
        others: list[NDArray[np.float64]] = []
        for box in sure:
            same = there[:, 2] == box[2]
            shared = np.where(same & ~(taken & counts), overlaps(box[3:7], there[:, 3:7]), 0.0)
            best = int(shared.argmax()) if len(shared) else -1
            if best >= 0 and shared[best] >= OVERLAP:
                taken[best] = True
                if not counts[best]:  # neither right nor wrong
                    continue
                self._hit[int(box[2])] += 1
                missed -= 1
            else:
                others.append(box)
            if 0 <= box[2] < self.classes:
                self._said[int(box[2])] += 1
        self._mistaken(there, counts & ~taken, others)
        return missed, len(others)

    def _mistaken(
        self, there: NDArray[np.float64], open_ones: NDArray[np.bool_], boxes: Sequence[NDArray[np.float64]]
    ) -> None:
        """Boxes that are on no object of their class, and on one of another that nothing has found."""
        for box in boxes:
            shared = np.where(open_ones, overlaps(box[3:7], there[:, 3:7]), 0.0)
            best = int(shared.argmax()) if len(shared) else -1
            if best >= 0 and shared[best] >= OVERLAP and 0 <= box[2] < self.classes:
                open_ones[best] = False
                self._pairs[int(there[best, 2]), int(box[2])] += 1

    def result(self) -> Closely:
        """See `Closer.result`."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 8))
        known = average_precisions_of_classes(rows)
        classes = []
        for index in range(self.classes):
            whole, half = known.get(index, (None, None))
            hit, there, said = (int(each[index]) for each in (self._hit, self._there, self._said))
            figures = {MAP.name: whole, MAP50.name: half, **precisions(hit, there, said)}
            del figures[F1.name]
            classes.append(OfClass(index=index, count=there, said=said, both=hit, figures=figures))
        columns = (
            Column(name=MAP.name, title="AP@50:95", percent=True),
            Column(name=MAP50.name, title="AP@50", percent=True),
            PRECISION,
            RECALL,
        )
        confusions, more = _confusions(self._pairs, self.classes)
        return Closely("objects", columns, None, tuple(classes), confusions, more, self.worst, self._wrong)


class CloserNumbers(Closer):
    """Numbers, of which the samples that are farthest off are told."""

    def add(self, outputs: Tensor, targets: Tensor) -> int:
        """See `Closer.add`."""
        off = (outputs.double() - targets.double().reshape(outputs.shape)).abs().flatten(1).mean(1)
        for place, value in enumerate(off.tolist()):
            self.keep(value, self.seen + place, value=value)
        return len(targets)

    def result(self) -> Closely:
        """See `Closer.result`."""
        return Closely(by_sample=ABSOLUTE, wrong=self.worst)


class CloserSamples(Closer):
    """Anything whose first measure can be taken of one sample alone."""

    _possible = True

    def add(self, outputs: Any, targets: Any) -> int:
        """See `Closer.add`."""
        count = len(_pytree.tree_leaves(targets)[0])
        for place in range(count):
            if not self._possible:
                break
            value = self._value(outputs, targets, place)
            if value is None:
                continue
            measure = self.objective.measure
            self.keep(-measure.merit(value), self.seen + place, value=value)
        return count

    def _value(self, outputs: Any, targets: Any, place: int) -> float | None:
        try:
            own, right = (
                _pytree.tree_map_only(Tensor, lambda each: each[place : place + 1], each) for each in (outputs, targets)
            )
            value = float(self.objective.values(self.objective.sums(own, right), None)[0])
        except Exception:  # an objective of the user's own need not be able to do it
            self._possible, self._worst = False, []
            return None
        return value if math.isfinite(value) else None

    def result(self) -> Closely:
        """See `Closer.result`."""
        worst = self.worst
        return Closely(by_sample=Column.of(self.objective.measure) if worst else None, wrong=worst)


_KINDS: dict[str, type[Closer]] = {
    "classes": CloserClasses,
    "multi-label": CloserLabels,
    "regression": CloserNumbers,
    "segmentation": CloserPixels,
}


def closer_for(objective: Objective, classes: int, name: Named, most: int) -> Closer:
    """Who looks closer at the answers of an objective.

    Args:
        objective: The objective.
        classes: Classes of the data.
        name: The file of a sample by its position.
        most: So many wrong samples are kept.
    """
    kind = CloserBoxes if isinstance(objective, Boxes) else _KINDS.get(objective.name, CloserSamples)
    return kind(objective, classes, name, most)


def probabilities(outputs: Tensor) -> Tensor:
    """How sure a classifier is of each class: a softmax, unless its outputs are probabilities already.

    Args:
        outputs: ``[N, classes]``.
    """
    values = outputs.double()
    sums = values.sum(1)
    if bool((values >= 0).all()) and bool((sums - 1).abs().max() < 1e-3 if len(sums) else False):
        return values
    return values.softmax(1)


def precisions(both: int, there: int, said: int) -> dict[str, float | None]:
    """Precision, recall and their harmonic mean.

    Args:
        both: How often it is said and right.
        there: How often it is right.
        said: How often it is said.
    """
    return {
        PRECISION.name: both / said if said else None,
        RECALL.name: both / there if there else None,
        F1.name: 2 * both / (there + said) if there + said else None,
    }


def _overlap(both: int, there: int, said: int) -> dict[str, float | None]:
    figures = precisions(both, there, said)
    del figures[F1.name]
    return {IOU.name: both / (there + said - both) if there + said else None, **figures}


Pairs = Mapping[tuple[int, int], int]
"""How often a class, the first, is taken for another, or for itself."""


def _by_pairs(
    pairs: Pairs, classes: int, figures: Callable[[int, int, int], dict[str, float | None]]
) -> tuple[OfClass, ...]:
    """Of each class.

    Args:
        pairs: Of classes.
        classes: How many there are; what is said beyond them is wrong.
        figures: From how often it is both, right, and said.
    """
    both, there, said = ([0] * classes for _ in range(3))
    for (right, answer), count in pairs.items():
        there[right] += count
        if answer < classes:
            said[answer] += count
        if answer == right:
            both[right] += count
    return tuple(
        OfClass(index=index, count=there[index], said=said[index], both=both[index], figures=figures(*own))
        for index, own in enumerate(zip(both, there, said, strict=True))
    )


def _confusions(pairs: Pairs, classes: int) -> tuple[tuple[Confusion, ...], int]:
    """What is taken for what, the most frequent first, and how many pairs are beyond what is kept.

    Args:
        pairs: Of classes.
        classes: How many there are; others have no name.
    """
    wrong = [pair for pair in pairs if pair[0] != pair[1] and pair[1] < classes]
    wrong.sort(key=lambda pair: (-pairs[pair], pair))
    found = tuple(Confusion(right=right, said=said, count=pairs[right, said]) for right, said in wrong[:MAX_ROWS])
    return found, max(0, len(wrong) - MAX_ROWS)
