"""Regions of a program: the nodes of one module, what flows in and out, and whether the input is added to the output.

Module paths come from the metadata that ``torch.export`` leaves on nodes, and where there is none, from the names of
the parameters that a node reads.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from torch import Tensor, fx

from edgespa.graph.program import Program, shape_of
from edgespa.graph.rules.registry import is_pointwise, operator_name

_NUMBERED = re.compile(r"\d+$")
_NUMBER = re.compile(r"\d+")
_SHAPE_ONLY = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"}
# What leaves a residual stream the stream, besides element-wise operators with one operand.
_CARRIERS = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "contiguous", "clone", "alias",
    "to", "_to_copy", "detach", "dropout", "feature_dropout", "squeeze", "unsqueeze", "expand", "slice", "pad",
    "constant_pad_nd", "roll", "layer_norm", "native_layer_norm", "rms_norm", "batch_norm", "group_norm",
    "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d",
}  # fmt: skip
_ADDITIONS = {"add", "add_"}


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Nodes that belong together.

    Attributes:
        path: Of the module.
        kind: The module's class; empty if the path is only a container that is never called.
        nodes: Those that carry activations.
        entries: Activations from outside that they read, in the order of the graph.
        exits: Their activations that are read outside, in the order of the graph.
        residual: Whether the only entry reaches the only exit through additions of what is computed from it.
        widened: Whether additions around the module itself had to be taken in for that.
    """

    path: str
    kind: str
    nodes: frozenset[fx.Node]
    entries: tuple[fx.Node, ...]
    exits: tuple[fx.Node, ...]
    residual: bool
    widened: bool = False

    @property
    def pattern(self) -> str:
        """The path with ``*`` for every number: the same for repeated modules."""
        return _NUMBER.sub("*", self.path)

    @property
    def single(self) -> bool:
        """Whether one value flows in and one out."""
        return len(self.entries) == 1 and len(self.exits) == 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes of the first entry and of the last exit, at the batch of the trace."""
        return shape_of(self.entries[0].meta["val"]), shape_of(self.exits[-1].meta["val"])

    def contains(self, other: Region) -> bool:
        """Whether the other region's module is inside this one's."""
        return other.path.startswith(f"{self.path}.")


class Regions:
    """The regions of all numbered modules of a program.

    Args:
        program: With ``meta["val"]`` on its nodes.
    """

    def __init__(self, program: Program) -> None:
        self._order = {node: index for index, node in enumerate(program.graph.nodes)}
        self._fed = _fed(program.graph)
        paths = _paths(program.graph)
        self._kinds: dict[str, str] = {}
        self._members: dict[str, list[fx.Node]] = {}
        for node in self._fed:
            path = paths.get(node, "")
            parts = path.split(".") if path else []
            for count in range(1, len(parts) + 1):
                self._members.setdefault(".".join(parts[:count]), []).append(node)
            for owner, kind in module_stack(node):
                self._kinds.setdefault(owner, kind)
        self._inside = paths

    @cached_property
    def numbered(self) -> tuple[Region, ...]:
        """The regions of modules whose path ends in a number, in the order of the graph."""
        found = [self._region(path) for path in self._members if _NUMBERED.search(path)]
        found = [region for region in found if region.entries and region.exits]
        return tuple(sorted(found, key=lambda region: (self._order[region.exits[-1]], len(region.path))))

    def _region(self, path: str) -> Region:
        kind = self._kinds.get(path, "")
        region = self._bounded(path, kind, frozenset(self._members[path]), widened=False)
        if region.single and region.residual:
            return region
        wide = self._bounded(path, kind, self._widened(path, region), widened=True)
        return wide if wide.single and wide.residual else region

    def _bounded(self, path: str, kind: str, nodes: frozenset[fx.Node], *, widened: bool) -> Region:
        sources = {source for node in nodes for source in node.all_input_nodes}
        entries = sorted(sources & self._fed - nodes, key=self._order.__getitem__)
        exits = sorted((node for node in nodes if self._leaves(node, nodes)), key=self._order.__getitem__)
        residual = len(entries) == len(exits) == 1 and self._carries(entries[0], exits[0], nodes)
        return Region(path, kind, nodes, tuple(entries), tuple(exits), residual, widened)

    def _widened(self, path: str, region: Region) -> frozenset[fx.Node]:
        """The nodes with the additions of enclosing modules that only join what they compute with what they read."""
        nodes = set(region.nodes)
        first = min(region.entries, key=self._order.__getitem__)
        for node in sorted({user for each in nodes for user in each.users}, key=self._order.__getitem__):
            pending = [node]
            while pending:
                each = pending.pop()
                owner = self._inside.get(each, "")
                encloses = not owner or path.startswith(f"{owner}.")
                operands = [source for source in each.all_input_nodes if source in self._fed]
                joins = len(operands) == 2 and all(source in nodes or source is first for source in operands)
                if each not in nodes and encloses and joins and operator_name(each) in _ADDITIONS:
                    nodes.add(each)
                    pending += each.users
        return frozenset(nodes)

    def _leaves(self, node: fx.Node, nodes: frozenset[fx.Node]) -> bool:
        """Whether a value is read outside; what depends on its sizes only counts by where that is read."""
        seen: set[fx.Node] = set()
        pending = list(node.users)
        while pending:
            user = pending.pop()
            if user in nodes or user in seen:
                continue
            if user.op == "output" or user in self._fed:
                return True
            seen.add(user)
            pending += user.users
        return False

    def _carries(self, entry: fx.Node, exit_: fx.Node, nodes: frozenset[fx.Node]) -> bool:
        """Whether a stream leads from the entry to the exit, and something is added to it on the way."""
        stream: dict[fx.Node, bool] = {entry: False}  # whether anything was added yet
        for node in sorted(nodes, key=self._order.__getitem__):
            operands = [source for source in node.all_input_nodes if source in self._fed]
            along = [source for source in operands if source in stream]
            if not along:
                continue
            if operator_name(node) in _ADDITIONS and len(operands) == 2:
                stream[node] = True
            elif len(operands) == 1 and (operator_name(node) in _CARRIERS or is_pointwise(node)):
                stream[node] = stream[along[0]]
        return stream.get(exit_, False)


def _fed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose elements depend on an input, and not only their sizes."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, Tensor | list | tuple) or node.op == "output":
            continue
        reads = any(source in fed for source in node.all_input_nodes)
        if node.op == "placeholder" or (reads and operator_name(node) not in _SHAPE_ONLY):
            fed.add(node)
    return fed


def _paths(graph: fx.Graph) -> dict[fx.Node, str]:
    """The module path of every operator."""
    paths: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        stack = module_stack(node)
        if stack:
            paths[node] = stack[-1][0]
            continue
        owners = [str(source.target).rpartition(".")[0] for source in node.all_input_nodes if source.op == "get_attr"]
        earlier = [paths[source] for source in node.all_input_nodes if source in paths]
        found = owners[-1] if owners else earlier[-1] if earlier else ""
        if found:
            paths[node] = found
    return paths


def module_stack(node: fx.Node) -> list[tuple[str, str]]:
    """Paths and classes of the modules that a node was called in, from the outermost; the network itself is left out.

    What was computed by the tracer itself has a stack that is no path.
    """
    stack: Mapping[str, tuple[str, object]] = node.meta.get("nn_module_stack") or {}
    found = []
    for path, kind in stack.values():
        if path.startswith("_empty_nn_module_stack"):
            return []
        if path:
            found.append((path, kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))))
    return found or ([("", "")] if stack else [])


def operators(nodes: Iterable[fx.Node]) -> list[str]:
    """Names of the operators of some nodes."""
    return [operator_name(node) for node in nodes]
