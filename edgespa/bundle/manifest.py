"""The contents of ``manifest.json``, as strict models.

One manifest describes one bundle: what goes in and comes out, every model file with the figures that prove it, what
compaction removed, and every file with its digest. See docs/reference/bundle.md.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from edgespa import __version__
from edgespa.bundle.decoding import Decoding
from edgespa.bundle.figures import MAX_FP32_ERROR, MAX_ROUNDING, Agreement, Parity, Part, Proof, Quality
from edgespa.bundle.limits import MAX_TENSORS, MAX_VARIANTS, picture_problem, shapes_problem
from edgespa.config import Preprocess
from edgespa.errors import BundleError
from edgespa.objectives.measures import ACCURACY, Measure
from edgespa.system.bounds import Name

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
PROFILES = "profiles"
SELFCHECK = "selfcheck.npz"
LABELS = "labels.txt"
RUNNER = "run.py"

MAX_PATH_BYTES = 100
"""Of a file in a bundle: what a plain tar header has room for."""
MAX_FILES = 4096
MAX_BYTES = 1 << 40
"""Of a file in a bundle."""
Kind = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$", max_length=64)]
"""What is learned: the name of an objective, such as ``classes``, ``multi-label``, ``regression``, ``segmentation``."""

_ROUNDED = 1e-9
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
MAX_SIZES = 16
"""Of a file, beside the first."""
MAX_LINES = 1000
"""Of a skeleton."""
PointNumber = Annotated[int, Field(ge=0, lt=1 << 16)]


def path_problem(text: str) -> str | None:
    """Why a text cannot be the path of a file in a bundle; None where it can."""
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in text or PureWindowsPath(text).drive:
        return "is not a relative path inside the bundle"
    if not text.isprintable():
        return "has characters that cannot be printed"
    if len(text.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return None


def _safe_path(text: str) -> str:
    if problem := path_problem(text):
        raise ValueError(f"{text!r} {problem}")
    return text


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


RelativePath = Annotated[str, AfterValidator(_safe_path)]
IsoTime = Annotated[str, AfterValidator(_iso_time)]


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


class OutputSet(Part):
    """Outputs whose entries along an axis are a set, as the best of many are: nearly equal ones may change places.

    Attributes:
        axes: Index of each output that the set is in, and the axis of its entries.
    """

    axes: tuple[tuple[int, int], ...] = Field(min_length=1, max_length=MAX_TENSORS)


class FileEntry(Part):
    """One file of the bundle: path with forward slashes, size in bytes, SHA-256 in hexadecimal."""

    path: RelativePath
    size_bytes: int = Field(ge=0, le=MAX_BYTES)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


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
        _refuse_large(self.inputs, self.outputs, self.preprocess)
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


class Pick(Part):
    """What ``run.py`` takes where nobody names a variant: what was fastest on a device, of what is right there.

    Attributes:
        device: Where it was measured.
        variant: By its name.
        runtime: That runs it, by the name of its package; where it is not installed, the pick counts for nothing.
        arithmetic: In which numbers layers in float32 are computed there.
        provider: What of the runtime computes; None for its usual one, the CPU.
        threads: That it was measured with.
        cores: The numbers of those that it was bound to, ``4-7``; None for any.
        latency_ms: The median of an inference.
    """

    device: Name
    variant: str
    runtime: str = Field(pattern="^[a-z][a-z0-9_]*$", max_length=64)
    arithmetic: str = Field(default="fp32", pattern="^[a-z0-9]+$", max_length=16)
    provider: str | None = Field(default=None, pattern="^[A-Za-z0-9]+$", max_length=64)
    threads: int = Field(default=1, ge=1)
    cores: str | None = Field(default=None, pattern="^[0-9]{1,4}([,-][0-9]{1,4})*$", max_length=200)
    latency_ms: float = Field(gt=0)


class Compaction(Part):
    """What compaction left, against the base.

    Attributes:
        parameters: Elements of the compact program's parameters, merged.
        macs: Multiply-accumulates of one sample.
        base_parameters: The same of the base.
        base_macs: The same of the base.
        channel_density: Fraction of prunable units kept; None when nothing was pruned.
        task_size_bytes: Size of the task file, None when there is none.
        base_size_bytes: Bytes of the base's weights in its own types.
    """

    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    base_parameters: int = Field(ge=0)
    base_macs: int = Field(ge=0)
    channel_density: float | None = Field(default=None, gt=0, le=1)
    task_size_bytes: int | None = Field(default=None, ge=0)
    base_size_bytes: int | None = Field(default=None, ge=0)

    @property
    def parameter_density(self) -> float:
        """Fraction of the base's parameters that is left; 1 for a base without any."""
        return self.parameters / self.base_parameters if self.base_parameters else 1.0

    @property
    def mac_density(self) -> float:
        """Fraction of the base's MACs that is left; 1 for a base without any."""
        return self.macs / self.base_macs if self.base_macs else 1.0


