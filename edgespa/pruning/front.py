"""Pruning front to back: each reader sees the network as it has become.

Two sweeps go side by side, one over the network that is being pruned and, for targets, one over the original. At every
reader of a group that loses units, the group is decided if it is not yet, and the reader is solved anew.

The paper's networks are chains, where a group has one reader. Here one may have several, and the later ones have not
been reached when the first has: such a group is decided on the original network's activations, and each of its readers
is solved at its own place. Where targets are what old weights make of new inputs, the units that go are computed on
until the last of their readers has been met.

Where targets are the original network's outputs, and there are enough batches, the images are in folds, each of which
runs through a network that was fitted on the others: see `edgespa.pruning.folds`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.graph.groups import Kept, Mask
from edgespa.pruning.evidence import Collector, Evidence, Solved, cut, full_matrices, problems, shrunk, solve
from edgespa.pruning.folds import FOLDS, MOST_COLUMNS, joined, solve_apart
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
        apart: For each fold the tensors that differ in the network that was fitted on the others; empty without folds.
        near: How near the weights of each reader stay to the old ones, where folds told that.
    """

    done: tuple[str, ...] = ()
    kept: Kept = dataclasses.field(default_factory=dict)
    changed: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    apart: tuple[Mapping[str, Tensor], ...] = ()
    near: Mapping[str, float] = dataclasses.field(default_factory=dict)


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
    folds = FOLDS if what.asymmetric and what.reweight and images.batches >= FOLDS else 1
    if folds > 1 and len(now.apart) != folds:
        now = dataclasses.replace(now, apart=(now.changed,) * folds)
    state: dict[str, Tensor] = {**weights, **now.changed}
    apart: list[dict[str, Tensor]] = [{**weights, **changed} for changed in now.apart] if folds > 1 else []
    with Shelf(MEMORY_BYTES // 2) as shelf, Shelf(MEMORY_BYTES // 2) as first_shelf:
        sweep = _Sweeps(network, images, shelf, apart or [state])
        first = _Sweeps(whole, images, first_shelf, [None] * folds) if what.asymmetric else None
        for reader in stops(network, what):
            if reader.node in now.done:
                continue
            alive = _mattering(network, reader, what, now) if what.asymmetric else None
            matrices = network.matrices(reader, weights)
            folded = folds > 1 and len(reader.columns[0]) <= MOST_COLUMNS
            collectors = [
                Collector(reader, matrices, asymmetric=what.asymmetric, alive=alive, shrink=not folded)
                for _ in range(folds if folded else 1)
            ]
            old = first.until(reader.node, whole.readers[reader.node].source, beyond=True) if first else None
            for fold, x, _ in sweep.until(reader.node, reader.source):
                collectors[fold if folded else 0].add(x, *(next(old)[1:] if old is not None else ()))
            if old is not None:
                next(old, None)  # lets the last batch be put away
            warn_if_few(reader, sum(each.rows for each in collectors), images)
            now = _at(network, reader, [each.result() for each in collectors], what, now, [state, *apart])
            if what.asymmetric:
                sweep.change(_eraser(network, network.base.groups.alive(now.kept)))
            tick(reader.layer)
            if save is not None:
                save(now)
    return now


class _Sweeps:
    """Sweeps side by side, each over the batches of one fold."""

    def __init__(
        self, network: Network, images: Images, shelf: Shelf, states: Sequence[Mapping[str, Tensor] | None]
    ) -> None:
        self._sweeps = []
        for fold, state in enumerate(states):
            own = range(fold, images.batches, len(states))
            take = functools.partial(_batch, images, own)
            self._sweeps.append(Sweep(network.base.program, len(own), take, shelf, state))

    def until(self, name: str, source: str, *, beyond: bool = False) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """As `Sweep.until`, fold by fold, with the number of the fold."""
        for fold, sweep in enumerate(self._sweeps):
            for x, output in sweep.until(name, source, beyond=beyond):
                yield fold, x, output

    def change(self, function: Callable[[str, Any], Any]) -> None:
        """See `Sweep.change`."""
        for sweep in self._sweeps:
            sweep.change(function)


def _batch(images: Images, own: range, index: int) -> tuple[Tensor, ...]:
    return images.batch(own[index])


def _mattering(network: Network, reader: Reader, what: Pass, now: Progress) -> Mask:
    """The units that are alive once a reader is solved; of groups that are decided there by what it sees, all."""
    own = network.of_reader(reader)
    known = {name: top(order, what.counts[name]) for name, order in what.orders.items() if name in own}
    return network.base.groups.alive({**known, **now.kept})


def _at(
    network: Network,
    reader: Reader,
    evidence: Sequence[Sequence[Evidence]],
    what: Pass,
    now: Progress,
    states: Sequence[dict[str, Tensor]],
) -> Progress:
    """Decide what is undecided at a reader, and solve it; the states are brought up to date.

    Args:
        network: The network.
        reader: The reader.
        evidence: Of each fold, per part, not shrunk; of all images, where there is one.
        what: What to do.
        now: Where the pass stands.
        states: The tensors of the network, and of that of each fold.
    """
    groups, state = network.base.groups, states[0]
    kept, paths = dict(now.kept), dict(now.paths)
    changes: list[dict[str, Tensor]] = [dict(now.changed), *map(dict, now.apart)]
    chosen: Sequence[Evidence] = evidence[0]
    undecided = [name for name in network.of_reader(reader) if name not in kept and name in what.counts]
    if len(evidence) > 1 and any(what.orders.get(name) is None for name in undecided):
        bias = state[reader.bias] if reader.bias else None
        pairs = zip(joined(evidence), full_matrices(reader, state[reader.weight], bias), strict=True)
        chosen = [shrunk(own, matrix, constant=bias is not None) for own, matrix in pairs]
    for name in undecided:
        order = what.orders.get(name)
        if order is None:
            paths[name] = greedy(problems(reader, chosen, network.group(name), groups.alive(kept)))
            order = paths[name].order
        kept[name] = mask = top(order, what.counts[name])
        if what.asymmetric:
            for changed, each in zip(changes, states, strict=True):
                changed.update(network.erased(groups.alive({name: mask}), each))
                each.update(changed)
    alive = groups.alive(kept)
    outputs = alive if what.asymmetric else groups.alive({})
    weight, bias = state[reader.weight], state[reader.bias] if reader.bias else None
    near = dict(now.near)
    if len(evidence) > 1:
        found = solve_apart(reader, evidence, alive, outputs, weight, bias)
        near[reader.layer] = found.near
        solutions: list[Solved] = [found.solved, *found.apart]
    elif what.reweight:
        solutions = [solve(reader, evidence[0], alive, outputs, weight, bias)] * len(states)
    else:
        solutions = [cut(reader, evidence[0], alive, weight, bias)] * len(states)
    for changed, each, solved in zip(changes, states, solutions, strict=True):
        changed.update(solved.tensors(reader, each))
        each.update(changed)
    errors = {**now.errors, reader.layer: solutions[0].error}
    return Progress((*now.done, reader.node), kept, changes[0], errors, paths, tuple(changes[1:]), near)


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
