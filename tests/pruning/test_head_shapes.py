"""Widths of heads among all that may go: what they cost, what they lose, and that they are found together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_networks import BOTH, NONE, SIZE, VALUES, Apart
from torch import nn

from edgespa.data import Prepared
from edgespa.graph.groups import find_groups
from edgespa.graph.head_widths import VARIABLE
from edgespa.graph.layers import find_layers
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace
from edgespa.latency.known import Foretold
from edgespa.latency.predict import needed
from edgespa.latency.shapes import fitted
from edgespa.latency.table import LatencyTable, Origin
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.head_losses import HeadLoss
from edgespa.pruning.heads import narrow_heads
from edgespa.pruning.images import Images
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Losses, Lost, Shape, cut_down, density_of, shapes_within
from edgespa.selection.knapsack import Shapes
from edgespa.selection.select import Budget
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task
from tests.pruning.test_heads import base_of

ALL = {**BOTH, **VALUES}
FEW = ("fused", "shared keys", "torch, with weights", "rotated")
MARKED = [name if name in FEW else pytest.param(name, marks=pytest.mark.more) for name in ALL]
SETTINGS: dict[str, Any] = {"density": 1.0, "method": "asym-in-change", "allocation": "knapsack", "budget": "macs"}


def some_shape(base: Base, seed: int) -> Shape:
    random = np.random.default_rng(seed)
    widths = {name: int(random.integers(1, len(group) + 1)) for name, group in base.groups.groups.items()}
    heads = {each.group: int(random.integers(1, each.size)) for each in base.head_widths.widths.values()}
    return Shape(widths, (), heads)


def counts_of(shape: Shape) -> dict[str, int]:
    return {**shape.widths, **{VARIABLE + name: size for name, size in shape.heads.items()}}


@pytest.mark.parametrize("name", MARKED)
def test_costs_and_layers_of_narrower_heads_are_foretold(name: str) -> None:
    base = base_of(ALL[name])
    assert base.head_widths.widths
    shape = some_shape(base, 0)
    smaller, kept = cut_down(base, shape)
    for quantity in ("macs", "parameters"):
        parts = base.cost_parts(quantity)
        summed = sum(float(part.over({each: counts_of(shape)[each] for each in part.groups})) for part in parts)
        assert summed == pytest.approx(getattr(smaller.cost.cost(kept), quantity), abs=1)
    program = compact(smaller.program, smaller.groups, kept)
    real = find_layers(program, find_groups(program)).layers
    alive = base.groups.alive(cut_down(base, Shape(shape.widths))[1])
    sizes = {VARIABLE + name: size for name, size in shape.heads.items()}
    told = [tuple(dim.count(alive, {**base.layers.heads, **sizes}) for dim in e.dims) for e in base.layers.layers]
    assert told == [tuple(dim.count() for dim in each.dims) for each in real]


@pytest.mark.parametrize("name", ["fused, normed", "rotated"])
def test_heads_that_stay_as_they_are_have_no_width(name: str) -> None:
    base = base_of({**NONE, **VALUES}[name])
    products = {product for width in base.head_widths.widths.values() for product in width.products}
    assert all(what == "value-output" for _, what in products)
    assert bool(products) == (name not in NONE)


def test_a_network_without_attention_has_none() -> None:
    base = base_of(lambda: nn.Linear(24, 24))
    assert not base.head_widths.widths
    assert not base.layers.heads
    assert base_of(BOTH["apart"]).narrowed({next(iter(base_of(BOTH["apart"]).head_widths.widths.values())).group: 4}) \
        .head_widths.widths == {}  # fmt: skip


@pytest.mark.parametrize("name", ["apart", "torch"])
def test_what_is_lost_is_what_the_outputs_say(noise: Prepared, name: str) -> None:
    base = base_of(BOTH[name])
    learnt = Pruning(base, PruneConfig.model_validate({**SETTINGS, "round_to": 1}), noise).learnt
    images = Images(base, noise)
    inputs = images.some(32).batch(0)
    found = learnt.head_losses()
    assert set(found) == {width.group for width in base.head_widths.widths.values()}
    for group, loss in found.items():
        size = max(loss.losses)
        assert loss.losses[size] == 0
        assert list(loss.losses.values()) == sorted(loss.losses.values(), reverse=True)
        half = narrow_heads(base, images, learnt.heads(), {group: size // 2}).base
        with torch.no_grad():
            wanted, given = base.program(*inputs).double(), half.program(*inputs).double()
        expected = float((given - wanted).square().sum() / (wanted - wanted.mean()).square().sum())
        assert loss.losses[size // 2] == pytest.approx(expected, rel=1e-2)
        assert expected > 1e-6


def test_nothing_within_the_density_loses_less() -> None:
    """Against all that there is of one layer: widths of two products and of the channels between its matrices."""
    base = base_of(BOTH["apart"])
    widths = list(base.head_widths.widths.values())[:2]
    random = np.random.default_rng(0)
    heads = {
        each.group: HeadLoss(
            dict(zip((2, 4, 8), [*np.sort(random.uniform(0, 1, 2))[::-1], 0.0], strict=True)),
            frozenset(node for node, _ in each.products),
        )
        for each in widths
    }
    name = max(base.groups.groups, key=lambda each: len(base.groups.groups[each]))
    size = len(base.groups.groups[name])
    losses = Losses({name: {size // 2: 0.4, size: 0.0}}, heads=heads)
    every = []
    for count, *sizes in itertools.product((size // 2, size), *(each.losses for each in heads.values())):
        own = {group: wide for group, wide in zip(heads, sizes, strict=True) if wide < 8}
        lost = [each.losses[wide] for each, wide in zip(heads.values(), sizes, strict=True)]
        density = density_of(base, *cut_down(base, Shape({name: count}, (), own)), "macs")
        every.append((density, losses.widths[name][count] + sum(lost)))
    for limit in (0.9, 0.8, 0.7):
        found = shapes_within(base, losses, Budget(limit, "macs"))
        assert sum(found.losses.values()) == pytest.approx(min(loss for density, loss in every if density <= limit))
        assert found.density <= limit + 1e-9


@pytest.mark.law(2)
def test_the_whole_way(noise: Prepared, tmp_path: Path) -> None:
    base = base_of(BOTH["fused"])
    config = PruneConfig.model_validate({**SETTINGS, "density": 0.6, "round_to": 2})
    task = prune(base, config, tmp_path, data=noise)
    shapes: Any = task.header.provenance["shapes"]
    assert shapes["heads"]
    assert task.header.widths == shapes["heads"]
    assert task.header.figures.macs <= 0.6 * base.cost.cost().macs
    assert task.header.metrics["masked_compacted_error"] < 1e-4
    assert {VARIABLE + group for group in shapes["heads"]} < set(shapes["losses"])
    task.save(tmp_path / "cut.spa")
    inputs = Images(base, noise).first(8)
    again = Task.load(tmp_path / "cut.spa").program(base)
    assert torch.equal(again(*inputs), task.program(base)(*inputs))
    # With heads as wide as they are more is lost for the same.
    plain = prune(base, config.model_copy(update={"narrow_heads": False}), tmp_path, data=noise)
    whole: Any = plain.header.provenance["shapes"]
    assert "heads" not in whole
    assert sum(shapes["losses"].values()) < sum(whole["losses"].values())


class Deep(nn.Module):
    """Three residual blocks of attention and two matrices, on the patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, SIZE, 4, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(SIZE),
                    "attention": Apart(),
                    "mlp": nn.Sequential(
                        nn.LayerNorm(SIZE), nn.Linear(SIZE, 2 * SIZE), nn.GELU(), nn.Linear(2 * SIZE, SIZE)
                    ),
                }
            )
            for _ in range(3)
        )
        self.head = nn.Linear(SIZE, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block["attention"](block["norm"](x))  # type: ignore[index]
            x = x + block["mlp"](x)  # type: ignore[index]
        return self.head(x.mean(1))


@pytest.mark.law(1)
def test_heads_blocks_and_channels_go_together(noise: Prepared, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = trace(Deep().eval(), (torch.randn(2, 3, 16, 16),))
    base = Base("networks:deep", None, (1, 3, 16, 16), "digest", program, find_groups(program))
    assert len(base.blocks) == 3
    widths = {w.group: {node for node, _ in w.products} for w in base.head_widths.widths.values()}
    gone = base.blocks[1]
    left = {group: 4 for group, own in widths.items() if not own & gone.nodes}
    assert 0 < len(left) < len(widths)
    pruning = Pruning(base, PruneConfig.model_validate({**SETTINGS, "round_to": 1}), noise)
    lost = Lost(pruning.learnt.all_losses())
    # The dimensions of heads in a block that is gone lose nothing, and are none.
    none = {**dict.fromkeys(lost.terms.sizes, 0), f"block {base.blocks[0].name}": 1, f"block {base.blocks[2].name}": 1}
    shape = lost.chosen(Shapes(none, 0.0, 0.0))
    assert shape.removed == (gone.name,)
    assert set(shape.heads) == set(left)
    assert lost.terms.total(none) == pytest.approx(sum(lost.of(shape).values()))
    channels = [name for name, group in base.groups.groups.items() if len(group) == 2 * SIZE]
    pruning.chosen = Shape(dict.fromkeys(channels[:1], SIZE), (gone.name,), left)
    task = pruning.task(0.5, tmp_path)
    assert task.header.depth is not None
    assert task.header.depth.removed == (gone.name,)
    assert task.header.widths == left
    assert task.header.metrics["masked_compacted_error"] < 1e-5
    assert task.header.metrics["bypassed_cut_error"] < 1e-5
    task.save(tmp_path / "cut.spa")
    inputs = Images(base, noise).first(8)
    again = Task.load(tmp_path / "cut.spa").program(base)
    assert torch.equal(again(*inputs), task.program(base)(*inputs))
    sizes = [sum(tensor.numel() for _, tensor in each.tensors()) for each in (again, base.program)]
    assert sizes[0] < 0.65 * sizes[1]
    # All heads are narrower first, as --head-width has it: nothing is kept of those in a block that is gone.
    narrowing = narrow_heads(base, Images(base, noise), pruning.learnt.heads(), dict.fromkeys(widths, 4))
    inner = Pruning(narrowing.base, pruning.config, noise)
    inner.chosen = Shape({}, (gone.name,))
    made = narrowing.recorded(inner.task(1.0, tmp_path))
    there = {name for name, _ in base.without_blocks([gone.name]).program.tensors()}
    assert set(made.tensors) <= there
    made.save(tmp_path / "narrow.spa")
    replayed = Task.load(tmp_path / "narrow.spa").program(base)
    assert torch.equal(replayed(*inputs), made.program(base)(*inputs))


def test_where_heads_stay_as_they_are(noise: Prepared) -> None:
    def found(**settings: object) -> int:
        config = PruneConfig.model_validate({**SETTINGS, **settings})
        return len(Pruning(base_of(BOTH["fused"]), config, noise).learnt.head_losses())

    assert found() == 2
    assert found(narrow_heads=False) == found(keep=("patch",)) == found(method="seq-in-change") == 0
    assert found(method="l1") == found(reweight=False) == 0


@pytest.fixture
def by_a_table() -> Callable[[Base], Foretold]:
    origin = Origin(
        device="board", machine="aarch64", cpu_model="a core", runtime="onnxruntime 1.2.3", variant="onnx-fp32",
        threads=1,
    )  # fmt: skip

    def made(base: Base) -> Foretold:
        points = [(kind, at, 1.0 + float(np.prod(at))) for kind, own in needed(base.layers).items() for at in own]
        return Foretold.of(base, LatencyTable(origin=origin, created="now", step=4, run_us=7.0).with_points(points))

    return made


def test_a_time_is_met_by_heads_too(noise: Prepared, by_a_table: Callable[[Base], Foretold]) -> None:
    base = base_of(BOTH["fused"])
    foretold = by_a_table(base)
    shape = some_shape(base, 0)
    assert foretold.predictor.width_ms(counts_of(shape)) == pytest.approx(foretold.shape_ms(shape), rel=0.02)
    assert foretold.shape_ms(shape) < foretold.shape_ms(Shape(shape.widths))
    losses = Pruning(base, PruneConfig.model_validate({**SETTINGS, "round_to": 2}), noise).learnt.all_losses()
    limit = 0.6 * foretold.latency_ms()
    found = fitted(losses, foretold.predictor, limit, foretold.shape_ms)
    assert found.chosen is not None
    assert found.chosen.shape.heads
    assert 0.9 * limit <= found.chosen.measured_ms <= limit


def test_a_run_that_goes_on_does_not_look_again(
    noise: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[..., None]
) -> None:
    base = base_of(BOTH["fused"])
    config = PruneConfig.model_validate({**SETTINGS, "density": 0.6, "round_to": 2})
    whole = prune(base, config, tmp_path, data=noise)
    state = tmp_path / "t.spa.resume"
    leave(base, config, noise, state)
    for name in ("output_losses", "block_losses", "head_losses"):
        monkeypatch.setattr(f"edgespa.pruning.learnt.{name}", None)
    after = prune(base, config, tmp_path, data=noise, checkpoint=state, resume=True)
    assert after.header.provenance["shapes"] == whole.header.provenance["shapes"]
    assert all(torch.equal(after.tensors[name], own) for name, own in whole.tensors.items())
