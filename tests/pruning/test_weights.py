"""Pruning by the weights alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from edgespa.config import Preprocess
from edgespa.errors import AdapterError, BudgetError
from edgespa.graph.program import assign
from edgespa.pruning import METHODS, PruneConfig, prune
from edgespa.pruning.config import TABLE
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

FREE = [name for name, method in TABLE.items() if not method.needs_data]


@pytest.mark.parametrize("method", FREE)
@pytest.mark.parametrize("of", ["channels", "macs"])
def test_a_budget_is_kept_and_the_law_proved(
    toy_base: Base, tmp_path: Path, toy_preprocess: Preprocess, method: str, of: str
) -> None:
    config = PruneConfig(method=method, density=0.5, budget=of, round_to=1)
    task = prune(toy_base, config, tmp_path, toy_preprocess)
    figures = task.header.figures
    reached = figures.channel_density if of == "channels" else figures.macs / figures.base_macs
    assert 0.4 < reached <= 0.5
    assert 0 <= task.header.metrics["masked_compacted_error"] < 1e-5
    assert task.header.provenance["config"] == config.model_dump(mode="json")
    assert task.header.preprocess == toy_preprocess
    assert not task.adapters
    assert not task.tensors
    program = task.program(toy_base)
    assert program.parameter_count() == figures.parameters
    assert program(torch.randn(3, 3, 8, 8)).shape == (3, 4)


def test_the_methods_differ_and_the_same_is_the_same(toy_base: Base, tmp_path: Path) -> None:
    def kept(**options: object) -> tuple[tuple[bool, ...], ...]:
        task: Task = prune(toy_base, PruneConfig.model_validate({"density": 0.5, "round_to": 1, **options}), tmp_path)
        return tuple(tuple(mask.tolist()) for mask in task.kept.values())

    assert kept() == kept()
    assert kept(method="random", seed=1) == kept(method="random", seed=1)
    assert kept(method="random", seed=1) != kept(method="random", seed=2)
    assert kept(method="l1") != kept(method="random")


def test_what_has_no_sense_is_refused(toy_base: Base, tmp_path: Path) -> None:
    assert {"l1", "l2", "random", "weight-norm", "layer-random"} <= set(FREE) < set(METHODS)
    for wrong in ({"method": "taylor"}, {"density": 0}, {"density": 1.1}, {"budget": "flops"}, {"normalisation": "l3"}):
        with pytest.raises(ValidationError):
            PruneConfig.model_validate({"density": 0.5, **wrong})
    with pytest.raises(BudgetError, match="cannot be reached"):
        prune(toy_base, PruneConfig(density=0.01, min_width=8), tmp_path)


def test_weights_that_are_not_finite_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    base = Base.open(f"{toy_folder / 'net.py'}:build", (1, 3, 8, 8))
    assign(base.program.module, "conv2.weight", torch.full((24, 16, 3, 3), float("nan")))
    with pytest.raises(AdapterError, match="conv2: its l1 scores are not finite"):
        prune(base, PruneConfig(density=0.5), tmp_path)
