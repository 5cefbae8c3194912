"""Pruning with images, over networks of every kind."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.data import Prepared
from edgespa.errors import ConfigError
from edgespa.pruning import METHODS, PruneConfig, Pruning, prune
from edgespa.pruning.allocate import equal_accuracy
from edgespa.pruning.config import TABLE
from edgespa.pruning.images import Images
from edgespa.pruning.losses import accuracy_losses
from edgespa.pruning.survey import Network, gather, path_of
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

NAMES = (
    "plain", "flatten", "residual", "concat", "depthwise", "excite", "grouped", "transposed", "grouped_transposed",
    "matmul", "attention",
)  # fmt: skip
FEW = ("residual", "depthwise", "grouped", "attention")
MARKED = [name if name in FEW else pytest.param(name, marks=pytest.mark.more) for name in NAMES]
IN_CHANGE = [name for name in METHODS if name.endswith("in-change")]
Build = Callable[[str], Base]


def cut(base: Base, folder: Path, data: Prepared | None, density: float = 0.5, **settings: Any) -> Task:
    config = PruneConfig.model_validate({"density": density, "round_to": 1, **settings})
    return prune(base, config, folder, data=data)


def outputs(base: Base, task: Task | None, data: Prepared) -> Tensor:
    program = base.program if task is None else task.program(base)
    with torch.no_grad():
        output: Tensor = program(data.tensor(range(len(data))))
    return output


def change(base: Base, task: Task, data: Prepared) -> float:
    """How far the outputs are from the original ones, relative to how they vary."""
    old, new = outputs(base, None, data), outputs(base, task, data)
    return float((new - old).norm() / (old - old.mean(0)).norm())


@pytest.mark.law(5)
@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("method", IN_CHANGE)
def test_what_is_there_twice_costs_nothing(
    twins: Build, images: Prepared, tmp_path: Path, name: str, method: str
) -> None:
    base = twins(name)
    task = cut(base, tmp_path, images, method=method, allocation="uniform")
    assert {name: int(mask.sum()) for name, mask in task.kept.items()} == {
        name: len(group) // 2 for name, group in base.groups.groups.items()
    }
    assert change(base, task, images) < 1e-3
    assert task.header.metrics["largest_reconstruction_error"] < 1e-6
    assert task.tensors
    plain = cut(base, tmp_path, images, method=method, reweight=False)
    assert change(base, plain, images) > 0.05
    assert not plain.tensors


@pytest.mark.law(6)
@pytest.mark.parametrize("name", ["residual", "excite", "grouped_transposed", "attention"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_networks_of_every_kind(
    network: Build, images: Prepared, tmp_path: Path, name: str, method: str
) -> None:
    base = network(name)
    task = cut(base, tmp_path, images, 0.6, method=method)
    assert 0.4 < task.header.figures.channel_density <= 0.6
    assert task.header.metrics["masked_compacted_error"] < 1e-5
    bare = cut(base, tmp_path, images, 0.6, method=method, reweight=False)
    errors = task.header.provenance["reconstruction_error"]
    assert isinstance(errors, dict)
    assert all(0 <= value < 1 + 1e-9 for value in errors.values())
    if method == "layer-in-change":
        less = bare.header.provenance["reconstruction_error"]
        assert isinstance(less, dict)
        assert all(errors[layer] <= less[layer] + 1e-9 for layer in errors)
    elif method not in IN_CHANGE:
        assert all(np.array_equal(task.kept[name], bare.kept[name]) for name in task.kept)
    path = tmp_path / "t.spa"
    task.save(path)
    again = Task.load(path)
    assert torch.equal(outputs(base, task, images), outputs(base, again, images))


def inputs_of(base: Base, task: Task, layer: str, data: Prepared) -> Tensor:
    """Inputs of a linear layer of a task's program."""
    program = task.program(base)
    found = []

    class Record(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> object:
            value = super().run_node(node)
            names = [str(arg.target) for arg in node.all_input_nodes if arg.op == "get_attr"]
            if f"{layer}.weight" in names:
                found.append(self.env[node.all_input_nodes[0]].double())
            return value

    with torch.no_grad():
        Record(program.module, garbage_collect_values=False).run(data.tensor(range(len(data))))
    return found[0]


def fitted(rows: Tensor, targets: Tensor) -> Tensor:
    wide = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    return torch.linalg.lstsq(wide, targets, driver="gelsd").solution


@pytest.mark.parametrize("activations", ["layer", "asym"])
def test_new_weights_are_those_of_least_squares(
    network: Build, images: Prepared, tmp_path: Path, activations: str
) -> None:
    base = network("flatten")
    task = cut(base, tmp_path, images, method="l1", allocation="uniform", activations=activations)
    whole = cut(base, tmp_path, images, 1.0, method="l1")
    state = base.program.state()
    readers = {reader.layer: reader for reader in Network.of(base).readers.values()}
    for layer, group in (("f1", "c1"), ("f2", "f1")):
        columns = np.isin(readers[layer].channels, base.groups.groups[group].ids[task.kept[group]])
        old = inputs_of(base, whole, layer, images)
        now = old[:, torch.from_numpy(columns)] if activations == "layer" else inputs_of(base, task, layer, images)
        solution = fitted(now, old @ state[f"{layer}.weight"].double().T + state[f"{layer}.bias"].double())
        rows = torch.from_numpy(task.kept["f1"]) if layer == "f1" else torch.ones(4, dtype=torch.bool)
        assert torch.allclose(task.tensors[f"{layer}.weight"].double().T, solution[:-1, rows], atol=1e-4)
        assert torch.allclose(task.tensors[f"{layer}.bias"].double(), solution[-1, rows], atol=1e-4)


def test_the_forms_differ_only_behind_a_layer_that_has_changed(
    network: Build, images: Prepared, tmp_path: Path
) -> None:
    base = network("flatten")

    def tensors(activations: str, **settings: Any) -> dict[str, Tensor]:
        return dict(
            cut(base, tmp_path, images, method="l1", allocation="uniform", activations=activations, **settings).tensors
        )

    one = [tensors(form, only=("c1",), density=0.8) for form in ("layer", "seq", "asym")]
    for other in one[1:]:
        assert other.keys() == one[0].keys() == {"f1.weight", "f1.bias"}
        assert all(torch.allclose(other[key], one[0][key], atol=1e-5) for key in other)
    layer, seq, asym = (tensors(form) for form in ("layer", "seq", "asym"))
    assert torch.allclose(layer["f1.weight"], seq["f1.weight"], atol=1e-5)
    for left, right in ((layer, seq), (layer, asym), (seq, asym)):
        assert not torch.allclose(left["f2.weight"], right["f2.weight"], atol=1e-3)


def test_asymmetric_is_the_nearest_of_the_three(network: Build, images: Prepared, tmp_path: Path) -> None:
    base = network("residual")
    found = {method: change(base, cut(base, tmp_path, images, method=method), images) for method in IN_CHANGE}
    assert found["asym-in-change"] < min(found["layer-in-change"], found["seq-in-change"])
    assert change(base, cut(base, tmp_path, None, method="l1"), images) > 1.2 * found["asym-in-change"]


def test_one_survey_serves_every_density(network: Build, images: Prepared, tmp_path: Path) -> None:
    base = network("residual")
    ticks: list[str] = []
    config = PruneConfig(density=0.5, method="layer-in-change", round_to=1)
    pruning = Pruning(base, config, images, progress=lambda done, total, text: ticks.append(text))
    tasks = [pruning.task(density, tmp_path) for density in (0.3, 0.5, 0.8)]
    assert len(ticks) == 5  # the readers, once
    for smaller, larger in itertools.pairwise(tasks):
        assert all((larger.kept[name] >= mask).all() for name, mask in smaller.kept.items())
    alone = cut(base, tmp_path, images, method="layer-in-change")
    assert all(torch.equal(alone.tensors[key], tensor) for key, tensor in tasks[1].tensors.items())


def test_the_report_says_what_was_reached_and_what_could_be(network: Build, images: Prepared, tmp_path: Path) -> None:
    task = cut(network("residual"), tmp_path, images, method="asym-in-change", round_to=1)
    account = json.loads(json.dumps(task.header.provenance))
    assert account["calibration"] == {"data": "images-160-0-True", "images": 160}
    assert set(account["reconstruction_error"]) == {"c1", "c2", "c3", "c4", "fc"}
    for curve in account["curves"].values():
        assert curve["units"][0] == 0
        assert curve["kept"] in curve["units"]
        assert curve["error"][0] == 1
        assert curve["error"] == sorted(curve["error"], reverse=True)
        assert all(least <= error + 1e-6 for least, error in zip(curve["least_error"], curve["error"], strict=True))
        assert 0 <= curve["submodularity_ratio"] <= 1
    assert max(account["reconstruction_error"].values()) == pytest.approx(
        task.header.metrics["largest_reconstruction_error"], rel=1e-4
    )


class TestAllocation:
    def test_uniform_respects_alignment_and_patterns(self, network: Build, images: Prepared, tmp_path: Path) -> None:
        base = network("plain")
        task = cut(base, tmp_path, images, method="layer-in-change", round_to=4)
        assert {name: int(mask.sum()) for name, mask in task.kept.items()} == {"c1": 4, "c2": 4}
        kept = cut(base, tmp_path, images, 0.8, method="layer-in-change", keep=("b2",)).kept
        assert {name: int(mask.sum()) for name, mask in kept.items()} == {"c1": 4, "c2": 12}

    @pytest.mark.parametrize("of", ["channels", "parameters", "macs"])
    @pytest.mark.parametrize("allocation", ["uniform", "equal-error", "equal-accuracy"])
    def test_budgets(self, network: Build, images: Prepared, tmp_path: Path, of: str, allocation: str) -> None:
        config = PruneConfig(density=0.6, budget=of, method="asym-in-change", allocation=allocation, round_to=1)
        task = prune(network("residual"), config, tmp_path, data=images, held_out=images)
        figures = task.header.figures
        reached = {
            "channels": figures.channel_density,
            "parameters": figures.parameters / figures.base_parameters,
            "macs": figures.macs / figures.base_macs,
        }[of]
        assert 0.45 < reached <= 0.6

    def test_equal_error_is_more_equal(self, twins: Build, network: Build, images: Prepared, tmp_path: Path) -> None:
        base = network("plain")
        # c1 does everything twice, c2 does not: half of c1 costs nothing
        state = {key: tensor for key, tensor in base.program.state().items() if key.startswith(("c2", "b2", "fc"))}
        mixed = dataclasses.replace(base, program=twins("plain").program.with_state(state))
        config: dict[str, Any] = {"method": "layer-in-change", "density": 0.7}
        equal = cut(mixed, tmp_path, images, allocation="equal-error", **config)
        uniform = cut(mixed, tmp_path, images, allocation="uniform", **config)
        assert int(equal.kept["c1"].sum()) == 4
        assert int(uniform.kept["c1"].sum()) > 4
        errors = [list(task.header.provenance["reconstruction_error"].values()) for task in (equal, uniform)]
        assert max(errors[0]) < max(errors[1])

    def test_losses_of_accuracy(self, network: Build, twins: Build, images: Prepared, tmp_path: Path) -> None:
        base = network("plain")
        state = {key: tensor for key, tensor in base.program.state().items() if key.startswith(("c2", "b2", "fc"))}
        mixed = dataclasses.replace(base, program=twins("plain").program.with_state(state))
        right = outputs(mixed, None, images)
        classes = (right - right.mean(0)).argmax(1)
        fair = mixed.program.with_state({"fc.bias": state["fc.bias"] - right.mean(0)})
        mixed = dataclasses.replace(mixed, program=fair)  # it finds all classes, and is always right on these images
        seen = Images(mixed, images)
        truth = Images(mixed, images)
        truth.targets = lambda index: classes[index * 128 : (index + 1) * 128]  # type: ignore[method-assign]
        whole = Network.of(mixed)
        evidence = gather(whole, seen, whole.readers.values(), lambda text: None)
        paths = {name: path_of(whole, name, evidence) for name in whole.of_group}
        losses = accuracy_losses(whole, paths, evidence, truth, True, lambda text: None)
        assert losses["c1"][0] == losses["c2"][0] == 1
        assert losses["c1"][4:] == pytest.approx(np.zeros(4))  # half of it does everything twice
        assert losses["c2"][2] > 0
        assert len(losses["c2"]) == 12
        scores = equal_accuracy(losses)
        assert all((np.diff(values) < 0).all() for values in scores.values())
        assert scores["c1"][4] < scores["c2"][2]

    def test_groups_that_no_weight_reads_stay_whole_and_are_listed(self, images: Prepared, tmp_path: Path) -> None:
        path = tmp_path / "odd.py"
        path.write_text(
            "import torch\nfrom torch import nn\n\n\nclass Odd(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        torch.manual_seed(0)\n        self.a = nn.Linear(192, 12)\n"
            "        self.b = nn.Linear(192, 12)\n        self.c = nn.Linear(192, 12)\n"
            "        self.d = nn.Linear(12, 4)\n\n    def forward(self, x):\n        x = x.flatten(1)\n"
            "        s = (self.a(x) * self.b(x)).sum(1, keepdim=True)\n"
            "        return self.d(torch.relu(self.c(x))) * s\n\n\ndef odd():\n    return Odd()\n"
        )
        base = Base.open(f"{path}:odd", (1, 3, 8, 8))
        task = cut(base, tmp_path, images, 0.9, method="layer-in-change")
        assert task.kept["a"].all()
        assert not task.kept["c"].all()
        assert "no layer reads it" in str(task.header.provenance["whole"])
        free = cut(base, tmp_path, images, 0.5, method="l1")
        assert not free.kept["a"].all()
        assert "whole" not in free.header.provenance


class TestResume:
    def test_an_interrupted_run_gives_the_same_task(
        self, network: Build, images: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgespa.pruning.resume.SECONDS", 0.0)
        base = network("residual")
        config = PruneConfig(density=0.5, method="asym-in-change", round_to=1)
        state = tmp_path / "state"
        straight = prune(base, config, tmp_path, data=images)
        ticks: list[str] = []

        def stop(done: float, total: float | None, text: str) -> None:
            ticks.append(text)
            if len(ticks) == 8:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prune(base, config, tmp_path, data=images, checkpoint=state, progress=stop)
        assert state.exists()
        ticks.clear()
        resumed = prune(
            base, config, tmp_path, data=images, checkpoint=state, resume=True,
            progress=lambda done, total, text: ticks.append(text),
        )  # fmt: skip
        assert 0 < len(ticks) < 5
        assert resumed.tensors.keys() == straight.tensors.keys()
        assert all(torch.equal(resumed.tensors[key], tensor) for key, tensor in straight.tensors.items())
        assert all((resumed.kept[name] == mask).all() for name, mask in straight.kept.items())
        assert resumed.header.provenance == straight.header.provenance

    def test_another_run_is_refused(
        self, network: Build, images: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgespa.pruning.resume.SECONDS", 0.0)
        base, state = network("plain"), tmp_path / "state"
        prune(base, PruneConfig(density=0.5, method="asym-in-change"), tmp_path, data=images, checkpoint=state)
        with pytest.raises(ConfigError, match=r"another --density: 0\.5 there, 0\.4 here"):
            prune(
                base,
                PruneConfig(density=0.4, method="asym-in-change"),
                tmp_path,
                data=images,
                checkpoint=state,
                resume=True,
            )
        missing = tmp_path / "none"
        prune(
            base,
            PruneConfig(density=0.5, method="asym-in-change"),
            tmp_path,
            data=images,
            checkpoint=missing,
            resume=True,
        )


class TestNorms:
    def test_statistics_are_those_of_the_pruned_network(self, network: Build, images: Prepared, tmp_path: Path) -> None:
        base = network("plain")
        task = cut(base, tmp_path, images, method="l1", bn_reestimate=True)
        state = task.program(base).state()
        x = images.tensor(range(len(images)))
        with torch.no_grad():
            x = torch.nn.functional.conv2d(x, state["c1.weight"], state["c1.bias"], padding=1)
            for norm, following in (("b1", "c2"), ("b2", None)):
                variance, mean = torch.var_mean(x, (0, 2, 3))
                assert torch.allclose(state[f"{norm}.running_mean"], mean, atol=1e-5)
                assert torch.allclose(state[f"{norm}.running_var"], variance, rtol=1e-4)
                x = torch.nn.functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])
                x = x.relu()
                if following:
                    x = torch.nn.functional.conv2d(x, state["c2.weight"], stride=2, padding=1)

    def test_a_network_without_norms(self, network: Build, images: Prepared, tmp_path: Path) -> None:
        task = cut(network("flatten"), tmp_path, images, method="l1", reweight=False, bn_reestimate=True)
        assert not task.tensors


def test_labels_are_asked_for_by_act_grad_alone() -> None:
    assert [name for name, method in TABLE.items() if method.needs_labels] == ["act-grad", "layer-act-grad"]
