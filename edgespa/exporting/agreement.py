"""How well files do on all the data there are: against labels, and against what the program decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgespa.bundle import Accuracy, Agreement, Kind
from edgespa.data import Prepared
from edgespa.errors import ParityError
from edgespa.exporting.parity import File
from edgespa.exporting.samples import run_program
from edgespa.graph.program import Program
from edgespa.objectives.evaluate import MEASURES, quality

Array = NDArray[Any]
Progress = Callable[[float, float | None, str], None]

CALIBRATION_IMAGES = 1000
"""Most images of a calibration set, which may be that of a training."""
_BATCH = 100


class Judge:
    """What the program says of the evaluation data, or else of calibration images.

    Args:
        program: With plain outputs.
        evaluation: Labelled images; all are taken.
        calibration: Other images; of more than a thousand, a thousand.
        learns: What the first output is.
        decides: Whether its largest column is a decision: of scores in falling order it is the first whatever they are.

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
    ) -> None:
        self._evaluation, self._calibration, self._learns, self._decides = evaluation, calibration, learns, decides
        self._wanted: Array | None = None
        self.accuracy, self._wanted = self._judge(lambda images: run_program(program, [images]), "the program", None)

    def of(self, file: File, progress: Progress | None = None) -> tuple[Accuracy | None, Agreement | None]:
        """A file's accuracy, and how often it decides as the program does; None where there is no such thing.

        Args:
            file: The file.
            progress: Told ``(done, total, text)`` in batches.

        Raises:
            ParityError: If it gives what is not finite: the proof sees some of the images only.
        """

        def told(done: float, total: float | None, _text: str) -> None:
            if progress:
                progress(done, total, f"accuracy of {file.name}")

        accuracy, decided = self._judge(lambda images: file([images.numpy()]), file.name, told)
        data = self._evaluation or self._calibration
        if decided is None or self._wanted is None or data is None:
            return accuracy, None
        return accuracy, Agreement(
            value=float((decided == self._wanted).mean()),
            what="signs" if self._learns == "multi-label" else "top class",
            count=len(decided),
            data=data.name,
        )

    def _judge(
        self, run: Callable[[Tensor], list[Array]], name: str, progress: Progress | None
    ) -> tuple[Accuracy | None, Array | None]:
        decided: list[Array | None] = []
        data = self._evaluation or self._calibration

        def seen(images: Tensor) -> Array:
            outputs = run(images)
            if data is not None and not all(np.isfinite(each).all() for each in outputs):
                raise ParityError(
                    f"{name}: the outputs are not finite on some of {data.name}",
                    "numbers beyond what its precision holds: leave that out, or check --mean, --std and the weights",
                )
            decided.append(self._decide(outputs[0]))
            return outputs[0]

        accuracy = None
        if self._evaluation is not None:
            accuracy = accuracy_of(seen, self._evaluation, progress)
        elif self._calibration is not None and len(self._calibration) and self._decides:
            places = np.unique(np.linspace(0, len(self._calibration) - 1, CALIBRATION_IMAGES).astype(np.int64))
            for at in range(0, len(places), _BATCH):
                if at and decided[0] is None:
                    break
                seen(self._calibration.tensor(places[at : at + _BATCH]))
                if progress:
                    progress(at + _BATCH, len(places), "")
        found = [each for each in decided if each is not None]
        return accuracy, np.concatenate(found) if found and len(found) == len(decided) else None

    def _decide(self, outputs: Array) -> Array | None:
        if self._learns == "regression" or not self._decides:
            return None
        if self._learns == "multi-label":
            return outputs > 0
        return outputs.argmax(1) if outputs.shape[1] > 1 else None


def accuracy_of(run: Callable[[Tensor], Array], data: Prepared, progress: Progress | None = None) -> Accuracy:
    """How well something that runs does; see `edgespa.objectives.evaluate.quality`.

    Args:
        run: From images ``[N, C, H, W]`` to outputs ``[N, K]``.
        data: With labels or targets.
        progress: Told ``(done, total, text)`` in batches.

    Raises:
        DataError: If there are no images, or they have neither classes nor targets.
    """
    value = quality(lambda images: torch.from_numpy(run(images)), data, batch_size=_BATCH, progress=progress)
    return Accuracy.model_validate(
        {"value": value, "count": len(data), "data": data.name, "measure": MEASURES[data.kind]}
    )
