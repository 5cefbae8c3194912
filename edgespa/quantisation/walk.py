"""A program gone through once, layer by layer, beside itself in int8: what each layer's weights and biases should be.

Two runs on the same samples go side by side: the program's own, and that of the layers that are done, in int8. Where a
layer comes, its range is known from the one, the inputs that it will have from the other; its weights are rounded for
those (`rounding`), and its biases moved so that its means stay (`shifts`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from edgespa.graph.program import Program, fetch, shape_of
from edgespa.graph.rules.registry import is_pointwise, named_arguments, operator_name
from edgespa.quantisation.patches import gram, patches
from edgespa.quantisation.ranges import Observed, Range, find_ranges
from edgespa.quantisation.rounding import rounded, scales, steadied
from edgespa.quantisation.shifts import shift

ROWS_PER_COLUMN, LEAST_ROWS = 8, 4096
"""Inputs that a Gram matrix is made of."""
LEAST_SAMPLES, MOST_NUMBERS = 4, 40 << 20
"""Numbers in a value of all samples together."""
MOST_PLACES = 1024
"""Of each sample and channel, by which biases are moved."""
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")

Told = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A layer for int8.

    Attributes:
        before: The weight that it had, as the program has it.
        weight: Of the same shape, on the grid of levels that has its largest weight as the last one, in each channel.
        shift: Added to the bias of each output channel.
    """

    before: Tensor
    weight: Tensor
    shift: Tensor


def layers_of(program: Program) -> dict[str, fx.Node]:
    """The layers that can be corrected, by the name of their weight: what no other layer shares.

    Args:
        program: With ``meta["val"]`` on its nodes.
    """
    found: dict[str, fx.Node] = {}
    shared: set[str] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or operator_name(node) not in (*_CONVOLUTIONS, "linear"):
            continue
        arguments = named_arguments(node)
        weight, bias = arguments["weight"], arguments["bias"]
        if not _is_constant(weight) or not (bias is None or _is_constant(bias)):
            continue
        name = str(weight.target)
        if name in found:
            shared.add(name)
        found[name] = node
    return {name: node for name, node in found.items() if name not in shared}


