"""The task file: everything that a task adds to its base.

A ``.spa`` file is a safetensors file. Its tensors are

    kept/GROUP               the kept units as packed bits, most significant first
    adapter/TENSOR/FACTOR    adapter factors, already sliced
    shared/NAME              tensors that all adapters of the task have in common
    scale/adapter/...        scales of the rows of a factor that is stored in int8
    tensor/TENSOR            tensors stored whole (norms, biases, statistics, head), already sliced
    seal                     a digest of everything, see `edgespa.tasks.sealed`

and its metadata holds, under ``edgespa``, a JSON document: the fields of `Header`. Replaying the file on its base gives
the same compact program bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from edgespa import __version__
from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.factors import Factors, attach
from edgespa.adapters.storage import decode, encode
from edgespa.config import Preprocess, Strict
from edgespa.errors import AdapterError, ConfigError, GraphError, TaskFileError
from edgespa.graph.groups import Kept
from edgespa.graph.program import Program
from edgespa.graph.surgery import compact
from edgespa.models.inputs import InputSize
from edgespa.models.reference import BaseReference
from edgespa.models.trust import require_trusted
from edgespa.system.bounds import MAX_OUTPUTS, Count, Figure, Name, Sizes, sizes_problem
from edgespa.system.clock import made_at
from edgespa.system.files import write_whole
from edgespa.system.recognised import hint_of_task_folder
from edgespa.tasks import sealed
from edgespa.tasks.base import Base

FORMAT_VERSION = 1
SUFFIX = ".spa"
_KEY = "edgespa"
MAX_SITES = 100_000
"""Of activations with ranges."""


class AdapterHeader(Strict):
    """Which adapters a task uses.

    Attributes:
        kind: Of the adapters.
        options: What they were planned with.
        norms: Whether batch norms were put behind the convolutions.
        store: The type of stored factors.
    """

    kind: str
    options: dict[str, JsonValue] = Field(default_factory=dict)
    norms: bool = False
    store: Literal["fp32", "fp16", "int8"] = "fp32"


class DepthHeader(Strict):
    """Which residual blocks a task does without.

    Attributes:
        removed: Their names, which are the paths of their modules, in the order of the program.
        blocks: How many blocks the base has.
    """

    removed: tuple[Name, ...]
    blocks: Count


class Int8Header(Strict):
    """What a task was trained with for int8.

    Attributes:
        version: Of what the ranges are and how they are named.
        ranges: Least and largest value of activations, by ``WEIGHT/input`` or ``WEIGHT/output``: what the layer with
            that weight reads, and what it gives behind its norm and activation function.
    """

    version: Literal[1] = 1
    ranges: dict[Name, tuple[Figure, Figure]] = Field(max_length=MAX_SITES)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for site, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"the range of {site} is from {low} to {high}")
        return self


class Figures(Strict):
    """What a task costs, beside its base; densities are fractions of the base."""

    macs: Count
    base_macs: Count
    parameters: Count
    base_parameters: Count
    channel_density: float = Field(ge=0, le=1)
    stored_parameters: Count = 0


class Header(Strict):
    """The JSON part of a task file.

    Attributes:
        format_version: Of this file.
        edgespa_version: That wrote it.
        created: ISO 8601 time.
        base: How the base is found, see `edgespa.models.BaseReference`.
        digest: Of the base's state dict.
        input_shape: Sizes of the (first) input, batch first.
        inputs: All inputs, as ``--input-shape`` takes them, where they are more than one of the weights' element type.
        outputs: Number of outputs if the task has a head of its own, else None.
        depth: The residual blocks that were removed, if any were.
        widths: New widths of the heads of attention, where some are narrower than in the base.
        units: Units of each channel group of the base, without those blocks; a file that was made for other groups is
            refused.
        adapter: The adapters, if there are any.
        preprocess: How an image becomes an input; None if not known.
        int8: What it was trained with for int8, if it was.
        classes: Names of the outputs; empty if not known.
        figures: Costs.
        metrics: Accuracies and the like, by name.
        provenance: How it was made.
    """

    format_version: Literal[1] = 1
    edgespa_version: str = __version__
    created: str = Field(default_factory=made_at)
    base: dict[str, str | None]
    digest: Name
    input_shape: Sizes
    inputs: tuple[str, ...] = ()
    outputs: int | None = Field(default=None, ge=1, le=MAX_OUTPUTS)
    depth: DepthHeader | None = None
    widths: dict[Name, Count] = Field(default_factory=dict)
    units: dict[Name, int]
    adapter: AdapterHeader | None = None
    preprocess: Preprocess | None = None
    int8: Int8Header | None = None
    classes: tuple[Name, ...] = Field(default=(), max_length=MAX_OUTPUTS)
    figures: Figures
    metrics: dict[Name, Figure] = Field(default_factory=dict)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        for text in self.inputs:
            try:
                problem = sizes_problem(InputSize.parse(text).shape)
            except ConfigError as error:
                raise ValueError(error.message) from error
            if problem:
                raise ValueError(f"an input of {text}: {problem}")
        if self.classes and self.outputs is not None and len(self.classes) != self.outputs:
            raise ValueError(f"{len(self.classes)} names of classes for {self.outputs} outputs")
        image = self.preprocess
        shape = self.input_shape[1:]
        if image is not None and len(shape) == 3 and (image.channels, image.height, image.width) != shape:
            own = f"{image.channels} x {image.height} x {image.width}"
            raise ValueError(f"images of {own} for an input of {' x '.join(map(str, shape))}")
        return self


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task adds to its base.

    Attributes:
        header: Everything that is not a tensor.
        kept: Which units of each group remain.
        adapters: Factors by tensor name.
        tensors: Tensors stored whole, by name.
        shared: Tensors that all adapters have in common, by name.
    """

    header: Header
    kept: Kept
    adapters: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    shared: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def factors(self) -> Factors:
        """All tensors of the task."""
        return Factors(self.adapters, self.tensors, self.shared)

    def open_base(
        self, folder: Path, override: str | None = None, weights: str | None = None, *, trust: bool = False
    ) -> Base:
        """Find the base again, check its digest, and fit it to the task; see `find_base` and `fit`."""
        return self.fit(self.find_base(folder, override, weights, trust=trust))

    def find_base(
        self, folder: Path, override: str | None = None, weights: str | None = None, *, trust: bool = False
    ) -> Base:
        """Find the base again and check its digest.

        A base that is code is imported only if it was opened here before, or somebody says so: `edgespa.models.trust`.

        Args:
            folder: The folder of the task file.
            override: A model spec to use instead of the recorded one.
            weights: Its weight file.
            trust: The recorded one may be run if it is code, whoever made the file.

        Raises:
            UntrustedError: If it is code, and nobody has named it here.
            BaseMismatchError: If the model is not the one the task was made on.
            ModelError: If it cannot be found.
        """
        if override is not None:
            spec, found = override, weights
        else:
            spec, found = BaseReference.from_json(self.header.base).resolve(folder)
            require_trusted(spec, "the task file", trust=trust)
            found = weights if weights is not None else found
        sizes = tuple(InputSize.parse(text) for text in self.header.inputs)
        return Base.open(spec, sizes or self.header.input_shape, found, digest=self.header.digest)

    def fit(self, base: Base) -> Base:
        """The base with the head that the task has, what its adapter inserts, and without the blocks that are gone.

        Raises:
            TaskFileError: If the base does not have those blocks, or other channel groups than the task.
        """
        removed = self.header.depth.removed if self.header.depth is not None else ()
        if base.whole is not None and base.removed != removed:
            base = base.whole
        if dict(base.widths) != self.header.widths:
            base = _narrowed(base.wide or base, self.header.widths)
        if self.header.outputs is not None and self.header.outputs != base.outputs():
            base = base.with_outputs(self.header.outputs)
        if self.header.adapter is not None:
            with _in_words():
                adapter = self.header.adapter
                base = base.extended(adapter.kind, adapter.options, norms=adapter.norms)
        outputs = base.outputs()
        if self.header.outputs is None and self.header.classes and outputs not in (None, len(self.header.classes)):
            raise TaskFileError(
                f"{len(self.header.classes)} names of classes, and the base has {outputs} outputs", _REMAKE
            )
        try:
            base = base.without_blocks(removed)
        except GraphError as error:
            raise TaskFileError(f"the task does not fit its base: {error.message}", error.hint or _REMAKE) from error
        units = {name: len(group) for name, group in base.groups.groups.items()}
        if units != self.header.units:
            raise TaskFileError(
                "the channel groups of the base are not those that the task was made for",
                f"it was made with edgespa {self.header.edgespa_version}, this is {__version__}: use that version",
            )
        return base

    def program(self, base: Base) -> Program:
        """The task's compact program with all adapters merged.

        Args:
            base: From `open_base`, or the base the task was made on.
        """
        return self.adapted(self.fit(base)).merged()

    def adapted(self, base: Base) -> AdaptedProgram:
        """The task's compact program with its adapters beside the frozen weights.

        Raises:
            TaskFileError: If kept units or tensors do not fit the base.
        """
        adapter = self.header.adapter
        kind, options = (adapter.kind, adapter.options) if adapter else ("", {})
        with _in_words():
            program = compact(base.program, base.groups, self.kept)
            return attach(program, self.factors, kind, options, base.program)

    def with_metrics(self, **metrics: float) -> Task:
        """The task with more figures in its header."""
        header = self.header.model_copy(update={"metrics": {**self.header.metrics, **metrics}})
        return dataclasses.replace(self, header=header)

    def with_provenance(self, **facts: JsonValue) -> Task:
        """The task with more of how it was made in its header."""
        header = self.header.model_copy(update={"provenance": {**self.header.provenance, **facts}})
        return dataclasses.replace(self, header=header)

    def stored_as(self, store: str) -> Task:
        """The task with its adapter factors rounded to what a file of that type holds.

        Args:
            store: One of `edgespa.adapters.storage.STORES`.

        Raises:
            AdapterError: If a value does not fit the type.
        """
        if self.header.adapter is None:
            return self
        adapter = self.header.adapter.model_copy(update={"store": store})
        own = Factors.from_flat(decode(encode(self.factors.flat(), store)))
        header = self.header.model_copy(update={"adapter": adapter})
        return Task(header, self.kept, own.adapters, own.tensors, own.shared)

    def to_bytes(self) -> bytes:
        """The content of the task file."""
        tensors = {f"kept/{name}": torch.from_numpy(np.packbits(mask)) for name, mask in self.kept.items()}
        tensors.update(encode(self.factors.flat(), self.header.adapter.store if self.header.adapter else "fp32"))
        # An older edgespa takes no field that it does not know.
        without = {name for name in ("widths", "int8") if not getattr(self.header, name)}
        return sealed.to_bytes(_KEY, self.header.model_dump_json(exclude=without), tensors)

    def save(self, path: Path) -> int:
        """Write the file, whole or not at all.

        Returns:
            Its size in bytes.
        """
        content = self.to_bytes()
        write_whole(path, content)
        return len(content)

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read a task file.

        Raises:
            TaskFileError: If it is not one, is damaged, or is of a newer version.
        """
        try:
            text, tensors = sealed.read(path, _KEY)
        except KeyError:
            raise TaskFileError(
                f"{path}: a safetensors file, but not a task file", "name a file made by adapt or prune"
            ) from None
        except FileNotFoundError:
            raise TaskFileError(
                f"{path}: there is no such task file", "make one with: edgespa adapt or edgespa prune"
            ) from None
        except (OSError, ValueError) as error:
            what, hint = f"not a task file, or damaged: {error}", _REMAKE
            if path.is_dir():
                what, hint = "a folder, not a task file", hint_of_task_folder(path) or f"edgespa tasks {path} lists its"
            raise TaskFileError(f"{path}: {what}", hint) from error
        try:
            return cls._from(text, tensors, str(path))
        except AdapterError as error:
            raise TaskFileError(f"{path}: {error.message}", error.hint) from error

    @classmethod
    def _from(cls, text: str, tensors: Mapping[str, Tensor], where: str) -> Task:
        header = _header(text, where)
        kept: Kept = {}
        rest: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "kept" and name in header.units:
                kept[name] = _unpack(tensor, header.units[name], f"{where}: {key}")
            else:
                rest[key] = tensor
        factors = Factors.from_flat(decode(rest))
        most = max((tensor.shape[0] for tensor in factors.tensors.values() if tensor.dim()), default=0)
        if (header.outputs or 0) > most:
            raise TaskFileError(f"{where}: {header.outputs} outputs, and no tensor has as many rows", _REMAKE)
        missing = set(header.units) - set(kept)
        if missing:
            raise TaskFileError(f"{where}: the kept units of {sorted(missing)[0]} are missing", _REMAKE)
        return cls(header, kept, factors.adapters, factors.tensors, factors.shared)


def _narrowed(base: Base, widths: Mapping[str, int]) -> Base:
    """The base with heads as wide as a task has them."""
    if not widths:
        return base
    try:
        return base.narrowed(widths)
    except (GraphError, KeyError) as error:
        raise TaskFileError("the base has no heads of attention as the task has them", _REMAKE) from error


_REMAKE = "make the task file again, or fetch it again if it was copied"


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Whatever the factors and options of a file bring about on its base: it is the file that does not fit.

    Nothing says that edgespa wrote it: an option may be absent, a factor of any shape.
    """
    try:
        yield
    except (AdapterError, GraphError) as error:
        raise TaskFileError(f"the task does not fit its base: {error.message}", error.hint or _REMAKE) from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise TaskFileError(f"the task does not fit its base: {what}", _REMAKE) from error


