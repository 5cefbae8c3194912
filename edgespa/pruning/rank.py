"""Scores and orders of units by everything but reconstruction: weights, gradients, forward selection, sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgespa.errors import DataError
from edgespa.graph.groups import Group
from edgespa.pruning.config import PruneConfig
from edgespa.pruning.evidence import Evidence
from edgespa.pruning.images import MOST_IMAGES, Images
from edgespa.pruning.readers import Reader
from edgespa.pruning.survey import Network, Tick, gather_apart, visit
from edgespa.selection.criteria import Scores, normalise
from edgespa.selection.reconstruct.baselines import forward_selection, sampled_order, sensitivity
from edgespa.selection.relevance import captured
from edgespa.selection.score import require_finite, score_units

SAMPLED_ROWS = 2048  # rows per batch that sensitivities are taken from


def scores_of(network: Network, config: PruneConfig, images: Images | None, tick: Tick) -> dict[str, Scores]:
    """One score per unit, the higher the better, by the method of a configuration.

    Args:
        network: The network.
        config: Its method is none that reconstructs.
        images: For methods that need them.
        tick: Told what has been done.

    Returns:
        Per group ``[units]``. Methods that give an order (forward selection, sampling) score by rank.

    Raises:
        DataError: If act-grad gets images without classes or targets.
        AdapterError: If a score is not finite; it names the group.
    """
    base, rank = network.base, config.how.rank
    groups = list(network.of_group)
    if rank == "weight-norm":
        raw = {name: output_norms(network, name) for name in groups}
    elif rank == "act-grad" and images is not None:
        raw = activation_gradients(network, images, groups, tick)
    elif rank == "sampling" and images is not None:
        generator = torch.Generator().manual_seed(config.seed)
        found = sensitivities(network, images, groups, tick, config.seed)
        require_finite({name: values.numpy() for name, values in found.items()}, config.method)
        return {name: by_rank(sampled_order(values, generator)) for name, values in found.items()}
    elif rank in ("forward", "forward-fd") and images is not None:
        return forward_scores(network, images, groups, tick, config)
    else:
        return score_units(
            base.groups,
            base.groups.all_kept(),
            dict(base.program.tensors()),
            rank,
            config.normalisation,
            torch.Generator().manual_seed(config.seed),
            program=base.program,
        )
    require_finite(raw, config.method)
    return {name: normalise(values, config.normalisation) for name, values in raw.items()}


def by_rank(order: Sequence[int] | np.ndarray) -> Scores:
    """Scores that put units in an order and spread alike in every group: ``(n - rank) / n``."""
    scores = np.empty(len(order), dtype=np.float64)
    scores[np.asarray(order, dtype=np.int64)] = 1 - np.arange(len(order)) / max(len(order), 1)
    return scores


def output_norms(network: Network, name: str) -> Scores:
    """L1 norm of the weights that read a unit, per output (the "onorm" of He et al. 2014), summed over its readers."""
    state = network.base.program.state()
    group = network.group(name)
    total = np.zeros(len(group))
    for reader in network.of_group[name]:
        for part, matrix in enumerate(reader.matrices(state[reader.weight])):
            table = reader.units_table(part, group.ids)
            if table is not None:
                norms = torch.cat([matrix.abs().sum(1), matrix.new_zeros(1)])
                total += (norms[table].sum(1) / matrix.shape[1]).numpy()
    return total


def activation_gradients(network: Network, images: Images, groups: Iterable[str], tick: Tick) -> dict[str, Scores]:
    """``mean over images of |sum over places of a * dL/da|`` per unit: a a reader's input, L the loss of the data.

    As the comparison in El Halabi et al. (after Molchanov et al. 2017, arXiv 1611.06440, eq. 8); with several readers
    their mean.

    Raises:
        DataError: If the images have neither classes nor targets, or others than the network gives, or the loss is not
            finite.
    """
    images.require_answers("act-grad")
    readers = {name: network.of_group[name] for name in groups}
    sources = {reader.source for own in readers.values() for reader in own}
    totals = {name: np.zeros(len(network.group(name))) for name in readers}
    for index in range(images.batches):
        targets = images.targets(index)
        found = captured(
            network.base.program.module, {}, images.batch(index), sources, partial(_loss_of, images, targets)
        )
        for name, own in readers.items():
            for reader in own:
                value, gradient = found[reader.source]
                if gradient is not None:
                    product = value * gradient
                    totals[name] += _per_unit(reader, product, network.group(name)) / (len(own) * images.count)
        tick(f"gradients, batch {index + 1}")
    return totals


def _loss_of(images: Images, targets: Any, output: Any) -> Tensor:
    """The sum over a batch."""
    objective = images.objective
    loss = objective.scored(objective.take(output, images.data), targets) * objective.mass(targets)
    if not bool(torch.isfinite(loss)):
        raise DataError(
            f"{images.name}: the loss of the network on these images is {loss.item()}",
            "check --mean and --std, and the weights of the model",
        )
    return loss


def _per_unit(reader: Reader, values: Tensor, group: Group) -> Scores:
    """``sum over images of |sum over a unit's elements|``, ``[units]``."""
    channel = 1 if reader.window is not None else values.dim() - 1
    others = [dim for dim in range(1, values.dim()) if dim != channel]
    flat = (values.double().sum(others) if others else values.double()).numpy()
    ids = reader.channels
    return np.array([np.abs(flat[:, ids == unit].sum(1)).sum() for unit in group.ids])


