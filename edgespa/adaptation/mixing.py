"""What mixing adapters take over from channels that are going: second moments of what each weight reads, gathered here.

See `edgespa.adapters.mixing.Mixing.absorbed`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.factors import Factors
from edgespa.adapters.mixing import Mixing
from edgespa.data.inputs import Inputs, arguments
from edgespa.distributed.processes import Processes
from edgespa.graph.groups import Slot
from edgespa.graph.rules.registry import named_arguments, operator_name
from edgespa.selection.reconstruct import Moments

log = logging.getLogger(__name__)

WIDEST = 4096
"""Most channels of a weight that are looked at: their moments are a matrix of that width."""

ROWS = 1 << 18
"""Rows from which on no more batches are looked at: they say enough of as many channels as there may be."""


@torch.no_grad()
def moments_of_inputs(
    model: AdaptedProgram, indices: Mapping[Slot, Tensor], batches: Iterable[tuple[Inputs, Any]], processes: Processes
) -> dict[str, tuple[Tensor, int]]:
    """Second moments of the channels that weights with mixing adapters read, where some of them are going.

    Args:
        model: In evaluation form.
        indices: Per slot that shrinks, the indices that remain.
        batches: Of this process; looked at only if there is such a weight.
        processes: Those that share them.

    Returns:
        Per tensor ``sum a a^T``, float64 ``[channels, channels]``, and the number of ``a``; the same in all processes.
    """
    wanted = {name for name in model.adapted if isinstance(model.adapter_of(name), Mixing) and Slot(name, 1) in indices}
    readers = _readers(model.module.graph, wanted)
    sizes = {name: size for name in readers if (size := _channels(model, name))}
    if wide := sorted(name for name, size in sizes.items() if size > WIDEST):
        log.warning("%s: too many channels to take over what goes of them", ", ".join(wide))
    found = {name: Moments(size) for name, size in sizes.items() if size <= WIDEST}
    if not found:
        return {}
    watch = _Watch(model, {node: name for name, node in readers.items() if name in found}, found)
    for inputs, _ in batches:
        watch.run(*arguments(inputs))
        if all(each.rows >= ROWS for each in found.values()):
            break
    result = {}
    for name, moments in found.items():
        gram = processes.from_main(processes.total(moments.gram()))
        result[name] = gram, int(processes.totals([moments.rows])[0])
    return result


def _channels(model: AdaptedProgram, name: str) -> int:
    """What the weight reads; 0 for an adapter without factors."""
    expand = getattr(model.adapter_of(name), "expand", None)
    return expand.shape[1] if isinstance(expand, Tensor) else 0


def _readers(graph: fx.Graph, wanted: set[str]) -> dict[str, fx.Node]:
    """The first layer that each of some weights is the weight of."""
    found: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if operator_name(node) == "linear" or operator_name(node).startswith("conv"):
            weight = named_arguments(node).get("weight")
            if isinstance(weight, fx.Node) and weight.op == "get_attr" and str(weight.target) in wanted:
                found.setdefault(str(weight.target), node)
    return found


class _Watch(fx.Interpreter):
    """Runs a program with its adapters and adds up the moments of what some layers read."""

    def __init__(self, model: AdaptedProgram, layers: Mapping[fx.Node, str], moments: Mapping[str, Moments]) -> None:
        super().__init__(model.module)
        self._weights = model.effective()
        self._layers, self._moments = layers, moments

    def fetch_attr(self, target: str) -> object:
        return self._weights[target] if target in self._weights else super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> object:
        name = self._layers.get(n)
        if name is not None:
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            axis = -1 if operator_name(n) == "linear" else 1
            self._moments[name].add(value.movedim(axis, 0).flatten(1).cpu())
        return super().run_node(n)


def absorbed(
    model: AdaptedProgram,
    factors: Factors,
    indices: Mapping[Slot, Tensor],
    moments: Mapping[str, tuple[Tensor, int]],
) -> Factors:
    """Factors in which mixing adapters have taken over what their channels that are going were.

    Args:
        model: Whose adapters they are.
        factors: As wide as the model, on the CPU.
        indices: Per slot that shrinks, the indices that remain.
        moments: From `moments_of_inputs`.
    """
    adapters = dict(factors.adapters)
    for name, (gram, rows) in moments.items():
        adapter = model.adapter_of(name)
        assert isinstance(adapter, Mixing)
        on_cpu = adapter if adapter.compress.device.type == "cpu" else adapter.copied_to(torch.device("cpu"))
        adapters[name] = on_cpu.absorbed(indices[Slot(name, 1)].cpu(), gram, rows).tensors()
    return dataclasses.replace(factors, adapters=adapters)


def without_changed(averages: Factors, before: Factors, after: Factors) -> Factors:
    """Running averages without those of factors that were given other values.

    Args:
        averages: Of the optimiser.
        before: The factors that they were gathered for.
        after: What they are now.
    """
    old, new = before.flat(), after.flat()
    return Factors.from_flat({key: each for key, each in averages.flat().items() if old[key] is new[key] or
                              (old[key].shape == new[key].shape and torch.equal(old[key], new[key]))})  # fmt: skip
