"""What groups and blocks are worth, without labels; and networks that lose both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare
from edgespa.pruning import PruneConfig
from edgespa.pruning.images import Images
from edgespa.pruning.losses import _squares, behind, block_losses, output_losses, some_images
from edgespa.pruning.run import Pruning
from edgespa.pruning.shapes import Shape
from edgespa.pruning.survey import Network, gather, path_of
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task


@pytest.fixture(scope="module")
def base(chain: Base) -> Base:
    return chain


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("images") / "noise.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 255, (150, 8, 8, 3), np.uint8))
    data = load_data(str(path), labelled=False)
    return prepare(data, Preprocess(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))


def quiet(text: str) -> None:
    pass


def test_a_block_that_does_nothing_is_worth_nothing(base: Base, images: Prepared) -> None:
    network, seen = Network.of(base), Images(base, images)
    found = block_losses(network, seen, True, quiet)
    assert len(found) == 3  # one has to stay: that of the largest loss
    assert min(found, key=lambda name: found[name].loss) == "blocks.1"
    assert found["blocks.1"].loss < 1e-5
    assert found["blocks.2"].loss > 1e-3
    for name, each in found.items():
        assert each.groups == (f"{name}.conv1",)
        assert any("conv2" in node for node in each.nodes)
    # What follows makes up for a part of it.
    unsolved = block_losses(network, seen, False, quiet)
    assert all(found[name].loss < unsolved[name].loss for name in ("blocks.2",))


def test_losses_of_outputs_are_what_the_outputs_show(base: Base, images: Prepared) -> None:
    network, seen = Network.of(base), Images(base, images)
    evidence = gather(network, seen, network.readers.values(), quiet)
    paths = {name: path_of(network, name, evidence) for name in ("blocks.0.conv1", "blocks.1.conv1")}
    found = output_losses(network, paths, evidence, seen, False, quiet)
    for name, own in found.items():
        assert len(own) == 17
        assert (np.diff(own) <= 0).all()
        assert own[-1] == 0
        mask = np.zeros(16, dtype=bool)
        mask[paths[name].order[:8]] = True
        changed = network.erased(base.groups.alive({name: mask}), base.program.state())
        inputs = seen.some(64).batch(0)
        with torch.no_grad():
            wanted = base.program(*inputs).double()
            given = torch.func.functional_call(base.program.module, changed, inputs).double()
        expected = (given - wanted).square().sum() / (wanted - wanted.mean()).square().sum()
        assert own[8] == pytest.approx(float(expected), rel=1e-3)
    assert found["blocks.1.conv1"][8] < 1e-4 * found["blocks.0.conv1"][8]


def test_some_of_the_images(base: Base, images: Prepared) -> None:
    seen = Images(base, images)
    few = seen.some(64)
    assert (few.count, few.batches, seen.count) == (64, 1, 150)
    assert torch.equal(few.batch(0)[0], seen.batch(0)[0][:64])
    assert seen.some(1000).count == 150


def test_two_parts_at_random(base: Base, images: Prepared) -> None:
    every = Images(base, images)
    fitted, judged = every.parted(16, 8, 0)
    assert (fitted.count, judged.count) == (134, 16)
    rows = [part._rows for part in (fitted, judged)]
    assert sorted(np.concatenate([own for own in rows if own is not None]).tolist()) == list(range(150))
    whole = torch.cat([every.batch(index)[0] for index in range(every.batches)])
    for part, own in zip((fitted, judged), rows, strict=True):
        seen = torch.cat([part.batch(index)[0] for index in range(part.batches)])
        assert torch.equal(seen, whole[torch.as_tensor(own)])
        assert torch.equal(part.first(4)[0], seen[:4])
        assert torch.equal(part.some(5).batch(0)[0], seen[:5])
    assert judged.some(64).count == 16
    again = every.parted(16, 8, 1)[1]
    assert not np.array_equal(again._rows, rows[1])
    assert every.parted(64, 31, 0) == (every, every)


def test_the_knapsack_is_judged_on_images_that_were_not_fitted_on(base: Base, images: Prepared) -> None:
    learnt = Pruning(base, PruneConfig(density=0.5, method="asym-in-change", allocation="knapsack"), images).learnt
    fitted, judged = learnt._fitted, learnt._judging
    assert fitted is not None
    assert judged is not None
    assert (fitted.count, judged.count) == (120, 30)
    learnt.learn()
    rows = {own.rows for parts in learnt.evidence.values() for own in parts}
    assert rows
    assert all(count % 120 == 0 for count in rows)
    assert len(learnt.losses()) > 0
    other = Pruning(base, PruneConfig(density=0.5, method="asym-in-change", allocation="equal-error"), images).learnt
    assert other._fitted is other._judging is other.images


def test_what_reads_another_value_is_behind(base: Base) -> None:
    whole, smaller = Network.of(base), Network.of(base.without_blocks(["blocks.1"]))
    assert {smaller.readers[node].layer for node in behind(smaller, whole)} == {"blocks.2.conv1"}
    last = Network.of(base.without_blocks(["blocks.3"]))
    assert {last.readers[node].layer for node in behind(last, whole)} == {"fc"}


@pytest.mark.law(1)
@pytest.mark.parametrize("removed", [("blocks.2",), ("blocks.1", "blocks.2")])
def test_blocks_and_channels_go_together(
    base: Base, images: Prepared, tmp_path: Path, removed: tuple[str, ...]
) -> None:
    pruning = Pruning(base, PruneConfig(density=1.0, method="asym-in-change", round_to=4).for_latency(), images)
    pruning.chosen = Shape({"blocks.0.conv1": 8, "blocks.2.conv1": 4, "stem": 12}, removed)
    task = pruning.task(0.5, tmp_path)
    assert task.header.depth is not None
    assert task.header.depth.removed == removed
    assert {name: int(mask.sum()) for name, mask in task.kept.items()} == {
        name: {"blocks.0.conv1": 8, "stem": 12}.get(name, 16)
        for name in ("stem", *(f"blocks.{index}.conv1" for index in range(4)))
        if name.removesuffix(".conv1") not in removed
    }
    assert task.header.metrics["masked_compacted_error"] < 1e-5
    assert task.header.metrics["bypassed_cut_error"] < 1e-5
    path = tmp_path / "cut.spa"
    task.save(path)
    inputs = Images(base, images).first(64)
    with torch.no_grad():
        again = Task.load(path).program(base)(*inputs)
        assert torch.equal(again, task.program(base)(*inputs))
        wanted = base.program(*inputs)
        # New weights behind the blocks and the channels are nearer to what was given than the old ones.
        plain = Pruning(
            base,
            PruneConfig(density=1.0, method="asym-in-change", round_to=4, reweight=False).for_latency(),
            images,
        )
        plain.chosen = pruning.chosen
        old = plain.task(0.5, tmp_path).program(base)(*inputs)
    assert (again - wanted).square().sum() < 0.5 * (old - wanted).square().sum()


def test_all_that_is_behind_a_block_makes_up_for_it(base: Base, images: Prepared, tmp_path: Path) -> None:
    inputs = Images(base, images).first(64)
    with torch.no_grad():
        wanted, errors = base.program(*inputs), []
        for reweight in (True, False):
            config = PruneConfig(density=1.0, method="asym-in-change", reweight=reweight).for_latency()
            pruning = Pruning(base, config, images)
            pruning.chosen = Shape({}, ("blocks.2",))
            task = pruning.task(1.0, tmp_path)
            errors.append(float((task.program(base)(*inputs) - wanted).square().sum()))
            if reweight:
                behind_it = {"blocks.3.conv1.weight", "blocks.3.conv2.weight", "fc.weight"}
                assert behind_it <= set(task.tensors)
    assert errors[0] < 0.5 * errors[1]


def test_a_removed_block_of_no_use_changes_next_to_nothing(base: Base, images: Prepared, tmp_path: Path) -> None:
    pruning = Pruning(base, PruneConfig(density=1.0, method="asym-in-change").for_latency(), images)
    pruning.chosen = Shape({}, ("blocks.1",))
    task = pruning.task(1.0, tmp_path)
    inputs = Images(base, images).first(64)
    with torch.no_grad():
        given, wanted = task.program(base)(*inputs), base.program(*inputs)
    assert (given - wanted).square().sum() < 1e-5 * wanted.square().sum()


def test_what_has_no_block_losses(base: Base, images: Prepared) -> None:
    def found(**settings: object) -> int:
        config = PruneConfig.model_validate({"density": 1.0, "method": "asym-in-change", **settings}).for_latency()
        return len(Pruning(base, config, images).learnt.block_losses())

    assert found() == 3
    assert found(blocks=False) == found(keep=("stem",)) == found(method="seq-in-change") == found(method="l1") == 0


def test_what_is_masked_does_not_count() -> None:
    values = torch.tensor([1.0, float("inf") - float("inf"), float("-inf"), 2.0])
    assert _squares(values) == 5.0


def test_large_networks_are_judged_on_fewer_images(base: Base, images: Prepared) -> None:
    network, seen = Network.of(base), Images(base, images)
    macs = base.cost.cost().macs
    assert some_images(network, seen, 1).count == 64
    assert some_images(network, seen, int(2e12 / macs / 40)).count == 40
    assert some_images(network, seen, 10**9).count == 16
