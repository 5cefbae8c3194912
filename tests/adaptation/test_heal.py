"""Healing: a cut network comes nearer to what it was, without labels, and stays as small as it is."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from edgespa.adaptation import state
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.heal import HealConfig, heal, original_of
from edgespa.adaptation.held_out import fitted_on
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.original import Original
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.errors import ConfigError, DataError
from edgespa.graph.proof import prove
from edgespa.graph.surgery import masked
from edgespa.models.given import Given
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.cut import cut as remove
from edgespa.pruning.cut import whole_task
from edgespa.pruning.depth import Decision, DepthConfig
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

SHAPE = (1, 3, 8, 8)
HOW = Preprocess(height=8, width=8, channels=3, mean=(0.4,) * 3, std=(0.3,) * 3)
QUICK: dict[str, Any] = {"steps": 60, "batch_size": 24, "lr": 3e-3, "augment": ("flip",)}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.Conv2d(width, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (self.two(self.norm(self.one(x)).relu()) + x).relu()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(12) for _ in range(4)))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Several(Residual):
    """A map, scores and whole numbers: a detector's kind of outputs."""

    def forward(self, x: Tensor) -> Any:
        y = self.blocks(self.stem(x))
        return {"map": 20 * y[:, :2] + 5, "scores": self.head(y.mean((2, 3))), "best": y.flatten(1).argmax(1)}


