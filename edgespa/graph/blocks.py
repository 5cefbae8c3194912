"""The repeated residual blocks of a program, and the program without some of them.

A **block** is the region of a numbered module (``blocks.3``, ``layer2.1``, ``encoder_layer_0``) into which one value
flows and out of which one flows, and whose result is its input with something added. Removing it is replacing the
module by the identity: what read its output reads its input, and what only it needed is gone. Where that would not be
the same function, the block stays, with the reason.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from torch import fx, nn

from edgespa.errors import GraphError
from edgespa.graph.program import Program, drop_unread, refresh, shape_of
from edgespa.graph.regions import Region, Regions


@dataclasses.dataclass(frozen=True)
class Block:
    """A repeated residual block.

    Attributes:
        name: Path of its module.
        kind: Class of its module; empty for a container that is never called.
        stage: Blocks of the same kind, with results of the same shape, one after the other.
        entry: Name of the node that is its input; the first one if there are several.
        exit: Name of the node that is its output; the last one if there are several.
        nodes: Names of the nodes that are computed in it.
        shape: Sizes of its output without the batch.
        reason: Why it cannot be removed; empty if it can.
    """

    name: str
    kind: str
    stage: str
    entry: str
    exit: str
    nodes: frozenset[str]
    shape: tuple[int, ...]
    reason: str = ""

    @property
    def removable(self) -> bool:
        """Whether the module can be replaced by the identity."""
        return not self.reason


def find_blocks(program: Program) -> tuple[Block, ...]:
    """The repeated residual blocks, in the order of the program.

    A module that holds several blocks with the same parameters is a stage, and its blocks are found, not itself; one
    that holds different ones (token mixing and channel mixing) is a block. Modules of the same class and of the same
    place in the path as a residual block, which cannot be removed themselves, are listed with the reason.

    Args:
        program: A traced program, with ``meta["val"]`` on its nodes.
    """
    regions = Regions(program).numbered
    chosen = _innermost(_repeated([each for each in regions if _is_residual(each)], regions), program)
    chosen += _outside(regions, chosen)
    chosen += _like(regions, chosen)
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    chosen.sort(key=lambda region: order[region.exits[-1]])
    stages = _stages(chosen)
    return tuple(
        Block(
            region.path,
            region.kind.rpartition(".")[2],
            stage,
            region.entries[0].name,
            region.exits[-1].name,
            frozenset(node.name for node in region.nodes),
            shape_of(region.exits[-1].meta["val"])[1:],
            _reason(region),
        )
        for region, stage in zip(chosen, stages, strict=True)
    )


def without_blocks(program: Program, names: Iterable[str]) -> Program:
    """The program with some of its blocks replaced by the identity: their nodes and tensors are gone.

    Args:
        program: The program; it is not changed.
        names: Of blocks, as `find_blocks` gives them.

    Returns:
        A program with the same names, dtypes and inputs.

    Raises:
        GraphError: If there is no such block, it cannot be removed, or no block would be left.
    """
    blocks = find_blocks(program)
    removed = require_removable(blocks, names)
    if not removed:
        return program.copy()
    result = program.copy()
    nodes = {node.name: node for node in result.graph.nodes}
    mixed = False
    for block in reversed(removed):  # so that the input of a block is not yet replaced when it is put in place
        entry, exit_ = nodes[block.entry], nodes[block.exit]
        mixed |= [str(size) for size in entry.meta["val"].shape] != [str(size) for size in exit_.meta["val"].shape]
        inside = {nodes[name] for name in block.nodes}
        exit_.replace_all_uses_with(entry, delete_user_cb=lambda user, inside=inside: user not in inside)
    result.graph.eliminate_dead_code(_is_boundary)  # torch takes attention, which may drop out, for a side effect
    drop_unread(result.module)
    result.graph.lint()
    result.module.recompile()
    if mixed:  # sizes are the same, and not the expressions of the batch that they are known by
        refresh(result.module)
    return result


def _is_boundary(node: fx.Node) -> bool:
    return node.op in {"placeholder", "output"}


def require_removable(blocks: Sequence[Block], names: Iterable[str]) -> tuple[Block, ...]:
    """The named blocks, in the order of the program.

    Raises:
        GraphError: If there is no such block, it cannot be removed, or no block would be left.
    """
    known = {block.name: block for block in blocks}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            some = ", ".join(list(known)[:4]) or "none"
            hint = f"did you mean {near[0]}?" if near else f"its blocks are: {some}{', ...' if len(known) > 4 else ''}"
            raise GraphError(f"the program has no residual block {name}", hint)
        if known[name].reason:
            raise GraphError(f"the block {name} cannot be removed: {known[name].reason}", "keep it")
    if wanted and len(wanted) == len(blocks):
        raise GraphError("no block would be left", "keep at least one")
    return tuple(block for block in blocks if block.name in wanted)


class Bypassed(fx.Interpreter):
    """Runs a program with some blocks replaced by the identity, without removing anything: what removal must equal.

    Args:
        program: The whole program.
        blocks: Those that are bypassed.
    """

    def __init__(self, program: Program, blocks: Iterable[Block]) -> None:
        super().__init__(program.module, garbage_collect_values=False)
        self._entries = {block.exit: block.entry for block in blocks}

    @cached_property
    def _nodes(self) -> Mapping[str, fx.Node]:
        return {node.name: node for node in self.module.graph.nodes}  # type: ignore[union-attr]

    def run_node(self, n: fx.Node) -> object:
        """See ``fx.Interpreter``."""
        result = super().run_node(n)
        entry = self._entries.get(n.name)
        return result if entry is None else self.env[self._nodes[entry]]


def _is_residual(region: Region) -> bool:
    """Whether a module is a removable block by itself; a container may take in the additions between its parts."""
    same = region.single and region.shapes[0] == region.shapes[1]
    return same and region.residual and not (region.widened and region.kind)


def _repeated(found: Sequence[Region], regions: Sequence[Region]) -> list[Region]:
    """Those with a sister: a module of the same class at the same place of the path, but for numbers."""
    sisters = Counter((region.pattern, region.kind) for region in regions)
    return [region for region in found if sisters[region.pattern, region.kind] > 1]


def _innermost(regions: Sequence[Region], program: Program) -> list[Region]:
    """Blocks and no stages: a region whose parts repeat, or that has one part only, gives way to its parts."""
    shapes = {name: tuple(t.shape) for name, t in program.tensors() if isinstance(t, nn.Parameter)}

    def parts(region: Region | None) -> list[Region]:
        inner = [each for each in regions if region is None or region.contains(each)]
        return [each for each in inner if not any(other.contains(each) for other in inner)]

    def decided(region: Region) -> list[Region]:
        own = parts(region)
        signatures = {_signature(part, shapes) for part in own}
        if not own or (len(own) > 1 and len(signatures) == len(own)):
            return [region]
        return [block for part in own for block in decided(part)]

    return [block for region in parts(None) for block in decided(region)]


def _signature(region: Region, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters of a module, as the module itself knows them."""
    prefix = f"{region.path}."
    return frozenset((name.removeprefix(prefix), shape) for name, shape in shapes.items() if name.startswith(prefix))


