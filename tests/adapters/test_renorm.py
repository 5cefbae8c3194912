"""Batch norms that are put behind the convolutions of a network without norms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adapters.renorm import calibrate, count_norms, has_norms, inserted_norms, with_norms
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.errors import ConfigError
from edgespa.graph.groups import find_groups
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

NET = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(),
        nn.Conv2d(12, 8, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()
"""


@pytest.fixture
def base(tmp_path: Path) -> Base:
    (tmp_path / "bare.py").write_text(NET)
    return Base.open(f"{tmp_path}/bare.py:build", (1, 3, 8, 8))


def traced(*layers: nn.Module) -> Program:
    torch.manual_seed(0)
    return trace(nn.Sequential(*layers).eval(), (torch.randn(2, 3, 8, 8),))


def argument(program: Program, norm: Any, position: int) -> Tensor:
    """The tensor that a norm takes: weight, bias, mean and variance from position 1 on."""
    return dict(program.tensors())[str(norm.args[position].target)]


def learned(
    base: Base, data: ImageData, preprocess: Preprocess, folder: Path, start: Task | None = None, **options: object
) -> Task:
    settings = {"rank": 2, "epochs": 3, "batch_size": 16, "density": 0.5, "round_to": 1, "prune_steps": 2, **options}
    return adapt(base, data, preprocess, AdaptConfig.parse(settings, "test"), folder, start=start)


def test_norms_go_behind_the_convolutions_that_have_none_and_change_nothing() -> None:
    program = traced(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    result = with_norms(program)
    (norm,) = inserted_norms(result)
    assert getattr(norm.args[0], "name", None) == "conv2d_1"
    inputs = program.example_inputs(batch=3)
    torch.testing.assert_close(result(*inputs), program(*inputs))
    assert has_norms(program)
    assert not inserted_norms(program)
    assert find_groups(result).groups.keys() == find_groups(program).groups.keys()


def test_one_and_three_dimensions_and_transposed() -> None:
    layers = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 6, 2)).eval()
    program = trace(layers, (torch.randn(2, 3, 8),))
    result = with_norms(program)
    assert [argument(result, norm, 1).shape for norm in inserted_norms(result)] == [(4,), (6,)]
    inputs = program.example_inputs(batch=3)
    torch.testing.assert_close(result(*inputs), program(*inputs))


def test_statistics_by_hand() -> None:
    program = with_norms(traced(nn.Conv2d(3, 2, 1)))
    batches = [torch.randn(4, 3, 8, 8) * 3 + 1 for _ in range(3)]
    before = program(*program.example_inputs(batch=4))
    calibrate(program, {}, [(each,) for each in batches])
    tensors = dict(program.tensors())
    weight, bias = tensors["0.weight"], tensors["0.bias"]
    expected = torch.cat([nn.functional.conv2d(batch, weight, bias) for batch in batches]).transpose(0, 1).flatten(1)
    found = {name.rpartition(".")[2]: value for name, value in tensors.items() if "norm" in name}
    torch.testing.assert_close(found["running_mean"], expected.mean(1))
    torch.testing.assert_close(found["running_var"], expected.var(1, unbiased=False))
    torch.testing.assert_close(found["bias"].data, found["running_mean"])
    torch.testing.assert_close(found["weight"].square().data, found["running_var"] + 1e-5)
    torch.testing.assert_close(program(*program.example_inputs(batch=4)), before)


def test_statistics_are_those_with_other_weights() -> None:
    program = with_norms(traced(nn.Conv2d(3, 2, 1)))
    weights = {"0.weight": torch.zeros(2, 3, 1, 1)}
    calibrate(program, weights, [(torch.randn(4, 3, 8, 8),)])
    (norm,) = inserted_norms(program)
    torch.testing.assert_close(argument(program, norm, 3), dict(program.tensors())["0.bias"].detach())


