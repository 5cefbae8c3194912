"""A picture for a picture: Charbonnier's loss; PSNR and structural similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgespa.errors import DataError
from edgespa.objectives.base import Objective, first_tensor, require_same_shape, shapes_of
from edgespa.objectives.measures import PSNR, SSIM

if TYPE_CHECKING:
    from edgespa.data import Prepared

EPSILON = 1e-3
MOST_DB = 100.0
"""Of a picture that is right to the last bit the ratio is infinite; it counts as so much."""
_WINDOW, _SPREAD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_GREY = 0.5


class Image(Objective):
    """Outputs ``[N, C, h, w]``, of several tensors the first; targets of the same shape, nan where nobody knows.

    Numbers of targets go from 0 to 1 (see `edgespa.data.pictures`), and so should the network's. The loss is
    ``sqrt((x - y)^2 + e^2)`` with e = 1e-3, a mean over the numbers that are known (Lai et al. 2018, "Fast and Accurate
    Image Super-Resolution with Deep Laplacian Pyramid Networks", section 3.3). Outputs are measured as they are: they
    are not cut off at 0 and 1.

    PSNR is ``10 log10(1 / mean squared error)`` of each picture, at most `MOST_DB`, and SSIM the mean of Wang et al.
    2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", equation 13, over windows of
    11 x 11 with a Gaussian of 1.5 pixels that lie inside of the picture, channel by channel (the paper has grey
    pictures; smaller ones have the largest odd window that they hold). Windows with a number that nobody knows are left
    out. Both are means over pictures.
    """

    name = "image"
    answers = "images"
    measures = (PSNR, SSIM)

    def take(self, output: Any, data: Prepared | None = None, *, own: bool = False) -> Tensor:
        """See `Objective.take`: ``[N, C, h, w]``."""
        made = first_tensor(output)
        wanted = None if data is None else data.targets.shape
        if data is None or wanted is None or tuple(made.shape[1:]) == tuple(wanted):
            return made
        raise DataError(
            f"the network gives {shapes_of(output)}, and the pictures that {data.name} wants are "
            f"[N, {', '.join(map(str, wanted))}] at this input",
            "give a network whose output is as large as what is wanted for its input",
        )

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """See `Objective.loss`: a mean over numbers."""
        known = ~targets.isnan()
        if not bool(known.any()):
            return outputs.sum() * 0.0  # a mean over nothing is no number
        off = outputs[known] - targets[known]
        return (off.square() + EPSILON**2).sqrt().mean()

    def mass(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """See `Objective.mass`: numbers that are known."""
        return float((~targets.isnan()).sum())

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """PSNR, SSIM, pictures of each, and the PSNR of grey."""
        known = ~targets.isnan()
        some, wanted = known.any(3).any(2).any(1), targets.nan_to_num().double()
        made = outputs.double()
        ratios, of_grey = (_ratio(each, wanted, known)[some].sum() for each in (made, torch.full_like(wanted, _GREY)))
        alike, counted = similarity(made, wanted, known)
        return torch.stack([ratios, some.sum().double(), alike[counted].sum(), counted.sum().double(), of_grey])

    def values(self, sums: Tensor, table: Tensor | None) -> tuple[float, ...]:
        """See `Objective.values`."""
        return float(sums[0] / sums[1].clamp(min=1)), float(sums[2] / sums[3].clamp(min=1))

    def blind(self, sums: Tensor, table: Tensor | None) -> float:
        """Of grey; others may do better."""
        return float(sums[4] / sums[1].clamp(min=1))

    def distance(self, outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """See `Objective.distance`: the mean absolute difference."""
        require_same_shape(outputs, wanted)
        return nn.functional.l1_loss(outputs, wanted)


def _ratio(made: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Peak signal to noise of each picture in dB, [N]."""
    squares = torch.where(known, (made - wanted).square(), 0.0).sum((1, 2, 3))
    return (-10 * (squares / known.sum((1, 2, 3)).clamp(min=1)).log10()).clamp(max=MOST_DB)


def similarity(made: Tensor, wanted: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean structural similarity of each picture, [N], and of which there is one; see `Image`.

    Args:
        made: float64 [N, C, h, w].
        wanted: The same; any number where nothing is known.
        known: bool of that shape.
    """
    size = min(_WINDOW, *made.shape[2:])
    size -= 1 - size % 2
    places = torch.arange(size, dtype=made.dtype, device=made.device) - size // 2
    line = torch.exp(-places.square() / (2 * _SPREAD**2))
    line = line / line.sum()

    def mean(values: Tensor) -> Tensor:
        flat = values.flatten(0, 1)[:, None]
        flat = nn.functional.conv2d(nn.functional.conv2d(flat, line[None, None, :, None]), line[None, None, None])
        return flat.reshape(*values.shape[:2], *flat.shape[2:])

    one, other = mean(made), mean(wanted)
    spread_one, spread_other = mean(made.square()) - one.square(), mean(wanted.square()) - other.square()
    both = mean(made * wanted) - one * other
    alike = (2 * one * other + _C1) * (2 * both + _C2)
    alike = alike / ((one.square() + other.square() + _C1) * (spread_one + spread_other + _C2))
    whole = mean(known.to(made.dtype)) > 1 - 1e-9
    count = whole.sum((1, 2, 3))
    return torch.where(whole, alike, 0.0).sum((1, 2, 3)) / count.clamp(min=1), count > 0
