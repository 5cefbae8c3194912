"""Calibration images in folds: new weights are fitted, and judged, on what images show that nobody has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.data import Prepared
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.evidence import Collector, Evidence, full_matrices, solve
from edgespa.pruning.folds import FOLDS, NEAR, joined, solve_apart
from edgespa.pruning.images import Images
from edgespa.pruning.readers import Reader
from edgespa.pruning.survey import Network
from edgespa.tasks.base import Base

from .conftest import images_of

Build = Callable[[str], Base]


def reader_of(base: Base, layer: str) -> Reader:
    return next(reader for reader in Network.of(base).readers.values() if reader.layer == layer)


def uneven(rows: Tensor) -> Tensor:
    """How loud the noise of each column is beside that of others; its mean square is 1."""
    return torch.linspace(0, 3**0.5, rows.shape[1])


def evidence_of(reader: Reader, base: Base, now: Tensor, old: Tensor, wanted: Tensor) -> list[Evidence]:
    state = base.program.state()
    bias = state[reader.bias] if reader.bias else None
    collector = Collector(reader, full_matrices(reader, state[reader.weight], bias), asymmetric=True, shrink=False)
    collector.add(now, old, wanted)
    return collector.result()


@pytest.fixture
def problem(network: Build) -> Callable[[int, float], tuple[Reader, list[list[Evidence]], Tensor, Tensor, Base]]:
    """A linear layer whose inputs are those of the original, and noise; so many rows in each fold."""

    def make(rows: int, noise: float) -> tuple[Reader, list[list[Evidence]], Tensor, Tensor, Base]:
        base = network("flatten")
        reader = reader_of(base, "f1")
        state = base.program.state()
        weight, bias = state[reader.weight], state[str(reader.bias)]
        generator = torch.Generator().manual_seed(0)
        folds = []
        for _ in range(FOLDS):
            old = torch.randn(rows, weight.shape[1], generator=generator)
            now = old + noise * uneven(old) * torch.randn(old.shape, generator=generator)
            folds.append(evidence_of(reader, base, now, old, old @ weight.T + bias))
        return reader, folds, weight, bias, base

    return make


def everything(base: Base) -> np.ndarray:
    return base.groups.alive({})


def test_few_rows_keep_weights_near_and_many_have_their_way(problem: Callable[..., tuple]) -> None:
    reader, folds, weight, bias, base = problem(8000, 0.3)
    many = solve_apart(reader, folds, everything(base), everything(base), weight, bias)
    columns = weight.shape[1]
    reader, folds, weight, bias, base = problem(max(2, columns // FOLDS), 0.3)
    few = solve_apart(reader, folds, everything(base), everything(base), weight, bias)
    assert few.near >= NEAR[3]
    assert many.near < few.near
    # What they lose on other images is what was said, and less than that of plain least squares.
    plain = solve(reader, joined(folds), everything(base), everything(base), weight, bias)
    generator = torch.Generator().manual_seed(7)
    old = torch.randn(4000, columns, generator=generator)
    now = old + 0.3 * uneven(old) * torch.randn(old.shape, generator=generator)
    wanted = old @ weight.T + bias

    def lost(solved: object) -> float:
        given = now @ solved.weight.T + solved.bias.float()  # type: ignore[attr-defined]
        return float((given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())

    assert lost(few.solved) < lost(plain)
    assert few.solved.error == pytest.approx(lost(few.solved), rel=0.35)


def test_each_fold_has_weights_of_the_others_alone(problem: Callable[..., tuple]) -> None:
    reader, folds, weight, bias, base = problem(300, 0.3)
    alive = everything(base)
    found = solve_apart(reader, folds, alive, alive, weight, bias)
    assert len(found.apart) == FOLDS
    for index, own in enumerate(found.apart):
        rest = [each for place, each in enumerate(folds) if place != index]
        expected = solve(reader, joined(rest), alive, alive, weight, bias, found.near)
        assert torch.allclose(own.weight, expected.weight, atol=1e-5)
    every = solve(reader, joined(folds), alive, alive, weight, bias, found.near)
    assert torch.equal(found.solved.weight, every.weight)


def test_weights_that_stay_near_are_the_old_ones_at_the_scale_that_fits(problem: Callable[..., tuple]) -> None:
    reader, folds, weight, bias, base = problem(500, 1.0)  # as much noise as signal: half of it is the best
    alive = everything(base)
    near = solve(reader, joined(folds), alive, alive, weight, bias, 1e6)
    assert torch.allclose(near.weight, 0.5 * weight, atol=0.1 * float(weight.abs().max()))
    assert near.error < 1


def test_folds_are_those_of_enough_batches(network: Build, tmp_path: Path) -> None:
    base = network("residual")
    settings = {"density": 0.6, "method": "asym-in-change", "round_to": 1}
    many = prune(base, PruneConfig.model_validate(settings), tmp_path, data=images_of(tmp_path, 512))
    assert many.header.provenance["near_old_weights"].keys() == many.header.provenance["reconstruction_error"].keys()
    fewer = prune(base, PruneConfig.model_validate(settings), tmp_path, data=images_of(tmp_path, 160))
    assert "near_old_weights" not in fewer.header.provenance


def test_two_parts_at_random(network: Build, images: Prepared, tmp_path: Path) -> None:
    every = Images(network("plain"), images)
    fitted, judged = every.parted(16, 8, 0)
    assert (fitted.count, judged.count) == (144, 16)
    rows = [part._rows for part in (fitted, judged)]
    assert sorted(np.concatenate([own for own in rows if own is not None]).tolist()) == list(range(160))
    whole = torch.cat([every.batch(index)[0] for index in range(every.batches)])
    for part, own in zip((fitted, judged), rows, strict=True):
        seen = torch.cat([part.batch(index)[0] for index in range(part.batches)])
        assert torch.equal(seen, whole[torch.as_tensor(own)])
        assert torch.equal(part.first(4)[0], seen[:4])
        assert torch.equal(part.some(5).batch(0)[0], seen[:5])
    assert judged.some(64).count == 16
    again = every.parted(16, 8, 1)[1]
    assert not np.array_equal(again._rows, rows[1])
    assert every.parted(64, 33, 0) == (every, every)
