"""The contents of ``manifest.json``, as strict models.

One manifest describes one bundle: what goes in and comes out, every model file with the figures that prove it, what
compaction removed, and every file with its digest. See docs/reference/bundle.md.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from edgespa import __version__
from edgespa.bundle.decoding import Decoding
from edgespa.bundle.figures import MAX_FP32_ERROR, MAX_ROUNDING, Part, Quality
from edgespa.bundle.limits import MAX_TENSORS, MAX_VARIANTS
from edgespa.bundle.paths import (
    MANIFEST,
    PROFILES,
    SELFCHECK,
    SIGNATURE,
    RelativePath,
    is_unlisted,
    refuse_collisions,
)
from edgespa.bundle.variant import MAX_BYTES, TensorSpec, Variant, refuse_large
from edgespa.config import Preprocess
from edgespa.errors import BundleError
from edgespa.objectives.measures import ACCURACY, Measure
from edgespa.system.bounds import Name

SCHEMA_VERSION: Literal[1] = 1
MAX_FILES = 4096
Kind = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$", max_length=64)]
"""What is learned: the name of an objective, such as ``classes``, ``multi-label``, ``regression``, ``segmentation``."""

_ROUNDED = 1e-9
MAX_SIZES = 16
"""Of a file, beside the first."""
MAX_LINES = 1000
"""Of a skeleton."""
PointNumber = Annotated[int, Field(ge=0, lt=1 << 16)]


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


IsoTime = Annotated[str, AfterValidator(_iso_time)]


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
        refuse_collisions([*(entry.path for entry in self.files), MANIFEST, SIGNATURE, PROFILES])
        return self

    @model_validator(mode="after")
    def _sizes_are_bounded(self) -> Self:
        refuse_large(self.inputs, self.outputs, self.preprocessing)
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
