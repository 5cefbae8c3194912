"""Adaptation: it learns, prunes, repeats, and resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgespa.adaptation import learn as learn_module
from edgespa.adaptation import run as run_module
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.errors import AdapterError, ConfigError, DataError, TaskFileError
from edgespa.objectives.evaluate import Evaluation, accuracy
from edgespa.objectives.measures import ACCURACY
from edgespa.system.quiet import NOTE
from edgespa.tasks.base import Base
from edgespa.tasks.checkpoint import Checkpoint
from edgespa.tasks.task import Task

Adapt = Callable[..., Task]
QUICK: dict[str, Any] = {
    "rank": 3,
    "density": 0.5,
    "epochs": 3,
    "batch_size": 16,
    "prune_steps": 3,
    "round_to": 1,
    "lr": 1e-2,
}


@pytest.fixture
def run(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path) -> Adapt:
    def call(base: Base = toy_base, data: ImageData = toy_data, **options: Any) -> Task:
        keywords = {key: options.pop(key) for key in ("checkpoint", "resume", "progress") if key in options}
        config = AdaptConfig(**{**QUICK, **options})
        return adapt(base, data, toy_preprocess, config, tmp_path, **keywords)

    return call


def assert_equal(one: Task, other: Task) -> None:
    assert all(np.array_equal(one.kept[name], other.kept[name]) for name in one.kept)
    assert one.adapters.keys() == other.adapters.keys()
    pairs = [(one.tensors[name], other.tensors[name]) for name in one.tensors]
    for name, factors in one.adapters.items():
        pairs += [(factors[key], other.adapters[name][key]) for key in factors]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.header.metrics == other.header.metrics
    assert one.header.provenance == other.header.provenance


@pytest.mark.parametrize("adapter", ["splora", "full"])
def test_it_learns_while_it_prunes(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, adapter: str
) -> None:
    before = {name: tensor.clone() for name, tensor in toy_base.program.state().items()}
    task = run(adapter=adapter, epochs=8)
    assert task.header.metrics["validation_accuracy"] > 0.9
    assert accuracy(task.program(toy_base), prepare(toy_data, toy_preprocess)) > 0.9
    assert task.header.figures.channel_density == 0.5
    assert task.header.outputs == 3
    assert task.header.classes == ("0", "1", "2")
    assert bool(task.adapters) == (adapter == "splora")
    assert ("conv1.weight" in task.tensors) == (adapter == "full")
    assert all(torch.equal(toy_base.program.state()[name], tensor) for name, tensor in before.items())


def test_what_is_reported_is_the_accuracy_of_the_task_that_is_returned(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess
) -> None:
    task = run(epochs=4, validation=0.3)
    _, held_out = toy_data.split(0.3, 0)
    history: Any = task.header.provenance["history"]
    final = [entry["validation"] for entry in history if entry["density"] == 0.5]
    assert task.header.metrics["validation_accuracy"] == max(final)
    assert accuracy(task.program(toy_base), prepare(held_out, toy_preprocess)) == max(final)


def test_the_best_epoch_is_one_at_the_final_density(run: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = iter([0.9, 0.8, 0.5, 0.6, 0.55])
    monkeypatch.setattr(run_module, "evaluate", lambda *_, **__: Evaluation((ACCURACY,), (next(falling),), None, 1))
    task = run(epochs=5, prune_until=0.5, schedule="linear")
    history: Any = task.header.provenance["history"]
    assert [round(entry["density"], 2) for entry in history][2:] == [0.5] * 3
    assert history[1]["density"] > 0.5
    assert task.header.metrics["validation_accuracy"] == 0.6
    assert task.header.figures.channel_density == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"prune_until": 1.0},
        {"prune_from": 0.99, "prune_until": 1.0, "schedule": "one-shot"},
        {"epochs": 1, "prune_steps": 50},
        {"schedule": "linear", "prune_from": 0.0, "prune_until": 0.01},
    ],
)
def test_the_final_density_is_reached_however_late_or_short(run: Adapt, options: dict[str, Any]) -> None:
    task = run(**options)
    assert task.header.figures.channel_density == 0.5
    assert task.header.metrics["validation_accuracy"] >= 0


@pytest.mark.parametrize("of", ["macs", "parameters"])
def test_other_budgets(run: Adapt, of: str) -> None:
    figures = run(budget=of, epochs=1).header.figures
    now, whole = (figures.macs, figures.base_macs) if of == "macs" else (figures.parameters, figures.base_parameters)
    assert 0.4 < now / whole <= 0.5


def test_validation_never_overlaps_training(run: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ImageData] = []

    def spy(program: Any, data: ImageData, preprocess: Preprocess) -> Any:
        seen.append(data)
        return prepare(data, preprocess)

    monkeypatch.setattr(learn_module, "prepare_for", spy)
    run(epochs=1, validation=0.25)
    train, held_out = ({data.image(i).tobytes() for i in range(len(data))} for data in seen)
    assert (len(train), len(held_out)) == (72, 24)
    assert not train & held_out


def test_the_same_seed_gives_the_same_task_and_another_another(run: Adapt) -> None:
    one = run(seed=1)
    torch.manual_seed(99)  # the global state does not matter
    assert_equal(one, run(seed=1))
    assert not torch.equal(one.tensors["fc.weight"], run(seed=2).tensors["fc.weight"])


@pytest.mark.parametrize(("epoch", "adapter"), [(1, "splora"), (2, "splora"), (1, "full")])
def test_an_interrupted_run_resumes_bit_for_bit(run: Adapt, tmp_path: Path, epoch: int, adapter: str) -> None:
    checkpoint = tmp_path / "state"
    whole = run(epochs=4, adapter=adapter)
    steps: list[float] = []

    def interrupt(done: float, total: float | None, _: str) -> None:
        steps.append(done)
        assert total == 4 * 5
        if done == epoch * 5 + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(epochs=4, adapter=adapter, checkpoint=checkpoint, progress=interrupt)
    assert steps == [*range(1, epoch * 5 + 3)]
    steps.clear()
    resumed = run(
        epochs=4, adapter=adapter, checkpoint=checkpoint, resume=True, progress=lambda done, *_: steps.append(done)
    )
    assert steps == [*range(epoch * 5 + 1, 21)]
    assert_equal(whole, resumed)


def test_resuming_something_else_is_refused(run: Adapt, toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state"
    run(epochs=1, checkpoint=checkpoint)
    assert checkpoint.exists()
    with pytest.raises(ConfigError, match="another --epochs: 1 there, 2 here"):
        run(epochs=2, checkpoint=checkpoint, resume=True)
    other = Base.open(f"{toy_folder / 'net.py'}:other", (1, 3, 8, 8))
    with pytest.raises(ConfigError, match="another MODEL"):
        run(base=other, epochs=1, checkpoint=checkpoint, resume=True)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    with pytest.raises(TaskFileError, match="damaged"):
        run(epochs=1, checkpoint=checkpoint, resume=True)
    run(epochs=1, checkpoint=checkpoint)  # without resume the file is not looked at


def test_resuming_without_a_checkpoint_starts_at_the_beginning(run: Adapt, tmp_path: Path) -> None:
    assert_equal(run(epochs=1), run(epochs=1, checkpoint=tmp_path / "none", resume=True))


def test_any_changed_byte_of_a_checkpoint_is_found(run: Adapt, tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(epochs=1, checkpoint=path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 100):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(changed)
        with pytest.raises(TaskFileError) as caught:
            Checkpoint.load(path)
        assert caught.value.hint == "start anew with --fresh"


def four_classes(
    toy_folder: Path, tmp_path: Path, toy_base: Base, toy_preprocess: Preprocess, known: bool
) -> ImageData:
    """Data with as many classes as the base has outputs: those that it predicts, or never those."""
    images = np.load(toy_folder / "colours.npz")["images"]
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(96) % 4)
    inputs = prepare(load_data(str(tmp_path / "a.npz")), toy_preprocess).tensor(np.arange(96))
    logits = toy_base.program(inputs)
    predicted = (logits.argmax(1) if known else logits.argmin(1)).numpy()
    predicted[:4] = np.arange(4)  # every class occurs
    np.savez(tmp_path / "b.npz", images=images, labels=predicted)
    return load_data(str(tmp_path / "b.npz"))


@pytest.mark.parametrize(
    ("known", "head", "kept"),
    [(True, "auto", True), (True, "new", False), (False, "auto", False), (False, "keep", True), (True, "keep", True)],
)
def test_the_head_is_kept_where_it_is_of_use(
    run: Adapt,
    toy_base: Base,
    toy_folder: Path,
    toy_preprocess: Preprocess,
    tmp_path: Path,
    known: bool,
    head: str,
    kept: bool,
) -> None:
    data = four_classes(toy_folder, tmp_path, toy_base, toy_preprocess, known)
    # So small a learning rate that the head is where it began.
    task = run(data=data, head=head, epochs=1, density=1.0, lr=1e-9)
    own = toy_base.program.state()["fc.weight"]
    assert torch.allclose(task.tensors["fc.weight"], own, atol=1e-6) == kept
    assert task.program(toy_base)(torch.randn(2, 3, 8, 8)).shape == (2, 4)


def test_a_head_of_another_size_cannot_be_kept(run: Adapt) -> None:
    with pytest.raises(ConfigError, match="4 outputs and the data 3 classes"):
        run(head="keep")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_that_is_not_a_number_stops_the_run(run: Adapt, epochs: int) -> None:
    with pytest.raises(AdapterError, match=r"not a number in epoch|not finite") as caught:
        run(lr=1e30, epochs=epochs, density=1.0, adapter="full")
    assert "--lr" in str(caught.value.hint)


def test_values_that_are_not_finite_after_the_last_step_are_not_saved(
    run: Adapt, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW) -> None:
        step(self)
        self.param_groups[1]["params"][0].data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(AdapterError, match=r"tensor/conv1\.bias is not finite after epoch 1"):
        run(epochs=1, batch_size=64, density=1.0)


def test_few_images_are_trained_on_in_smaller_batches(
    toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AdaptConfig(rank=3, epochs=1, lr=1e-2)
    with caplog.at_level(NOTE):
        task = adapt(toy_base, toy_data.limit(40, 0), toy_preprocess, config, tmp_path)
    kept: Any = task.header.provenance["config"]
    assert kept["batch_size"] == 9  # of 36, four steps
    assert "batches of 9: there are only 36 training images" in caplog.text


def test_data_that_do_not_fit_are_refused(
    run: Adapt, toy_base: Base, toy_data: ImageData, toy_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="less than one batch of 100") as caught:
        run(batch_size=100)
    assert "--batch-size" in str(caught.value.hint)
    with pytest.raises(DataError, match="less than one batch of 64"):
        run(data=toy_data.limit(40, 0), batch_size=64)
    np.savez(tmp_path / "plain.npz", images=np.zeros((40, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="no classes"):
        run(data=load_data(str(tmp_path / "plain.npz"), labelled=False))
    other = Preprocess(height=16, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ConfigError, match="takes inputs of"):
        adapt(toy_base, toy_data, other, AdaptConfig(), tmp_path)


NETS = """
from torch import nn

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 3)
    def forward(self, x):
        return self.fc(x.reshape(1, 192))

