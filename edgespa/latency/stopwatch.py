"""What a network takes on a device: its program exported, and measured there in fresh processes.

What counts is the fastest round's median: what else runs there can only add to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction
from edgespa.config import Preprocess
from edgespa.data import Prepared
from edgespa.device.board import Device
from edgespa.device.link.transport import Connection
from edgespa.device.measure.estimate import estimate_latency_ms
from edgespa.device.measure.profile import profile
from edgespa.device.measure.results import Measurement
from edgespa.device.measure.settings import Settings
from edgespa.errors import ConfigError, DeviceError, UnreachableError
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.graph.program import Program
from edgespa.latency.by_layer import by_layer, layer_ms
from edgespa.system.guarded import private_folder

log = logging.getLogger(__name__)

VARIANTS = ("onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")
ROUNDS, SECONDS = 3, 1.0
_LOOSE = 1e9
_INTERRUPTED = 1.1


@dataclasses.dataclass(frozen=True)
class LatencyBudget:
    """What is asked.

    Attributes:
        latency_ms: Of one inference, batch 1.
        device: Where.
        threads: Of the runtime.
        variant: Of what file, one of `VARIANTS`.
    """

    latency_ms: float
    device: Device
    threads: int = 1
    variant: str = VARIANTS[0]

    def __post_init__(self) -> None:
        if not 0 < self.latency_ms < float("inf"):
            raise ConfigError(f"latency_ms must be positive, not {self.latency_ms:g}")
        if self.variant not in VARIANTS:
            raise ConfigError(f"unknown variant '{self.variant}'", f"choose one of: {', '.join(VARIANTS)}")
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {self.threads}")


class Stopwatch:
    """Finds the latency of programs for a budget: measured on the device, or estimated if it is away.

    Args:
        budget: What is asked.
        calibration: Images, for int8 files.
        preprocess: How images become inputs.
        connection: To the device.

    Attributes:
        estimated: Whether the device turned out to be away.
        by_layer: Have the runtime tell what each layer takes, too, as ONNX Runtime can.
        layers: What it told of the program that was measured last, by the name of the layer, in ms.
    """

    def __init__(
        self,
        budget: LatencyBudget,
        connection: Connection,
        calibration: Prepared | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        if budget.variant.endswith("int8") and calibration is None:
            raise ConfigError(f"{budget.variant} needs images to calibrate on", "measure a float file, or give images")
        self.budget, self.connection = budget, connection
        self.estimated = False
        self.by_layer = False
        self.layers: Mapping[str, float] = {}
        self._calibration, self._preprocess = calibration, preprocess

    def latency_ms(self, program: Program, macs: int, size_bytes: int) -> float:
        """Of one inference.

        Args:
            program: Compact and merged.
            macs: Its multiply-accumulates.
            size_bytes: Of its tensors.

        Raises:
            DeviceError: It cannot be measured, and there is no estimate either.
        """
        if not self.estimated:
            try:
                return self.measured(program)
            except UnreachableError as error:
                self.estimated = True
                log.warning(
                    "%s; latencies are ESTIMATED from published ones of the board, and may be off by a factor of two",
                    error.message,
                )
        budget = self.budget
        precision = budget.variant.partition("-")[2]
        value = estimate_latency_ms(budget.device, macs, size_bytes, None, precision, budget.threads)
        if value is None:
            raise DeviceError(
                f"{budget.device.name} cannot be reached, and its profile has nothing to estimate from",
                "make it reachable: edgespa devices check " + budget.device.asked,
            )
        return value

    def measured(self, program: Program) -> float:
        """Of one inference, measured and not estimated.

        Args:
            program: Compact and merged.

        Raises:
            DeviceError: It cannot be measured; `UnreachableError` where the device is away.
        """
        from edgespa.exporting.bundle import export

        name, _, precision = self.budget.variant.partition("-")
        images = self._calibration if precision == "int8" else None
        # What an untrained network's int8 file answers does not matter, only that every layer is in int8.
        config = ExportConfig(
            formats=(name,),
            precisions=(precision,),
            int8_tolerance=1.0,
            int8_slowdown=_LOOSE,
            int8_calibration="minmax",
            int8_rounding="nearest",
            calibration_images=8,
        )
        origin = Origin(
            "candidate",
            BaseEntry(spec="candidate", digest=""),
            Compaction(parameters=0, macs=0, base_parameters=0, base_macs=0),
            preprocess=self._preprocess,
        )
        with private_folder() as place:
            folder = place / "candidate"
            # That its outputs prove little, or are coarse in other numbers: it is thrown away.
            with _unsaid("edgespa.exporting.bundle"), _unsaid("edgespa.exporting.elsewhere"):
                export(program, origin, config, folder, calibration=images)
            budget = self.budget
            settings = Settings(
                variants=(budget.variant,),
                threads=(budget.threads,),
                runs=1000,
                seconds=SECONDS,
                rounds=ROUNDS,
                by_layer=self.by_layer,
            )
            rounds = profile(folder, self.connection, settings).results[0].rounds
            operators = rounds[0].operators
            self.layers = layer_ms(by_layer(operators, folder / rounds[0].file, None)) if operators else {}
        return fastest_round_ms(rounds)


def quiet_ms(p50_ms: float, min_ms: float) -> float:
    """The time of a run where nothing else takes the core.

    That is the median; or, if most runs were interrupted, a little more than the fastest.

    Args:
        p50_ms: The median of the runs.
        min_ms: The fastest.
    """
    return min(p50_ms, _INTERRUPTED * min_ms)


def fastest_round_ms(rounds: Sequence[Measurement]) -> float:
    """The time of one inference: of the round that the least else ran beside.

    Args:
        rounds: Measured alike, each in a process of its own.
    """
    return min(quiet_ms(each.p50_ms, each.min_ms) for each in rounds)


@contextlib.contextmanager
def _unsaid(name: str) -> Iterator[None]:
    """Keep what a logger says, short of errors, to itself."""

    def errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger(name)
    logger.addFilter(errors)
    try:
        yield
    finally:
        logger.removeFilter(errors)
