"""Scales that TFLite's kernels can work with: ranges that are wide enough, weights that leave room for their biases.

A bias is int32 on the scale of input times weights, and a layer's result is taken from that scale to that of its
output by a factor below 256. Both fail where an activation is zero for all images, as branches are that pruning has cut
down, or where a channel has next to no weights and a bias all the same. A bias that does not fit is cut off without a
word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgespa.exporting.tflite_graph import Operator
from edgespa.exporting.tflite_layers import with_layers
from edgespa.quantisation.ranges import Range

_MOST_BIAS = 2.0**30
_MOST_FACTOR = 128.0
_ACTIVATION_LEVELS, _WEIGHT_LEVELS = 255, 127
_TINY = float(np.finfo(np.float32).tiny) * 2.0**24
_FOR_NOTHING = (0.0, 1.0)


def widened(layers: Iterable[Operator], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges without those that nothing can be computed on.

    Args:
        layers: Those that are made int8, in their order.
        ranges: Of all activations. What is always zero gets any range; the output of a layer gets a wider one where the
            scale of its products is too large for it.
    """
    result = {
        name: (low, high) if _width((low, high)) > _TINY else _FOR_NOTHING for name, (low, high) in ranges.items()
    }
    for each in layers:
        assert each.weight is not None
        source, target = each.inputs[0], each.outputs[0]
        if source not in result or target not in result:
            continue
        step = _width(result[source]) / _ACTIVATION_LEVELS
        products = step * float(_scales(each, step).max())
        least = products * _ACTIVATION_LEVELS / _MOST_FACTOR
        if (width := _width(result[target])) < least:
            low, high = result[target]
            result[target] = (low * least / width, high * least / width)
    return result


def with_room(content: bytes, layers: Iterable[Operator], ranges: Mapping[str, Range]) -> bytes:
    """A float file whose quantised weights have scales that their biases fit on.

    Where one does not, the largest weight of that channel grows until it does: by so little that what it adds is below
    one part in 30,000 of the bias.

    Args:
        content: A float file.
        layers: Those that are made int8.
        ranges: Of their inputs.
    """
    wanted = {}
    for each in layers:
        step = _width(ranges[each.inputs[0]]) / _ACTIVATION_LEVELS if each.inputs[0] in ranges else 0.0
        assert each.weight is not None
        scales, own = _scales(each, step), _scales(each, 0.0)
        if step and (scales > own).any():
            wanted[each.scope] = partial(_grow, np.where(scales > own, scales * _WEIGHT_LEVELS, 0.0).astype(np.float32))
    return with_layers(content, wanted)


def _scales(layer: Operator, step: float) -> NDArray[np.float64]:
    """Of the weights of each output channel, for an input on a scale of ``step``; zero for the weights' own."""
    assert layer.weight is not None
    own: NDArray[np.float64] = np.abs(layer.weight).max(axis=1).astype(np.float64) / _WEIGHT_LEVELS
    if not step or layer.bias is None:
        return own
    return np.maximum(own, np.abs(layer.bias.ravel()) / (step * _MOST_BIAS))


def _width(ends: Range) -> float:
    """With zero in it, as quantisers take it."""
    return max(ends[1], 0.0) - min(ends[0], 0.0)


def _grow(least: NDArray[np.float32], rows: NDArray[np.float32], _: NDArray[np.float32] | None) -> None:
    for row, wanted in zip(rows, least, strict=True):
        place = np.unravel_index(int(np.abs(row).argmax()), row.shape)
        if abs(row[place]) < wanted:
            row[place] = -wanted if row[place] < 0 else wanted
