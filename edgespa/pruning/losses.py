"""What pruning each group alone costs the whole network: in accuracy on labelled images, or in its outputs, without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgespa.data.inputs import samples_in
from edgespa.graph.program import Program
from edgespa.models.interface import output_tensors
from edgespa.objectives.evaluate import Tally, sums_of
from edgespa.pruning.evidence import Evidence, solve
from edgespa.pruning.front import Pass, front_to_back
from edgespa.pruning.images import Images
from edgespa.pruning.survey import Network, Tick
from edgespa.selection.criteria import Scores
from edgespa.selection.reconstruct import Path

LEVELS = (0.125, 0.25, 0.5, 0.75)
"""Fractions of a group at which its loss is measured."""
DISTANCE_IMAGES = 16, 64
"""At least and at most so many images tell how far outputs are from what they were: fewer for large networks."""
_MACS = 2e12
"""Of all runs for that; some minutes of one thread."""
_LEAST = 1e-12

Judge = Callable[[Mapping[str, Tensor]], float]
"""From tensors that replace the network's to what they cost; 0 for nothing."""


def accuracy_losses(
    network: Network,
    paths: Mapping[str, Path],
    evidence: Mapping[str, list[Evidence]],
    held_out: Images,
    reweighted: bool,
    tick: Tick,
) -> dict[str, NDArray[np.float64]]:
    """What pruning each group alone costs in accuracy on labelled images, at `LEVELS`, in between by interpolation.

    Of images with targets it is their `edgespa.objectives.evaluate.quality` that is lost, which has no lower bound:
    where nothing is kept all of it, or as much as at the worst of the levels.

    Args:
        network: The network.
        paths: Per group its order.
        evidence: Per reader, on the original network.
        held_out: Labelled images.
        reweighted: Whether readers get new weights.
        tick: Told what has been done.

    Returns:
        Per group ``[units]``: the loss with k = 0, 1, ... units kept; with none, all of the accuracy.

    Raises:
        DataError: If the images have neither classes nor targets, or others than the network gives.
    """
    held_out.require_answers("equal-accuracy")
    full = _accuracy(network, {}, held_out)

    def judge(changed: Mapping[str, Tensor]) -> float:
        return max(0.0, full - _accuracy(network, changed, held_out))

    losses = {}
    for name, points in _measured(network, paths, evidence, judge, reweighted, tick).items():
        size, found = len(network.group(name)), list(points.values())
        losses[name] = np.interp(np.arange(size), [0, *points, size], [max(full, *found), *found, 0.0])
    return losses


def output_losses(
    network: Network,
    paths: Mapping[str, Path],
    evidence: Mapping[str, list[Evidence]],
    images: Images,
    reweighted: bool,
    tick: Tick,
) -> dict[str, NDArray[np.float64]]:
    """What pruning each group alone does to the network's outputs, without labels.

    Measured at `LEVELS`: per output ``sum((y - t)**2) / sum((t - mean of t)**2)`` over some images (`DISTANCE_IMAGES`),
    their mean. In between it is a function of the reconstruction error of the group's readers, linear from one measured
    point to the next: so the greedy path gives the curve, and the outputs how much it counts.

    Args:
        network: The network.
        paths: Per group its order, with the errors of all sizes.
        evidence: Per reader, on the original network.
        images: Calibration images.
        reweighted: Whether readers get new weights.
        tick: Told what has been done.

    Returns:
        Per group ``[units + 1]``: with k = 0, 1, ... units kept; it never rises along k, and ends in 0.
    """
    judge = Distance(network, some_images(network, images, len(paths) * len(LEVELS)))
    losses = {}
    for name, points in _measured(network, paths, evidence, judge, reweighted, tick).items():
        errors = np.asarray(paths[name].errors, dtype=np.float64)
        losses[name] = curve(errors, points)
    return losses


@dataclasses.dataclass(frozen=True)
class BlockLoss:
    """A residual block that may go.

    Attributes:
        loss: What the network loses with it, as `output_losses` says it.
        nodes: That are computed in it.
        groups: Channel groups that are of it alone.
    """

    loss: float
    nodes: frozenset[str]
    groups: tuple[str, ...]