def sensitivities(network: Network, images: Images, groups: Iterable[str], tick: Tick, seed: int) -> dict[str, Tensor]:
    """Per group the largest share that each unit has in any output of its readers; see `sensitivity`.

    Deviation from Liebenwein et al.: of every batch at most `SAMPLED_ROWS` random rows are looked at.
    """
    state = network.base.program.state()
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.zeros(len(network.group(name)), dtype=torch.float64) for name in groups}

    def see(reader: Reader, _: int, x: Tensor) -> None:
        matrices = reader.matrices(state[reader.weight])
        first = next(reader.rows(x[torch.randperm(len(x), generator=generator)]))
        for part, (rows, matrix) in enumerate(zip(first, matrices, strict=True)):
            sample = torch.randperm(rows.shape[1], generator=generator)[:SAMPLED_ROWS]
            for name in network.of_reader(reader):
                table = reader.units_table(part, network.group(name).ids) if name in found else None
                if table is not None:
                    found[name] = torch.maximum(found[name], sensitivity(rows[:, sample], matrix, table))

    visit(network, images, {r.node: r for name in found for r in network.of_group[name]}.values(), see, tick)
    return found


def forward_scores(
    network: Network, images: Images, groups: Iterable[str], tick: Tick, config: PruneConfig
) -> dict[str, Scores]:
    """Greedy forward selection with old weights; see `forward_selection`.

    ``forward`` looks at one random batch of (about) `MOST_IMAGES` calibration images, ``forward-fd`` at another one for
    every unit.
    """
    together = max(1, MOST_IMAGES // images.batch_size)
    parts = [range(start, min(start + together, images.batches)) for start in range(0, images.batches, together)]
    if config.how.rank == "forward":
        generator = torch.Generator().manual_seed(config.seed)
        parts = [parts[int(torch.randint(len(parts), (1,), generator=generator))]]
    names = list(groups)
    readers = {r.node: r for name in names for r in network.of_group[name]}.values()
    apart = gather_apart(network, images, readers, tick, parts)
    return {name: by_rank(forward_selection(_steps(network, name, apart))) for name in names}


def _steps(
    network: Network, name: str, apart: Sequence[Mapping[str, Sequence[Evidence]]]
) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    group, state = network.group(name), network.base.program.state()
    steps = []
    for evidence in apart:
        readers = []
        for reader in network.of_group[name]:
            for part, matrix in enumerate(network.matrices(reader, state)):
                table = reader.units_table(part, group.ids)
                if table is not None:
                    readers.append((evidence[reader.node][part].gram, matrix, table))
        steps.append(readers)
    return steps