class Plain(nn.Module):
    """No residual block at all."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(x).relu()).relu())


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual, "several outputs": Several, "plain": Plain, "maps": Maps,
}  # fmt: skip


def base_of(build: Callable[[], nn.Module]) -> Base:
    """What a test draws next does not depend on whether it is the first to ask. Not to be changed."""
    base = opened(build)
    torch.manual_seed(0)
    return base


@functools.cache
def opened(build: Callable[[], nn.Module]) -> Base:
    torch.manual_seed(0)
    model = build().eval()
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5, generator=random)
            module.running_mean.normal_(0, 0.2, generator=random)
    return Base.open(Given(model), SHAPE)


@pytest.fixture(scope="module")
def images() -> ImageData:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (96, 4, 4, 3)).astype(np.uint8)
    return load_data(Given((coarse.repeat(2, 1).repeat(2, 2), np.zeros(96, dtype=np.int64))))


def cut_of(base: Base, folder: Path, **settings: Any) -> Task:
    config = PruneConfig.model_validate({"method": "l1", "density": 0.5, "round_to": 1, **settings})
    return prune(base, config, folder)


def healed(base: Base, task: Task, data: ImageData, folder: Path, **options: Any) -> Task:
    names = ("checkpoint", "resume", "progress", "log_file", "facts")
    keywords = {key: options.pop(key) for key in names if key in options}
    towards = options.pop("original", None) or original_of(task, base)
    return heal(base, data, HOW, HealConfig(**{**QUICK, **options}), folder, task, towards, **keywords)


def errors(task: Task) -> tuple[float, float]:
    return task.header.metrics["unhealed_validation_error"], task.header.metrics["validation_error"]


@pytest.mark.law(2)
@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("adapter", ["full", "splora"])
def test_what_is_held_out_comes_nearer_to_the_original(
    name: str, adapter: str, images: ImageData, tmp_path: Path
) -> None:
    base = base_of(NETS[name])
    cut = cut_of(base, tmp_path)
    own = healed(base, cut, images, tmp_path, adapter=adapter, steps=120, lr=1e-2)
    before, after = errors(own)
    assert after < (0.8 if adapter == "full" else 0.95) * before
    assert ("validation_agreement" in own.header.metrics) == (name in ("residual", "plain"))
    # No unit comes back, and what is left computes what the network with zeros there computes.
    assert all(np.array_equal(own.kept[group], mask) for group, mask in cut.kept.items())
    program = own.program(base)
    shapes = {key: tensor.shape for key, tensor in cut.program(base).tensors()}
    assert {key: tensor.shape for key, tensor in program.tensors()} == shapes
    assert own.header.provenance["method"] == "heal"
    assert own.header.provenance["towards"] == f"base {base.digest}"
    # Replayed = saved, bit for bit.
    own.save(tmp_path / "own.spa")
    again = Task.load(tmp_path / "own.spa").program(base)
    inputs = base.program.example_inputs(4)
    with torch.no_grad():
        for one, other in zip(_leaves(again(*inputs)), _leaves(program(*inputs)), strict=True):
            assert torch.equal(one, other)


def _leaves(output: Any) -> list[Tensor]:
    return list(output.values()) if isinstance(output, dict) else [output]


def test_no_epoch_is_chosen_so_neighbours_that_are_alike_do_no_harm(
    images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr("edgespa.adaptation.learn.tell_if_neighbours_are_alike", lambda *given: told.append(given))
    base = base_of(Residual)
    healed(base, cut_of(base, tmp_path), images, tmp_path, steps=0)
    assert told == []


def test_no_steps_change_nothing(images: ImageData, tmp_path: Path) -> None:
    base = base_of(Residual)
    cut = cut_of(base, tmp_path)
    own = healed(base, cut, images, tmp_path, steps=0)
    assert errors(own)[0] == errors(own)[1]
    before, after = dict(cut.program(base).tensors()), dict(own.program(base).tensors())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_is_healed_is_exact_as_any_other_task(images: ImageData, tmp_path: Path) -> None:
    """Masked = compacted, with the healed weights put into the whole network."""
    base = base_of(Residual)
    own = healed(base, cut_of(base, tmp_path), images, tmp_path)
    wide = {}
    alive = base.groups.alive(own.kept)
    state_of = base.program.state()
    for name, narrow in own.tensors.items():
        tensor = torch.zeros_like(state_of[name])
        places = [
            torch.from_numpy(np.flatnonzero(alive[ids])) if (ids := _ids(base, name, dim)) is not None
            else torch.arange(size)
            for dim, size in enumerate(tensor.shape)
        ]  # fmt: skip
        tensor[torch.meshgrid(*places, indexing="ij")] = narrow
        wide[name] = tensor
    whole = base.program.with_state(wide)
    prove(whole, base.groups, own.kept, own.program(base), base.program.example_inputs(4)).require()
    with torch.no_grad():
        inputs = base.program.example_inputs(4)
        assert not torch.allclose(whole(*inputs), base.program(*inputs), atol=1e-3)
        zeros = masked(whole, base.groups, own.kept)
        torch.testing.assert_close(zeros(*inputs), own.program(base)(*inputs), rtol=1e-5, atol=1e-5)


def _ids(base: Base, name: str, dim: int) -> Any:
    return next((ids for slot, ids in base.groups.units.items() if (slot.tensor, slot.dim) == (name, dim)), None)


def test_a_seed_gives_the_same_and_what_is_left_goes_on_bit_for_bit(
    images: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(Residual)
    cut = cut_of(base, tmp_path)
    options = {"steps": 18, "augment": ("flip", "crop", "mix"), "lr": None}
    whole, again = (healed(base, cut, images, tmp_path, **options) for _ in range(2))
    path = tmp_path / "state"
    monkeypatch.setattr(state, "SECONDS", 0.0)
    monkeypatch.setattr(state, "SHARE", 0.0)

    def leave_at(wanted: int) -> Callable[..., None]:
        def look(done: float, total: float | None, text: str) -> None:
            if done == wanted and not text.startswith("trying"):
                signal.raise_signal(signal.SIGINT)

        return look

    for step in (2, 10):
        with pytest.raises(KeyboardInterrupt):
            healed(base, cut, images, tmp_path, **options, checkpoint=path, resume=True, progress=leave_at(step))
    last = healed(base, cut, images, tmp_path, **options, checkpoint=path, resume=True)
    other = healed(base, cut, images, tmp_path, **{**options, "seed": 1})
    for task in (again, last):
        flat = task.factors.flat()
        assert all(torch.equal(flat[key], tensor) for key, tensor in whole.factors.flat().items())
        assert task.header.metrics == whole.header.metrics
    assert any(not torch.equal(other.factors.flat()[key], t) for key, t in whole.factors.flat().items())


def test_a_network_without_some_of_its_blocks_is_healed_too(images: ImageData, tmp_path: Path) -> None:
    base = base_of(Residual)
    gone = Decision(base.blocks, ("blocks.2", "blocks.3"))
    short = remove(whole_task(base, tmp_path), base, gone, DepthConfig(), tmp_path, None)
    own = healed(base, short, images, tmp_path)
    before, after = errors(own)
    assert after < 0.9 * before
    assert own.header.depth == short.header.depth
    assert not any(name.startswith(("blocks.2", "blocks.3")) for name in own.tensors)


def test_a_learned_task_is_healed_towards_what_it_was(
    toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    """Its head is its own; the base cannot say what it is to become, and the task before it was cut can."""
    learned = AdaptConfig(epochs=6, rank=4, batch_size=16, lr=1e-2)
    whole = adapt(toy_base, toy_data, toy_preprocess, learned, tmp_path)
    less = learned.model_copy(update={"density": 0.5, "round_to": 1, "epochs": 1, "prune_steps": 1})
    cut = adapt(toy_base, toy_data, toy_preprocess, less, tmp_path, start=whole)
    with pytest.raises(ConfigError, match="learned") as refused:
        original_of(cut, toy_base)
    assert "--original" in str(refused.value.hint)
    towards = original_of(cut, toy_base, whole, "whole.spa")
    config = HealConfig(steps=60, batch_size=24, lr=1e-2)
    own = heal(toy_base, toy_data, toy_preprocess, config, tmp_path, cut, towards)
    before, after = errors(own)
    assert after < before
    assert own.header.adapter == cut.header.adapter  # they are gone on with
    assert (own.header.outputs, own.header.classes) == (cut.header.outputs, cut.header.classes)
    own.save(tmp_path / "own.spa")
    assert Task.load(tmp_path / "own.spa").program(toy_base).parameter_count() == own.header.figures.parameters


def test_factors_are_small_and_what_was_healed_is_healed_further(images: ImageData, tmp_path: Path) -> None:
    base = base_of(Residual)
    cut = cut_of(base, tmp_path)
    own = healed(base, cut, images, tmp_path, adapter="splora", rank=1)
    assert own.adapters
    assert own.header.figures.stored_parameters < own.header.figures.parameters
    further = healed(base, own, images, tmp_path, adapter="splora", rank=1)
    assert errors(further)[0] == pytest.approx(errors(own)[1])
    assert errors(further)[1] < errors(own)[1]


def test_labels_are_not_read(tmp_path: Path) -> None:
    base = base_of(Residual)
    cut = cut_of(base, tmp_path)
    pixels = np.random.default_rng(2).integers(0, 255, (48, 8, 8, 3)).astype(np.uint8)
    first, second = (
        healed(base, cut, load_data(Given((pixels, labels))), tmp_path, steps=6)
        for labels in (np.arange(48) % 3, np.zeros(48, dtype=np.int64))
    )
    flat = second.factors.flat()
    assert all(torch.equal(flat[key], tensor) for key, tensor in first.factors.flat().items())


def test_what_was_pruned_on_is_not_new(images: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = base_of(Residual)

    def told(spared: float, data: ImageData) -> bool:
        looked_at = fitted_on(images, spared, 0)
        config = PruneConfig.model_validate({"method": "asym-in-change", "density": 0.5, "round_to": 1})
        cut = prune(base, config, tmp_path, data=prepare(looked_at, HOW))
        caplog.clear()
        healed(base, cut, data, tmp_path, steps=1)
        return "prune --spare 0.1 leaves them out" in caplog.text

    assert told(0.0, images)
    assert not told(0.1, images)
    assert not told(0.0, images.subset(range(48)))


def test_too_few_samples_are_refused(images: ImageData, tmp_path: Path) -> None:
    base = base_of(Plain)
    with pytest.raises(DataError, match="too few to heal"):
        healed(base, cut_of(base, tmp_path), images.limit(3, 0), tmp_path)


def test_other_outputs_than_the_originals_are_refused(images: ImageData, tmp_path: Path) -> None:
    base, other = base_of(Residual), base_of(Maps)
    with pytest.raises(ConfigError, match="gives"):
        healed(base, cut_of(base, tmp_path), images, tmp_path, original=Original.of_base(other))


def test_mixed_images_are_for_nothing_with_labels(toy_base: Base, toy_data: ImageData, tmp_path: Path) -> None:
    config = AdaptConfig(epochs=1, batch_size=16, augment=("mix",))
    with pytest.raises(ConfigError, match="mixed"):
        adapt(toy_base, toy_data, HOW, config, tmp_path)


class Signals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 16, 3, 1, 1), nn.LSTM(16, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.conv(x).relu().transpose(1, 2))[0][:, -1])


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 16), nn.Linear(9, 16), nn.Linear(16, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head((self.one(a) * self.two(b)).relu())


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "signals": (Signals, ((4, 20),)), "two inputs": (Two, ((6,), (9,))), "a transformer": (Attends, ((5, 16),)),
}  # fmt: skip


@pytest.mark.law(1)
@pytest.mark.parametrize("name", list(OTHERS))
def test_inputs_that_are_no_images(name: str, tmp_path: Path) -> None:
    build, shapes = OTHERS[name]
    torch.manual_seed(0)
    sizes = tuple((1, *shape) for shape in shapes)
    base = Base.open(Given(build().eval()), sizes[0] if len(sizes) == 1 else _sizes(sizes))
    random = np.random.default_rng(0)
    samples = tuple(random.normal(size=(96, *shape)).astype(np.float32) for shape in shapes)
    columns = tuple(torch.from_numpy(each) for each in samples)
    given = Pairs(columns) if len(columns) > 1 else TensorDataset(*columns, torch.zeros(96, dtype=torch.int64))
    data = load_data(Given(given))
    cut = cut_of(base, tmp_path)
    config = HealConfig(steps=150, batch_size=24, lr=1e-2)
    own = heal(base, data, None, config, tmp_path, cut, original_of(cut, base))
    before, after = errors(own)
    assert after < 0.8 * before


class Pairs(Dataset[Any]):
    def __init__(self, columns: tuple[Tensor, ...]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> Any:
        return tuple(column[index] for column in self.columns), 0


def _sizes(sizes: tuple[tuple[int, ...], ...]) -> Any:
    from edgespa.models.inputs import InputSize

    return tuple(InputSize(size) for size in sizes)


def test_a_setting_that_a_kind_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError):
        HealConfig.parse({"adapter": "splora", "adapter_settings": {"colour": 3}}, "heal")
