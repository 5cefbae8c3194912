"""Proof of the first law on one program: masked = compacted, at the outputs and at every inner activation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgespa.errors import GraphError
from edgespa.graph.groups import Groups, Mask
from edgespa.graph.program import Program, fetch
from edgespa.graph.surgery import RemovedSlots, removed_slots, zeroed

LIMIT = 1e-5


@dataclasses.dataclass(frozen=True)
class Proof:
    """How far a compacted program is from the masked one.

    Attributes:
        output_error: Largest difference at the outputs, relative to the largest magnitude there.
        inner_error: The largest of the same figure over all inner activations, on kept channels.
        worst_node: The node where it was found.
        nodes: Number of activations compared.
        precision: ``"float64"`` if the figures are those of a repetition in double precision.
        rounding: In that case, the largest figure in the program's own precision.
        undefined: The first node at which the program itself, before compaction, gives what is no number; None if none.
    """

    output_error: float
    inner_error: float
    worst_node: str
    nodes: int
    precision: str = "own"
    rounding: float | None = None
    undefined: str | None = None

    @property
    def worst(self) -> float:
        """The larger of the two errors."""
        return max(self.output_error, self.inner_error)

    def require(self, limit: float = LIMIT) -> None:
        """Raise a `GraphError` if a figure is above the limit; it is infinite where shapes or infinities differ."""
        if not self.worst <= limit and self.undefined is not None:
            raise GraphError(
                f"the network itself gives what is no number, first at {self.undefined}: nothing can be shown of it",
                "check its weights; where it takes inputs of a certain range only, give images: --calibration",
            )
        if not self.worst <= limit:
            raise GraphError(
                f"masked and compacted programs differ by {self.worst:.1e} (limit {limit:.0e}) at {self.worst_node}",
                "this is a fault of edgespa's rules: exclude the layer with --keep, and please report the model",
            )


def prove(
    program: Program, groups: Groups, kept: Mapping[str, Mask], compacted: Program, inputs: Sequence[Tensor]
) -> Proof:
    """Run the masked and the compacted program side by side and compare every activation.

    Networks without normalisation, and half precision, amplify rounding: where the programs differ by more than the
    limit, both are run once more in double precision. A wrong channel is as wrong there; rounding is not.

    Args:
        program: The program before compaction.
        groups: Its channel groups.
        kept: The units that were kept.
        compacted: What `compact` made of it.
        inputs: Real or random inputs.
    """
    proof = _compare(program, groups, kept, compacted, inputs)
    if proof.worst <= LIMIT or all(tensor.dtype in _EXACT for _, tensor in program.tensors()):
        return proof
    try:
        again = _compare(program, groups, kept, compacted, inputs, double=True)
    except RuntimeError:  # an operator that is not there in double precision
        return proof
    return dataclasses.replace(again, precision="float64", rounding=proof.worst)


_EXACT = {torch.float64, torch.int64, torch.int32, torch.bool}


class _Side:
    """One of the two programs, run node by node.

    Tensors are masked and converted when a node reads them, so that neither a masked program nor one in double
    precision is ever held as a whole.

    Attributes:
        env: Results that are still needed, by node.
    """

    def __init__(self, module: fx.GraphModule, removed: Mapping[str, RemovedSlots], double: bool) -> None:
        self.module, self.removed, self.double = module, removed, double
        self.env: dict[fx.Node, Any] = {}

    def call(self, node: fx.Node) -> Any:
        """Run a node on results that are there, and on tensors of the program."""
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), self._value)
        if self.double:  # element types that the graph asks for, too
            arguments, keywords = pytree.tree_map(doubled, (arguments, keywords))
        self.env[node] = node.target(*arguments, **keywords)  # type: ignore[operator]
        return self.env[node]

    def _value(self, node: fx.Node) -> Any:
        if node.op != "get_attr":
            return self.env[node]
        name = str(node.target)
        tensor = fetch(self.module, name)
        return zeroed(tensor, self.removed[name]) if name in self.removed else tensor


def doubled(argument: Any) -> Any:
    """An argument of an operator in double precision: tensors and element types with fractions."""
    if isinstance(argument, torch.dtype):
        return torch.float64 if argument.is_floating_point else argument
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


@torch.no_grad()
def _compare(
    program: Program,
    groups: Groups,
    kept: Mapping[str, Mask],
    compacted: Program,
    inputs: Sequence[Tensor],
    double: bool = False,
) -> Proof:
    alive = groups.alive(kept)
    pairs = {node.name: node for node in compacted.graph.nodes}
    old = _Side(program.module, removed_slots(groups, alive), double)
    new = _Side(compacted.module, {}, double)
    given = iter(inputs)
    last_use = _last_uses(program.graph)
    output_error, inner_error, worst, count = 0.0, 0.0, "-", 0
    undefined: str | None = None
    for node in program.graph.nodes:
        partner = pairs[node.name]
        if node.op == "placeholder":
            old.env[node] = new.env[partner] = next(given)
        elif node.op == "call_function":
            drawn = torch.get_rng_state() if _is_random(node) else None
            before = old.call(node)
            if drawn is not None:  # the same numbers for both
                torch.set_rng_state(drawn)
            added = [item for item in partner.all_input_nodes if item.op == "call_function" and item not in new.env]
            for item in added:  # by the rewrite of this node
                new.call(item)
            after = new.call(partner)
            for item in added:
                del new.env[item]
            is_output = any(user.op == "output" for user in node.users)
            for index, (one, other) in enumerate(zip(_tensors(before), _tensors(after), strict=True)):
                error = _difference(_on_kept(one, groups, alive, node.name, index), other)
                count += 1
                if undefined is None and one.is_floating_point() and one.numel() and math.isnan(_largest(one)):
                    undefined = node.name
                output_error = max(output_error, error) if is_output else output_error
                if error > inner_error:
                    inner_error, worst = error, node.name
        for dead in last_use.get(node, ()):
            old.env.pop(dead, None)
            new.env.pop(pairs[dead.name], None)
    return Proof(output_error, inner_error, worst, count, undefined=undefined)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[source] = node
    uses: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        uses.setdefault(node, []).append(source)
    return uses


def _is_random(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _tensors(value: Any) -> list[Tensor]:
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, Tensor)]


def _on_kept(tensor: Tensor, groups: Groups, alive: Mask, name: str, result: int) -> Tensor:
    results = groups.axes.get(name, [])
    for dim, ids in (results[result] if result < len(results) else {}).items():
        ids = _at_batch(ids, tensor.shape[dim])
        tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(alive[ids])).to(tensor.device))
    return tensor


def _at_batch(ids: Any, size: int) -> Any:
    """Unit ids of a dimension that the batch is merged into, for another batch size than the trace's."""
    return ids if len(ids) == size else np.resize(ids, size)


