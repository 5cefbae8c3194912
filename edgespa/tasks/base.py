"""The base of a task: a pretrained model, traced, with its channel groups and its digest."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgespa.adapters.insertion import inserted_tensors, without_inserted
from edgespa.adapters.kinds import FULL, kind_named
from edgespa.adapters.renorm import merged_tensors, with_norms
from edgespa.errors import ModelError
from edgespa.graph.blocks import Block, find_blocks, require_removable, without_blocks
from edgespa.graph.cost import Cost, CostModel
from edgespa.graph.forms import Part
from edgespa.graph.groups import Groups, find_groups
from edgespa.graph.head_widths import HeadWidths, narrowed
from edgespa.graph.layers import Layers, find_layers
from edgespa.graph.program import Program, assign
from edgespa.graph.surgery import head_tensors, resize_output
from edgespa.models.detectors import Detector, TakenApart
from edgespa.models.inputs import InputSize, InputSizes, as_inputs
from edgespa.models.opening import open_program, require_digest, traced_detector
from edgespa.models.query_detectors import QueryDetector
from edgespa.models.recorded import Recorded
from edgespa.models.reference import BaseReference
from edgespa.models.trust import remember
from edgespa.system.bounds import shown, text_problem

_KEPT: ContextVar[dict[object, Base] | None] = ContextVar("kept", default=None)
_OPENED: dict[str, dict[object, Base]] = {}


@contextlib.contextmanager
def kept_open(content: str) -> Iterator[None]:
    """Trace a base once for all blocks of this process that name the same content: nothing changes a base.

    Args:
        content: Digest of the files that the bases in the block are made of.
    """
    if content not in _OPENED:
        _OPENED.clear()
        _OPENED[content] = {}
    token = _KEPT.set(_OPENED[content])
    try:
        yield
    finally:
        _KEPT.reset(token)


@dataclasses.dataclass(frozen=True)
class Base:
    """A traced pretrained model.

    Attributes:
        spec: How it was named.
        weights: The weight file that was named, if any.
        input_shape: Sizes of its (first) input, batch first.
        digest: SHA-256 of its state dict.
        program: The traced program.
        groups: Its channel groups.
        inputs: All inputs, where they are more than one of the element type of its weights; else empty.
        removed: Names of the residual blocks that were removed from it, in the order of the program.
        whole: The base with all its blocks, where some were removed; else None.
        recorded: What the library of the model records of its images; None for a model of no library.
        widths: New widths of the heads of attention, see `edgespa.graph.head_widths.narrowed`; empty where they are as
            wide as they were.
        wide: The base with heads as wide as they were, where some are narrower; else None.
        apart: A detector of torchvision, of which the program is the raw network, or of transformers; else None.
        detector: What there is to know of it.
        learns: What it learned to do, by its class.
    """

    spec: str
    weights: str | None
    input_shape: tuple[int, ...]
    digest: str
    program: Program
    groups: Groups
    inputs: tuple[InputSize, ...] = ()
    removed: tuple[str, ...] = ()
    whole: Base | None = None
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    wide: Base | None = None
    recorded: Recorded | None = None
    apart: TakenApart | QueryDetector | None = None
    detector: Detector | None = None
    learns: str = "classes"

    @classmethod
    def open(
        cls, spec: str, input_shape: InputSizes | None, weights: str | None = None, *, digest: str | None = None
    ) -> Base:
        """Load and trace a model; that it was opened is noted, see `edgespa.models.trust`.

        Args:
            spec: A model spec, see `edgespa.models`.
            input_shape: Sizes of its input with the batch first, or an `InputSize` for each of its inputs; may be left
                out for a ``.pt2`` program, and where the model's library records them.
            weights: A weight file, or ``random``.
            digest: Of its state dict; another is refused before the model is traced.

        Raises:
            BaseMismatchError: If its state dict has another digest.
            ModelError: If it cannot be loaded or traced.
        """
        if problem := text_problem(f"{spec}{weights or ''}{Path.cwd()}", lines=False):
            # A task file records where its base lies, at the end of a long training.
            raise ModelError(
                f"{shown(spec)} in {shown(str(Path.cwd()))}: a path there {problem}", "rename the folder or file"
            )
        kept, sizes = _KEPT.get(), as_inputs(input_shape)
        if kept is not None and (known := kept.get((spec, weights, sizes))) is not None:
            known.require_digest(digest or known.digest)
            return known
        opened = open_program(spec, sizes, weights, digest)
        remember(spec)
        inputs, program = opened.inputs, opened.program
        plain = len(inputs) == 1 and inputs[0].dtype is None
        found = cls(
            spec,
            weights,
            inputs[0].shape,
            opened.digest,
            program,
            find_groups(program),
            () if plain else inputs,
            recorded=opened.recorded,
            apart=opened.apart,
            detector=opened.detector,
            learns=opened.learns,
        )
        if kept is not None:
            kept[spec, weights, sizes] = found
        return found

    @property
    def input_sizes(self) -> InputSizes:
        """What `open` takes to trace the same program."""
        return self.inputs or self.input_shape

    @cached_property
    def cost(self) -> CostModel:
        """What it costs with any of its units; norms that were put in do not count, for they are merged on export."""
        return self._cost_by(self.groups)

    def _cost_by(self, groups: Groups) -> CostModel:
        return CostModel(self.program, groups, merged_tensors(name for name, _ in self.program.tensors()))

    def cost_parts(self, quantity: str) -> list[Part]:
        """What sums up to a cost, over the units of channel groups and the widths of heads.

        Args:
            quantity: ``macs`` or ``parameters``.
        """
        heads, parts = self.head_widths, self.cost.parts(quantity)
        return heads.parts(parts, self._cost_by(heads.groups).parts(quantity) if heads.widths else parts)

    @cached_property
    def head_widths(self) -> HeadWidths:
        """The widths of its heads of attention that can shrink; none where they are narrower already."""
        return HeadWidths(self.groups, {}) if self.wide is not None else HeadWidths.of(self.program, self.groups)

    @cached_property
    def layers(self) -> Layers:
        """Its layers as runtimes see them, for what they take on a device."""
        heads, layers = self.head_widths, find_layers(self.program, self.groups)
        return heads.layers(layers, find_layers(self.program, heads.groups) if heads.widths else layers)

    @property
    def whole_cost(self) -> Cost:
        """What it costs unpruned, with all its blocks and heads as wide as they were."""
        base = self.whole or self
        return (base.wide or base).cost.cost()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Its repeated residual blocks, those that were removed left out."""
        return find_blocks(self.program)

    def outputs(self) -> int | None:
        """Number of outputs of the last layer, see `head`; None if the network does not end in one.

        Of a detector the classes that it tells apart, without a background.
        """
        if self.detector is not None:
            return self.detector.classes
        names = self.head()
        return dict(self.program.tensors())[names[0]].shape[0] if names else None

    def head(self) -> tuple[str, ...]:
        """Tensors of the last layer, see `head_tensors`; of a detector those of all that write an output."""
        return head_tensors(self.program) if self.detector is None else self.detector.head

    def with_outputs(self, size: int, seed: int = 0) -> Base:
        """The base with another number of outputs: a fresh last layer, Kaiming-uniform weights and zero biases.

        Raises:
            GraphError: If the network does not end in one layer.
        """
        if self.whole is not None:
            return self.whole.with_outputs(size, seed).without_blocks(self.removed)
        if self.apart is not None:
            return self._with_classes(self.apart.with_classes(size, seed))
        program, names = resize_output(self.program, size)
        generator = torch.Generator().manual_seed(seed)
        tensors = dict(program.tensors())
        for name in names:
            tensor = tensors[name].detach()
            bound = 1 / math.sqrt(math.prod(tensor.shape[1:])) if tensor.dim() > 1 else 0.0
            assign(
                program.module, name, (torch.rand(tensor.shape, generator=generator) * 2 - 1).to(tensor.dtype) * bound
            )
        return dataclasses.replace(self, program=program, groups=find_groups(program))

    def _with_classes(self, apart: TakenApart | QueryDetector) -> Base:
        sizes = self.inputs or (InputSize(self.input_shape),)
        program, detector = traced_detector(apart, self.spec, sizes)
        new, own = program.state(), self.program.state()
        same = {name: tensor for name, tensor in own.items() if new[name].shape == tensor.shape}
        program = program.with_state(same)  # the base's may not be the model's any more
        return dataclasses.replace(self, program=program, groups=find_groups(program), apart=apart, detector=detector)

    def extended(self, kind: str, options: Mapping[str, Any], *, norms: bool = False) -> Base:
        """The base with the operators that an adapter kind inserts, which change nothing yet.

        Their tensors shrink with the channels that they read and write, and are never pruned themselves.

        Args:
            kind: An adapter kind, or ``full``, which inserts nothing.
            options: Its options.
            norms: Put batch norms behind the convolutions first, see `edgespa.adapters.renorm`.

        Raises:
            AdapterError: If the program has no place for them.
        """
        if inserted_tensors(self.program):
            return self
        if self.whole is not None:  # what is inserted is counted over all blocks
            return self.whole.extended(kind, options, norms=norms).without_blocks(self.removed)
        program = with_norms(self.program) if norms else self.program
        if kind != FULL:
            program = kind_named(kind).extended(program, options)
        if not inserted_tensors(program):
            return self
        return dataclasses.replace(self, program=program, groups=without_inserted(find_groups(program)))

    def without_blocks(self, names: Iterable[str]) -> Base:
        """The base with some of its residual blocks replaced by the identity; their tensors are gone.

        Args:
            names: Of blocks; those that are gone already do not count.

        Raises:
            GraphError: If there is no such block, it cannot be removed, or none would be left.
        """
        wanted = {name for name in names if name not in self.removed}
        if not wanted:
            return self
        whole = self.whole or self
        removed = tuple(each.name for each in require_removable(whole.blocks, {*self.removed, *wanted}))
        program = without_blocks(whole.program, removed)
        groups = find_groups(program)
        if inserted_tensors(program):
            groups = without_inserted(groups)
        return dataclasses.replace(self, program=program, groups=groups, removed=removed, whole=whole)

    def narrowed(self, widths: Mapping[str, int]) -> Base:
        """The base with narrower heads, of which the first dimensions are left: a task has new weights for them.

        Args:
            widths: By group of the widths.

        Raises:
            GraphError: If there is no such width, or a head would be left with none.
        """
        base = self.wide or self
        program = narrowed(base.program, widths)
        return dataclasses.replace(base, program=program, groups=find_groups(program), widths=dict(widths), wide=base)

    def with_state(self, state: Mapping[str, Tensor]) -> Base:
        """The base with other values of some tensors, of the same shapes.

        Raises:
            GraphError: If a name is unknown or a shape or type differs.
        """
        whole = None if self.whole is None else self.whole.with_state(state)
        return dataclasses.replace(self, program=self.program.with_state(state), whole=whole)

    def require_digest(self, digest: str) -> None:
        """Refuse a base that is not the one a task was made on.

        Raises:
            BaseMismatchError: With both digests.
        """
        require_digest(digest, self.digest, self.spec)

    def reference(self, task_folder: Path) -> BaseReference:
        """How a task file in a folder finds this base again."""
        return BaseReference.record(self.spec, self.weights, task_folder)