def block_losses(network: Network, images: Images, reweighted: bool, tick: Tick) -> dict[str, BlockLoss]:
    """What each removable residual block is worth, without labels: what the outputs change when it alone is gone.

    The layers that read what is left of the stream get new weights first, so that they give what they gave: what the
    block did and they can make up for is not missed. On some images (`DISTANCE_IMAGES`).

    Args:
        network: The network.
        images: Calibration images.
        reweighted: Whether those layers get new weights.
        tick: Told what has been done.

    Returns:
        By name, in the order of the program. Where all blocks could go, that of the largest loss is left out.
    """
    base = network.base
    few = some_images(network, images, 3 * len(base.blocks))
    judge, found = Distance(network, few), dict[str, BlockLoss]()
    for block in base.blocks:
        if not block.removable or len(base.blocks) == 1:
            continue
        smaller = Network.of(base.without_blocks([block.name]))
        changed: Mapping[str, Tensor] = {}
        if reweighted:
            what = Pass({}, {}, True, True, behind(smaller, network))
            changed = front_to_back(smaller, few, what, lambda text: None, original=network).changed
        units = smaller.base.groups.units
        own = tuple(n for n, group in base.groups.groups.items() if not any(slot in units for slot in group.slots))
        found[block.name] = BlockLoss(judge(changed, smaller.base.program), block.nodes, own)
        tick(f"without {block.name}")
    if found and len(found) == len(base.blocks):
        del found[max(found, key=lambda name: found[name].loss)]
    return found


def behind(network: Network, whole: Network) -> frozenset[str]:
    """The readers, by node name, that something else comes to than in the network with all its blocks.

    That is what reads a block's result, over operators of one value (norms, activations, means). Where that is joined
    with another value the stream goes on, and what reads it there is not counted.

    Args:
        network: Without some blocks.
        whole: With them.
    """
    before = {node.name: _values(node) for node in whole.base.program.graph.nodes}
    found, changed = set(), set()
    for node in network.base.program.graph.nodes:
        values = _values(node)
        if values != before[node.name] or (len(values) == 1 and values[0] in changed):
            if node.name in network.readers:
                found.add(node.name)
            elif len(values) == 1:
                changed.add(node.name)
    return frozenset(found)


def _values(node: fx.Node) -> list[str]:
    """The names of the values that a node is made from; weights are none."""
    return [each.name for each in node.all_input_nodes if each.op != "get_attr"]


def curve(errors: NDArray[np.float64], points: Mapping[int, float]) -> NDArray[np.float64]:
    """A loss over all sizes of a group, from a few that were measured and the reconstruction errors of all.

    Args:
        errors: With k = 0, 1, ... units kept.
        points: The loss by the number of units kept.
    """
    shape = np.maximum.accumulate(np.maximum(errors, 0.0)[::-1])[::-1]
    known = sorted((float(shape[count]), loss) for count, loss in points.items())
    at, losses = np.array([0.0, *(error for error, _ in known)]), np.array([0.0, *(loss for _, loss in known)])
    losses = np.maximum.accumulate(losses)
    found: NDArray[np.float64] = np.interp(shape, at, losses)
    beyond = shape > at[-1]
    if at[-1] > 0:
        found[beyond] = losses[-1] * shape[beyond] / at[-1]
    found[-1] = 0.0
    return found


def lost_scores(scores: Mapping[str, Scores]) -> dict[str, NDArray[np.float64]]:
    """What goes with the units of least score: the sum of theirs.

    With Taylor scores this is the first-order estimate of the change of the loss; with others what a ranking over all
    groups keeps as much of as it can.

    Args:
        scores: Per group one per unit, scaled so that groups can be compared.

    Returns:
        Per group ``[units + 1]``: with k = 0, 1, ... units kept.
    """
    return {
        name: np.concatenate([[0.0], np.cumsum(np.sort(np.maximum(own, 0.0)))])[::-1] for name, own in scores.items()
    }


