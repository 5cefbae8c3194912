"""A latency table that the tests of this room share."""

from __future__ import annotations

import numpy as np
import pytest

from edgespa.latency.predict import needed
from edgespa.latency.table import LatencyTable, Origin
from edgespa.tasks.base import Base


@pytest.fixture(scope="session")
def toy_table(toy_base: Base) -> LatencyTable:
    """A device on which a layer takes a microsecond, and one for each pair of channels."""
    origin = Origin(
        device="board", machine="aarch64", cpu_model="a core", runtime="onnxruntime 1.2.3", variant="onnx-fp32",
        threads=1,
    )  # fmt: skip
    points = [(kind, at, 1.0 + float(np.prod(at))) for kind, own in needed(toy_base.layers).items() for at in own]
    return LatencyTable(origin=origin, created="now", step=4, run_us=7.0).with_points(points)