def fixed(): return Fixed()
def headless(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Sigmoid())
"""


@pytest.mark.parametrize(
    ("name", "message"), [("fixed", "batches of any size"), ("headless", "does not end in a linear")]
)
def test_a_network_that_cannot_be_trained_is_refused(run: Adapt, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    with pytest.raises(ConfigError, match=message):
        run(base=Base.open(f"{tmp_path / 'nets.py'}:{name}", (1, 3, 8, 8)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": "lora9"},
        {"criterion": "l3"},
        {"schedule": "step"},
        {"budget": "flops"},
        {"normalisation": "l3"},
        {"prune_from": 0.6, "prune_until": 0.5},
        {"density": 0.0},
        {"batch_size": 1},
        {"head": "old"},
        {"ranks": 3},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AdaptConfig(**wrong)


def test_accuracy_by_hand(toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path) -> None:
    prepared = prepare(toy_data, toy_preprocess)
    seen: list[int] = []

    def first(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.eye(3)[torch.zeros(len(images), dtype=torch.int64)]

    assert accuracy(first, prepared, batch_size=50) == pytest.approx(1 / 3)
    assert seen == [50, 46]
    np.savez(tmp_path / "plain.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    unlabelled = prepare(load_data(str(tmp_path / "plain.npz"), labelled=False), toy_preprocess)
    with pytest.raises(DataError, match="no classes"):
        accuracy(first, unlabelled)
