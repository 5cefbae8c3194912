"""Adapting from a pruned task: what is gone stays gone, what was solved anew is what is adapted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.start import started
from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.errors import BaseMismatchError, ConfigError
from edgespa.graph.surgery import compact
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

CONFIG = AdaptConfig(epochs=2, batch_size=16, rank=2, head="keep")


@pytest.fixture(scope="module")
def data(toy_data: ImageData) -> ImageData:
    return toy_data


@pytest.fixture(scope="module")
def cut(toy_base: Base, data: ImageData, toy_preprocess: Preprocess, toy_folder: Path) -> Task:
    config = PruneConfig(density=0.5, method="asym-in-change", round_to=1)
    return prune(toy_base, config, toy_folder, toy_preprocess, data=prepare(data, toy_preprocess))


def test_the_started_base_is_the_pruned_network(toy_base: Base, cut: Task) -> None:
    base = started(toy_base, cut)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(compact(base.program, base.groups, cut.kept)(x), cut.program(toy_base)(x))
    assert base.digest == toy_base.digest


@pytest.mark.parametrize("adapter", ["splora", "full"])
def test_a_task_that_started_from_another(
    toy_base: Base, cut: Task, data: ImageData, toy_preprocess: Preprocess, tmp_path: Path, adapter: str
) -> None:
    config = CONFIG.model_copy(update={"adapter": adapter, "head": "new"})
    task = adapt(toy_base, data, toy_preprocess, config, tmp_path, start=cut)
    assert all(np.array_equal(task.kept[name], mask) for name, mask in cut.kept.items())
    assert set(cut.tensors) <= set(task.tensors)
    assert task.header.figures.stored_parameters == task.factors.size()
    assert task.header.provenance["start"] == cut.header.provenance
    task.save(tmp_path / "t.spa")
    again = Task.load(tmp_path / "t.spa")
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.program(toy_base)(x), task.program(toy_base)(x))


def test_an_adapter_that_has_learnt_nothing_is_the_pruned_network(
    toy_base: Base, cut: Task, data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    config = AdaptConfig(epochs=1, batch_size=16, rank=2, head="new", lr=1e-9, freeze_norms=True)
    task = adapt(toy_base, data, toy_preprocess, config, tmp_path, start=cut)
    plain = adapt(toy_base, data, toy_preprocess, config, tmp_path)
    for name in ("conv2.weight", "conv3.weight"):
        mine, kept = task.program(toy_base).state()[name], cut.program(toy_base).state()[name]
        assert torch.allclose(mine, kept, atol=2e-3)
        assert mine.shape != plain.program(toy_base).state()[name].shape


def test_it_can_be_pruned_further(
    toy_base: Base, cut: Task, data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"density": 0.3, "round_to": 1, "prune_from": 0.0, "head": "new", "epochs": 3})
    task = adapt(toy_base, data, toy_preprocess, config, tmp_path, start=cut)
    assert task.header.figures.channel_density <= 0.3
    assert all((cut.kept[name] >= mask).all() for name, mask in task.kept.items())
    task.program(toy_base)(torch.randn(2, 3, 8, 8))


def test_a_start_is_resumed_with_the_same_start(
    toy_base: Base, cut: Task, data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    config = CONFIG.model_copy(update={"head": "new"})
    whole = adapt(toy_base, data, toy_preprocess, config, tmp_path, start=cut, checkpoint=state)
    again = adapt(toy_base, data, toy_preprocess, config, tmp_path, start=cut, checkpoint=state, resume=True)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    with pytest.raises(ConfigError, match="another --from"):
        adapt(toy_base, data, toy_preprocess, config, tmp_path, checkpoint=state, resume=True)


def test_an_adapted_task_is_gone_on_with(
    toy_base: Base, data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"head": "new", "density": 0.6, "round_to": 1, "epochs": 3})
    first = adapt(toy_base, data, toy_preprocess, config, tmp_path)
    more = adapt(toy_base, data, toy_preprocess, AdaptConfig(epochs=1, batch_size=16, lr=1e-9), tmp_path, start=first)
    assert all(np.array_equal(more.kept[name], mask) for name, mask in first.kept.items())
    assert more.header.adapter == first.header.adapter
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    factors, before = more.factors.flat(), first.factors.flat()
    learned = [name for name in before if "running" not in name]
    assert all(torch.allclose(factors[name], before[name], atol=1e-6) for name in learned)
    assert more.program(toy_base)(x).shape == first.program(toy_base)(x).shape


def test_what_cannot_be_started_from(toy_base: Base, toy_folder: Path, cut: Task) -> None:
    other = Base.open(f"{toy_folder / 'net.py'}:other", (1, 3, 8, 8))
    with pytest.raises(BaseMismatchError):
        started(other, cut)
