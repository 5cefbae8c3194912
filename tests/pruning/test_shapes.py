"""Widths and blocks of least loss within a density: what they cost, that nothing is better, the whole way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgespa.data import Prepared
from edgespa.errors import BudgetError
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.losses import BlockLoss
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Losses, Shape, cut_down, density_of, kept_of, shapes_within
from edgespa.selection.along import Along
from edgespa.selection.select import QUANTITIES, Budget
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task
from tests.pruning.conftest import NAMES


@pytest.mark.parametrize("quantity", ["macs", "parameters"])
@pytest.mark.parametrize("name", NAMES)
def test_parts_sum_up_to_the_cost(name: str, quantity: str, network: Callable[[str], Base]) -> None:
    base = network(name)
    random = np.random.default_rng(0)
    parts = base.cost.parts(quantity)
    for _ in range(3):
        widths = {each: int(random.integers(1, len(group) + 1)) for each, group in base.groups.groups.items()}
        summed = sum(float(part.over({each: widths[each] for each in part.groups})) for part in parts)
        assert summed == pytest.approx(getattr(base.cost.cost(kept_of(base, widths)), quantity), abs=1)


def test_without_the_nodes_of_a_block_its_part_of_the_cost_is_gone(chain: Base) -> None:
    base, first = chain, chain.blocks[0]
    for quantity in ("macs", "parameters"):
        parts = base.cost.parts(quantity)
        left = sum(
            float(p.over({n: len(base.groups.groups[n]) for n in p.groups}))
            for p in parts
            if not p.nodes <= first.nodes
        )
        assert left == pytest.approx(getattr(base.without_blocks([first.name]).cost.cost(), quantity))


@pytest.fixture(scope="module")
def densities(chain: Base) -> Callable[..., float]:
    """`density_of` what is left, each worked out once."""
    known: dict[object, float] = {}

    def density(widths: dict[str, int], gone: tuple[str, ...], quantity: str) -> float:
        key = (*sorted(widths.items()), gone, quantity)
        if key not in known:
            known[key] = density_of(chain, *cut_down(chain, Shape(widths, gone)), quantity)
        return known[key]

    return density


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("density", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_within_the_density_loses_less(
    seed: int, density: float, quantity: str, chain: Base, densities: Callable[..., float]
) -> None:
    """Against all that there is, of a small network: widths of five groups, and one of four blocks."""
    base = chain
    random = np.random.default_rng(seed)
    losses = {
        name: dict(zip((4, 8, len(group)), [*np.sort(random.uniform(0, 1, 2))[::-1], 0.0], strict=True))
        for name, group in base.groups.groups.items()
    }
    block, inner = base.blocks[2], ("blocks.2.conv1",)
    blocks = {block.name: BlockLoss(float(random.uniform(0, 1)), block.nodes, inner)}
    found = shapes_within(base, Losses(losses, blocks), Budget(density, quantity))
    assert found.density <= density + 1e-9
    assert found.density == pytest.approx(density_of(base, *cut_down(base, found.shape), quantity), abs=1e-9)
    least = np.inf
    for gone in ((), (block.name,)) if quantity != "channels" else ((),):
        there = [name for name in losses if not gone or name not in inner]
        for widths in itertools.product(*(losses[name] for name in there)):
            chosen = dict(zip(there, widths, strict=True))
            if densities(chosen, gone, quantity) <= density:
                loss = sum(losses[name][width] for name, width in chosen.items()) + (
                    blocks[block.name].loss if gone else 0
                )
                least = min(least, loss)
    assert sum(found.losses.values()) == pytest.approx(least)


def test_what_cannot_be_reached_is_said_with_what_can(network: Callable[[str], Base]) -> None:
    base = network("residual")
    losses = {name: {2: 0.5, len(group): 0.0} for name, group in base.groups.groups.items()}
    with pytest.raises(BudgetError, match=r"the least is 0\.\d+") as refused:
        shapes_within(base, Losses(losses), Budget(0.01, "macs"))
    least = float(str(refused.value).partition("the least is ")[2].split()[0].rstrip(":;,"))
    assert shapes_within(base, Losses(losses), Budget(least, "macs")).density <= least


def test_uneven_units_count_by_their_mean_and_still_keep_the_density(network: Callable[[str], Base]) -> None:
    base = network("grouped")
    widths = {name: range(1, len(group) + 1) for name, group in base.groups.groups.items()}
    costs = Along(base.cost.parts("macs"), base.groups, {name: tuple(own) for name, own in widths.items()})
    whole = {name: len(own) - 1 for name, own in widths.items()}
    assert costs.total(whole) == pytest.approx(base.cost.cost().macs)
    losses = {name: {width: 1 - width / len(own) for width in own} for name, own in widths.items()}
    for density in (0.7, 0.4, 0.2):
        assert shapes_within(base, Losses(losses), Budget(density, "macs")).density <= density + 1e-9


@pytest.mark.parametrize("method", ["asym-in-change", "l1"])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_whole_way(quantity: str, method: str, chain: Base, images: Prepared, tmp_path: Path) -> None:
    base = chain
    config = PruneConfig(density=0.76, method=method, budget=quantity, allocation="knapsack", round_to=2, min_width=12)
    task = prune(base, config, tmp_path, data=images)
    told = task.header.provenance["shapes"]
    assert isinstance(told, dict)
    assert float(str(told["density"])) <= 0.76
    smaller = task.fit(base)
    assert density_of(base, smaller, task.kept, quantity) == pytest.approx(told["density"])
    assert {name: int(mask.sum()) for name, mask in task.kept.items()}.items() >= dict(told["widths"]).items()
    assert task.header.metrics["masked_compacted_error"] < 1e-4
    assert (
        list(smaller.removed) == told["removed"] == (["blocks.1"] if method != "l1" and quantity != "channels" else [])
    )


def test_a_run_that_goes_on_does_not_look_again(
    chain: Base, images: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[..., None]
) -> None:
    base = chain
    config = PruneConfig(density=0.5, method="asym-in-change", budget="macs", allocation="knapsack", round_to=2)
    whole = prune(base, config, tmp_path, data=images)
    state = tmp_path / "t.spa.resume"
    leave(base, config, images, state)
    monkeypatch.setattr("edgespa.pruning.learnt.output_losses", None)
    monkeypatch.setattr("edgespa.pruning.learnt.block_losses", None)
    after: Task = prune(base, config, tmp_path, data=images, checkpoint=state, resume=True)
    assert after.header.provenance["shapes"] == whole.header.provenance["shapes"]
    assert {name: mask.tolist() for name, mask in after.kept.items()} == {
        name: mask.tolist() for name, mask in whole.kept.items()
    }
    assert all(bool((after.tensors[name] == own).all()) for name, own in whole.tensors.items())


def test_blocks_stay_where_channels_are_counted(chain: Base, images: Prepared) -> None:
    config = PruneConfig(density=0.4, method="asym-in-change", allocation="knapsack", round_to=2)
    pruning = Pruning(chain, config, images)
    assert pruning.shape(0.4) <= 0.4
    assert pruning.chosen is not None
    assert pruning.chosen.removed == ()
