"""What a task adds to its base as tensors: adapter factors and whole tensors; slicing them, putting them to use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgespa.adapters.adapted import KINDS, AdaptedProgram
from edgespa.adapters.base import Adapter
from edgespa.errors import AdapterError
from edgespa.graph.groups import Slot
from edgespa.graph.program import Program


@dataclasses.dataclass(frozen=True)
class Factors:
    """Tensors of a task, or others of the same structure, such as an optimiser's running averages.

    Attributes:
        adapters: Per adapted tensor its factors by name.
        tensors: Tensors stored whole, by name.
    """

    adapters: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """All tensors under ``adapter/TENSOR/FACTOR`` and ``tensor/TENSOR``."""
        flat = {f"tensor/{name}": tensor for name, tensor in self.tensors.items()}
        for name, factors in self.adapters.items():
            flat.update({f"adapter/{name}/{factor}": tensor for factor, tensor in factors.items()})
        return flat

    @classmethod
    def from_flat(cls, flat: Mapping[str, Tensor]) -> Factors:
        """The inverse of `flat`.

        Raises:
            AdapterError: If a key is of neither form.
        """
        adapters: dict[str, dict[str, Tensor]] = {}
        tensors: dict[str, Tensor] = {}
        for key, tensor in flat.items():
            kind, _, name = key.partition("/")
            owner, _, factor = name.rpartition("/")
            if kind == "adapter" and owner and factor:
                adapters.setdefault(owner, {})[factor] = tensor
            elif kind == "tensor" and name:
                tensors[name] = tensor
            else:
                raise AdapterError(f"unexpected tensor {key}")
        return cls(adapters, tensors)

    def copied(self) -> Factors:
        """The same values in memory of their own."""
        return Factors.from_flat({key: tensor.detach().clone() for key, tensor in self.flat().items()})

    def size(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel() for tensor in self.flat().values())

    def narrowed(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        indices: Mapping[Slot, Tensor],
        kind: str,
        options: Mapping[str, Any],
    ) -> Factors:
        """The factors after some slots have lost indices.

        Args:
            shapes: Shapes of the adapted tensors as they are now.
            indices: Per slot that shrinks the indices that remain, see `edgespa.graph.surgery.relative_indices`.
            kind: The adapters' kind.
            options: Its options.
        """
        tensors = {}
        for name, tensor in self.tensors.items():
            for dim in range(tensor.dim()):
                if (slot := Slot(name, dim)) in indices:
                    tensor = tensor.index_select(dim, indices[slot])
            tensors[name] = tensor
        adapters = {}
        for name, factors in self.adapters.items():
            adapter = make_adapter(kind, factors, options, name, shapes[name])
            for dim in range(len(shapes[name])):
                if (slot := Slot(name, dim)) in indices:
                    adapter = adapter.sliced(dim, indices[slot])
            adapters[name] = adapter.tensors()
        return Factors(adapters, tensors)


def make_adapter(
    kind: str, factors: Mapping[str, Tensor], options: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> Adapter:
    """An adapter from its stored factors.

    Raises:
        AdapterError: If the kind is unknown or the factors do not fit; it names the tensor.
    """
    if kind not in KINDS:
        raise AdapterError(f"{name}: unknown adapter kind '{kind}'", "update edgespa")
    try:
        return KINDS[kind].from_tensors(factors, options, shape)
    except AdapterError as error:
        raise AdapterError(f"{name}: {error.message}", error.hint) from error


def attach(program: Program, factors: Factors, kind: str, options: Mapping[str, Any]) -> AdaptedProgram:
    """Put factors to use on a program that is as narrow as they are.

    Args:
        program: Compacted, with the base's weights.
        factors: Adapters and whole tensors; their values are copied.
        kind: The adapters' kind; not looked at if there are none.
        options: Its options.

    Raises:
        AdapterError: If an adapter's tensor is not in the program, or does not fit it.
        GraphError: If a whole tensor is not in the program, or does not fit it.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in program.tensors()}
    adapters = {}
    for name, own in factors.copied().adapters.items():
        if name not in shapes:
            raise AdapterError(f"the program has no tensor named {name}")
        adapters[name] = make_adapter(kind, own, options, name, shapes[name])
    filled = program.with_state(factors.tensors)
    parameters = {name for name, tensor in filled.tensors() if isinstance(tensor, torch.nn.Parameter)}
    return AdaptedProgram(filled, adapters, [name for name in factors.tensors if name in parameters])
