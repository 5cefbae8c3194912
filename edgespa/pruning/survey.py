"""One pass over the original network: what every reader sees, and the greedy path of every group."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edgespa.graph.groups import Group, Mask
from edgespa.pruning.evidence import Collector, Evidence, full_matrices, problems
from edgespa.pruning.images import Images
from edgespa.pruning.readers import Reader, find_readers, readers_of
from edgespa.pruning.sweep import MEMORY_BYTES, Shelf, Sweep
from edgespa.selection.reconstruct import Path, greedy
from edgespa.tasks.base import Base

log = logging.getLogger(__name__)

Tick = Callable[[str], None]
MOST_COLUMNS = 12_288
"""Of a reader; the Gram matrix of this many takes 1.2 GB."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A base with its readers.

    Attributes:
        base: The model.
        readers: By node name, in the order of the graph.
        of_group: The readers of each group that may be pruned.
        whole: Groups that are kept whole, with the reason.
    """

    base: Base
    readers: Mapping[str, Reader]
    of_group: Mapping[str, tuple[Reader, ...]]
    whole: Mapping[str, str]

    @classmethod
    def of(cls, base: Base) -> Network:
        """Find the readers of every group."""
        readers = find_readers(base.program, base.groups)
        of_group, whole = {}, {}
        for name, group in base.groups.groups.items():
            own = tuple(readers_of(group, readers))
            wide = [reader for reader in own if len(reader.columns[0]) > MOST_COLUMNS]
            if not own:
                whole[name] = "no layer reads it through a weight of its own"
            elif wide:
                whole[name] = f"read by {wide[0].layer} with {len(wide[0].columns[0])} columns, at most {MOST_COLUMNS}"
            else:
                of_group[name] = own
        return cls(base, readers, of_group, whole)

    def group(self, name: str) -> Group:
        """A channel group by its name."""
        return self.base.groups.groups[name]

    def of_reader(self, reader: Reader) -> list[str]:
        """The prunable groups that a reader reads."""
        return [name for name, own in self.of_group.items() if reader in own]

    def erased(self, alive: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the tensors in which units are gone, with zeros there."""
        changed: dict[str, Tensor] = {}
        for slot, ids in self.base.groups.units.items():
            gone = np.flatnonzero(~alive[ids])
            if gone.size and slot.tensor in state:
                if slot.tensor not in changed:
                    changed[slot.tensor] = state[slot.tensor].detach().clone()
                changed[slot.tensor].index_fill_(slot.dim, torch.from_numpy(gone), 0.0)
        return changed

    def matrices(self, reader: Reader, state: Mapping[str, Tensor]) -> list[Tensor]:
        """A reader's weights with its bias, see `full_matrices`."""
        return full_matrices(reader, state[reader.weight], state[reader.bias] if reader.bias else None)


Visit = Callable[[Reader, int, Tensor], None]


def visit(
    network: Network,
    images: Images,
    readers: Iterable[Reader],
    see: Visit,
    tick: Tick,
    batches: Sequence[int] | None = None,
) -> None:
    """Show the inputs that some readers have in the original network, batch by batch, front to back.

    Args:
        network: The network.
        images: Calibration images.
        readers: The readers.
        see: Called with a reader, the number of the batch, and its input.
        tick: Told what has been done, per reader.
        batches: Which batches; all by default.
    """
    chosen = range(images.batches) if batches is None else batches
    wanted = {reader.node for reader in readers}
    with Shelf(MEMORY_BYTES) as shelf:
        sweep = Sweep(network.base.program, len(chosen), lambda index: images.batch(chosen[index]), shelf)
        for node, reader in network.readers.items():
            if node in wanted:
                for batch, (x, _) in enumerate(sweep.until(node, reader.source)):
                    see(reader, batch, x)
                tick(reader.layer)


def gather(network: Network, images: Images, readers: Iterable[Reader], tick: Tick) -> dict[str, list[Evidence]]:
    """The evidence of some readers on the original network, by node name.

    Raises:
        DataError: If an activation is not finite.
    """
    readers = list(readers)
    state = network.base.program.state()
    collectors = {reader.node: Collector(reader, network.matrices(reader, state)) for reader in readers}
    visit(network, images, readers, lambda reader, _, x: collectors[reader.node].add(x), tick)
    for reader in readers:
        warn_if_few(reader, collectors[reader.node].rows, images)
    return {node: collector.result() for node, collector in collectors.items()}


def gather_apart(
    network: Network, images: Images, readers: Iterable[Reader], tick: Tick, parts: Sequence[Sequence[int]]
) -> list[dict[str, list[Evidence]]]:
    """As `gather`, for each of some sets of batches apart, and taken at their word however few the rows are."""
    readers = list(readers)
    state = network.base.program.state()
    collectors = [{r.node: Collector(r, network.matrices(r, state), shrink=False) for r in readers} for _ in parts]
    owner = [part for part, own in enumerate(parts) for _ in own]
    batches = [batch for own in parts for batch in own]
    visit(network, images, readers, lambda r, at, x: collectors[owner[at]][r.node].add(x), tick, batches)
    return [{node: collector.result() for node, collector in own.items()} for own in collectors]


def warn_if_few(reader: Reader, rows: int, images: Images) -> None:
    """Say so if there are fewer equations than unknowns: the fit is then exact on these images, and on no others."""
    columns = len(reader.columns[0])
    if rows < columns:
        log.warning(
            "%s: %d images give %d rows for %d columns; use more images", reader.layer, images.count, rows, columns
        )


def path_of(network: Network, name: str, evidence: Mapping[str, Sequence[Evidence]]) -> Path:
    """The greedy path of a group, all its readers together, the rest of the network whole."""
    group = network.group(name)
    alive = network.base.groups.alive({})
    parts = [
        problem
        for reader in network.of_group[name]
        for problem in problems(reader, evidence[reader.node], group, alive)
    ]
    return greedy(parts, relative=len(network.of_group[name]) > 1)
