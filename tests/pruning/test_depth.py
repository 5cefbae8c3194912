"""Depth pruning of models and of tasks with every kind of adapter: decided, cut, stored, replayed, trained further."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adaptation.teacher import load_teacher
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.errors import ConfigError, DataError, GraphError, TaskFileError
from edgespa.graph.blocks import Bypassed, without_blocks
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.cut import cut, whole_task
from edgespa.pruning.depth import Decision, DepthConfig, decide, features, given_depth, require_blocks
from edgespa.tasks import sealed
from edgespa.tasks.base import Base
from edgespa.tasks.folder import compare, depth_text
from edgespa.tasks.inspection import describe, describe_blocks
from edgespa.tasks.task import DepthHeader, Task

NET = """
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.proj(y)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, depth=4, width=32):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 2, 2)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class Res(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        stride = 1 if channels == out else 2
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, 2)

    def forward(self, x):
        return torch.relu(self.short(x) + self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(Res(8, 8), Res(8, 8), Res(8, 8))
        self.layer2 = nn.Sequential(Res(8, 16), Res(16, 16), Res(16, 16), Res(16, 16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


def vit():
    torch.manual_seed(0)
    return ViT()


def staged():
    torch.manual_seed(0)
    return Staged()
"""
KINDS = ("lora", "ssf", "convpass", "repadapter", "splora", "full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Path:
    made = tmp_path_factory.mktemp("depth")
    (made / "net.py").write_text(NET, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def vit(folder: Path) -> Base:
    return Base.open(f"{folder / 'net.py'}:vit", (1, 3, 8, 8))


@pytest.fixture(scope="module")
def staged(folder: Path) -> Base:
    return Base.open(f"{folder / 'net.py'}:staged", (1, 3, 8, 8))


@pytest.fixture(scope="module")
def images(toy_data: ImageData, toy_preprocess: Preprocess) -> Prepared:
    return prepare(toy_data, toy_preprocess)


class Tasks(dict[str, Task]):
    """A task of each kind, made when it is first asked for. Not to be changed."""

    def __init__(self, make: Callable[[str], Task]) -> None:
        self._make = make

    def __missing__(self, kind: str) -> Task:
        self[kind] = self._make(kind)
        return self[kind]


@pytest.fixture(scope="module")
def tasks(vit: Base, toy_data: ImageData, toy_preprocess: Preprocess, folder: Path) -> Tasks:
    def make(kind: str) -> Task:
        density = 0.6 if kind in ("lora", "convpass") else 1.0
        config = AdaptConfig(adapter=kind, epochs=2, batch_size=16, density=density, rank=2, round_to=1)
        return adapt(vit, toy_data, toy_preprocess, config, folder)

    return Tasks(make)


def batch(images: Prepared) -> Tensor:
    return next(iter(images.batches(8)))[0]


def by_hand(base: Base, depth: int) -> Decision:
    return Decision(base.blocks, given_depth(base.blocks, (depth,)))


@pytest.mark.law(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_task_is_stored_smaller_and_replayed_bit_for_bit(
    kind: str, tasks: Tasks, vit: Base, images: Prepared, folder: Path
) -> None:
    task = tasks[kind]
    base = task.fit(vit)
    decision = by_hand(base, 2)
    smaller = cut(task, base, decision, DepthConfig(keep_depth=(2,)), folder, images)
    whole_size, size = task.save(folder / f"{kind}.spa"), smaller.save(folder / f"{kind}-cut.spa")
    assert size < 0.75 * whole_size
    loaded = Task.load(folder / f"{kind}-cut.spa")
    assert loaded.header.depth == DepthHeader(removed=("blocks.2", "blocks.3"), blocks=4)
    assert depth_text(loaded) == "2 of 4"
    found = loaded.open_base(folder)
    x = batch(images)
    assert torch.equal(loaded.program(found)(x), smaller.program(vit)(x))
    # the same as the task itself with the blocks bypassed
    removed = [block for block in base.blocks if block.name in decision.removed]
    torch.testing.assert_close(
        smaller.program(vit)(x), Bypassed(task.program(vit), removed).run(x), rtol=1e-5, atol=1e-6
    )
    assert not [key for key in loaded.factors.flat() if "blocks.2" in key or "blocks.3" in key]
    left = {name for name, _ in smaller.program(vit).tensors()}
    assert not [name for name in left if "blocks.2." in name or "blocks.3." in name]
    if kind == "convpass":  # two bypasses for each of the two blocks that are left
        assert {name.split(".")[2] for name in left if "convpass" in name} == {"0", "1", "2", "3"}
    if kind in ("lora", "convpass"):
        assert loaded.header.figures.channel_density < 0.8
    assert loaded.header.figures.macs < 0.6 * task.header.figures.macs
    assert loaded.header.figures.base_macs == task.header.figures.base_macs
    assert "validation_accuracy" not in loaded.header.metrics


@pytest.mark.parametrize(
    "kind", ["lora", pytest.param("convpass", marks=pytest.mark.more), pytest.param("full", marks=pytest.mark.more)]
)
def test_a_cut_task_is_trained_further(
    kind: str, tasks: Tasks, vit: Base, toy_data: ImageData, toy_preprocess: Preprocess, folder: Path
) -> None:
    base = tasks[kind].fit(vit)
    smaller = cut(tasks[kind], base, by_hand(base, 1), DepthConfig(keep_depth=(1,)), folder, None)
    config = AdaptConfig(epochs=1, batch_size=16, lr=1e-5)
    tuned = adapt(vit, toy_data, toy_preprocess, config, folder, start=smaller)
    assert tuned.header.adapter == smaller.header.adapter
    assert tuned.header.depth == smaller.header.depth
    assert tuned.factors.flat().keys() == smaller.factors.flat().keys()
    moved = [
        key for key, tensor in tuned.factors.flat().items() if not torch.equal(tensor, smaller.factors.flat()[key])
    ]
    assert any("head" in key for key in moved)
    assert any(("adapter/" in key) or ("blocks.0" in key) or ("convpass" in key) for key in moved)
    # it began where the cut task was
    for key, tensor in tuned.factors.flat().items():
        torch.testing.assert_close(tensor, smaller.factors.flat()[key], rtol=1e-2, atol=1e-3)
    tuned.save(folder / "tuned.spa")
    again = Task.load(folder / "tuned.spa")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(again.program(again.open_base(folder))(x), tuned.program(vit)(x))


def test_going_on_keeps_to_the_adapters_and_classes_of_the_task(
    tasks: Tasks, vit: Base, toy_data: ImageData, toy_preprocess: Preprocess, folder: Path
) -> None:
    start = tasks["lora"]
    with pytest.raises(ConfigError, match="has its own adapters: lora"):
        adapt(vit, toy_data, toy_preprocess, AdaptConfig(adapter="ssf", epochs=1, batch_size=16), folder, start=start)
    other = dataclasses.replace(start, header=start.header.model_copy(update={"classes": ("a", "b", "c")}))
    with pytest.raises(ConfigError, match="3 classes"):
        adapt(vit, toy_data, toy_preprocess, AdaptConfig(epochs=1, batch_size=16), folder, start=other)


def test_a_cut_task_learns_from_the_whole_one(
    tasks: Tasks, vit: Base, toy_data: ImageData, toy_preprocess: Preprocess, folder: Path
) -> None:
    tasks["splora"].save(folder / "teacher.spa")
    smaller = cut(tasks["splora"], tasks["splora"].fit(vit), by_hand(vit, 2), DepthConfig(), folder, None)
    base = smaller.fit(vit)
    teacher = load_teacher(str(folder / "teacher.spa"), base)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(teacher.run(x), tasks["splora"].program(vit)(x))
    config = AdaptConfig(epochs=1, batch_size=16)
    adapt(base, toy_data, toy_preprocess, config, folder, start=smaller, teacher=teacher)
    with pytest.raises(ConfigError, match="the base cannot teach"):
        adapt(base, toy_data, toy_preprocess, config, folder, start=smaller, teacher=load_teacher("base", base))


def test_tasks_of_different_depth_are_not_compared(tasks: Tasks, vit: Base, folder: Path) -> None:
    smaller = cut(tasks["splora"], tasks["splora"].fit(vit), by_hand(vit, 2), DepthConfig(), folder, None)
    with pytest.raises(TaskFileError, match="different blocks: all and 2 of 4"):
        compare(tasks["splora"], smaller)
    assert compare(smaller, smaller).same


@pytest.mark.law(1)
@pytest.mark.parametrize("kind", ["splora", "convpass", "full"])
def test_a_model_is_cut_then_adapted_with_channels_removed(
    kind: str, vit: Base, toy_data: ImageData, toy_preprocess: Preprocess, images: Prepared, folder: Path
) -> None:
    plain = cut(whole_task(vit, folder), vit, by_hand(vit, 3), DepthConfig(keep_depth=(3,)), folder, images)
    config = AdaptConfig(adapter=kind, rank=2, epochs=2, batch_size=16, density=0.6, round_to=1)
    tuned = adapt(vit, toy_data, toy_preprocess, config, folder, start=plain)
    assert tuned.header.depth == DepthHeader(removed=("blocks.3",), blocks=4)
    assert tuned.header.figures.channel_density < 0.7
    tuned.save(folder / "both.spa")
    again = Task.load(folder / "both.spa")
    x = batch(images)
    assert torch.equal(again.program(again.open_base(folder))(x), tuned.program(vit)(x))
    # and it can be cut once more
    base = again.fit(vit)
    less = cut(again, base, by_hand(base, 1), DepthConfig(keep_depth=(1,)), folder, images)
    assert less.header.depth == DepthHeader(removed=("blocks.1", "blocks.2", "blocks.3"), blocks=4)
    kept = {name: mask for name, mask in less.kept.items() if "blocks.0" in name}
    assert kept
    assert all(np.array_equal(mask, again.kept[name]) for name, mask in kept.items())


def test_a_pruned_task_is_cut(vit: Base, images: Prepared, folder: Path) -> None:
    pruned = prune(vit, PruneConfig(method="l1", density=0.5, round_to=1), folder)
    smaller = cut(pruned, vit, by_hand(vit, 2), DepthConfig(keep_depth=(2,)), folder, images)
    assert smaller.header.figures.channel_density == pytest.approx(0.5, abs=0.1)
    assert smaller.header.figures.macs < 0.6 * pruned.header.figures.macs
    x = batch(images)
    expected = without_blocks(pruned.program(vit), ["blocks.2", "blocks.3"])(x)
    torch.testing.assert_close(smaller.program(vit)(x), expected, rtol=1e-5, atol=1e-6)


def test_features_are_the_outputs_of_the_blocks(vit: Base, staged: Base, images: Prepared) -> None:
    x, _ = next(iter(images.batches(len(images))))
    for base, token in ((vit, True), (staged, False)):
        found = features(base.program, base.blocks, images, token)
        assert [*found] == [block.name for block in base.blocks]
        for block in base.blocks:
            value = _value(base, block.exit, x)
            expected = value[:, 0] if token else value.mean((2, 3))
            np.testing.assert_allclose(found[block.name], expected.numpy(), rtol=1e-4, atol=1e-5)


def _value(base: Base, name: str, x: Tensor) -> Tensor:
    class Watch(torch.fx.Interpreter):
        seen: dict[str, Tensor] = {}  # noqa: RUF012

        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                self.seen[n.name] = value
            return value

    watch = Watch(base.program.module, garbage_collect_values=False)
    with torch.no_grad():
        watch.run(x)
    return watch.seen[name]


def test_rule_is_applied_to_the_scores(vit: Base, images: Prepared) -> None:
    for metric in ("silhouette", "calinski-harabasz", "davies-bouldin"):
        decision = decide(vit.program, vit.blocks, images, DepthConfig(alpha=0.5, metric=metric))
        scores = [each.score for each in decision.scored]
        below = [index for index, score in enumerate(scores) if score < 0.5 * scores[-1]]
        expected = min(below[-1] + 2, 4) if below else 1
        assert len(decision.kept) == expected
        assert decision.thresholds == {"blocks": pytest.approx(0.5 * scores[-1])}
        assert decision.feature == "class token"
        json.dumps(decision.account())


def test_every_stage_has_its_own_threshold(staged: Base, images: Prepared) -> None:
    decision = decide(staged.program, staged.blocks, images, DepthConfig(alpha=0.9, metric="calinski-harabasz"))
    scores = {each.block.name: each.score for each in decision.scored}
    assert decision.thresholds == {
        "layer1": pytest.approx(0.9 * scores["layer1.2"]),
        "layer2": pytest.approx(0.9 * scores["layer2.3"]),
    }
    assert "layer2.0" in decision.kept  # it halves the image
    assert decision.feature == "mean"


def test_given_depth_of_stages(staged: Base) -> None:
    blocks = staged.blocks
    assert given_depth(blocks, (2,)) == ("layer1.2", "layer2.2", "layer2.3")
    assert given_depth(blocks, (3, 1)) == ("layer2.1", "layer2.2", "layer2.3")
    with pytest.raises(ConfigError, match="3 depths are given for 2 stages") as caught:
        given_depth(blocks, (1, 2, 3))
    assert "layer1 (3 blocks)" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="layer1 has 3 blocks, not 4"):
        given_depth(blocks, (4, 1))
    with pytest.raises(ConfigError, match="removes nothing"):
        given_depth(blocks, (4,))


def test_same_images_and_seed_decide_the_same(vit: Base, images: Prepared) -> None:
    one, other = (decide(vit.program, vit.blocks, images, DepthConfig(metric="silhouette")) for _ in range(2))
    assert one.account() == other.account()


def test_classes_that_are_not_apart_are_an_error(vit: Base, toy_preprocess: Preprocess) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (64, 8, 8, 3)).astype(np.uint8)
    path = Path(vit.spec.partition(":")[0]).with_name("noise.npz")
    np.savez(path, images=noise, labels=np.arange(64) % 6)
    data = prepare(load_data(str(path)), toy_preprocess)
    with pytest.raises(ConfigError, match="not apart at the last block") as caught:
        decide(vit.program, vit.blocks, data, DepthConfig(metric="silhouette"))
    assert "--score-images" in str(caught.value.hint)


def test_images_without_classes_are_refused(vit: Base, images: Prepared) -> None:
    path = Path(vit.spec.partition(":")[0]).with_name("bare.npz")
    np.savez(path, images=np.zeros((20, 8, 8, 3), np.uint8))
    data = prepare(load_data(str(path), labelled=False), images.preprocess)
    with pytest.raises(DataError, match="no classes"):
        decide(vit.program, vit.blocks, data, DepthConfig())


@pytest.mark.parametrize("kind", ["segmentation", "regression", "detection", "spot"])
def test_what_learns_no_classes_has_no_score(vit: Base, images: Prepared, kind: str) -> None:
    """It is said which objective the method fits, and what there is for the others."""
    other = images.with_targets(images.targets)
    other.kind = kind
    with pytest.raises(DataError, match=f"is {kind} data") as caught:
        decide(vit.program, vit.blocks, other, DepthConfig())
    assert "it fits one objective, classes" in str(caught.value.hint)
    assert "--keep-depth N" in str(caught.value.hint)


def test_a_network_without_blocks_is_refused(toy_base: Base) -> None:
    with pytest.raises(GraphError, match="no residual block"):
        require_blocks(toy_base.blocks, "net.py:build")


def test_an_old_task_file_has_all_blocks(tasks: Tasks, vit: Base, folder: Path) -> None:
    path = folder / "old.spa"
    tasks["lora"].save(path)
    text, tensors = sealed.read(path, "edgespa")
    header = json.loads(text)
    del header["depth"]
    path.write_bytes(sealed.to_bytes("edgespa", json.dumps(header), tensors))
    old = Task.load(path)
    assert old.header.depth is None
    assert depth_text(old) is None
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(old.program(vit)(x), tasks["lora"].program(vit)(x))


def test_blocks_that_the_base_does_not_have_are_refused(tasks: Tasks, vit: Base) -> None:
    task = tasks["lora"]
    depth = DepthHeader(removed=("blocks.9",), blocks=10)
    with pytest.raises(TaskFileError, match=r"no residual block blocks\.9"):
        dataclasses.replace(task, header=task.header.model_copy(update={"depth": depth})).fit(vit)


def test_inspection_counts_what_goes_with_a_block(vit: Base) -> None:
    described = describe_blocks(vit)
    assert [each["name"] for each in described] == [f"blocks.{i}" for i in range(4)]
    smaller = vit.without_blocks(["blocks.1"])
    whole, less = vit.cost.cost(), smaller.cost.cost()
    assert described[1]["parameters"] == whole.parameters - less.parameters
    assert described[1]["macs"] == whole.macs - less.macs
    assert smaller.whole_cost == whole
    values = describe(smaller)
    assert values["removed"] == ["blocks.1"]
    assert values["totals"]["parameters"] == less.parameters
    assert len(values["blocks"]) == 3


def test_removing_further_blocks_does_not_depend_on_the_order(vit: Base) -> None:
    one = vit.without_blocks(["blocks.3"]).without_blocks(["blocks.1"])
    other = vit.without_blocks(["blocks.1", "blocks.3"])
    assert one.removed == other.removed == ("blocks.1", "blocks.3")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(one.program(x), other.program(x))
    assert {name: len(group) for name, group in one.groups.groups.items()} == {
        name: len(group) for name, group in other.groups.groups.items()
    }