def _measured(
    network: Network,
    paths: Mapping[str, Path],
    evidence: Mapping[str, list[Evidence]],
    judge: Judge,
    reweighted: bool,
    tick: Tick,
) -> dict[str, dict[int, float]]:
    """Of each group the loss by the number of units kept, ascending, where it alone is pruned."""
    base = network.base
    state = base.program.state()
    losses: dict[str, dict[int, float]] = {}
    for name, path in paths.items():
        size = len(network.group(name))
        points = sorted({max(1, round(level * size)) for level in LEVELS} - {size})
        losses[name] = {}
        for count in points:
            mask = np.zeros(size, dtype=bool)
            mask[path.order[:count]] = True
            alive = base.groups.alive({name: mask})
            losses[name][count] = judge(_pruned(network, state, name, alive, evidence, reweighted))
            tick(f"{name} with {count} of {size}")
    return losses


def _pruned(
    network: Network,
    state: Mapping[str, Tensor],
    name: str,
    alive: NDArray[np.bool_],
    evidence: Mapping[str, list[Evidence]],
    reweighted: bool,
) -> dict[str, Tensor]:
    """Tensors with one group's removed units at zero, and its readers solved anew."""
    changed = network.erased(alive, state)
    if reweighted:
        for reader in network.of_group[name]:
            solved = solve(
                reader,
                evidence[reader.node],
                alive,
                alive,
                state[reader.weight],
                state[reader.bias] if reader.bias else None,
            )
            changed.update(solved.tensors(reader, state))
    return changed


@torch.no_grad()
def _accuracy(network: Network, changed: Mapping[str, Tensor], images: Images) -> float:
    data, module, objective = images.data, network.base.program.module, images.objective
    tally = Tally(objective)
    for index in range(images.batches):
        inputs = images.batch(index)
        output = torch.func.functional_call(module, dict(changed), inputs)
        tally.add(sums_of(output, images.targets(index), data, objective), samples_in(inputs))
    return objective.measure.merit(objective.values(tally.whole(), images.table)[0])


def some_images(network: Network, images: Images, runs: int) -> Images:
    """As many images as so many runs of all of them are worth, within `DISTANCE_IMAGES`.

    Args:
        network: The network.
        images: The images.
        runs: Of each image.
    """
    least, most = DISTANCE_IMAGES
    macs = max(1, network.base.cost.cost().macs)
    return images.some(int(min(most, max(least, _MACS // (macs * max(1, runs))))))


def _squares(values: Tensor) -> float:
    """Their sum, of what is finite: what a network masks is minus infinity before and after."""
    return float(torch.where(values.isfinite(), values, 0.0).square().sum())


class Distance:
    """Of the outputs of a changed network from those of the network, relative to how far these are from their mean.

    Args:
        network: The network.
        images: On which.
    """

    def __init__(self, network: Network, images: Images) -> None:
        self._module = network.base.program.module
        self._inputs = [images.batch(index) for index in range(images.batches)]
        self._wanted = [self._outputs(self._module, {}, inputs) for inputs in self._inputs]
        self._scales = []
        for own in zip(*self._wanted, strict=True):
            mean = float(torch.cat([each.reshape(-1) for each in own]).nan_to_num(0.0, 0.0, 0.0).mean())
            self._scales.append(sum(_squares(each - mean) for each in own))

    @staticmethod
    @torch.no_grad()
    def _outputs(module: nn.Module, changed: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
        output = torch.func.functional_call(module, dict(changed), inputs)
        return [each.double() for each in output_tensors(output) if each.is_floating_point()]

    def __call__(self, changed: Mapping[str, Tensor], program: Program | None = None) -> float:
        """The mean over the outputs of ``sum((y - t)**2) / sum((t - mean of t)**2)``.

        Args:
            changed: Tensors that replace the program's.
            program: The network by default.
        """
        module = self._module if program is None else program.module
        sums = [0.0] * len(self._scales)
        for inputs, right in zip(self._inputs, self._wanted, strict=True):
            for index, (own, wanted) in enumerate(zip(self._outputs(module, changed, inputs), right, strict=True)):
                sums[index] += _squares(own - wanted)
        shares = [own / max(scale, _LEAST) for own, scale in zip(sums, self._scales, strict=True)]
        return sum(shares) / max(1, len(shares))