class Base(Part):
    """The model that the bundle was made from.

    Attributes:
        spec: How it is found.
        digest: Of its state dict.
        weights: Its weight file, if one was named.
        license: The licence of its weights, as an SPDX expression or in words; None if not known.
    """

    spec: str
    digest: str
    weights: str | None = None
    license: str | None = None


class Size(Part):
    """The model at another size of its input: in the same files, by other signatures of theirs.

    Attributes:
        name: Height and width, ``"160x160"``.
        preprocessing: From image to input, at that size.
        inputs: As `Manifest.inputs`.
        outputs: As `Manifest.outputs`.
        sets: As `Manifest.sets`.
        decoding: From outputs to boxes, at that size.
        selfcheck: The file with what is recorded of it.
        variants: Of the same names as the bundle's, proved at that size.
    """

    name: str = Field(pattern="^[1-9][0-9]*x[1-9][0-9]*$", max_length=24)
    preprocessing: Preprocess | None = None
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    sets: tuple[OutputSet, ...] = Field(default=(), max_length=MAX_TENSORS)
    decoding: Decoding | None = None
    selfcheck: RelativePath
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=MAX_VARIANTS)


class Manifest(Part):
    """The contents of ``manifest.json``.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the writer.
        edgespa_version: Version of edgespa that wrote it.
        task: What the model does, in words.
        learns: What the first output is: scores of classes of which one is right, of labels any of which may be, or
            numbers.
        created: ISO 8601 time.
        base: Where the model comes from.
        preprocessing: From image to input; None for a model whose input is not an image.
        inputs: The program's inputs, in its own layout: what ``selfcheck.npz`` holds as ``input_0``...
        outputs: The program's outputs: ``output_0``...
        sets: Those whose entries have no order of their own.
        decoding: From the outputs of a detector to boxes; None for other programs.
        skeleton: Pairs of key points, by their numbers, that a line connects where they are drawn.
        variants: The model files.
        sizes: Other sizes of the input that they take; all else that is said here is of the first size.
        selfcheck: The file with recorded inputs and outputs.
        compaction: What was removed.
        reference_accuracy: Of the program itself, on the same data as the variants'.
        pick: What runs where nobody names a variant; None for the first that can.
        max_latency_ms: The most that an inference may take on the devices that it is made for, as a median: a device
            whose health window measures more goes back. None for no bound.
        provenance: Anything else that tells where the bundle comes from.
        files: Every file but the manifest, its signature and the profiles; filled in by `BundleWriter.commit`.
        seal: SHA-256 over all other fields (`edgespa.bundle.files.seal_of`): an edited manifest is noticed. Against
            intent there is the signature.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgespa_version: str = __version__
    task: str
    learns: Kind = "classes"
    created: IsoTime
    base: Base
    preprocessing: Preprocess | None = None
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    sets: tuple[OutputSet, ...] = Field(default=(), max_length=MAX_TENSORS)
    decoding: Decoding | None = None
    skeleton: tuple[tuple[PointNumber, PointNumber], ...] = Field(default=(), max_length=MAX_LINES)
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=MAX_VARIANTS)
    sizes: tuple[Size, ...] = Field(default=(), max_length=MAX_SIZES)
    selfcheck: RelativePath = SELFCHECK
    compaction: Compaction
    reference_accuracy: Quality | None = None
    pick: Pick | None = None
    max_latency_ms: float | None = Field(default=None, gt=0)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = Field(default=(), max_length=MAX_FILES)
    seal: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @property
    def measure(self) -> Measure:
        """What its files were measured by; accuracy where none was."""
        return ACCURACY if self.reference_accuracy is None else self.reference_accuracy.of

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (("variant", [v.name for v in self.variants]), ("file", [f.path for f in self.files])):
            counts = Counter(names)
            if len(counts) < len(names):
                raise ValueError(f"{what} '{counts.most_common(1)[0][0]}' is listed twice")
        if any(variant.name == "all" for variant in self.variants):
            raise ValueError("a variant cannot be named 'all'")
        if self.pick is not None and all(each.name != self.pick.variant for each in self.variants):
            raise ValueError(f"it picks '{self.pick.variant}', and there is no such variant")
        if any(is_unlisted(entry.path) for entry in self.files):
            raise ValueError(f"{MANIFEST}, {SIGNATURE} and {PROFILES}/ cannot be among the files")
        _refuse_collisions([*(entry.path for entry in self.files), MANIFEST, SIGNATURE, PROFILES])
        return self

    @model_validator(mode="after")
    def _sizes_are_bounded(self) -> Self:
        _refuse_large(self.inputs, self.outputs, self.preprocessing)
        return self

    @model_validator(mode="after")
    def _sets_fit(self) -> Self:
        for index, axis in (pair for each in self.sets for pair in each.axes):
            if not (0 <= index < len(self.outputs) and 0 < axis < len(self.outputs[index].shape)):
                raise ValueError(f"a set along axis {axis} of output {index}, which is not there")
        return self

    @model_validator(mode="after")
    def _decoding_fits(self) -> Self:
        if self.decoding is not None and (problem := self.decoding.problem([each.shape for each in self.outputs])):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        sizes = {entry.path: entry.size_bytes for entry in self.files}
        for variant in self.variants:
            where = f"variant '{variant.name}'"
            if (len(variant.inputs), len(variant.outputs)) != (len(self.inputs), len(self.outputs)):
                raise ValueError(f"{where}: not as many inputs and outputs as the program has")
            if not self.files:  # not yet written
                continue
            if variant.file not in sizes:
                raise ValueError(f"{where}: its file {variant.file} is not among the files")
            beside = (*variant.parts, *(variant.weights.files if variant.weights else ()))
            missing = [name for name in beside if name not in sizes]
            if missing:
                raise ValueError(f"{where}: {missing[0]} is not among the files")
            if variant.size_bytes != sum(sizes[each] for each in (variant.file, *variant.parts)):
                raise ValueError(
                    f"{where}: size_bytes is not the size of {' and '.join((variant.file, *variant.parts))}"
                )
            bound = variant.parity.bound
            most = MAX_ROUNDING if bound.get("tolerance_used", math.inf) <= 1 else MAX_FP32_ERROR
            if variant.precision == "fp32" and not bound.get("relative_error", math.inf) <= most:
                raise ValueError(f"{where}: a float32 file needs a bound on relative_error of {most} or less")
            if variant.max_loss is not None:
                lost = self.lost(variant)
                if lost is None or lost > variant.max_loss + _ROUNDED:
                    raise ValueError(f"{where}: that it loses at most {variant.max_loss:g} is not what was measured")
            if failures := variant.parity.failures():
                raise ValueError(f"{where}: it does not keep its own bounds: {'; '.join(failures)}")
        return self

    @model_validator(mode="after")
    def _other_sizes_fit(self) -> Self:
        if len({each.name for each in self.sizes}) < len(self.sizes):
            raise ValueError("a size is listed twice")
        first, listed = {each.name: each for each in self.variants}, {entry.path for entry in self.files}
        for size in self.sizes:
            self.at(size.name)
            if listed and size.selfcheck not in listed:
                raise ValueError(f"size {size.name}: {size.selfcheck} is not among the files")
            for variant in size.variants:
                own = first.get(variant.name)
                if own is None or own.file != variant.file or None in (own.signature, variant.signature):
                    raise ValueError(f"size {size.name}: '{variant.name}' is no signature of a file of the bundle")
        return self

    def at(self, size: str) -> Manifest:
        """The manifest as it would be if one of the other sizes were the only one.

        Args:
            size: Its name.

        Raises:
            BundleError: There is none of that name; the message lists those that there are.
        """
        for each in self.sizes:
            if each.name == size:
                own = {key: value for key, value in dict(each).items() if key != "name"}
                return Manifest.model_validate({**dict(self), **own, "sizes": (), "pick": None})
        others = ", ".join(each.name for each in self.sizes) or "none"
        raise BundleError(f"the bundle has no other size {size}", f"beside its first size it has: {others}")

    def lost(self, variant: Variant) -> float | None:
        """How much worse a file does than the program, in the measure's units; None where that was not measured.

        Args:
            variant: Of this manifest.
        """
        reference, own = self.reference_accuracy, variant.accuracy
        if reference is None or own is None or own.measure != reference.measure:
            return None
        return reference.of.merit(reference.value) - reference.of.merit(own.value)

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            BundleError: There is none; the message lists those that there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise BundleError(
            f"the bundle has no variant '{name}'", f"it has: {', '.join(each.name for each in self.variants)}"
        )


def _refuse_large(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], preprocess: Preprocess | None) -> None:
    """Nothing is allocated by a size that is not bounded here; see `edgespa.bundle.limits`."""
    tables = (("inputs", inputs), ("outputs", outputs))
    found = [shapes_problem(what, [each.shape for each in specs]) for what, specs in tables]
    if preprocess is not None:
        found.append(picture_problem(preprocess.channels, preprocess.height, preprocess.width))
    for problem in found:
        if problem is not None:
            raise ValueError(problem)


def is_unlisted(path: str) -> bool:
    """Whether a file stands outside the manifest's list: the manifest, its signature, the profiles."""
    return path in (MANIFEST, SIGNATURE) or path.split("/")[0] == PROFILES


def _refuse_collisions(paths: Iterable[str]) -> None:
    """No path may be a folder of another, or the same as another where capitals or accents do not count."""
    taken: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path).casefold()
        other = taken.setdefault(folded, path)
        if other != path:
            raise ValueError(f"'{path}' and '{other}' are one file where capitals do not count")
    for folded, path in taken.items():
        parts = folded.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in taken:
                raise ValueError(f"'{path}' lies in '{taken[above]}', which is a file or not for the list")
