"""Pruning front to back: each reader sees the network as it has become.

Two sweeps go side by side, one over the network that is being pruned and, for targets, one over the original. At every
reader of a group that loses units, the group is decided if it is not yet, and the reader is solved anew.

The paper's networks are chains, where a group has one reader. Here one may have several, and the later ones have not
been reached when the first has: such a group is decided on the original network's activations, and each of its readers
is solved at its own place. Where targets are what old weights make of new inputs, the units that go are computed on
until the last of their readers has been met.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.graph.groups import Kept, Mask
from edgespa.pruning.evidence import Collector, cut, problems, solve
from edgespa.pruning.images import Images
from edgespa.pruning.readers import Reader
from edgespa.pruning.survey import Network, Tick, warn_if_few
from edgespa.pruning.sweep import MEMORY_BYTES, Shelf, Sweep
from edgespa.selection.reconstruct import Path, greedy

Orders = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a pass has come; every stop makes a new one.

    Attributes:
        done: Readers that are behind, by node name.
        kept: Masks of the groups that are decided.
        changed: Tensors that differ from the base's, in full width. What they hold where units are gone is of no
            meaning.
        errors: Relative reconstruction error per reader.
        paths: Greedy paths that were found on the way.
    """

    done: tuple[str, ...] = ()
    kept: Kept = dataclasses.field(default_factory=dict)
    changed: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, Path] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pass:
    """What a pass has to do.

    Attributes:
        counts: Units to keep, of the groups that lose some.
        orders: Orders that are known beforehand; a group that has none is decided by greedy on what its reader sees.
        reweight: Whether readers get new weights.
        asymmetric: Whether targets are the original network's outputs, or what old weights make of new inputs.
        also: Readers that are solved besides, by node name: what comes behind blocks that are gone.
    """

    counts: Mapping[str, int]
    orders: Orders
    reweight: bool
    asymmetric: bool
    also: frozenset[str] = frozenset()


def top(order: np.ndarray, count: int) -> Mask:
    """The mask of the first units of an order."""
    mask = np.zeros(len(order), dtype=bool)
    mask[order[:count]] = True
    return mask


def stops(network: Network, what: Pass) -> list[Reader]:
    """The readers that are solved, in the order of the graph: of groups that lose units, and those that are named."""
    losing = {reader.node for name in what.counts for reader in network.of_group[name]}
    return [reader for node, reader in network.readers.items() if node in losing or node in what.also]


def front_to_back(
    network: Network,
    images: Images,
    what: Pass,
    tick: Tick,
    *,
    original: Network | None = None,
    start: Progress | None = None,
    save: Callable[[Progress], None] | None = None,
) -> Progress:
    """Decide and solve reader by reader.

    Args:
        network: The network.
        images: Calibration images.
        what: What to do.
        tick: Told the name of each layer that is done.
        original: What targets come from, if it has blocks that the network has not.
        start: Where an interrupted pass stood; the sweeps only run through what is behind.
        save: Called after every reader.

    Returns:
        Masks, tensors and errors of all of them.

    Raises:
        DataError: If an activation is not finite; it names the layer.
    """
    now = start or Progress()
    whole = original or network
    weights = network.base.program.state()
    state: dict[str, Tensor] = {**weights, **now.changed}
    with Shelf(MEMORY_BYTES // 2) as shelf, Shelf(MEMORY_BYTES // 2) as first_shelf:
        sweep = Sweep(network.base.program, images.batches, images.batch, shelf, state)
        first = Sweep(whole.base.program, images.batches, images.batch, first_shelf) if what.asymmetric else None
        for reader in stops(network, what):
            if reader.node in now.done:
                continue
            alive = _mattering(network, reader, what, now) if what.asymmetric else None
            collector = Collector(reader, network.matrices(reader, weights), asymmetric=what.asymmetric, alive=alive)
            source = whole.readers[reader.node].source
            old = first.until(reader.node, source, beyond=True) if first is not None else None
            for x, _ in sweep.until(reader.node, reader.source):
                collector.add(x, *(next(old) if old is not None else ()))
            if old is not None:
                next(old, None)  # lets the last batch be put away
            warn_if_few(reader, collector.rows, images)
            now = _at(network, reader, collector, what, now, state)
            if what.asymmetric:
                sweep.change(_eraser(network, network.base.groups.alive(now.kept)))
            tick(reader.layer)
            if save is not None:
                save(now)
    return now


def _mattering(network: Network, reader: Reader, what: Pass, now: Progress) -> Mask:
    """The units that are alive once a reader is solved; of groups that are decided there by what it sees, all."""
    own = network.of_reader(reader)
    known = {name: top(order, what.counts[name]) for name, order in what.orders.items() if name in own}
    return network.base.groups.alive({**known, **now.kept})


def _at(
    network: Network, reader: Reader, collector: Collector, what: Pass, now: Progress, state: dict[str, Tensor]
) -> Progress:
    """Decide what is undecided at a reader, and solve it; ``state`` is brought up to date."""
    groups = network.base.groups
    evidence = collector.result()
    kept, paths, changed = dict(now.kept), dict(now.paths), dict(now.changed)
    for name in network.of_reader(reader):
        if name in kept or name not in what.counts:
            continue
        order = what.orders.get(name)
        if order is None:
            paths[name] = greedy(problems(reader, evidence, network.group(name), groups.alive(kept)))
            order = paths[name].order
        kept[name] = mask = top(order, what.counts[name])
        if what.asymmetric:
            changed.update(network.erased(groups.alive({name: mask}), state))
            state.update(changed)
    alive = groups.alive(kept)
    outputs = alive if what.asymmetric else groups.alive({})
    weight, bias = state[reader.weight], state[reader.bias] if reader.bias else None
    solved = (
        solve(reader, evidence, alive, outputs, weight, bias)
        if what.reweight
        else cut(reader, evidence, alive, weight, bias)
    )
    changed.update(solved.tensors(reader, state))
    state.update(changed)
    return Progress((*now.done, reader.node), kept, changed, {**now.errors, reader.layer: solved.error}, paths)


def _eraser(network: Network, alive: Mask) -> Callable[[str, Any], Any]:
    """Zeros in values that were computed before their units went; what has none is the same object."""
    axes = network.base.groups.axes

    def change(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or not axes.get(name):
            return value
        for dim, ids in axes[name][0].items():
            gone = np.flatnonzero(~alive[ids])
            if gone.size and value.shape[dim] == len(ids):
                value = value.index_fill(dim, torch.from_numpy(gone), 0.0)
        return value

    return change
