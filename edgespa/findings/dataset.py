"""The health of a data set: what is in it, what cannot be used, what is there twice, what may mislead a training.

It is what ``edgespa data`` gives and ``--output`` writes; docs/reference/findings.md describes each field.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgespa.config import Strict
from edgespa.findings.evaluation import Number, Text
from edgespa.findings.stored import MAX_FILES, MOST_CLASSES, Finding
from edgespa.system.bounds import Count

Files = Annotated[tuple[Text, ...], Field(max_length=MAX_FILES)]


class Spread(Strict):
    """How something varies over images.

    Attributes:
        least: The smallest.
        median: The one in the middle.
        most: The largest.
    """

    least: Number
    median: Number
    most: Number


class ImagesOfClass(Strict):
    """One class.

    Attributes:
        name: Of it.
        images: That have it: all of them, or those with an object or a pixel of it.
        objects: Boxes of it; None where there are none.
        pixels: Of all masks that have it; None where there are none.
    """

    name: Text
    images: Count
    objects: Count | None = None
    pixels: Count | None = None


class Size(Strict):
    """A size that images have.

    Attributes:
        width: In pixels, as the image is seen.
        height: Likewise.
        images: That have it.
    """

    width: Count
    height: Count
    images: Count


class Unusable(Strict):
    """A file that cannot be used.

    Attributes:
        file: Its path below the data set's.
        why: The reason.
    """

    file: Text
    why: Annotated[str, Field(max_length=2000)]


class Listed(Strict):
    """Images of some kind.

    Attributes:
        count: How many there are.
        files: Their names, of many the first.
    """

    count: Count = 0
    files: Files = ()


class Alike(Strict):
    """Images that are the same picture.

    Attributes:
        files: Their names, of many the first.
        count: How many there are.
        classes: The classes that they have, where those differ: all but one are wrong.
        exact: They are the same pixel by pixel; else nearly.
        sets: In which of the sets they lie, by their position: (0, 1) for training and evaluation data.
    """

    files: Files
    count: Count
    classes: Files = ()
    exact: bool
    sets: tuple[Annotated[int, Field(ge=0, le=1)], ...] = Field(default=(0,), max_length=2)


class Masks(Strict):
    """Of masks.

    Attributes:
        ignored: Share of all pixels that count nowhere, in [0, 1].
        all_ignored: Images of which no pixel counts.
    """

    ignored: Number
    all_ignored: Listed


class Boxes(Strict):
    """Of boxes.

    Attributes:
        objects: How many there are.
        ignored: Of them, those that count nowhere (difficult, crowds).
        empty: Images without an object.
        tiny: Images with a box of which less than ``tiny_pixels`` are seen in one direction.
        tiny_objects: Such boxes.
        tiny_pixels: In pixels of the model's input where that is known, else of the image.
    """

    objects: Count
    ignored: Count
    empty: Listed
    tiny: Listed
    tiny_objects: Count
    tiny_pixels: Number


class DataSet(Strict):
    """One data set.

    Attributes:
        name: Of it.
        kind: What is to be learned from it: the name of an objective; empty where nothing is known of the images.
        count: Images, those that cannot be used too.
        usable: Of them, those that can.
        classes: In the order of the outputs.
        unusable: Files that cannot be used, of many the first; each with its reason.
        no_images: Files in its folders that are no images, and are not looked at.
        width: In pixels, as images are seen; None where the samples are no images.
        height: Likewise.
        ratio: Width by height.
        sizes: The most frequent ones.
        sizes_count: How many different ones there are.
        formats: Images by the format of their file, such as JPEG; empty where they are no files.
        modes: Images by their channels: ``grey``, ``colour``, ``transparent``.
        turned: Images that are stored turned, by their EXIF orientation.
        grey: Of a set of colour images those without any.
        transparent: Images with parts that are transparent; those show a background.
        smaller: Images that are smaller than the model's input in a direction: they are enlarged.
        masks: Where there are masks.
        boxes: Where there are boxes.
    """

    name: Text
    kind: Text
    count: Count
    usable: Count
    classes: tuple[ImagesOfClass, ...] = Field(default=(), max_length=MOST_CLASSES)
    unusable: tuple[Unusable, ...] = Field(default=(), max_length=MAX_FILES)
    no_images: Listed = Listed()
    width: Spread | None = None
    height: Spread | None = None
    ratio: Spread | None = None
    sizes: tuple[Size, ...] = Field(default=(), max_length=100)
    sizes_count: Count = 0
    formats: dict[Annotated[str, Field(max_length=40)], Count] = Field(default={}, max_length=100)
    modes: dict[Annotated[str, Field(max_length=40)], Count] = Field(default={}, max_length=100)
    turned: Listed = Listed()
    grey: Listed = Listed()
    transparent: Listed = Listed()
    smaller: Listed = Listed()
    masks: Masks | None = None
    boxes: Boxes | None = None


class Remark(Strict):
    """Something that should be known.

    Attributes:
        level: ``error``: nothing can be done with such files; ``warning``: it may mislead; ``note``.
        text: What it is.
        hint: What to do; empty where that depends.
    """

    level: Literal["error", "warning", "note"]
    text: Annotated[str, Field(max_length=2000)]
    hint: Annotated[str, Field(max_length=2000)] = ""


class Health(Finding):
    """What was found out about data.

    Attributes:
        sets: The data, and test data where they were given.
        input_size: Height and width of the model's input, where they were given.
        alike: Groups of images that are the same picture, exact ones and those over both sets first.
        exact_copies: Images beyond the first of each group that is the same pixel by pixel.
        near_copies: Images beyond the first of each group that is nearly the same.
        shared: Test images that are the same picture, exactly or nearly, as one of the data.
        compared: Nearly the same pictures were looked for.
        remarks: What should be known, the gravest first.
    """

    FORMAT: ClassVar[str] = "edgespa data"
    format: Literal["edgespa data"] = "edgespa data"
    format_version: Literal[1] = 1
    sets: tuple[DataSet, ...] = Field(min_length=1, max_length=2)
    input_size: tuple[Count, Count] | None = None
    alike: tuple[Alike, ...] = Field(default=(), max_length=MAX_FILES)
    exact_copies: Count = 0
    near_copies: Count = 0
    shared: Count = 0
    compared: bool = True
    remarks: tuple[Remark, ...] = Field(default=(), max_length=100)