@pytest.mark.law(1)
@pytest.mark.parametrize("adapter", ["splora", "ssf", "full"])
def test_a_task_has_them_and_the_base_finds_them_again(
    base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path, adapter: str
) -> None:
    task = learned(base, toy_data, toy_preprocess, tmp_path, adapter=adapter)
    assert task.header.adapter is not None
    assert task.header.adapter.norms
    path = tmp_path / "t.spa"
    task.save(path)
    program = Task.load(path).program(Base.open(base.spec, base.input_shape))
    norms = inserted_norms(program)
    assert len(norms) == count_norms(task.tensors) == 3
    tensors = dict(program.tensors())
    widths = [argument(program, norm, 1).shape[0] for norm in norms]
    assert widths == [tensors[name].shape[0] for name in ("0.weight", "2.weight", "4.weight")]
    assert widths[0] < 12  # they are cut with their channels
    assert all(argument(program, norm, 3).abs().max() > 0 for norm in norms)


def test_they_do_not_count_for_they_are_merged(base: Base) -> None:
    normed = base.extended("splora", {}, norms=True)
    half = {name: np.arange(len(group)) % 2 == 0 for name, group in normed.groups.groups.items()}
    assert normed.whole_cost == base.whole_cost
    assert normed.cost.cost(half) == base.cost.cost(half)


def test_when_they_are_added(base: Base, toy_base: Base) -> None:
    def adds(chosen: Base, **options: object) -> bool:
        return AdaptConfig.parse(options, "test").adds_norms(chosen.program)

    assert adds(base, density=0.5)
    assert not adds(base)  # nothing goes
    assert not adds(base, density=0.5, freeze_norms=True)
    assert not adds(base, density=0.5, norms="keep")
    assert adds(base, norms="add")
    assert not adds(toy_base, density=0.5)  # it has norms
    assert adds(toy_base, norms="add")
    with pytest.raises(ConfigError, match="have to be trained"):
        adds(base, norms="add", freeze_norms=True)


def test_a_task_that_has_them_is_gone_on_with(
    base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    first = learned(base, toy_data, toy_preprocess, tmp_path)
    config = AdaptConfig.parse({"epochs": 1, "batch_size": 16, "lr": 1e-9, "round_to": 1}, "test")
    second = adapt(base, toy_data, toy_preprocess, config, tmp_path, start=first)
    assert second.header.adapter is not None
    assert second.header.adapter.norms
    name = "edgespa_adapter.norm.0.weight"
    torch.testing.assert_close(second.tensors[name], first.tensors[name])  # not calibrated anew


def test_a_task_without_them_is_gone_on_with_as_it_is(
    base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    first = learned(base, toy_data, toy_preprocess, tmp_path, norms="keep")
    second = learned(base, toy_data, toy_preprocess, tmp_path, start=first, density=0.3)
    assert second.header.adapter is not None
    assert not second.header.adapter.norms
    assert count_norms(second.tensors) == 0
    with pytest.raises(ConfigError, match="without added norms"):
        learned(base, toy_data, toy_preprocess, tmp_path, start=first, norms="add")


def test_training_begins_with_their_statistics(
    base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    task = learned(base, toy_data, toy_preprocess, tmp_path, epochs=1, lr=1e-9)
    fresh = with_norms(base.program)
    for norm in inserted_norms(fresh):
        name = str(getattr(norm.args[1], "target", None))
        assert (task.tensors[name] - dict(fresh.tensors())[name][0]).abs().min() > 1e-3  # no step was that long


def test_an_interrupted_run_is_the_uninterrupted_one(
    base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(done: float, total: float | None, text: str) -> None:
        if total is not None and done > total * 0.6:
            raise Stop

    settings = {"rank": 2, "epochs": 3, "batch_size": 16, "density": 0.5, "round_to": 1, "prune_steps": 2}
    config, state = AdaptConfig.parse(settings, "test"), tmp_path / "state"
    whole = adapt(base, toy_data, toy_preprocess, config, tmp_path)
    with pytest.raises(Stop):
        adapt(base, toy_data, toy_preprocess, config, tmp_path, checkpoint=state, progress=stop)
    resumed = adapt(base, toy_data, toy_preprocess, config, tmp_path, checkpoint=state, resume=True)
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in whole.tensors.items())
