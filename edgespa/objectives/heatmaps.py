"""Key points by a map of heat for each: squared error to a Gaussian; the share that is found, and how far off they are.

Xiao, Wu and Wei 2018, "Simple Baselines for Human Pose Estimation and Tracking" (arXiv 1804.06208), section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.data.points import Points
from edgespa.errors import DataError
from edgespa.objectives.base import Objective, first_tensor, require_same_shape, shapes_of
from edgespa.objectives.measures import NME, PCK

if TYPE_CHECKING:
    from edgespa.data import Prepared

NEAR = 0.1
"""Of the size of a thing: a key point that is no farther off is found."""
_SPREAD = 1 / 32
_LEAST_SPREAD = 1.0


class Heatmaps(Objective):
    """Outputs ``[N, K, h, w]``, of several tensors the first; targets `edgespa.data.points.Points`.

    The wanted map of a key point is ``exp(-((x - a)^2 + (y - b)^2) / (2 s^2))`` over the middles of its pixels, with
    ``s`` a 32nd of its longer side, which is the 2 pixels of the paper for maps of 64 x 48, but at least one pixel.
    Other than in the paper (a, b) is not rounded to whole pixels (Zhang et al. 2020, arXiv 1910.06278, section 3.2),
    and the loss is a mean over the key points that are known alone, without the half in front. An answer is the
    highest pixel, a quarter towards its higher neighbour in each direction, as in the paper's code.

    PCK is the share of the known key points that are found within `NEAR` of the size of their thing: the longer side
    of the box around its known points (Yang and Ramanan 2013, section 5), of the input where fewer than two are known.
    NME is the mean distance in that unit.
    """

    name = "heatmaps"
    answers = "points"
    measures = (PCK, NME)

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Tensor:
        """See `Objective.take`: ``[N, K, h, w]``."""
        maps = first_tensor(output)
        if data is None or (maps.dim() == 4 and maps.shape[1] == len(data.classes)):
            return maps
        raise DataError(
            f"the network gives {shapes_of(output)}, and {data.name} has {len(data.classes)} key points: they cannot "
            "be compared",
            "give a network with a map of heat for each key point, [N, key points, height, width]",
        )

    def loss(self, outputs: Tensor, targets: Points, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`: a mean over the key points that are known, and over pixels."""
        known = targets.known
        if not bool(known.any()):
            return outputs.sum() * 0.0  # a mean over nothing is no number
        errors = (outputs - maps_of(targets, outputs.shape[2], outputs.shape[3])).square().mean((2, 3))
        return errors[known].mean()

    def mass(self, targets: Points, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: key points that are known."""
        return float(targets.known.sum())

    def sums(self, outputs: Tensor, targets: Points) -> Tensor:
        """Points that are found, points that are known, their distances, and those that the input's middle finds."""
        wanted, size, known = targets.places[..., :2].double(), targets.size.double(), targets.known
        found = points_of(outputs.double(), size), size.flip(1)[:, None] / 2
        off, middle = ((each - wanted).norm(dim=-1) / sizes_of(targets)[:, None] for each in found)
        hits, lucky = ((each[known] <= NEAR).sum().double() for each in (off, middle))
        return torch.stack([hits, known.sum().double(), off[known].sum(), lucky])

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        count = max(1.0, float(sums[1]))
        return float(sums[0]) / count, float(sums[2]) / count

    def blind(self, sums: Tensor, table: Tensor | None) -> float:
        """Of the middle of the input for every point; others may do better."""
        return float(sums[3]) / max(1.0, float(sums[1]))

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`: the squared error to the teacher's maps."""
        require_same_shape(outputs, wanted)
        return nn.functional.mse_loss(outputs, wanted)


def maps_of(targets: Points, height: int, width: int) -> Tensor:
    """The wanted maps, 1 at each key point, float32 [N, K, height, width].

    Args:
        targets: The key points.
        height: Of the maps.
        width: Likewise.
    """
    rows, columns = (torch.arange(size, device=targets.places.device) + 0.5 for size in (height, width))
    scale = targets.places.new_tensor([height, width]) / targets.size
    x = targets.places[..., 0] * scale[:, 1:]
    y = targets.places[..., 1] * scale[:, :1]
    spread = max(_LEAST_SPREAD, _SPREAD * max(height, width))
    across = torch.exp(-(columns - x[..., None]).square() / (2 * spread**2))
    down = torch.exp(-(rows - y[..., None]).square() / (2 * spread**2))
    return down[..., :, None] * across[..., None, :]


def points_of(maps: Tensor, size: Tensor) -> Tensor:
    """Where each map is highest, x and y in the input, [N, K, 2]; see `edgespa.device.runner.points` for a device.

    Args:
        maps: [N, K, h, w].
        size: Height and width of the input, [N, 2].
    """
    height, width = maps.shape[2:]
    best = maps.flatten(2).argmax(2)
    row, column = best // width, best % width

    def quarter(at: Tensor, last: int, step: int) -> Tensor:
        inside = (at > 0) & (at < last)
        both = [maps.flatten(2).gather(2, (best + way * inside * step)[..., None])[..., 0] for way in (1, -1)]
        return torch.where(inside, 0.25 * torch.sign(both[0] - both[1]), 0.0)

    x = column + 0.5 + quarter(column, width - 1, 1)
    y = row + 0.5 + quarter(row, height - 1, width)
    scale = size / size.new_tensor([height, width])
    return torch.stack([x * scale[:, 1:], y * scale[:, :1]], -1)


def sizes_of(targets: Points) -> Tensor:
    """How large each thing is, in pixels of the input, float64 [N]; see `Heatmaps`."""
    places, known = targets.places[..., :2].double(), targets.known[..., None]
    highest = places.masked_fill(~known, -torch.inf).amax(1)
    lowest = places.masked_fill(~known, torch.inf).amin(1)
    longest = (highest - lowest).amax(1)
    return torch.where(longest > 0, longest, targets.size.double().amax(1))
