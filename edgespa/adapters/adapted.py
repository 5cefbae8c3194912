"""A program that carries adapters: which tensors are adapted, trained or frozen; training, slicing, merging."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgespa.adapters.base import Adapter
from edgespa.adapters.forms import Forms
from edgespa.adapters.insertion import is_inserted
from edgespa.adapters.kinds import FULL, kind_named
from edgespa.adapters.places import find_places, norm_tensors
from edgespa.errors import AdapterError
from edgespa.graph.program import Program, assign
from edgespa.quantisation.fake import on_levels

NORM_OR_BIAS = "norm or bias"
HEAD = "head"
FINE_PRUNING = "fine-pruning"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens to each tensor of a program.

    Attributes:
        adapters: Fresh adapters by tensor name.
        trained: Tensors that are trained and stored whole, with the reason.
        frozen: Tensors that stay as in the base, with the reason.
        statistics: Buffers that training updates (batch-norm statistics); stored whole.
        shared: Parameters that all adapters have in common, by name.
        instead: Tensors whose adapter is of another kind than was asked for, with the reason.
    """

    adapters: dict[str, Adapter]
    trained: dict[str, str]
    frozen: dict[str, str]
    statistics: tuple[str, ...]
    shared: dict[str, nn.Parameter] = dataclasses.field(default_factory=dict)
    instead: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def trained_whole(self) -> dict[str, str]:
        """Weights that are trained although the method is an adapter, with the reason."""
        usual = (NORM_OR_BIAS, HEAD, FINE_PRUNING)
        return {name: why for name, why in self.trained.items() if why not in usual}


def plan(
    program: Program,
    method: str,
    options: Mapping[str, Any],
    head: Iterable[str],
    generator: torch.Generator,
    *,
    freeze_norms: bool = False,
) -> Plan:
    """Decide for every tensor whether it is adapted, trained directly or frozen.

    Weights of linear and convolution layers are adapted where the adapter is smaller than the weight; else they are
    trained or frozen, as the kind says. The head, norms, biases, and what the kind has inserted are trained. Other
    tensors of two or more dimensions (position embeddings and the like) are frozen, and listed.

    Args:
        program: The program at full width, with what the kind inserts.
        method: An adapter kind, or ``full``.
        options: The kind's options.
        head: Tensors of the last layer.
        generator: For the adapters' initial values.
        freeze_norms: Leave weights, biases and statistics of norms as in the base.

    Raises:
        ConfigError: If the method is unknown.
    """
    kind = None if method == FULL else kind_named(method)
    shared = {} if kind is None else {n: nn.Parameter(t) for n, t in kind.shared(options, generator).items()}
    heads, running = set(head), _running_statistics(program)
    places = find_places(program)
    norms = norm_tensors(program) if freeze_norms else {}
    adapters: dict[str, Adapter] = {}
    trained: dict[str, str] = {}
    frozen: dict[str, str] = {}
    instead: dict[str, str] = {}
    statistics = []
    for name, tensor in program.tensors():
        if not isinstance(tensor, nn.Parameter):
            if name in running and not freeze_norms:
                statistics.append(name)
            elif tensor.is_floating_point():
                frozen[name] = "norms are frozen" if name in running else "a buffer"
        elif name in norms:
            frozen[name] = "norms are frozen"
        elif kind is None:
            trained[name] = FINE_PRUNING
        elif name in heads:
            trained[name] = HEAD
        elif is_inserted(name):
            trained[name] = NORM_OR_BIAS if tensor.dim() <= 1 else f"inserted by {method}"
        elif name in places:
            place = dataclasses.replace(places[name], shared=shared)
            adapter = kind.for_weight(tensor, options, generator, place)
            if adapter is not None:
                adapters[name] = adapter
                if adapter.kind != method:
                    instead[name] = f"{adapter.kind}: {kind.why_not(tensor, place)}"
            elif kind.unfit == "trained":
                trained[name] = "an adapter would not be smaller"
            else:
                frozen[name] = f"it has no {method} adapter"
        elif tensor.dim() <= 1:
            trained[name] = NORM_OR_BIAS
        else:
            frozen[name] = "not the weight of a linear or convolution layer"
    return Plan(adapters, trained, frozen, tuple(statistics), shared, instead)


def _running_statistics(program: Program) -> set[str]:
    names = set()
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default:
            names |= {str(item.target) for item in node.args[3:5] if isinstance(item, fx.Node)}
    return names


