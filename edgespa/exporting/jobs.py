"""What all files of one export share: the program in a form, and what it is proved, calibrated and judged on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgespa.data import Prepared
from edgespa.errors import ConfigError
from edgespa.exporting.agreement import Judge
from edgespa.exporting.cache import Cache
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.exporting.converter import Form
from edgespa.exporting.corrections import Corrections
from edgespa.exporting.drawing import draw_samples
from edgespa.exporting.facts import Facts
from edgespa.exporting.running import fixed_batch, runs_of, samples_of
from edgespa.exporting.samples import Samples
from edgespa.graph.constants import folded
from edgespa.graph.program import Program
from edgespa.models.interface import in_float32, with_batch_first, with_plain_outputs
from edgespa.quantisation.ranges import Range
from edgespa.quantisation.walk import samples_for

log = logging.getLogger(__name__)

JUDGE_IMAGES = 32
CORRECTED_BY = 32
"""Images that weights are rounded for, and biases moved by."""
_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """What all files of one export share.

    Attributes:
        program: With plain outputs, in float32.
        config: What is asked for.
        form: What the files look like.
        folder: Where they go.
        samples: What they are proved on.
        calibration: Images for int8.
        judge: What the program says of all the data there are.
        facts: What its files say of themselves.
        cache: Where made files are kept.
        ranges: Of activations, that the program was trained with for int8; see `Origin`.
        signature: By which the program is called in files that have several.
    """

    program: Program
    config: ExportConfig
    form: Form
    folder: Path
    samples: Samples
    calibration: Prepared | None
    judge: Judge
    facts: Facts
    cache: Cache
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    signature: str | None = None

    @cached_property
    def corrections(self) -> Corrections:
        """Of weights and biases, for the layers of all formats; of images that no file is judged on."""
        inputs = self.calibration_inputs()
        fitted = len(inputs[0]) - judged_count(len(inputs[0]))
        count = min(fitted, samples_for(self.program, CORRECTED_BY))
        places = np.unique(np.linspace(0, max(0, fitted - 1), count).astype(np.int64))
        chosen = [torch.from_numpy(array[places]) for array in inputs]
        return Corrections(self.program, runs_of(self.program, chosen, _AT_ONCE))

    def calibration_inputs(self) -> list[Any]:
        """Images that int8 is calibrated on, one array for each input, in the program's layout.

        Raises:
            ConfigError: Nothing can be learnt from them: all are the same, or not finite.
        """
        assert self.calibration is not None
        size = self.config.batch or fixed_batch(self.program) or 1
        count = -(-min(self.config.calibration_images, len(self.calibration)) // size) * size
        chosen = np.linspace(0, len(self.calibration) - 1, count).astype(np.int64)
        inputs = [each.numpy() for each in samples_of(self.program, self.calibration, chosen)]
        images = inputs[0]
        if not all(np.isfinite(each).all() for each in inputs):
            raise ConfigError(
                "the calibration images hold values that are not finite", "check --calibration, --mean and --std"
            )
        same = len(images) > 1 and all((each == each[:1]).all() for each in inputs)
        if same or (images.ndim == 4 and (images == images[..., :1, :1]).all()):
            # int8 ranges taken from them would hold for nothing else, and the proof, on the same images, would not
            # notice.
            raise ConfigError(
                "the calibration images are all the same, or of a single colour each",
                "check --calibration: it takes images like those that the model will see",
            )
        return inputs


def judged_count(count: int) -> int:
    """Of the calibration images, so many are for files to be judged on alone."""
    return min(JUDGE_IMAGES, -(-count // 2))


def plain_program(program: Program) -> Program:
    """A program as files are made of it: float32, plain outputs, its constants folded, samples as rows.

    Args:
        program: As it was traced.
    """
    # Folded in the model's own element types: positions are often made in float64.
    plain = with_plain_outputs(in_float32(folded(program)))
    result = with_batch_first(plain)
    if result is not plain:
        log.warning(
            "not all inputs and outputs have the batch as their first dimension: the files take one sample at a time"
        )
    return result


def form_of(program: Program, origin: Origin, config: ExportConfig, names: tuple[Sequence[str], Sequence[str]]) -> Form:
    """What the files of a program are to look like.

    Args:
        program: From `plain_program`.
        origin: Says what an image is.
        config: What is asked for.
        names: Of inputs and outputs, as the program was traced.
    """
    form = config.form(origin.preprocess, len(program.inputs), fixed_batch(program))
    return dataclasses.replace(form, names=names)


def samples_for_proof(
    program: Program, form: Form, origin: Origin, config: ExportConfig, data: Prepared | None
) -> Samples:
    """What the files of a program are proved on.

    Args:
        program: From `plain_program`.
        form: Of the files.
        origin: Says what an image is.
        config: What is asked for.
        data: Images; None for noise.
    """
    return draw_samples(
        program, data, config.seed, form.pixels, preprocess=origin.preprocess, tolerance=config.fp32_tolerance
    )
