"""Whether the images of data sets can be used, told of all of them at once and before anything long begins.

Decoding every image may take as long as an epoch. So headers are read, and whether a file ends as files of its kind do:
one that was cut off does not. Only what may be damaged by that is decoded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from PIL import Image

from edgespa.data.images import ImageData
from edgespa.data.source import LeftOut, UnusableError
from edgespa.errors import DataError
from edgespa.pixels.picture import refuse_deep

log = logging.getLogger(__name__)

SHOWN = 5
_WORKERS = 4
_CHUNK = 256
_ALL = 20_000
"""So many images are decoded to tell all that cannot be used, once one is found."""
_TAIL = 64
Progress = Callable[[float, float | None, str], None]


def looks_whole(stream: BinaryIO) -> bool:
    """Whether an image file has a header that can be used, and an end; False: it has to be decoded to say.

    Args:
        stream: The file, from its beginning.
    """
    try:
        with Image.open(stream) as image:
            refuse_deep(image)
            kind = image.format
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = stream.read()
        if kind in ("WEBP", "BMP"):
            stream.seek(0)
            head = stream.read(8)
            told = int.from_bytes(head[2:6] if kind == "BMP" else head[4:8], "little")
            return 0 < told <= (size if kind == "BMP" else size - 8)
    except Exception:  # what Pillow raises is told when the image is decoded
        return False
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
    return kind in ends and ends[str(kind)] in tail


def require_whole(sets: Mapping[str, ImageData], progress: Progress | None = None) -> None:
    """Refuse data sets with images that cannot be used.

    Args:
        sets: By the option that names them.
        progress: Told ``(done, total, text)``.

    Raises:
        DataError: How many there are, and the first of each set.
    """
    total = sum(map(len, sets.values()))

    def look(whole: bool) -> dict[str, list[str]]:
        done, every = 0, {}
        for option, data in sets.items():
            faults: list[str] = []
            first = done
            for found in _looked_at(data, whole):
                places = range(done - first, done - first + len(found))
                faults += [below(data, at, why) for at, why in zip(places, found, strict=True) if why is not None]
                done += len(found)
                if progress is not None:
                    progress(done, total, f"{'decode' if whole else 'look at'} the images of {option}")
            if faults:
                every[option] = faults
        return every

    found = look(whole=False)
    if found and total <= _ALL:  # they have to be repaired anyway: so all of them are told
        found = look(whole=True)
    if found:
        told = [summary(f"{option} {sets[option].name}", faults, len(sets[option])) for option, faults in found.items()]
        raise DataError(
            "; ".join(told),
            "replace or delete these files, or leave them out: --skip-bad-files; with -v all of them are listed, and "
            "by: edgespa data",
        )


def below(data: ImageData, index: int, fault: str) -> str:
    """What is the matter with an image, its file named by its path below the data set's.

    Args:
        data: The images.
        index: Position in them.
        fault: As it is told, with the whole path.
    """
    name = data.file(index)
    before, found, rest = fault.partition(name)
    return f"{name}{rest}" if found and before.endswith("/") else fault


def usable(data: ImageData) -> ImageData:
    """The images that can be used, each of which is decoded for it; what was left out is told.

    Raises:
        DataError: There are none.
    """
    faults = [fault for found in _looked_at(data, whole=True) for fault in found]
    bad = [below(data, index, fault) for index, fault in enumerate(faults) if fault is not None]
    if not bad:
        return data
    told = summary(data.name, bad, len(data))
    if len(bad) == len(data):
        raise DataError(told, "give other data")
    log.warning("%s; left out", told)
    rest = data.subset([index for index, fault in enumerate(faults) if fault is None])
    pairs = [(data.file(index), fault) for index, fault in enumerate(faults) if fault is not None]
    return rest.without([LeftOut(*pair) for pair in pairs])


def with_images(error: UnusableError, read: Callable[[], ImageData]) -> DataError:
    """The same error, and with it the other images of the data that cannot be used: whoever repairs them sees all.

    Args:
        error: What is wrong with masks, boxes or pairs.
        read: The data without those.
    """
    logger = logging.getLogger("edgespa.data")
    before = logger.level
    logger.setLevel(logging.ERROR)  # nothing is left out here: it is refused
    try:
        rest = read()
        found = [fault for chunk in _looked_at(rest, whole=len(rest) <= _ALL) for fault in chunk]
    except DataError:
        return error
    finally:
        logger.setLevel(before)
    bad = [below(rest, index, fault) for index, fault in enumerate(found) if fault is not None]
    if not bad:
        return error
    faults = [*(each.why for each in rest.left_out), *bad]
    hint = f"{error.hint}; damaged images: replace or delete them; all are listed with -v, and by: edgespa data"
    return DataError(summary(rest.name, faults, len(rest) + len(rest.left_out)), hint)


def _looked_at(data: ImageData, whole: bool = False) -> Iterator[list[str | None]]:
    """What is the matter with each image, some at a time; nothing where they are no files.

    Args:
        data: The images.
        whole: Decode each: some damage shows in no header and no end.
    """
    if not data.in_files:
        return

    def fault(index: int) -> str | None:
        found = data.fault(index)
        if found is None and whole:
            try:
                data.image(index)
            except DataError as error:
                return error.message
        return found

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="edgespa-look") as pool:
        chunks = [range(start, min(start + _CHUNK, len(data))) for start in range(0, len(data), _CHUNK)]
        yield from pool.map(lambda chunk: [fault(index) for index in chunk], chunks)


def summary(name: str, faults: Sequence[str], count: int) -> str:
    """What is the matter with some images of a data set; all of it goes to the log.

    Args:
        name: Of the data set.
        faults: A sentence for each image that cannot be used.
        count: Images of the data set.
    """
    for fault in faults:
        log.info("%s", fault)
    more = f", and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    cannot = "image cannot" if len(faults) == 1 else "images cannot"
    return f"{name}: {len(faults):,} of {count:,} {cannot} be used: {'; '.join(faults[:SHOWN])}{more}"
