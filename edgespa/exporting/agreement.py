"""How well files do on all the data there are: against what is right, and against what the program decides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.bundle import Agreement, Kind, Quality
from edgespa.data import Prepared
from edgespa.data.inputs import arguments
from edgespa.errors import ParityError
from edgespa.exporting.parity import File
from edgespa.exporting.running import run_program, samples_in_front
from edgespa.graph.program import Program
from edgespa.objectives.base import Objective
from edgespa.objectives.evaluate import Evaluation, batch_size, evaluate
from edgespa.objectives.measures import MEASURES

Array = NDArray[Any]
Progress = Callable[[float, float | None, str], None]

CALIBRATION_IMAGES = 1000
"""Most images of a calibration set, which may be that of a training."""
PROGRAM = "the program"
_BATCH = 100
_WHAT: dict[str, Literal["signs", "top class of a pixel"]] = {
    "multi-label": "signs",
    "segmentation": "top class of a pixel",
}


class Judge:
    """What the program says of the evaluation data, or else of calibration images.

    Args:
        program: With plain outputs.
        evaluation: Images of which it is known what is right; all are taken.
        calibration: Other images; of more than a thousand, a thousand.
        learns: What the first output is.
        decides: Whether its largest column is a decision: of scores in falling order it is the first whatever they are.
        whole: From its output tensors to what it gave before its outputs were made plain: for the measures.
        objective: Whose measures; None for that of the data's kind.

    Attributes:
        accuracy: Of the program; None without evaluation data.
    """

    def __init__(
        self,
        program: Program,
        evaluation: Prepared | None,
        calibration: Prepared | None,
        learns: Kind,
        decides: bool = True,
        whole: Callable[[list[Tensor]], Any] = lambda tensors: tensors,
        objective: Objective | None = None,
    ) -> None:
        self._program = program
        self._evaluation, self._calibration, self._learns, self._decides = evaluation, calibration, learns, decides
        self._whole = whole
        self._objective = objective
        self._batch = batch_size(program, _BATCH)
        self._wanted: Array | None = None
        self._said = hashlib.sha256()
        self.accuracy, self._wanted = self._judge(lambda inputs: run_program(program, inputs), PROGRAM, None)

    def of(self, file: File, progress: Progress | None = None) -> tuple[Quality | None, Agreement | None]:
        """How well a file does, and how often it decides as the program does; None where there is no such thing.

        Args:
            file: The file.
            progress: Told ``(done, total, text)`` in batches.

        Raises:
            ParityError: If it gives what is not finite: the proof sees some of the images only.
        """

        def told(done: float, total: float | None, _text: str) -> None:
            if progress:
                progress(done, total, f"measure {file.name}")

        accuracy, decided = self._judge(lambda inputs: file([each.numpy() for each in inputs]), file.name, told)
        data = self._evaluation or self._calibration
        if decided is None or self._wanted is None or data is None:
            return accuracy, None
        return accuracy, Agreement(
            value=float((decided == self._wanted).mean()),
            what=_WHAT.get(self._learns, "top class"),
            count=len(decided),
            data=data.name,
        )

    @property
    def identity(self) -> str:
        """Of the evaluation data and what the program says of them: losses of a file are the same where it is."""
        if self._evaluation is None or self.accuracy is None:
            return ""
        return f"{self._evaluation.digest} {self._said.hexdigest()} {self.accuracy.measure} {self.accuracy.value!r}"

    def lost(self, quality: Quality | None) -> float:
        """How much worse that is than the program on the evaluation data, in the measure's units.

        Args:
            quality: Of a file, on the same data.
        """
        assert self.accuracy is not None
        assert quality is not None
        merit = self.accuracy.of.merit
        return merit(self.accuracy.value) - merit(quality.value)

    def loss(self, file: File) -> float:
        """The same of a file that is measured for it; infinite where its outputs are no numbers."""
        try:
            return self.lost(self._judge(lambda inputs: file([each.numpy() for each in inputs]), file.name, None)[0])
        except ParityError:
            return math.inf

    def _judge(
        self, run: Callable[[Sequence[Tensor]], Sequence[Array]], name: str, progress: Progress | None
    ) -> tuple[Quality | None, Array | None]:
        decided: list[Array | None] = []
        data = self._evaluation or self._calibration

        def seen(*inputs: Tensor) -> Any:
            assert data is not None
            outputs = run(samples_in_front(self._program, data, inputs))
            if not all(np.isfinite(each).all() for each in outputs):
                raise ParityError(
                    f"{name}: the outputs are not finite on some of {data.name}",
                    "numbers beyond what its precision holds: leave that out, or check --mean, --std and the weights",
                )
            decided.append(self._decide(outputs[0]))
            if name == PROGRAM:
                for each in outputs:
                    self._said.update(np.ascontiguousarray(each).tobytes())
            return self._whole([torch.from_numpy(each) for each in outputs])

        accuracy = None
        if self._evaluation is not None:
            found = evaluate(seen, self._evaluation, self._objective, batch=self._batch, progress=progress)
            accuracy = quality_of(found, self._evaluation.name)
        elif self._calibration is not None and len(self._calibration) and self._decides:
            places = np.unique(np.linspace(0, len(self._calibration) - 1, CALIBRATION_IMAGES).astype(np.int64))
            for at in range(0, len(places), self._batch):
                if at and decided[0] is None:
                    break
                seen(*arguments(self._calibration.tensor(places[at : at + self._batch])))
                if progress:
                    progress(at + self._batch, len(places), "")
        known = [each for each in decided if each is not None]
        return accuracy, np.concatenate(known) if known and len(known) == len(decided) else None

    def _decide(self, outputs: Array) -> Array | None:
        if self._learns == "segmentation":
            return outputs.argmax(1).astype(np.uint8) if outputs.ndim == 4 and outputs.shape[1] > 1 else None
        if self._learns not in ("classes", "multi-label") or not self._decides:
            return None
        if self._learns == "multi-label":
            return outputs > 0
        return outputs.argmax(1) if outputs.shape[1] > 1 else None


def quality_of(found: Evaluation, data: str) -> Quality:
    """What was measured, as a manifest says it.

    Args:
        found: It.
        data: Name of the data.
    """
    measure, *others = found.measures
    return Quality(
        value=found.value,
        count=found.count,
        data=data,
        measure=measure.name,
        title=None if measure.name in MEASURES else measure.title,
        percent=measure.percent and measure.name not in MEASURES,
        rises=measure.rises,
        others={each.name: value for each, value in zip(others, found.values[1:], strict=True)},
    )
