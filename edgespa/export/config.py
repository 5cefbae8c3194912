"""What is asked of an export, and where the program comes from."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction, Kind
from edgespa.config import Preprocess, Strict
from edgespa.errors import ConfigError
from edgespa.export.converter import Form
from edgespa.export.ranges import METHODS
from edgespa.export.versions import DEFAULT_RUNTIME, target_of

FORMATS = ("onnx", "tflite")
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights")
INT8_TOLERANCE = 0.02
INT8_SLOWDOWN = 1.1


class ExportConfig(Strict):
    """What to export.

    Attributes:
        formats: ``onnx``, ``tflite``.
        precisions: ``fp32``; ``fp16``; ``int8``: static, calibrated, sensitive layers in float; ``int8-weights``.
        int8_tolerance: How far an int8 file may turn from the program: 1 - cosine of their outputs.
        int8_calibration: How the ranges of activations are found, one of `edgespa.export.ranges.METHODS`; ``auto``
            keeps the one that is nearest to the program.
        int8_slowdown: Most CPU time of an int8 file on this machine, against the fp32 file of its format.
        calibration_images: At most so many images are used to calibrate int8.
        batch: A fixed batch size for all files; None: free in ONNX files, 1 in TFLite files.
        layout: Of the images that TFLite files take.
        onnx_runtime: The oldest ONNX Runtime that has to load the files.
        opset: Of ONNX files; None: what suits that runtime.
        preprocess: ``in-graph``: files take pixels, uint8 [N, H, W, C], and normalise them; ``outside``: they take what
            the program takes.
        cache: Take converted files from the cache, and keep them there.
        threads: For the runtimes during the proof.
        seed: Of the noise that files are proved on when there are no images.
    """

    formats: tuple[str, ...] = FORMATS
    precisions: tuple[str, ...] = ("fp32",)
    int8_tolerance: float = Field(default=INT8_TOLERANCE, gt=0, le=1)
    int8_calibration: Literal["auto", "minmax", "percentile", "entropy"] = "auto"
    int8_slowdown: float = Field(default=INT8_SLOWDOWN, gt=0)
    calibration_images: int = Field(default=128, ge=1)
    batch: int | None = Field(default=None, ge=1)
    layout: Literal["nhwc", "nchw"] = "nhwc"
    onnx_runtime: str = DEFAULT_RUNTIME
    opset: int | None = None
    preprocess: Literal["outside", "in-graph"] = "outside"
    cache: bool = True
    threads: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_names(self) -> ExportConfig:
        for values, known, what in ((self.formats, FORMATS, "format"), (self.precisions, PRECISIONS, "precision")):
            unknown = [value for value in values if value not in known]
            if unknown or not values:
                raise ValueError(f"unknown {what} '{', '.join(unknown)}'; choose from: {', '.join(known)}")
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is named twice")
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways of finding ranges that are tried."""
        return METHODS if self.int8_calibration == "auto" else (self.int8_calibration,)

    @property
    def least_cosine(self) -> float:
        """The bound of int8 files."""
        return 1.0 - self.int8_tolerance

    def form(self, preprocess: Preprocess | None, inputs: int, fixed: int | None) -> Form:
        """What the files look like.

        Args:
            preprocess: From image to input, if the program takes images.
            inputs: Number of the program's inputs.
            fixed: The only batch size that the program takes, if there is one.

        Raises:
            ConfigError: If the options do not go together, or not with the program.
        """
        target = target_of(self.onnx_runtime, self.opset)
        if fixed is not None and self.batch not in (None, fixed):
            raise ConfigError(f"the model takes batches of {fixed} only, not of {self.batch}", "leave out --batch")
        if self.preprocess == "outside":
            return Form(target, self.batch, self.layout)
        if preprocess is None or inputs != 1:
            raise ConfigError(
                "how an image becomes the model's input is not known, so it cannot go into the files",
                "give --mean and --std (0 and 1 if there is no normalisation), or leave out --preprocess in-graph",
            )
        if self.layout == "nchw":
            raise ConfigError("pixels are channels last", "leave out --layout nchw, or --preprocess in-graph")
        return Form(target, self.batch, self.layout, preprocess)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a program comes from, for the manifest.

    Attributes:
        task: What it does, in words.
        base: The model it was made from.
        compaction: What was removed.
        preprocess: From image to input; None if not known.
        classes: Names of the outputs.
        provenance: Anything else.
        learns: What the first output is.
    """

    task: str
    base: BaseEntry
    compaction: Compaction
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue] = dataclasses.field(default_factory=dict)
    learns: Kind = "classes"
