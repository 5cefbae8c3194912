"""What narrower heads of attention cost the whole network in its outputs, without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from edgespa.pruning.heads import Heads, step_of
from edgespa.pruning.images import Images
from edgespa.pruning.losses import LEVELS, Distance, curve, some_images
from edgespa.pruning.survey import Network, Tick


@dataclasses.dataclass(frozen=True)
class HeadLoss:
    """A width of heads that may shrink.

    Attributes:
        losses: What the network loses at each width that it may have, as `edgespa.pruning.losses.output_losses` says
            it.
        nodes: The attention operators whose heads are as wide.
    """

    losses: Mapping[int, float]
    nodes: frozenset[str]


def head_losses(network: Network, heads: Heads, images: Images, round_to: int, tick: Tick) -> dict[str, HeadLoss]:
    """What it costs to make heads narrower, each width alone, without labels.

    Measured at some widths, as `edgespa.pruning.losses.output_losses` does with channels; in between it is a function
    of the error of the products, which is known at all of them (`Heads.errors`).

    Args:
        network: The network.
        heads: Its heads.
        images: Calibration images.
        round_to: Widths are multiples of this, or of a quarter of the width where that is less.
        tick: Told what has been done.

    Returns:
        By the group of the width, those that `edgespa.graph.head_widths.HeadWidths` has.
    """
    own = [width for width in network.base.head_widths.widths.values() if width in heads.widths]
    judge = Distance(network, some_images(network, images, len(own) * len(LEVELS)))
    found = {}
    for width in own:
        step = step_of(width.size, round_to)
        sizes = tuple(dict.fromkeys((*range(step, width.size, step), width.size)))
        levels = sorted({max(1, round(level * width.size)) for level in LEVELS} - {width.size})
        points = {}
        for size in levels:
            points[size] = judge(heads.masked({width.group: size}))
            tick(f"heads of {width.group} with {size} of {width.size} dimensions")
        losses = curve(heads.errors(width).numpy(), points)
        nodes = frozenset(node for node, _ in width.products)
        found[width.group] = HeadLoss({size: float(losses[size]) for size in sizes}, nodes)
    return found