def _header(text: str, where: str) -> Header:
    try:
        values: Any = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TaskFileError(f"{where}: its metadata is not JSON: {error}", _REMAKE) from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise TaskFileError(f"{where}: its metadata has no format version", _REMAKE)
    if version != FORMAT_VERSION:
        raise TaskFileError(
            f"{where}: task file format {version}, this edgespa reads {FORMAT_VERSION}", "update edgespa"
        )
    try:
        return Header.parse(values, where)
    except ConfigError as error:
        raise TaskFileError(error.message, error.hint or _REMAKE) from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _unpack(bits: Tensor, units: int, where: str) -> np.ndarray:
    if units < 1 or bits.dtype != torch.uint8 or bits.shape != ((units + 7) // 8,):
        raise TaskFileError(f"{where}: not the packed bits of {units} units", _REMAKE)
    mask = np.unpackbits(bits.numpy(), count=units).astype(bool)
    if not mask.any():
        raise TaskFileError(f"{where}: no unit is kept", _REMAKE)
    return mask


def is_task_file(spec: str) -> bool:
    """Whether a MODEL argument names a task file."""
    return spec.endswith(SUFFIX)


def make_header(base: Base, kept: Kept, folder: Path, *, stored_parameters: int = 0, **fields: Any) -> Header:
    """The header of a task on a base.

    Args:
        base: The base, with the head that the task uses.
        kept: Kept units.
        folder: Where the task file will lie, so that it finds its base from there.
        stored_parameters: Elements that the task stores (adapters and whole tensors).
        **fields: The rest of `Header`.
    """
    whole, now = base.whole_cost, base.cost.cost(kept)
    figures = Figures(
        macs=now.macs,
        base_macs=whole.macs,
        parameters=now.parameters,
        base_parameters=whole.parameters,
        channel_density=base.groups.channel_density(kept),
        stored_parameters=stored_parameters,
    )
    if base.whole is not None:
        fields["depth"] = DepthHeader(removed=base.removed, blocks=len(base.whole.blocks))
    return Header(
        base=base.reference(folder).to_json(),
        digest=base.digest,
        input_shape=base.input_shape,
        inputs=tuple(str(each) for each in base.inputs),
        widths=dict(base.widths),
        units={name: len(group) for name, group in base.groups.groups.items()},
        figures=figures,
        **fields,
    )