def samples_for(program: Program, most: int) -> int:
    """So many samples that the largest value of all of them is not too much: two are kept of each for a while.

    Args:
        program: With ``meta["val"]`` on its nodes, the batch first in its values.
        most: Where they are small.
    """
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "call_function"]
    sizes = [math.prod(shape_of(each)[1:]) for each in values if isinstance(each, Tensor)]
    return max(LEAST_SAMPLES, min(most, MOST_NUMBERS // max(1, *sizes, 1)))


def _is_constant(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def corrected(
    program: Program,
    samples: Sequence[Sequence[Tensor]],
    method: str,
    *,
    symmetric: bool = False,
    told: Told | None = None,
) -> dict[str, Corrected]:
    """Weights and biases of all layers.

    Args:
        program: In evaluation form, in float32, its norms in its weights where they can be.
        samples: Inputs of some runs, each as the program takes them.
        method: Of finding ranges.
        symmetric: Whether zero is the middle of each range.
        told: ``(done, total)`` in layers.

    Returns:
        By the name of the weight.
    """
    return _Walk(program, samples, method, symmetric, told).done()


class _Walk:
    def __init__(
        self, program: Program, samples: Sequence[Sequence[Tensor]], method: str, symmetric: bool, told: Told | None
    ) -> None:
        self._program, self._samples, self._told = program, samples, told
        self._method, self._symmetric = method, symmetric
        self._layers = {node: name for name, node in layers_of(program).items()}
        self._plain: dict[fx.Node, list[Any]] = {}
        self._rough: dict[fx.Node, list[Any]] = {}
        self._generator = torch.Generator().manual_seed(0)
        self._found: dict[str, Corrected] = {}

    @torch.no_grad()
    def done(self) -> dict[str, Corrected]:
        last = _last_reads(self._program)
        placeholders = iter(range(len(self._program.inputs)))
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                place = next(placeholders)
                self._plain[node] = self._rough[node] = [sample[place] for sample in self._samples]
            elif node.op == "get_attr":
                value = fetch(self._program.module, node.target)
                self._plain[node] = self._rough[node] = [value] * len(self._samples)
            elif node.op == "call_function":
                self._call(node)
            for each in last.get(node, ()):
                self._plain.pop(each, None)
                self._rough.pop(each, None)
        return self._found

    def _call(self, node: fx.Node) -> None:
        self._plain[node] = list(self._run(node, self._plain))
        source = node.args[0] if node in self._layers else None
        if isinstance(source, fx.Node) and self._fits(node, source):
            self._rough[node] = self._layer(node, source)
        elif all(self._rough[each] is self._plain[each] for each in node.all_input_nodes):
            self._rough[node] = self._plain[node]
        else:
            self._rough[node] = list(self._run(node, self._rough))

    def _run(self, node: fx.Node, values: Mapping[fx.Node, list[Any]]) -> Iterator[Any]:
        for place in range(len(self._samples)):
            arguments, keywords = fx.node.map_arg((node.args, node.kwargs), partial(_of_run, values, place))
            yield node.target(*arguments, **keywords)  # type: ignore[operator]

    def _fits(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether what a layer reads is a batch of numbers."""
        rank = fetch(self._program.module, self._layers[node]).dim()
        given = (*self._plain[source], *self._rough[source])
        batched = all(each.dim() == rank or (rank == 2 and each.dim() > rank) for each in given)
        return batched and all(math.isfinite(float(each.abs().max())) for each in given)

    def _layer(self, node: fx.Node, source: fx.Node) -> list[Tensor]:
        observed = Observed.of(spread=False)
        for value in self._plain[source]:
            for sample in value:
                observed.add(sample.numpy())
        ends = find_ranges({"": observed}, self._method)[""]
        if self._symmetric:
            ends = -max(-ends[0], ends[1]), max(-ends[0], ends[1])
        inputs = [in_levels(value, ends) for value in self._rough[source]]
        name = self._layers[node]
        weight = fetch(self._program.module, name).detach()
        new = self._rounded(node, weight, inputs)
        outputs = [self._with(node, value, new) for value in inputs]
        moved = self._shift(node, outputs)
        self._found[name] = Corrected(weight, new, moved)
        if self._told is not None:
            self._told(len(self._found), len(self._layers))
        return [value + _along(moved, value, _channel_dim(node, value)) for value in outputs]

    def _rounded(self, node: fx.Node, weight: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        groups = 1 if operator_name(node) == "linear" else int(named_arguments(node)["groups"])
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        total, count = torch.zeros(groups, *rows.shape[-1:] * 2, dtype=torch.float64), 0
        for drawn in self._drawn(node, weight, rows.shape[-1], inputs):
            total += gram(drawn, groups)
            count += len(drawn) * drawn.shape[2]
        return (rounded(rows, steadied(total, count)) * scales(rows)).reshape(weight.shape)

    def _drawn(self, node: fx.Node, weight: Tensor, columns: int, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
        """What weights are multiplied with [N, C, places, taps], of each run."""
        wanted = max(ROWS_PER_COLUMN * columns, LEAST_ROWS)
        if operator_name(node) == "linear":
            for value in inputs:
                rows = value.reshape(-1, value.shape[-1])
                most = -(-wanted // len(inputs))
                if len(rows) > most:
                    rows = rows[torch.randperm(len(rows), generator=self._generator)[:most]]
                yield rows[..., None, None]
            return
        arguments, rank = named_arguments(node), weight.dim() - 2
        how = {key: _listed(arguments[key], rank) for key in ("stride", "padding", "dilation")}
        count = -(-wanted // sum(len(value) for value in inputs))
        for value in inputs:
            yield patches(value, weight.shape[2:], **how, count=count, generator=self._generator)

    def _with(self, node: fx.Node, value: Tensor, weight: Tensor) -> Tensor:
        arguments = list(node.args)
        bias = arguments[2] if len(arguments) > 2 else None
        constant = self._plain[bias][0] if isinstance(bias, fx.Node) else None
        found: Tensor = node.target(value, weight, constant, *arguments[3:], **node.kwargs)  # type: ignore[operator]
        return found

    def _shift(self, node: fx.Node, outputs: Sequence[Tensor]) -> Tensor:
        act = _activation(node)
        drawn = self._generator.get_state()
        pairs = []
        for value in (self._plain[node], outputs):
            self._generator.set_state(drawn)  # the same places of both
            pairs.append([_at_some_places(each, _channel_dim(node, each), self._generator) for each in value])
        wanted = torch.cat([act(each).mean(2) for each in pairs[0]])
        spread = torch.cat([each.transpose(1, 2).flatten(0, 1) for each in pairs[1]]).std(0)
        return shift(
            wanted, lambda moved: torch.cat([act(each + moved[None, :, None]).mean(2) for each in pairs[1]]), spread
        )


def in_levels(value: Tensor, ends: Range) -> Tensor:
    """A value as 8 bits hold it, with zero on a level.

    Args:
        value: Of any shape.
        ends: Least and largest that can be said.
    """
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = max((high - low) / 255, 1e-30)
    zero = round(-low / step)
    return ((value / step).round() + zero).clamp(0, 255).sub(zero).mul(step)


def _of_run(values: Mapping[fx.Node, list[Any]], place: int, node: fx.Node) -> Any:
    return values[node][place]


def _last_reads(program: Program) -> dict[fx.Node, list[fx.Node]]:
    """By node, what nobody reads after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        for each in (node, *node.all_input_nodes):
            last[each] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for each, node in last.items():
        found.setdefault(node, []).append(each)
    return found


def _activation(node: fx.Node) -> Callable[[Tensor], Tensor]:
    """What every reader of a layer sees: its activation function, or its values."""
    readers = list(node.users)
    if len(readers) != 1 or len(readers[0].all_input_nodes) != 1 or not is_pointwise(readers[0]):
        return lambda value: value
    (reader,) = readers
    return lambda value: reader.target(value, *reader.args[1:], **reader.kwargs)  # type: ignore[operator]


def _channel_dim(node: fx.Node, value: Tensor) -> int:
    """Where the output channels are: a convolution may run without a batch."""
    return value.dim() - 1 if operator_name(node) == "linear" else 1


def _at_some_places(value: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Of each sample and channel [N, C, places]."""
    rows = value.movedim(dim, 1).flatten(2) if value.dim() > 2 else value[..., None]
    if rows.shape[2] > MOST_PLACES:
        rows = rows[:, :, torch.randperm(rows.shape[2], generator=generator)[:MOST_PLACES]]
    return rows


def _along(moved: Tensor, value: Tensor, dim: int) -> Tensor:
    return moved.reshape([-1 if each == dim else 1 for each in range(value.dim())])


def _listed(value: Any, rank: int) -> Any:
    if isinstance(value, str):
        return value
    numbers = [int(each) for each in value] if isinstance(value, list | tuple) else [int(value)]
    return tuple(numbers * rank if len(numbers) == 1 else numbers)