def largest_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest difference of tensors in pairs, relative to the largest magnitude of the first of each.

    Args:
        before: As it was.
        after: As many.

    Returns:
        Infinite where a shape differs, or infinities do, or something is no number.
    """
    return max((_difference(old, new) for old, new in zip(before, after, strict=True)), default=0.0)


def _difference(old: Tensor, new: Tensor) -> float:
    if old.shape != new.shape:
        return math.inf
    if not old.is_floating_point():
        return float((old != new).any())
    if not old.numel():
        return 0.0
    gap, scale = _largest(old - new), _largest(old)  # what is not finite in either is not finite here
    if math.isfinite(gap) and math.isfinite(scale):
        return gap / max(scale, 1e-30)
    old, new = old.double(), new.double()
    finite = torch.isfinite(old)
    # Infinities may be meant, as in a mask; of what is no number nothing can be said.
    if not torch.equal(finite, torch.isfinite(new)) or torch.isnan(old).any() or torch.isnan(new).any():
        return math.inf
    old, new = torch.where(finite, old, 0.0), torch.where(finite, new, 0.0)
    return float((old - new).abs().max() / old.abs().max().clamp_min(1e-30))


def _largest(tensor: Tensor) -> float:
    """Largest magnitude, in one pass; no number if there is one that is none."""
    low, high = (float(end) for end in tensor.aminmax())
    return max(-low, high)
