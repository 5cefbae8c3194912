"""The loop with every kind of adapter and every option: it learns, prunes, saves, and goes on bit for bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.adaptation import run as run_module
from edgespa.adaptation.batches import Batches
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.loss import Teacher
from edgespa.adaptation.teacher import load_teacher
from edgespa.adapters.insertion import INSERTED
from edgespa.adapters.kinds import method_names
from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.distributed.processes import Processes
from edgespa.errors import BaseMismatchError, ConfigError
from edgespa.objectives.evaluate import accuracy
from edgespa.pruning import PruneConfig, prune
from edgespa.selection.criteria import CRITERIA
from edgespa.selection.score import score_units
from edgespa.selection.select import select
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

Adapt = Callable[..., Task]
QUICK: dict[str, Any] = {"rank": 4, "density": 0.5, "epochs": 3, "batch_size": 16, "prune_steps": 2, "round_to": 1}
SMALL: dict[str, dict[str, Any]] = {
    "convpass": {"dim": 4},
    "splopa": {"block": 4, "prototypes": 2},
    "splopa masked": {"block": 4, "prototypes": 2, "mask": "movement", "block_density": 0.5},
}


@pytest.fixture
def run(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path) -> Adapt:
    def call(base: Base = toy_base, data: ImageData = toy_data, **options: Any) -> Task:
        names = ("checkpoint", "resume", "progress", "teacher", "log_file")
        keywords = {key: options.pop(key) for key in names if key in options}
        adapter = options.get("adapter", "splora")
        settings = {"adapter": adapter.split(" ")[0], "adapter_settings": SMALL.get(adapter, {})}
        config = AdaptConfig(**{**QUICK, **options, **settings})
        return adapt(base, data, toy_preprocess, config, tmp_path, **keywords)

    return call


def assert_equal(one: Task, other: Task) -> None:
    assert all(np.array_equal(one.kept[name], other.kept[name]) for name in one.kept)
    first, second = one.factors.flat(), other.factors.flat()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert one.header.metrics == other.header.metrics
    assert one.header.provenance == other.header.provenance


def outputs(task: Task, base: Base) -> Tensor:
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result: Tensor = task.program(base)(inputs)
    return result


ADAPTERS = [*method_names(), "splopa masked"]


@pytest.mark.law(2)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_learns_while_it_prunes_and_is_saved(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path, adapter: str
) -> None:
    before = {name: tensor.clone() for name, tensor in toy_base.program.state().items()}
    task = run(adapter=adapter, epochs=8)
    assert task.header.metrics["validation_accuracy"] > 0.85
    assert accuracy(task.program(toy_base), prepare(toy_data, toy_preprocess)) > 0.85
    assert task.header.figures.channel_density <= 0.5
    task.save(tmp_path / "t.spa")
    again = Task.load(tmp_path / "t.spa")
    assert torch.equal(outputs(again, toy_base), outputs(task, toy_base))
    assert task.header.figures.stored_parameters == task.factors.size()
    assert all(torch.equal(toy_base.program.state()[name], tensor) for name, tensor in before.items())
    adapted = again.adapted(again.fit(toy_base))
    adapted.set_training(False)
    inputs = toy_base.program.example_inputs()
    with torch.no_grad():
        torch.testing.assert_close(adapted.merged()(*inputs), adapted(*inputs), rtol=1e-4, atol=1e-5)


def test_what_has_no_adapter_is_listed(run: Adapt) -> None:
    provenance: Any = run(epochs=1).header.provenance
    assert provenance["trained"] == {"depthwise.weight": "an adapter would not be smaller"}
    provenance = run(epochs=1, adapter="repadapter").header.provenance
    assert provenance["frozen"]["depthwise.weight"] == "it has no repadapter adapter"
    provenance = run(epochs=1, adapter="convpass").header.provenance
    assert provenance["trained"][f"{INSERTED}.convpass.0.conv.weight"] == "inserted by convpass"
    assert "conv2.weight" in provenance["frozen"]


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_criterion_prunes(run: Adapt, criterion: str) -> None:
    task = run(criterion=criterion, epochs=1)
    assert task.header.figures.channel_density == pytest.approx(0.5, abs=0.02)


OPTIONS: dict[str, dict[str, Any]] = {
    "all at once": {
        "accumulate": 2, "label_smoothing": 0.1, "class_weights": "balanced", "augment": ("flip", "crop", "colour"),
        "lr_restart": True, "schedule": "stepwise", "prune_fraction": 0.25, "recovery_epochs": 1.0,
    },
    "norms frozen": {"freeze_norms": True},
    "lrp": {"criterion": "lrp"},
    "levels": {"quantise": "int8", "quantise_share": 0.6, "prune_until": 0.3},
    "levels, factors": {"quantise": "int8", "adapter": "lora", "density": 1.0},
    "group sparsity": {"group_sparsity": 0.01, "criterion": "jacobian"},
    **{adapter: {"adapter": adapter} for adapter in ADAPTERS if adapter not in ("splora", "full")},
}  # fmt: skip


@pytest.mark.law(2)
@pytest.mark.parametrize("name", list(OPTIONS))
def test_an_interrupted_run_resumes_bit_for_bit(run: Adapt, tmp_path: Path, name: str) -> None:
    checkpoint, options = tmp_path / "state", {"epochs": 4, **OPTIONS[name]}
    whole = run(**options)
    steps: list[float] = []

    def interrupt(done: float, total: float | None, _: str) -> None:
        steps.append(done)
        if total is not None and done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(**options, checkpoint=checkpoint, progress=interrupt)
    assert_equal(whole, run(**options, checkpoint=checkpoint, resume=True))


def test_frozen_norms_stay_as_in_the_base(run: Adapt, toy_base: Base) -> None:
    task = run(freeze_norms=True)
    assert not [name for name in task.tensors if name.startswith("bn")]
    provenance: Any = task.header.provenance
    assert provenance["frozen"]["bn1.weight"] == "norms are frozen"
    now, base = task.program(toy_base).state(), toy_base.program.state()
    for name in ("bn1.weight", "bn1.running_mean", "bn2.running_var"):
        kept = torch.isin(base[name], now[name])
        assert torch.equal(base[name][kept], now[name])


PLAIN_NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
"""


