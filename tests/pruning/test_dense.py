"""Whole networks against dense algebra: the greedy choice by trying every unit, the new weights by `lstsq`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.data import Prepared
from edgespa.graph.surgery import slice_tensors
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.images import Images
from edgespa.pruning.readers import Reader
from edgespa.pruning.survey import Network, gather, path_of, visit
from edgespa.tasks.base import Base

Build = Callable[[str], Base]
NAMES = ("flatten", "residual", "concat", "depthwise", "excite", "grouped", "transposed", "matmul", "attention")
STEPS = 3


class Dense:
    """One part of a reader with all of its rows: ``B`` with a column of ones for the bias, and ``Y``."""

    def __init__(self, reader: Reader, part: int, rows: Tensor, matrix: Tensor) -> None:
        self.ids = reader.columns[part]
        ones = torch.ones(len(rows), len(matrix) - len(self.ids), dtype=torch.float64)
        self.rows = torch.cat([rows, ones], 1)
        self.targets = self.rows @ matrix

    def fit(self, units: Sequence[int], group: np.ndarray) -> tuple[Tensor, np.ndarray, float]:
        """Least squares on some units of a group and on all other columns: weights, columns, what is left."""
        gone = np.isin(self.ids, np.setdiff1d(group, units))
        kept = np.concatenate([np.flatnonzero(~gone), np.arange(len(self.ids), self.rows.shape[1])])
        if not kept.size:
            return self.targets[:0], kept, float(self.targets.square().sum())
        solution = torch.linalg.lstsq(self.rows[:, kept], self.targets, driver="gelsd").solution
        return solution, kept, float((self.targets - self.rows[:, kept] @ solution).square().sum())


def dense(network: Network, images: Images) -> dict[str, list[Dense]]:
    """Every reader of a network, by node name."""
    seen: dict[str, list[list[Tensor]]] = {}

    def see(reader: Reader, _: int, x: Tensor) -> None:
        seen.setdefault(reader.node, []).extend([rows.T.double() for rows in parts] for parts in reader.rows(x))

    visit(network, images, network.readers.values(), see, lambda text: None)
    state = network.base.program.state()
    return {
        node: [
            Dense(reader, part, torch.cat(chunks), matrix)
            for part, (chunks, matrix) in enumerate(
                zip(zip(*seen[node], strict=True), network.matrices(reader, state), strict=True)
            )
        ]
        for node, reader in network.readers.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_is_the_best_of_all_units_at_each_step(network: Build, images: Prepared, name: str) -> None:
    whole = Network.of(network(name))
    given = Images(whole.base, images)
    known = dense(whole, given)
    evidence = gather(whole, given, whole.readers.values(), lambda text: None)
    for group_name, readers in whole.of_group.items():
        group = whole.group(group_name).ids
        path = path_of(whole, group_name, evidence)
        parts = [part for reader in readers for part in known[reader.node] if np.isin(part.ids, group).any()]
        nothing = [part.fit([], group)[2] for part in parts]
        # several readers count alike, by what each has to explain
        scales = [1 / left if len(readers) > 1 else 1.0 for left in nothing]
        total = sum(scale * left for scale, left in zip(scales, nothing, strict=True))
        chosen: list[int] = []
        for step in range(STEPS):
            errors = {
                unit: sum(s * p.fit([*chosen, unit], group)[2] for s, p in zip(scales, parts, strict=True)) / total
                for unit in group
                if unit not in chosen
            }
            own = int(group[path.order[step]])
            assert errors[own] <= min(errors.values()) + 1e-7, (group_name, step)
            assert path.errors[step + 1] == pytest.approx(errors[own], rel=1e-5, abs=1e-7)
            chosen.append(own)


@pytest.mark.parametrize("name", NAMES)
def test_new_weights_are_those_of_least_squares(network: Build, images: Prepared, tmp_path: Path, name: str) -> None:
    base = network(name)
    whole = Network.of(base)
    known = dense(whole, Images(base, images))
    config = PruneConfig(density=0.6, method="layer-in-change", round_to=1)
    task = prune(base, config, tmp_path, data=images)
    alive = base.groups.alive(task.kept)
    state = base.program.state()
    every = np.unique(np.concatenate([group.ids for group in base.groups.groups.values()]))
    compared = 0
    for node, reader in whole.readers.items():
        if reader.weight not in task.tensors:
            continue
        matrices = []
        for part, outputs in zip(known[node], reader.outputs, strict=True):
            solution, columns, _ = part.fit(np.flatnonzero(alive), every)
            matrix = torch.zeros(part.rows.shape[1], part.targets.shape[1], dtype=torch.float64)
            matrix[columns] = solution
            matrix[:, ~alive[outputs]] = 0
            matrices.append(matrix)
        inputs = len(reader.columns[0])
        expected = reader.tensor([matrix[:inputs] for matrix in matrices], state[reader.weight])
        own = task.tensors[reader.weight]
        expected = slice_tensors({reader.weight: expected}, base.groups, alive).get(reader.weight, expected)
        assert torch.allclose(own, expected, atol=2e-4 * float(expected.abs().max())), reader.layer
        if reader.bias is not None:
            bias = torch.cat([matrix[-1] for matrix in matrices]).float()
            kept = np.concatenate([alive[ids] for ids in reader.outputs])
            assert torch.allclose(task.tensors[reader.bias], bias[torch.from_numpy(kept)], atol=1e-3)
        compared += 1
    assert compared >= 2