def _outside(regions: Sequence[Region], chosen: Sequence[Region]) -> list[Region]:
    """Modules whose residual addition is made by who calls them."""
    found = [each for each in regions if each.residual and each.widened and each.kind]
    return [each for each in _repeated(found, regions) if not any(_nested(each, other) for other in chosen)]


def _like(regions: Sequence[Region], chosen: Sequence[Region]) -> list[Region]:
    """Modules of the kind and at the place of a block that are none, such as those that halve the image."""
    kinds = {(region.pattern, region.kind) for region in chosen}
    return [
        region
        for region in regions
        if (region.pattern, region.kind) in kinds and not any(_nested(region, other) for other in chosen)
    ]


def _nested(one: Region, other: Region) -> bool:
    return one.path == other.path or one.contains(other) or other.contains(one)


def _reason(region: Region) -> str:
    """Why a region cannot be replaced by the identity; empty if it can."""
    if region.widened and region.kind:
        return "its residual addition is made outside of it, so the identity in its place would add its input to itself"
    if len(region.entries) > 1:
        return f"it reads {len(region.entries)} values from outside: {_listed(region.entries)}"
    if len(region.exits) > 1:
        return f"{len(region.exits)} of its values are read outside: {_listed(region.exits)}"
    given, got = region.shapes
    if given != got:
        return f"{_sizes(given)} goes in and {_sizes(got)} comes out"
    return "" if region.residual else "no residual addition leads from its input to its output"


def _listed(nodes: Sequence[fx.Node]) -> str:
    return ", ".join(node.name for node in nodes[:3]) + (", ..." if len(nodes) > 3 else "")


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape[1:])


def _stages(regions: Sequence[Region]) -> list[str]:
    """For each region the name of its stage: what the paths of its blocks have in common."""
    runs: list[list[Region]] = []
    for region in regions:
        last = runs[-1][-1] if runs else None
        if last and (last.pattern, last.shapes[1]) == (region.pattern, region.shapes[1]):
            runs[-1].append(region)
        else:
            runs.append([region])
    return [name for run in runs for name in [_common([region.path for region in run])] * len(run)]


def _common(paths: Sequence[str]) -> str:
    parts = [path.split(".") for path in paths]
    if len(parts) == 1:
        return ".".join(parts[0][:-1]) or paths[0]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) or paths[0].rstrip("0123456789").rstrip("._") or paths[0]
