"""The base of a task: a pretrained model, traced, with its channel groups and its digest."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from pathlib import Path

import torch

from edgespa.errors import BaseMismatchError, ModelError
from edgespa.graph.cost import Cost, CostModel
from edgespa.graph.groups import Groups, find_groups
from edgespa.graph.program import Program, assign
from edgespa.graph.surgery import head_tensors, resize_output
from edgespa.graph.trace import from_exported, trace
from edgespa.models import BaseReference, is_pt2, load_model, load_pt2, state_digest


@dataclasses.dataclass(frozen=True)
class Base:
    """A traced pretrained model.

    Attributes:
        spec: How it was named.
        weights: The weight file that was named, if any.
        input_shape: Sizes of its input, batch first.
        digest: SHA-256 of its state dict.
        program: The traced program.
        groups: Its channel groups.
    """

    spec: str
    weights: str | None
    input_shape: tuple[int, ...]
    digest: str
    program: Program
    groups: Groups

    @classmethod
    def open(cls, spec: str, input_shape: tuple[int, ...] | None, weights: str | None = None) -> Base:
        """Load and trace a model.

        Args:
            spec: A model spec, see `edgespa.models`.
            input_shape: Sizes of its input with the batch first; may be left out for a ``.pt2`` program.
            weights: A weight file, or ``random``.

        Raises:
            ModelError: If it cannot be loaded or traced.
        """
        if is_pt2(spec):
            exported = load_pt2(spec)
            digest = state_digest(exported.state_dict)
            program = from_exported(exported)
            shape = tuple(size if isinstance(size, int) else 1 for size in program.inputs[0].shape)
            if input_shape is not None and input_shape[1:] != shape[1:]:
                raise ModelError(f"{spec} takes inputs of shape {shape}, not {input_shape}", "leave out --input-shape")
        else:
            if input_shape is None:
                raise ModelError(
                    f"the sizes of the input of {spec} are not known", "pass --input-shape, for example 1,3,224,224"
                )
            model = load_model(spec, weights)
            digest = state_digest(model.state_dict())
            shape = input_shape
            program = trace(model, (_example(model, shape),))
        return cls(spec, weights, shape, digest, program, find_groups(program))

    @cached_property
    def cost(self) -> CostModel:
        """What it costs with any of its units."""
        return CostModel(self.program, self.groups)

    @property
    def whole_cost(self) -> Cost:
        """What it costs unpruned."""
        return self.cost.cost()

    def outputs(self) -> int | None:
        """Number of outputs of the last linear layer; None if the network does not end in one."""
        names = head_tensors(self.program)
        return dict(self.program.tensors())[names[0]].shape[0] if names else None

    def with_outputs(self, size: int, seed: int = 0) -> Base:
        """The base with another number of outputs: a fresh last layer, Kaiming-uniform weights and zero biases.

        Raises:
            GraphError: If the network does not end in a linear layer.
        """
        program, names = resize_output(self.program, size)
        generator = torch.Generator().manual_seed(seed)
        tensors = dict(program.tensors())
        for name in names:
            tensor = tensors[name].detach()
            bound = 1 / math.sqrt(tensor.shape[1]) if tensor.dim() > 1 else 0.0
            assign(
                program.module, name, (torch.rand(tensor.shape, generator=generator) * 2 - 1).to(tensor.dtype) * bound
            )
        return dataclasses.replace(self, program=program, groups=find_groups(program))

    def require_digest(self, digest: str) -> None:
        """Refuse a base that is not the one a task was made on.

        Raises:
            BaseMismatchError: With both digests.
        """
        if digest != self.digest:
            raise BaseMismatchError(
                f"the task was made on another base: it wants {digest}, {self.spec} has {self.digest}",
                "name the right model with --base, or its weights with --weights",
            )

    def reference(self, task_folder: Path) -> BaseReference:
        """How a task file in a folder finds this base again."""
        return BaseReference.record(self.spec, self.weights, task_folder)


def _example(model: torch.nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype)
