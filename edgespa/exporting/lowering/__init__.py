"""Rewrites of a program that converters need: the same function, written so that little is left to convert."""

from edgespa.exporting.lowering.attention import with_heads
from edgespa.exporting.lowering.layout import channels_last
from edgespa.exporting.lowering.norms import without_batch_norms
from edgespa.exporting.lowering.pixels import FromPixels, pixels_of
from edgespa.exporting.lowering.pooling import plain_pooling
from edgespa.exporting.lowering.projections import plain_projections
from edgespa.exporting.lowering.repeats import plain_repeats
from edgespa.exporting.lowering.resizing import plain_resizing
from edgespa.exporting.lowering.strides import plain_strides
from edgespa.exporting.lowering.upsampling import plain_upsampling
from edgespa.exporting.lowering.windows import plain_windows

__all__ = [
    "FromPixels",
    "channels_last",
    "pixels_of",
    "plain_pooling",
    "plain_projections",
    "plain_repeats",
    "plain_resizing",
    "plain_strides",
    "plain_upsampling",
    "plain_windows",
    "with_heads",
    "without_batch_norms",
]
