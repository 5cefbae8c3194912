"""Task data: images with classes, from whatever they lie in, to normalised batches.

data = load_data("fashion:train").limit(1000)
rest, held_out = data.split(0.1)
for images, labels in prepare(rest, preprocess).batches(128, shuffle_seed=epoch): ...
"""

from edgespa.data.images import ImageData, Kind, Progress
from edgespa.data.load import load_data
from edgespa.data.numbering import Numbering, are_numbers, why_counts_differ
from edgespa.data.prepare import Augment, Prepared, fit_image, prepare
from edgespa.data.source import ImageSource
from edgespa.data.whole import require_whole, usable, with_images

__all__ = [
    "Augment",
    "ImageData",
    "ImageSource",
    "Kind",
    "Numbering",
    "Prepared",
    "Progress",
    "are_numbers",
    "fit_image",
    "load_data",
    "prepare",
    "require_whole",
    "usable",
    "why_counts_differ",
    "with_images",
]
