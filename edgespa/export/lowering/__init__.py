"""Rewrites of a program that converters need: the same function, written so that little is left to convert."""

from edgespa.export.lowering.attention import with_heads
from edgespa.export.lowering.layout import channels_last
from edgespa.export.lowering.norms import without_batch_norms
from edgespa.export.lowering.pixels import FromPixels, pixels_of
from edgespa.export.lowering.pooling import plain_pooling
from edgespa.export.lowering.repeats import plain_repeats
from edgespa.export.lowering.resizing import plain_resizing
from edgespa.export.lowering.upsampling import plain_upsampling
from edgespa.export.lowering.windows import plain_windows

__all__ = [
    "FromPixels",
    "channels_last",
    "pixels_of",
    "plain_pooling",
    "plain_repeats",
    "plain_resizing",
    "plain_upsampling",
    "plain_windows",
    "with_heads",
    "without_batch_norms",
]