class AdaptedProgram(nn.Module):
    """A program whose adapted weights are computed as it runs.

    The program is copied; its trained tensors and the adapters' factors are the module's parameters that need a
    gradient, everything else is frozen. `places` says where its weights stand, in either form.

    Args:
        program: The program, at the width of the adapters.
        adapters: By tensor name.
        trained: Names of tensors that are trained directly.
        shared: Parameters that all adapters have in common.

    Attributes:
        coarse: Names of the weights that take their levels of int8 as it runs, see `edgespa.quantisation.fake`.
    """

    def __init__(
        self,
        program: Program,
        adapters: Mapping[str, Adapter],
        trained: Iterable[str],
        shared: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        super().__init__()
        self.program = program.copy()
        self.module = self.program.module
        for node in self.module.graph.nodes:  # images are in channels_last here, which a view would not take
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        self.module.recompile()
        self.adapters = nn.ModuleDict({_key(name): adapter for name, adapter in adapters.items()})
        self._names = {name: _key(name) for name in adapters}
        self.shared = nn.ParameterDict(dict(shared or {}))
        self.trained = tuple(trained)
        self.coarse: tuple[str, ...] = ()
        self.places = find_places(self.program)
        self._forms = Forms(self.module.graph)
        tensors = dict(self.program.tensors())
        for name in self.trained:
            tensors[name].requires_grad_(True)

    def adapter_of(self, name: str) -> Adapter:
        """The adapter of a tensor."""
        adapter = self.adapters[self._names[name]]
        assert isinstance(adapter, Adapter)
        return adapter

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the adapted tensors."""
        return tuple(self._names)

    def effective(self) -> dict[str, Tensor]:
        """The task's weights of the adapted tensors, differentiable; those of `coarse` at their levels."""
        tensors = dict(self.program.tensors())
        found = {name: self.adapter_of(name)(tensors[name]) for name in self._names}
        return {**found, **{name: on_levels(found.get(name, tensors[name])) for name in self.coarse}}

    def forward(self, *inputs: Tensor) -> Any:
        """The program's output with the adapters applied."""
        return torch.func.functional_call(self.module, self.effective(), inputs)

    def forward_with(self, weights: Mapping[str, Tensor], *inputs: Tensor) -> Any:
        """The program's output with other weights in place of the adapted ones."""
        return torch.func.functional_call(self.module, dict(weights), inputs)

    def set_training(self, training: bool, *, freeze_norms: bool = False, synced: bool = False) -> None:
        """Take the form for training, or that for evaluation.

        Args:
            training: The form.
            freeze_norms: Leave batch norms in evaluation form.
            synced: Statistics of batch norms in training form are over the batches of all processes.
        """
        if self._forms.switch(training, freeze_norms=freeze_norms, synced=synced):
            self.module.recompile()

    def move_to(self, device: torch.device) -> None:
        """Put all tensors on a device; constants that the graph makes are made there, too."""
        self.to(device)
        for name, tensor in list(self.program.tensors()):  # what is neither parameter nor buffer
            if tensor.device != device:
                assign(self.module, name, tensor.to(device))
        for node in self.module.graph.nodes:
            node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), lambda a: _moved(a, device))
        self.module.recompile()

    def task_tensors(self, statistics: Iterable[str]) -> dict[str, Tensor]:
        """Everything that the task adds to the base besides adapters: trained tensors and statistics."""
        tensors = dict(self.program.tensors())
        return {name: tensors[name].detach() for name in (*self.trained, *statistics)}

    def merged(self) -> Program:
        """The program with every adapter added into its weight, in evaluation form.

        Raises:
            AdapterError: If a merged weight is not finite; it names the tensor.
        """
        self.set_training(False)
        result = self.program.copy()
        tensors = dict(result.tensors())
        state = {}
        for name in self._names:
            try:
                state[name] = self.adapter_of(name).merged(tensors[name])
            except AdapterError as error:
                raise AdapterError(f"{name}: {error.message}", error.hint) from error
        result = result.with_state(state)
        for parameter in result.module.parameters():
            parameter.requires_grad_(False)
        return result


def _moved(argument: Any, device: torch.device) -> Any:
    return device if isinstance(argument, torch.device) else argument


def _key(name: str) -> str:
    """A tensor name as a module name, which may hold no dots."""
    return name.replace(".", "/")
