"""Whole programs beside the sums of their layers: what a table is corrected by."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, prepare
from edgespa.data.arrays import ArraySource
from edgespa.device.link.transport import Connection
from edgespa.errors import ConfigError
from edgespa.graph.program import Program
from edgespa.latency.stopwatch import LatencyBudget, Stopwatch

_IMAGES = 8


def measured_ms(program: Program, connection: Connection, variant: str, threads: int) -> float:
    """What a program takes on a device, with any weights and any images.

    Args:
        program: Compact and merged.
        connection: To the device.
        variant: Of what file.
        threads: Of the runtime.

    Raises:
        ConfigError: Its int8 file needs samples that are no images.
        DeviceError: It cannot be measured.
    """
    budget = LatencyBudget(1.0, connection.device, threads, variant)
    calibration = noise(program) if variant.endswith("int8") else None
    # An estimate from published latencies corrects nothing: where the device is away, that is said.
    return Stopwatch(budget, connection, calibration).measured(program)


def noise(program: Program) -> Prepared:
    """Random images of a program's size: its int8 file is as fast with any.

    Raises:
        ConfigError: It takes none.
    """
    shape = program.inputs[0].shape
    if len(program.inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3, 4):
        raise ConfigError("the int8 file of a network that takes no images cannot be measured", "measure a float file")
    channels, height, width = (int(size) for size in shape[1:])
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, height, width, channels), dtype=np.uint8)
    how = Preprocess(height=height, width=width, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    return prepare(ImageData(ArraySource(pixels), None, (), "noise"), how)


@dataclasses.dataclass(frozen=True)
class Correction:
    """A measured whole beside its prediction.

    Attributes:
        predicted_ms: By the sum of layers, uncorrected.
        measured_ms: What it took.
    """

    predicted_ms: float
    measured_ms: float

    @property
    def scale(self) -> float:
        """What the sum is multiplied by."""
        return self.measured_ms / self.predicted_ms