def test_two_batches_accumulated_are_one_of_twice_the_size(run: Adapt, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(PLAIN_NET)
    base = Base.open(f"{tmp_path / 'plain.py'}:build", (1, 3, 8, 8))
    one = run(base=base, batch_size=16, density=1.0, validation=1 / 3)
    two = run(base=base, batch_size=8, accumulate=2, density=1.0, validation=1 / 3)
    assert one.adapters.keys() == two.adapters.keys()
    for key, tensor in one.factors.flat().items():
        torch.testing.assert_close(two.factors.flat()[key], tensor, rtol=2e-2, atol=2e-4, msg=key)


def test_the_jacobian_of_two_batches_accumulated_is_that_of_one_of_twice_the_size(
    run: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.py").write_text(PLAIN_NET)
    base = Base.open(f"{tmp_path / 'plain.py'}:build", (1, 3, 8, 8))
    found: list[np.ndarray] = []

    def scored(*args: Any, **keywords: Any) -> Any:
        scores = score_units(*args, **keywords)
        found.append(np.concatenate(list(scores.values())))
        return scores

    monkeypatch.setattr(run_module, "score_units", scored)
    options: dict[str, Any] = {"base": base, "criterion": "jacobian", "validation": 1 / 3, "schedule": "one-shot"}
    options |= {"lr": 1e-6, "epochs": 1, "class_weights": "balanced", "label_smoothing": 0.1}
    for how in ({"batch_size": 16}, {"batch_size": 8, "accumulate": 2}, {"batch_size": 8}):
        run(**options, **how)
    one, two, other = found
    np.testing.assert_allclose(two, one, rtol=1e-3)
    assert not np.allclose(other, one, rtol=1e-2)


def test_scoring_takes_whole_groups_and_each_process_its_own(toy_data: ImageData, toy_preprocess: Preprocess) -> None:
    data = prepare(toy_data, toy_preprocess)  # 100 images: 12 batches of 8

    def taken(count: int, index: int, joined: int) -> list[Tensor]:
        config = AdaptConfig(batch_size=8, accumulate=joined)
        return [images for images, _ in Batches(data, config, Processes(count, index)).for_scoring(3, joined)]

    every = taken(1, 0, 1)
    assert len(every) == 8
    assert [len(taken(1, 0, joined)) for joined in (2, 5, 12, 13)] == [12, 10, 12, 12]
    whole = taken(1, 0, 3)
    own, others = taken(2, 0, 3), taken(2, 1, 3)
    order = [*own[:3], *others[:3], *own[3:], *others[3:]]
    assert len(order) == len(whole) == 12
    assert all(torch.equal(a, b) for a, b in zip(order, whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(taken(2, 1, 1), every[1::2], strict=True))


LINEAR_NET = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )
"""


def test_mixing_takes_over_what_goes_and_says_where_it_cannot(
    run: Adapt, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen channels that are all made of three: any twelve say what the other four were."""
    (tmp_path / "linear.py").write_text(LINEAR_NET)
    torch.manual_seed(0)
    base = Base.open(f"{tmp_path / 'linear.py'}:build", (1, 3, 8, 8))
    options: dict[str, Any] = {"base": base, "adapter": "mixing", "rank": 8, "criterion": "l1", "schedule": "one-shot"}
    options |= {
        "epochs": 1,
        "lr": 1e-7,
        "prune_from": 0.4,
        "only": ("0",),
        "density": 0.9,
        "head": "keep",
        "norms": "keep",
    }
    inputs = next(prepare(toy_data, toy_preprocess).batches(64))[0]

    def output(task: Task | None) -> Tensor:
        program = base.program if task is None else task.program(base)
        with torch.no_grad():
            result: Tensor = program(inputs)
        return result

    whole = output(None)
    own = run(**options)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "moments_of_inputs", lambda *_: {})
        without = run(**options)
    (kept,) = (own.kept[name] for name in own.kept if not own.kept[name].all())
    assert kept.sum() < 16
    assert all(np.array_equal(own.kept[name], without.kept[name]) for name in own.kept)
    errors = [float((output(task) - whole).norm() / whole.norm()) for task in (own, without)]
    assert errors[0] < 0.02 * errors[1]
    provenance: Any = own.header.provenance
    assert list(provenance["instead"]) == ["3.weight"]
    assert provenance["instead"]["3.weight"].startswith("splora: a filter of a group")


def test_filters_with_new_weights_are_not_mixed(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    kept = prune(toy_base, PruneConfig(density=0.5, round_to=1), tmp_path)
    config = AdaptConfig(**{**QUICK, "adapter": "mixing", "density": 1.0, "epochs": 1})
    adapt(toy_base, toy_data, toy_preprocess, config, tmp_path, start=kept)  # its weights are the base's
    assert not kept.tensors
    state = kept.program(toy_base).state()
    changed = dataclasses.replace(kept, tensors={"conv2.weight": state["conv2.weight"] * 2})
    with pytest.raises(ConfigError, match="mixes those that are gone"):
        adapt(toy_base, toy_data, toy_preprocess, config, tmp_path, start=changed)


def norms_when_first_pruned(run: Adapt, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, Any]:
    """What each unit holds before the only pruning step, on a scale of its group; and which units were left."""
    found: list[tuple[dict[str, np.ndarray], Any]] = []

    def chosen(groups: Any, scores: Any, *rest: Any) -> Any:
        kept = select(groups, scores, *rest)
        found.append((scores, kept))
        return kept

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "select", chosen)
        run(schedule="one-shot", epochs=12, criterion="l2", prune_from=0.8, prune_until=0.9, lr=2e-2, **options)
    ((scores, kept),) = found
    return scores, kept


@pytest.mark.law(1)
@pytest.mark.parametrize("adapter", ["splora", "full", "lora"])
def test_units_that_go_hold_less_where_they_were_pulled_towards_zero(
    run: Adapt, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    def share(strength: float) -> float:
        """Of all that units hold, what those that went held."""
        scores, kept = norms_when_first_pruned(run, monkeypatch, adapter=adapter, group_sparsity=strength)
        gone = sum(values[~kept[name]].sum() for name, values in scores.items())
        return float(gone / sum(values.sum() for values in scores.values()))

    none, some, more = share(0.0), share(3e-3), share(3e-2)
    assert more < some < none
    assert more < 0.8 * none


def test_no_group_sparsity_is_as_if_there_were_none(run: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run()
    other = run(group_sparsity=1e-3)
    assert before.header.provenance["config"]["group_sparsity"] == 0.0  # type: ignore[index,call-overload]
    assert other.header.provenance["config"]["group_sparsity"] == 1e-3  # type: ignore[index,call-overload]
    flat = other.factors.flat()
    assert any(not torch.equal(flat[key], tensor) for key, tensor in before.factors.flat().items() if key in flat)

    def refuse(*_: Any) -> Any:
        raise AssertionError("nothing is to be penalised")

    monkeypatch.setattr(run_module, "UnitPenalty", refuse)
    assert_equal(before, run(group_sparsity=0.0))
    assert_equal(run(density=1.0), run(density=1.0, group_sparsity=0.0))
    run(density=1.0, group_sparsity=1.0)  # nothing goes


def test_the_penalty_of_a_training_step_does_not_depend_on_how_its_batch_is_cut(
    run: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plain.py").write_text(PLAIN_NET)
    options: dict[str, Any] = {"base": Base.open(f"{tmp_path / 'plain.py'}:build", (1, 3, 8, 8)), "validation": 1 / 3}
    options |= {"adapter": "full", "normalisation": "none", "norms": "keep"}

    def held(strength: float, **how: int) -> np.ndarray:
        scores, _ = norms_when_first_pruned(run, monkeypatch, **options, **how, group_sparsity=strength)
        return np.concatenate(list(scores.values()))

    one, two = held(0.1, batch_size=16), held(0.1, batch_size=8, accumulate=2)
    np.testing.assert_allclose(two, one, rtol=1e-2)
    assert not np.allclose(held(0.0, batch_size=16), one, rtol=0.1)
    assert not np.allclose(held(0.2, batch_size=16), one, rtol=2e-2)


def test_a_last_group_that_is_not_full_is_a_step_too(run: Adapt) -> None:
    steps: list[tuple[float, float | None]] = []
    run(epochs=2, lr=0.02, accumulate=3, progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]  # five batches an epoch


def test_distilling_pulls_towards_the_teacher(run: Adapt, toy_base: Base, tmp_path: Path) -> None:
    """A teacher that always says class 0: with all weight on it, so does the task."""
    teacher = Teacher("class 0", lambda images: torch.tensor([[9.0, 0, 0]]).expand(len(images), 3))
    own = run(teacher=teacher, distill_weight=1.0, density=1.0, epochs=6)
    assert (outputs(own, toy_base).argmax(1) == 0).all()
    assert own.header.provenance["teacher"] == "class 0"
    assert own.header.metrics["validation_accuracy"] < 0.5
    assert run(density=1.0).header.provenance["teacher"] is None


def test_a_teacher_is_the_base_or_a_task_on_it(run: Adapt, toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    task = run(density=1.0)
    task.save(tmp_path / "t.spa")
    teacher = load_teacher(str(tmp_path / "t.spa"), toy_base)
    inputs = toy_base.program.example_inputs()
    with torch.no_grad():
        assert torch.equal(teacher.run(*inputs), task.program(toy_base)(*inputs))
    assert teacher.name.startswith("t.spa sha256:")
    student = run(teacher=teacher)
    assert student.header.provenance["teacher"] == teacher.name
    other = Base.open(f"{toy_folder / 'net.py'}:other", (1, 3, 8, 8))
    with pytest.raises(BaseMismatchError, match=toy_base.digest):
        load_teacher(str(tmp_path / "t.spa"), other)
    with pytest.raises(ConfigError, match="does not know the classes"):
        run(teacher=load_teacher("base", toy_base))


def test_progress_says_how_it_goes(run: Adapt) -> None:
    texts: list[str] = []
    run(progress=lambda _, __, text: texts.append(text))
    for word in ("density 0.50", "loss", "accuracy", "M MACs"):
        assert word in texts[-1]
    assert "epoch 1 of " in "\n".join(texts)


def test_the_log_has_a_line_for_each_step_and_epoch(run: Adapt, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "log.jsonl", tmp_path / "state"
    task = run(log_file=path, checkpoint=checkpoint)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event"] for event in events].count("prune") == 2
    epochs = [event for event in events if event["event"] == "epoch"]
    history: Any = task.header.provenance["history"]
    assert [{key: e[key] for key in history[0]} for e in epochs] == history
    assert {"lr", "seconds", "macs", "parameters"} <= epochs[0].keys()
    assert epochs[-1]["macs"] == task.header.figures.macs
    run(log_file=path, checkpoint=checkpoint, resume=True)  # nothing is left to do, nothing is lost
    assert [json.loads(line) for line in path.read_text().splitlines()] == events


def test_stored_in_fewer_bytes(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    exact = run(epochs=4)
    sizes = {"fp32": exact.save(tmp_path / "fp32.spa")}
    _, held_out = toy_data.split(0.1, 0)
    for store in ("fp16", "int8"):
        task = run(epochs=4, store=store)
        sizes[store] = task.save(tmp_path / f"{store}.spa")
        again = Task.load(tmp_path / f"{store}.spa")
        assert torch.equal(outputs(again, toy_base), outputs(task, toy_base))
        assert again.to_bytes() == (tmp_path / f"{store}.spa").read_bytes()
        metrics = task.header.metrics
        assert metrics["validation_accuracy"] == accuracy(task.program(toy_base), prepare(held_out, toy_preprocess))
        assert metrics["validation_accuracy_fp32"] == exact.header.metrics["validation_accuracy"]
        worst = (outputs(task, toy_base) - outputs(exact, toy_base)).abs().max() / outputs(exact, toy_base).abs().max()
        assert 0 < worst < (0.01 if store == "fp16" else 0.1)
    factors = sum(tensor.numel() for own in exact.adapters.values() for tensor in own.values())
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(2 * factors, abs=200)


def test_blocks_that_are_masked_take_units_with_them(run: Adapt, toy_base: Base) -> None:
    task = run(adapter="splopa masked", density=1.0, epochs=6)
    masks = [own["mask"].bool() for own in task.adapters.values()]
    kept = sum(int(mask.sum()) for mask in masks)
    assert kept < 0.75 * sum(mask.numel() for mask in masks)
    assert all("scores" not in own for own in task.adapters.values())
    for own in task.adapters.values():
        assert own["coefficients"].shape[1] == int(own["mask"].sum())
    state = task.program(toy_base).state()
    assert any(float((state[name] == 0).float().mean()) > 0.1 for name in task.adapters)
    blocks: Any = task.header.provenance["blocks"]
    assert blocks == {
        "kept": kept,
        "of": sum(mask.numel() for mask in masks),
        "zero_weights": sum(int((state[name] == 0).sum()) for name in task.adapters),
    }
    assert run(epochs=1).header.provenance["blocks"] is None


@pytest.mark.parametrize("mask", ["magnitude", "threshold"])
def test_other_ways_to_choose_blocks(run: Adapt, toy_base: Base, monkeypatch: pytest.MonkeyPatch, mask: str) -> None:
    monkeypatch.setitem(SMALL, "splopa masked", {**SMALL["splopa masked"], "mask": mask, "penalty": 2.0})
    task = run(adapter="splopa masked", density=1.0, epochs=4)
    masks = [own["mask"].bool() for own in task.adapters.values()]
    gone = task.header.figures.channel_density < 1  # blocks that took their units with them
    assert gone or sum(int(mask.sum()) for mask in masks) < sum(mask.numel() for mask in masks)


def test_batch_norm_is_trained_on_the_small_program(run: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each pruning step the loop works on fewer channels, in training form."""
    seen: list[tuple[int, bool]] = []
    learn = run_module.Run.learn

    def spy(self: Any, group: Any, lr: float) -> float:
        state = self.model.program.state()
        flags = [n.args[5] for n in self.model.module.graph.nodes if "batch_norm" in str(n.target)]
        seen.append((sum(len(state[f"bn{n}.weight"]) for n in (1, 2)), all(flags)))
        return learn(self, group, lr)

    monkeypatch.setattr(run_module.Run, "learn", spy)
    run(schedule="linear", prune_steps=4)
    widths = [width for width, _ in seen]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) > 2
    assert all(training for _, training in seen)
