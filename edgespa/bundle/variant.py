"""A model file of a bundle, as its manifest has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgespa.bundle.figures import Agreement, Parity, Part, Proof, Quality
from edgespa.bundle.limits import MAX_TENSORS, picture_problem, shapes_problem
from edgespa.bundle.paths import RelativePath
from edgespa.config import Preprocess
from edgespa.system.bounds import Name

MAX_BYTES = 1 << 40
"""Of a file in a bundle."""
FOR_PYTORCH = ("pt2", "python")
"""Formats that nothing on a device runs: they are there to go on from."""
INT8_STEPS = ("rounded weights", "moved biases")
"""What is done to an int8 file beside its ranges, each after the one before it."""
MAX_ERRORS = 32
"""Ways of making an int8 file that are told."""
MAX_PROOFS = 32
"""Of a file: runtimes, with their arithmetics, that it was proved in."""
MAX_PARTS = 8
"""Of a file: those that lie beside it."""


class TensorSpec(Part):
    """One input or output of a file.

    Attributes:
        name: The name under which the runtime knows it (for TFLite the tensor's or the signature's name).
        shape: Sizes; a dimension that may be chosen at run time is a word, ``"batch"``.
        dtype: Element type in numpy's words, for example ``"float32"`` or ``"int8"``.
        layout: Order of the dimensions of an image; ``"other"`` where the question does not arise.
    """

    name: Name
    shape: tuple[int | Name, ...] = Field(max_length=32)
    dtype: str = Field(pattern="^[a-z0-9_]{1,30}$")
    layout: Literal["NCHW", "NHWC", "other"] = "other"


class Weights(Part):
    """What the weights of a graph without any are made of, where it runs; see `edgespa.device.runner.materialise`.

    Attributes:
        recipe: How, a file of the bundle.
        task: The task file, likewise.
        rest: The tensors that nothing makes, likewise; None where there are none.
        base_sha256: Of the file with the base's tensors, which lies beside the bundle and is not a part of it.
        base_size_bytes: Its size.
        made_bytes: Of the weights that are made: so much larger is a file that has them in it.
    """

    recipe: RelativePath
    task: RelativePath
    rest: RelativePath | None = None
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    base_size_bytes: int = Field(gt=0, le=MAX_BYTES)
    made_bytes: int = Field(ge=0, le=MAX_BYTES)

    @property
    def files(self) -> tuple[str, ...]:
        """Those of the bundle."""
        return tuple(each for each in (self.recipe, self.task, self.rest) if each is not None)


class Variant(Part):
    """One model file: what it takes and gives, in which runtime it was proved, and how well.

    Attributes:
        name: For example ``"onnx-fp32"``; ``"all"`` is taken, it means every variant.
        file: The model file in the bundle.
        parts: Other files of the bundle that belong to it and lie beside it: the weights of an ncnn file.
        signature: Of a TFLite file that has one for each size of the input: the one that this is about; else None.
        opset: ONNX opset; None for other formats.
        inputs: In the order of the program's inputs.
        outputs: In the order of the program's outputs.
        runtime: Name and version of the runtime that it was proved in, for example ``"onnxruntime 1.31.1"``.
        size_bytes: Size of ``file`` and its parts.
        proofs: In the other runtimes, and the other arithmetics, that were there; one that does not hold is no reason
            to leave out the file, and that runtime is not picked for it on such a machine.
        accuracy: On evaluation data, measured with this file.
        agreement: With the program, on all evaluation data, or else on calibration images.
        calibration: How the ranges of int8 activations, or the way of int8 weights, were chosen; None for others.
        float_layers: Layers of an int8 file that stay in float because int8 hurts there, the most sensitive first.
        time_ratio: CPU time of one inference against the float32 file of the same format, where the bundle was made.
        errors: Of an int8 file with all layers in it, on calibration images that nothing was fitted to: the worst
            component's, by each way of finding ranges; and with the best of those, by what came next: rounded weights,
            moved biases (`edgespa.quantisation`).
        max_loss: What an int8 file may lose of the measure of ``accuracy``, in its units, where it was chosen by that.
        preprocess: The normalisation that is inside of the file, whose input is then the pixels themselves, 0 to 255;
            None where the file takes what the program takes.
        weights: For a graph that is shipped without its weights: what they are made of; None for whole files.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    file: RelativePath
    parts: tuple[RelativePath, ...] = Field(default=(), max_length=MAX_PARTS)
    format: Literal["onnx", "tflite", "ncnn", "executorch", "pt2", "python"]
    precision: Literal["fp32", "fp16", "int8", "int8-weights"]
    signature: Name | None = None
    opset: int | None = None
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    runtime: str
    size_bytes: int = Field(ge=0)
    parity: Parity
    proofs: tuple[Proof, ...] = Field(default=(), max_length=MAX_PROOFS)
    accuracy: Quality | None = None
    agreement: Agreement | None = None
    calibration: str | None = None
    float_layers: tuple[str, ...] = ()
    time_ratio: float | None = Field(default=None, gt=0)
    errors: dict[Name, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, max_length=MAX_ERRORS)
    max_loss: float | None = Field(default=None, ge=0)
    preprocess: Preprocess | None = None
    weights: Weights | None = None

    @model_validator(mode="after")
    def _sizes_are_bounded(self) -> Self:
        refuse_large(self.inputs, self.outputs, self.preprocess)
        return self

    @model_validator(mode="after")
    def _signature_is_of_tflite(self) -> Self:
        if self.signature is not None and self.format != "tflite":
            raise ValueError(f"{self.format} files have no signatures, and {self.name} names {self.signature!r}")
        return self

    @model_validator(mode="after")
    def _parts_are_what_is_read(self) -> Self:
        suffix = {"ncnn": ".bin", **dict.fromkeys(FOR_PYTORCH, ".safetensors")}.get(self.format)
        wanted = (PurePosixPath(self.file).with_suffix(suffix).as_posix(),) if suffix else ()
        if self.parts != wanted:
            raise ValueError(f"the parts of {self.file} are {', '.join(wanted) or 'none'}, for that is what is read")
        return self

    @property
    def gained(self) -> tuple[tuple[str, ...], float, float] | None:
        """Of `INT8_STEPS` those that made int8 nearer, its error with them and without; None if none did."""
        plain = self.errors.get(self.calibration or "")
        steps = {each: self.errors[each] for each in INT8_STEPS if each in self.errors}
        if plain is None or not steps or min(steps.values()) >= plain:
            return None
        last = min(steps, key=steps.__getitem__)
        return INT8_STEPS[: INT8_STEPS.index(last) + 1], steps[last], plain


def refuse_large(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], preprocess: Preprocess | None) -> None:
    """Nothing is allocated by a size that is not bounded here; see `edgespa.bundle.limits`."""
    tables = (("inputs", inputs), ("outputs", outputs))
    found = [shapes_problem(what, [each.shape for each in specs]) for what, specs in tables]
    if preprocess is not None:
        found.append(picture_problem(preprocess.channels, preprocess.height, preprocess.width))
    for problem in found:
        if problem is not None:
            raise ValueError(problem)
