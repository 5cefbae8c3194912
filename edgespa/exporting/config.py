"""What is asked of an export, and where the program comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from edgespa.bundle import MAX_FP32_ERROR, Compaction, Kind
from edgespa.bundle import Base as BaseEntry
from edgespa.bundle.decoding import Decoding
from edgespa.config import Preprocess, Strict
from edgespa.errors import ConfigError
from edgespa.exporting.converter import Form
from edgespa.exporting.facts import Facts
from edgespa.exporting.versions import DEFAULT_RUNTIME, target_of
from edgespa.quantisation.ranges import METHODS, Range

FORMATS = ("onnx", "tflite", "ncnn", "executorch", "pt2", "python")
USUAL_FORMATS = ("onnx", "tflite")
PRECISIONS = ("fp32", "fp16", "int8", "int8-weights")
INT8_TOLERANCE = 0.3
FP32_TOLERANCE = 1e-4


class ExportConfig(Strict):
    """What to export.

    Attributes:
        formats: ``onnx``, ``tflite``, ``ncnn``, ``executorch``; ``pt2`` and ``python``, which
            PyTorch goes on with, and no device runs.
        precisions: ``fp32``; ``fp16``; ``int8``: static, calibrated, sensitive layers in float; ``int8-weights``.
        int8_tolerance: Largest error of a component of the outputs of files with int8 in them, against its own spread
            over samples: rms(a - b) / spread.
        int8_max_loss: In its place: what they may lose of the objective's measure on evaluation data, in its units;
            0.01 of accuracy or mIoU is one in a hundred.
        fp32_tolerance: Largest such error of float32 files, where rounding does not explain more: max|a - b| / spread.
        int8_calibration: How the ranges of activations are found, one of `edgespa.quantisation.ranges.METHODS`;
            ``auto`` keeps the one that is nearest to the program, and the ranges of a task that was trained with some.
        int8_rounding: Of weights: ``nearest`` level; ``auto``, so that the outputs come nearest, with biases moved too.
        int8_scheme: Of activations in ONNX files: ``asymmetric``: unsigned, zero at any level, fastest on CPUs;
            ``symmetric``: int8, zero at level 0, biases in float32, which TensorRT asks for.
        int8_io: Inputs and outputs of TFLite files in int8: ``int8`` or ``uint8`` makes every operator an integer one
            too, as accelerators take them; then no layer can stay in float.
        int8_slowdown: Most CPU time of a file smaller than float32 on this machine, against the fp32 file of its
            format; one that takes more is left out. None: it is written, and its time is said.
        int8_ratio: The time of int8 against float32 on the device that the files are for, where it is known: that is
            what ``int8_slowdown`` is held against then.
        max_latency_ms: What the bundle says that an inference may take at most on its devices, as a median; see
            `edgespa.ship`.
        half_for_gpu: That device has a GPU, of whose time in half precision this machine's says nothing.
        calibration_images: At most so many images are used to calibrate int8.
        batch: A fixed batch size for all files; None: free in ONNX files, 1 in TFLite files.
        layout: Of the images that TFLite files take.
        onnx_runtime: The oldest ONNX Runtime that has to load the files.
        opset: Of ONNX files; None: what suits that runtime.
        preprocess: ``in-graph``: files take pixels, uint8 [N, H, W, C], and normalise them; ``outside``: they take what
            the program takes.
        decode: ``in-graph``: files of a detector give boxes, classes, scores, count: `edgespa.exporting.decoding`;
            ``outside``: its raw outputs, which ``run.py`` reads.
        also_sizes: Other sizes of the image, ``"160x160"``, that TFLite files take besides, each by a signature.
        cache: Take converted files from the cache, and keep them there.
        strict: Every file that is asked for must be there, or no bundle is written.
        threads: For the runtimes during the proof.
        seed: Of inputs that files are proved on and that are neither images nor numbers of float32.
    """

    formats: tuple[str, ...] = USUAL_FORMATS
    precisions: tuple[str, ...] = ("fp32",)
    int8_tolerance: float = Field(default=INT8_TOLERANCE, gt=0, le=1)
    int8_max_loss: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    fp32_tolerance: float = Field(default=FP32_TOLERANCE, ge=FP32_TOLERANCE, le=MAX_FP32_ERROR)
    int8_calibration: Literal["auto", "minmax", "percentile", "entropy", "mse"] = "auto"
    int8_rounding: Literal["auto", "nearest"] = "auto"
    int8_scheme: Literal["asymmetric", "symmetric"] = "asymmetric"
    int8_io: Literal["float32", "int8", "uint8"] = "float32"
    int8_slowdown: float | None = Field(default=None, gt=0)
    int8_ratio: float | None = Field(default=None, gt=0)
    max_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    half_for_gpu: bool = False
    calibration_images: int = Field(default=128, ge=1)
    batch: int | None = Field(default=None, ge=1)
    layout: Literal["nhwc", "nchw"] = "nhwc"
    onnx_runtime: str = DEFAULT_RUNTIME
    opset: int | None = None
    preprocess: Literal["outside", "in-graph"] = "outside"
    decode: Literal["outside", "in-graph"] = "outside"
    also_sizes: tuple[Annotated[str, Field(pattern="^[1-9][0-9]{0,5}x[1-9][0-9]{0,5}$")], ...] = ()
    cache: bool = True
    strict: bool = False
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
        if self.int8_max_loss is not None and "int8_tolerance" in self.model_fields_set:
            raise ValueError("int8_max_loss takes the place of int8_tolerance: give one of them")
        if self.int8_io != "float32" and "in-graph" in (self.preprocess, self.decode):
            raise ValueError("int8_io makes all of a file integers, and what goes in-graph is computed in float32")
        return self

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways of finding ranges that are tried."""
        return METHODS if self.int8_calibration == "auto" else (self.int8_calibration,)

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
        decoding: From its outputs to boxes; None where there are none.
        skeleton: Key points that a line connects where they are drawn.
        ranges: Least and largest value of activations that it was trained with for int8, by the names of
            `edgespa.quantisation.fake.sites_of`.
    """

    task: str
    base: BaseEntry
    compaction: Compaction
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue] = dataclasses.field(default_factory=dict)
    learns: Kind = "classes"
    decoding: Decoding | None = None
    skeleton: tuple[tuple[int, int], ...] = ()
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)

    def ranges_for(self, config: ExportConfig) -> Mapping[str, Range]:
        """The trained ranges, unless others are asked for.

        Args:
            config: One that names a way of finding ranges wants new ones.
        """
        return self.ranges if config.int8_calibration == "auto" else {}

    @property
    def facts(self) -> Facts:
        """What the files say of themselves."""
        return Facts(
            task=self.task,
            objective=self.learns,
            base=self.base,
            classes=self.classes,
            preprocess=self.preprocess,
            decoding=self.decoding,
        )
