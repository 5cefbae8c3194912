"""What a task adds to its base as tensors: adapter factors and whole tensors; slicing them, putting them to use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.base import Adapter, Place
from edgespa.adapters.kinds import kind_named
from edgespa.adapters.places import find_places
from edgespa.errors import AdapterError, ConfigError
from edgespa.graph.groups import Slot
from edgespa.graph.program import Program


@dataclasses.dataclass(frozen=True)
class Factors:
    """Tensors of a task, or others of the same structure, such as an optimiser's running averages.

    Attributes:
        adapters: Per adapted tensor its factors by name.
        tensors: Tensors stored whole, by name.
        shared: Tensors that all adapters have in common, by name; they are never sliced.
    """

    adapters: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    shared: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """All tensors under ``adapter/TENSOR/FACTOR``, ``tensor/TENSOR`` and ``shared/NAME``."""
        flat = {f"tensor/{name}": tensor for name, tensor in self.tensors.items()}
        for name, factors in self.adapters.items():
            flat.update({f"adapter/{name}/{factor}": tensor for factor, tensor in factors.items()})
        return {**flat, **{f"shared/{name}": tensor for name, tensor in self.shared.items()}}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Tensor]) -> Factors:
        """The inverse of `flat`.

        Raises:
            AdapterError: If a key is of none of these forms.
        """
        adapters: dict[str, dict[str, Tensor]] = {}
        tensors: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for key, tensor in flat.items():
            kind, _, name = key.partition("/")
            owner, _, factor = name.rpartition("/")
            if kind == "adapter" and owner and factor:
                adapters.setdefault(owner, {})[factor] = tensor
            elif kind == "tensor" and name:
                tensors[name] = tensor
            elif kind == "shared" and name:
                shared[name] = tensor
            else:
                raise AdapterError(f"unexpected tensor {key}")
        return cls(adapters, tensors, shared)

    @classmethod
    def of(cls, model: AdaptedProgram, statistics: Iterable[str] = ()) -> Factors:
        """What a program with adapters adds to its base.

        Args:
            model: The program.
            statistics: Buffers that belong to the task.
        """
        adapters = {name: model.adapter_of(name).tensors() for name in model.adapted}
        shared = {name: tensor.detach() for name, tensor in model.shared.items()}
        return cls(adapters, model.task_tensors(statistics), shared)

    def copied(self) -> Factors:
        """The same values in memory of their own."""
        return Factors.from_flat({key: tensor.detach().clone() for key, tensor in self.flat().items()})

    def on_cpu(self) -> Factors:
        """The same tensors on the CPU; where they are there, they are shared."""
        return Factors.from_flat({key: tensor.detach().cpu() for key, tensor in self.flat().items()})

    def size(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel() for tensor in self.flat().values())

    def narrowed(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        indices: Mapping[Slot, Tensor],
        kind: str,
        options: Mapping[str, Any],
        *,
        places: Mapping[str, Place] | None = None,
        like: Factors | None = None,
    ) -> Factors:
        """The factors after some slots have lost indices.

        Args:
            shapes: Shapes of the adapted tensors as they are now.
            indices: Per slot that shrinks the indices that remain, see `edgespa.graph.surgery.relative_indices`.
            kind: The adapters' kind.
            options: Its options.
            places: Where the weights stand, from `find_places`.
            like: For tensors of the same structure that are not all there, such as running averages, which factors
                without a gradient do not have: what they belong to.
        """
        tensors = {}
        for name, tensor in self.tensors.items():
            for dim in range(tensor.dim()):
                if (slot := Slot(name, dim)) in indices:
                    tensor = tensor.index_select(dim, indices[slot].to(tensor.device))
            tensors[name] = tensor
        shared = {n: nn.Parameter(t) for n, t in (like or self).shared.items()}
        adapters = {}
        for name, factors in self.adapters.items():
            whole = {**like.adapters[name], **factors} if like else factors
            place = dataclasses.replace((places or {}).get(name, Place()), shared=shared)
            adapter = make_adapter(kind, whole, options, name, shapes[name], place)
            for dim in range(len(shapes[name])):
                if (slot := Slot(name, dim)) in indices:
                    device = next(iter(whole.values())).device
                    adapter = adapter.sliced(dim, indices[slot].to(device))
            stored = adapter.tensors()
            adapters[name] = {key: stored[key] for key in factors if key in stored} if like else stored
        return Factors(adapters, tensors, self.shared)

    def settled(self, program: Program, kind: str, options: Mapping[str, Any], whole: Program | None = None) -> Factors:
        """Without what only training needs.

        Args:
            program: As narrow as the factors.
            kind: The adapters' kind.
            options: Its options.
            whole: The base in full width, see `attach`.
        """
        made, _ = _make_all(program, self, kind, options, whole)
        adapters = {name: adapter.settled().tensors() for name, adapter in made}
        return Factors(adapters, self.tensors, self.shared)


def make_adapter(
    kind: str,
    factors: Mapping[str, Tensor],
    options: Mapping[str, Any],
    name: str,
    shape: tuple[int, ...],
    place: Place | None = None,
) -> Adapter:
    """An adapter from its stored factors.

    Raises:
        AdapterError: If the kind is unknown or the factors do not fit; it names the tensor.
    """
    try:
        found = kind_named(kind)
    except ConfigError as error:
        raise AdapterError(
            f"{name}: unknown adapter kind '{kind}'", "update edgespa, or install the package that has it"
        ) from error
    try:
        return found.from_tensors(factors, options, shape, place or Place())
    except AdapterError as error:
        raise AdapterError(f"{name}: {error.message}", error.hint) from error


def attach(
    program: Program, factors: Factors, kind: str, options: Mapping[str, Any], whole: Program | None = None
) -> AdaptedProgram:
    """Put factors to use on a program that is as narrow as they are.

    Args:
        program: Compacted, with the base's weights.
        factors: Adapters and whole tensors; their values are copied.
        kind: The adapters' kind; not looked at if there are none.
        options: Its options.
        whole: The base in full width, for kinds that look at filters which are gone; the program where nothing is.

    Raises:
        AdapterError: If an adapter's tensor is not in the program, or does not fit it.
        GraphError: If a whole tensor is not in the program, or does not fit it.
    """
    made, shared = _make_all(program, factors.copied(), kind, options, whole)
    filled = program.with_state(factors.tensors)
    parameters = {name for name, tensor in filled.tensors() if isinstance(tensor, nn.Parameter)}
    trained = [name for name in factors.tensors if name in parameters]
    return AdaptedProgram(filled, dict(made), trained, shared)


def _make_all(
    program: Program, factors: Factors, kind: str, options: Mapping[str, Any], whole: Program | None
) -> tuple[list[tuple[str, Adapter]], dict[str, nn.Parameter]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in program.tensors()}
    places = find_places(program) if factors.adapters else {}
    shared = {name: nn.Parameter(tensor) for name, tensor in factors.shared.items()}
    frozen = dict((whole or program).tensors()) if factors.adapters else {}
    made = []
    for name, own in factors.adapters.items():
        if name not in shapes:
            raise AdapterError(f"the program has no tensor named {name}")
        place = dataclasses.replace(places.get(name, Place()), shared=shared, frozen=frozen.get(name))
        made.append((name, make_adapter(kind, own, options, name, shapes[name], place)))
    return made, shared
