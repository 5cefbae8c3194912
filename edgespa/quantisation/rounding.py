"""Weights on the int8 grid, rounded so that what a layer gives changes least, not the weights themselves: pure.

With X the inputs of a layer and e the error of one output channel's weights, the outputs are off by e'X'Xe in all. To
the nearest level, each weight is rounded for itself. Here the *Gram matrix* G = X'X decides:

- `compensated`: columns one after the other; the error of each is spread over those still to come by the inverse of G
  (Frantar and Alistarh 2022, "Optimal Brain Compression", arXiv 2208.11580, equation 3; in one order for all rows and
  by a Cholesky factor as in Frantar et al. 2022, "GPTQ", arXiv 2210.17323, section 3.2). Deviations: columns go by
  falling G_ii, as in that paper's published programs; the largest weight of a row stays what it is, because the scale
  of a row is read off it by those who write files.
- `exhausted`: of kernels with few taps, as depthwise ones, the best of all ways to round each up or down.
- `descended`: from either, single levels up or down while that helps.

Levels are int8 in -127..127, a scale for each output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
MOST_TAPS = 9
"""Of a kernel all of whose roundings are tried: 512 of them."""
MOST_COLUMNS = 6144
"""Of a layer that is compensated: the Gram matrix of more is hundreds of megabytes."""
_DAMPING = 0.01
_BLOCK = 128
_AT_ONCE = 1 << 22


def scales(rows: Tensor) -> Tensor:
    """What one level is worth, for each row: the largest weight is the last level.

    Args:
        rows: Weights [..., R, K].

    Returns:
        [..., R, 1], above zero.
    """
    return (rows.abs().amax(-1, keepdim=True) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)


def nearest(rows: Tensor) -> Tensor:
    """Each weight to its nearest level.

    Args:
        rows: Weights [..., R, K].
    """
    return (rows / scales(rows)).round().clamp(-LEVELS, LEVELS)


def rounded(rows: Tensor, gram: Tensor) -> Tensor:
    """The best there is for a layer of that size.

    Args:
        rows: Weights [G, R, K]: groups, output channels of each, what one is made of.
        gram: X'X of each group's inputs [G, K, K].

    Returns:
        Levels of that shape.
    """
    columns = rows.shape[-1]
    if columns > MOST_COLUMNS:
        return nearest(rows)
    if columns <= MOST_TAPS:
        return descended(exhausted(rows, gram), rows, gram)
    found = compensated(rows, gram)
    return descended(found, rows, gram) if columns <= _BLOCK else found


def steadied(gram: Tensor, count: int) -> Tensor:
    """A Gram matrix as more rows would have made it: drawn to its diagonal, by as much as so few rows are chance.

    Oracle approximating shrinkage (Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", equation
    23) of the matrix with its diagonal scaled to ones; moments are about zero, as those of a layer's outputs are.

    Args:
        gram: [G, K, K].
        count: Of the rows that it was made of.
    """
    columns = gram.shape[-1]
    sizes = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
    square = (gram / sizes[:, None] / sizes[..., None]).square().sum((1, 2))
    few = 2 / columns
    chance = ((1 - few) * square + columns**2) / ((count + 1 - few) * (square - columns).clamp(min=1e-9))
    share = chance.clamp(0, 1)[:, None, None]
    return gram * (1 - share) + torch.diag_embed(gram.diagonal(dim1=1, dim2=2)) * share


def lost(levels: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
    """By how much outputs are off: e'Ge of each row.

    Args:
        levels: [G, R, K].
        rows: Weights of that shape.
        gram: [G, K, K].
    """
    error = (levels * scales(rows) - rows).double()
    return ((error @ gram.double()) * error).sum(-1)


def compensated(rows: Tensor, gram: Tensor) -> Tensor:
    """Columns one after the other, the error of each spread over the others.

    Args:
        rows: Weights [G, R, K].
        gram: [G, K, K].

    Returns:
        Levels of that shape.
    """
    groups, _, columns = rows.shape
    scale, pinned = scales(rows), _pinned(rows)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(1, descending=True)
    left = _ordered(rows.double(), order)
    firm = _ordered(pinned, order)
    factor = _inverse_factor(gram, order)
    levels = torch.zeros_like(left)
    for begin in range(0, columns, _BLOCK):
        end = min(begin + _BLOCK, columns)
        errors = torch.zeros_like(left[..., begin:end])
        for column in range(begin, end):
            weight = left[..., column]
            level = (weight / scale[..., 0]).round().clamp(-LEVELS, LEVELS)
            level = torch.where(firm[..., column] != 0, firm[..., column].to(level), level)
            levels[..., column] = level
            error = (weight - level * scale[..., 0]) / factor[:, column, column, None]
            left[..., column:end] -= error[..., None] * factor[:, column, None, column:end]
            errors[..., column - begin] = error
        left[..., end:] -= errors @ factor[:, begin:end, end:]
    back = torch.empty_like(order).scatter_(1, order, torch.arange(columns).expand(groups, -1).contiguous())
    return _ordered(levels, back).to(rows.dtype)


def exhausted(rows: Tensor, gram: Tensor) -> Tensor:
    """Of all ways to round each weight of a row up or down, the one whose outputs are off least.

    Args:
        rows: Weights [G, R, K], K at most `MOST_TAPS`.
        gram: [G, K, K].

    Returns:
        Levels of that shape.
    """
    columns = rows.shape[-1]
    exact = rows / scales(rows)
    pinned = _pinned(rows)
    low = torch.where(pinned != 0, pinned.to(exact), exact.floor().clamp(-LEVELS, LEVELS))
    ways = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * columns).reshape(-1, columns)
    result = torch.empty_like(rows)
    step = max(1, _AT_ONCE // (len(ways) * columns * rows.shape[1]))
    for begin in range(0, len(rows), step):
        own = slice(begin, begin + step)
        # [G, R, ways, K]; a level that is firm is no better up
        tried = (low[own, :, None] + ways * (pinned[own, :, None] == 0)).clamp(-LEVELS, LEVELS)
        error = tried - exact[own, :, None]
        cost = ((error @ gram[own, None].to(error)) * error).sum(-1)
        best = cost.argmin(-1)[..., None, None].expand(-1, -1, 1, columns)
        result[own] = tried.gather(2, best)[:, :, 0]
    return result


def descended(levels: Tensor, rows: Tensor, gram: Tensor) -> Tensor:
    """Single levels one up or one down, in each row the best, while the outputs come nearer.

    Args:
        levels: To begin with [G, R, K].
        rows: Weights of that shape.
        gram: [G, K, K].
    """
    exact, pinned = (rows / scales(rows)).double(), _pinned(rows)
    gram = gram.double()
    levels = levels.double().clone()
    diagonal = gram.diagonal(dim1=1, dim2=2)[:, None]
    for _ in range(2 * rows.shape[-1]):
        slope = (levels - exact) @ gram
        gains = torch.stack([2 * slope + diagonal, diagonal - 2 * slope])  # up, down
        barred = pinned != 0
        gains[0].masked_fill_(barred | (levels >= LEVELS), torch.inf)
        gains[1].masked_fill_(barred | (levels <= -LEVELS), torch.inf)
        gain, place = gains.permute(1, 2, 0, 3).flatten(2).min(-1)  # the place: up's columns, then down's
        better = gain < -1e-9 * diagonal.amax(-1)
        if not better.any():
            break
        columns = rows.shape[-1]
        step = torch.where(place < columns, 1.0, -1.0).double() * better
        levels.scatter_add_(-1, (place % columns)[..., None], step[..., None])
    return levels.to(rows.dtype)


def _pinned(rows: Tensor) -> Tensor:
    """The level of each row's largest weight, which has to stay; zero elsewhere."""
    place = rows.abs().argmax(-1, keepdim=True)
    firm = torch.zeros_like(rows)
    return firm.scatter_(-1, place, rows.gather(-1, place).sign() * LEVELS)


def _ordered(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(-1, order[:, None].expand(-1, values.shape[1], -1))


def _inverse_factor(gram: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped Gram matrix' inverse, its columns in that order."""
    columns = order.shape[1]
    turned = gram.double().gather(1, order[..., None].expand(-1, -1, columns))
    turned = turned.gather(2, order[:, None].expand(-1, columns, -1))
    diagonal = turned.diagonal(dim1=1, dim2=2)
    turned.diagonal(dim1=1, dim2=2).add_(_DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(turned))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
