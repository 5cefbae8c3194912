"""Sizes of an input that a network's first layer cannot take: the batch left out, channels last, other channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

_DIMS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
_EXAMPLES = {1: (224,), 2: (224, 224), 3: (16, 112, 112)}
_CHANNELS = (1, 3, 4)


def misfit(model: nn.Module, shape: Sequence[int]) -> tuple[str, str] | None:
    """Why sizes cannot be those of the input, and which may be meant.

    Args:
        model: A network of one input, whose first layer is a convolution.
        shape: The sizes that were given.

    Returns:
        What the first convolution takes, and a hint; None where the sizes fit it, or there is none.
    """
    found = next(((name, each) for name, each in model.named_modules() if type(each) in _DIMS), None)
    if found is None:
        return None
    name, layer = found
    dims, channels = _DIMS[type(layer)], int(layer.in_channels)
    if len(shape) == dims + 2 and shape[1] == channels:
        return None
    takes = f"its first convolution ({name}) takes [N, {channels}, {_AXES[dims]}]"
    meant = _meant(tuple(shape), channels, dims)
    example = ",".join(map(str, meant or (1, channels, *_EXAMPLES[dims])))
    order = "batch, channels, then the size of the image" + (
        ", frames or depth first" if dims == max(_DIMS.values()) else ""
    )
    return takes, f"did you mean --input-shape {example}? ({order})" if meant else f"give {order}, as in {example}"


def _meant(shape: tuple[int, ...], channels: int, dims: int) -> tuple[int, ...] | None:
    """The sizes in the right order; None where that is a guess."""
    if len(shape) == dims + 1 and channels in (shape[0], shape[-1]):  # without a batch
        size = shape[1:] if shape[0] == channels else shape[:-1]
        return (1, channels, *size)
    if len(shape) == dims and dims > 1:
        return (1, channels, *shape)
    if len(shape) != dims + 2:
        return None
    if shape[-1] == channels or (shape[-1] in _CHANNELS and shape[1] not in _CHANNELS):  # channels last
        return (shape[0], channels, *shape[1:-1])
    return (shape[0], channels, *shape[2:])
