"""Looking at all of a data set: every image is decoded once, and what is seen becomes `edgespa.findings.dataset`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgespa.data.alike import Looks, alike, look_of
from edgespa.data.answers import IGNORED, MaskAnswers
from edgespa.data.balance import imbalance
from edgespa.data.boxes import BoxAnswers
from edgespa.data.images import ImageData
from edgespa.errors import DataError
from edgespa.findings.dataset import (
    Alike,
    Boxes,
    DataSet,
    Health,
    ImagesOfClass,
    Listed,
    Masks,
    Remark,
    Size,
    Spread,
    Unusable,
)
from edgespa.findings.stored import MAX_FILES, file_name

MOST_COMPARED = 250_000
"""Of more images no nearly equal ones are looked for: each takes a kilobyte of memory."""
_WORKERS, _CHUNK = 4, 64
_SIZES = 20
_LISTED = 200
_TINY = 4.0
"""Pixels of the model's input that an object needs in each direction; of an image, where no input is known."""
_FEW = 10
Progress = Callable[[float, float | None, str], None]


@dataclass(frozen=True)
class Seen:
    """What one image shows.

    Attributes:
        size: Height and width.
        channels: ``grey``, ``colour`` or ``transparent``.
        format: Of its file.
        turned: It is stored turned.
        grey: It has no colours.
        digest: Of all pixels.
        look: Its hash and small picture.
    """

    size: tuple[int, int]
    channels: str
    format: str
    turned: bool
    grey: bool
    digest: bytes
    look: tuple[int, NDArray[np.uint8]]


@dataclass(frozen=True)
class Looked:
    """A data set, looked at.

    Attributes:
        data: It.
        seen: Of each image what it shows, or why it cannot be used; empty where the samples are no images.
    """

    data: ImageData
    seen: Sequence[Seen | str]

    @property
    def usable(self) -> list[tuple[int, Seen]]:
        """Positions and what is seen there."""
        return [(place, each) for place, each in enumerate(self.seen) if isinstance(each, Seen)]


def health_of(
    sets: Sequence[ImageData], input_size: tuple[int, int] | None = None, progress: Progress | None = None
) -> Health:
    """Look at one or two data sets.

    Args:
        sets: The data, and test data.
        input_size: Height and width of the model's input.
        progress: Told ``(done, total, text)``.
    """
    looked, done = [], 0
    total = sum(map(len, sets))
    for data in sets:
        looked.append(_looked(data, progress, done, total))
        done += len(data)
    groups, exact, near, shared, compared = _alike(looked)
    made = tuple(_data_set(each, input_size) for each in looked)
    listed = tuple(groups[:MAX_FILES])
    remarks = tuple(_remarks(made, groups, exact, near, shared, compared, input_size))
    return Health(
        sets=made,
        input_size=input_size,
        alike=listed,
        exact_copies=exact,
        near_copies=near,
        shared=shared,
        compared=compared,
        remarks=tuple(sorted(remarks, key=lambda each: ("error", "warning", "note").index(each.level)))[:100],
    )


def _looked(data: ImageData, progress: Progress | None, done: int, total: int) -> Looked:
    if data.preprocessed:
        return Looked(data, [])
    seen: list[Seen | str] = []
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="edgespa-health") as pool:
        chunks = [range(start, min(start + _CHUNK, len(data))) for start in range(0, len(data), _CHUNK)]
        for part in pool.map(lambda chunk: [_see(data, index) for index in chunk], chunks):
            seen += part
            if progress is not None:
                progress(done + len(seen), total, f"look at {data.name}")
    return Looked(data, seen)


def _see(data: ImageData, index: int) -> Seen | str:
    try:
        found = data.examined(index)
    except DataError as error:
        return error.message
    pixels = found.pixels
    grey = pixels.shape[2] == 1 or bool(
        (pixels[:, :, 0] == pixels[:, :, 1]).all() and (pixels[:, :, 1] == pixels[:, :, 2]).all()
    )
    seen_through = pixels.shape[2] == 4 and bool((pixels[:, :, 3] < 255).any())
    content = hashlib.blake2b(f"{pixels.shape}".encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return Seen(
        size=(pixels.shape[0], pixels.shape[1]),
        channels="transparent" if seen_through else "grey" if pixels.shape[2] == 1 else "colour",
        format=found.format,
        turned=found.turned,
        grey=grey,
        digest=content.digest(),
        look=look_of(pixels),
    )


def _alike(looked: Sequence[Looked]) -> tuple[list[Alike], int, int, int, bool]:
    """Groups of equal pictures, copies that are exact, copies that are nearly so, test images that are shared."""
    places = [(index, place, seen) for index, each in enumerate(looked) for place, seen in each.usable]
    if not places:
        return [], 0, 0, 0, True
    compared = len(places) <= MOST_COMPARED
    seen = [each for _, _, each in places]
    looks = Looks(
        np.array([each.look[0] for each in seen], np.uint64),
        np.stack([each.look[1] for each in seen]) if compared else np.zeros((0, 1, 1, 3), np.uint8),
        [each.digest for each in seen],
    )
    exact, near = alike(looks, near=compared)
    in_near = {place for group in near for place in group}
    chosen = [(group, True) for group in exact if group[0] not in in_near] + [(group, False) for group in near]
    groups, shared = [], set()
    for group, is_exact in chosen:
        members = [places[place] for place in group]
        sets = tuple(sorted({index for index, _, _ in members}))
        if len(sets) > 1:
            shared |= {place for place in group if places[place][0] == 1}
        groups.append(
            Alike(
                files=tuple(_name(looked, index, place) for index, place, _ in members[:_SIZES]),
                count=len(members),
                classes=_classes(looked, members),
                exact=is_exact,
                sets=sets,
            )
        )
    groups.sort(key=lambda each: (len(each.sets) < 2, not each.classes, not each.exact, -each.count))
    beyond = len(looks.digests) - len(set(looks.digests))
    distinct = sum(len({looks.digests[place] for place in group}) - 1 for group in near)
    return groups, beyond, distinct, len(shared), compared


def _name(looked: Sequence[Looked], index: int, place: int) -> str:
    data = looked[index].data
    name = data.file(place)
    return file_name(f"{data.name.partition(', ')[0]}: {name}" if len(looked) > 1 else name)


def _classes(looked: Sequence[Looked], members: Sequence[tuple[int, int, Seen]]) -> tuple[str, ...]:
    """The classes of a group, where they differ."""
    names = set()
    for index, place, _ in members:
        data = looked[index].data
        if not data.labelled:
            return ()
        names.add(data.classes[int(data.labels[place])])
    return tuple(sorted(map(file_name, names)))[:MAX_FILES] if len(names) > 1 else ()


def _data_set(looked: Looked, input_size: tuple[int, int] | None) -> DataSet:
    data, usable = looked.data, looked.usable
    bad = [(data.file(place), each) for place, each in enumerate(looked.seen) if isinstance(each, str)]
    bad += [(each.file, each.why) for each in data.left_out]
    heights = np.array([each.size[0] for _, each in usable], np.float64)
    widths = np.array([each.size[1] for _, each in usable], np.float64)
    sizes = Counter(each.size for _, each in usable)
    modes = Counter(each.channels for _, each in usable)
    colourful = bool(usable) and sum(not each.grey for _, each in usable) > len(usable) // 2

    def listed(chosen: Callable[[Seen], bool]) -> Listed:
        return _listed(data, (place for place, each in usable if chosen(each)))

    def too_small(each: Seen) -> bool:
        return input_size is not None and (each.size[0] < input_size[0] or each.size[1] < input_size[1])

    count = len(data) + len(data.left_out)
    return DataSet(
        name=file_name(data.name),
        kind=data.kind if data.answered else "",
        count=count,
        usable=count - len(bad),
        classes=tuple(_of_classes(data)),
        unusable=tuple(Unusable(file=file_name(file), why=why[:_WORDS]) for file, why in bad[:MAX_FILES]),
        no_images=Listed(count=len(data.no_images), files=tuple(map(file_name, data.no_images[:_LISTED]))),
        width=_spread(widths),
        height=_spread(heights),
        ratio=_spread(widths / heights) if len(widths) else None,
        sizes=tuple(Size(width=w, height=h, images=n) for (h, w), n in sizes.most_common(_SIZES)),
        sizes_count=len(sizes),
        formats=dict(Counter(each.format for _, each in usable if each.format).most_common(100)),
        modes=dict(modes.most_common()),
        turned=listed(lambda each: each.turned),
        grey=listed(lambda each: each.grey) if colourful else Listed(),
        transparent=listed(lambda each: each.channels == "transparent"),
        smaller=listed(too_small),
        masks=_masks(data),
        boxes=_boxes(data, input_size),
    )


_WORDS = 2000


def _spread(values: NDArray[np.float64]) -> Spread | None:
    if not len(values):
        return None
    return Spread(least=float(values.min()), median=float(np.median(values)), most=float(values.max()))


def _listed(data: ImageData, places: Iterator[int]) -> Listed:
    chosen = list(places)
    return Listed(count=len(chosen), files=tuple(file_name(data.file(place)) for place in chosen[:_LISTED]))


def _of_classes(data: ImageData) -> Iterator[ImagesOfClass]:
    names = list(map(file_name, data.classes))
    if data.labelled:
        counts = np.bincount(data.labels, minlength=len(names))
        for name, count in zip(names, counts.tolist(), strict=True):
            yield ImagesOfClass(name=name, images=count)
    elif isinstance(data.answers, MaskAnswers):
        counts = data.answers.counts[data.positions][:, : len(names)]
        for index, name in enumerate(names):
            own = counts[:, index]
            yield ImagesOfClass(name=name, images=int((own > 0).sum()), pixels=int(own.sum()))
    elif isinstance(data.answers, BoxAnswers):
        labels = [data.answer(place).objects.labels.numpy() for place in range(len(data))]
        for index, name in enumerate(names):
            own = np.array([int((each == index).sum()) for each in labels])
            yield ImagesOfClass(name=name, images=int((own > 0).sum()), objects=int(own.sum()))
    elif data.kind == "multi-label" and data.targets is not None:
        for name, count in zip(names, (data.targets > 0.5).sum(0).tolist(), strict=True):
            yield ImagesOfClass(name=name, images=int(count))


def _masks(data: ImageData) -> Masks | None:
    if not isinstance(data.answers, MaskAnswers):
        return None
    counts = data.answers.counts[data.positions]
    known = counts.sum(1) - counts[:, IGNORED]
    return Masks(
        ignored=float(counts[:, IGNORED].sum() / max(1, counts.sum())),
        all_ignored=_listed(data, iter(np.flatnonzero(known == 0).tolist())),
    )


def _boxes(data: ImageData, input_size: tuple[int, int] | None) -> Boxes | None:
    if not isinstance(data.answers, BoxAnswers):
        return None
    empty, with_tiny, tiny, ignored, objects = [], [], 0, 0, 0
    for place in range(len(data)):
        drawn = data.answer(place)
        objects += len(drawn.objects)
        ignored += int(drawn.objects.ignored.sum())
        if not len(drawn.objects):
            empty.append(place)
            continue
        sides = (drawn.objects.boxes[:, 2:] - drawn.objects.boxes[:, :2]).numpy()
        if input_size is not None:  # as a whole, so at least as small as it becomes
            sides = sides * np.array([input_size[1] / drawn.size[1], input_size[0] / drawn.size[0]])
        small = int((sides < _TINY).any(1).sum())
        tiny += small
        if small:
            with_tiny.append(place)
    return Boxes(
        objects=objects,
        ignored=ignored,
        empty=_listed(data, iter(empty)),
        tiny=_listed(data, iter(with_tiny)),
        tiny_objects=tiny,
        tiny_pixels=_TINY,
    )


def _remarks(
    sets: Sequence[DataSet],
    groups: Sequence[Alike],
    exact: int,
    near: int,
    shared: int,
    compared: bool,
    input_size: tuple[int, int] | None,
) -> Iterator[Remark]:
    if shared:
        share = shared / max(1, sets[1].usable)
        yield Remark(
            level="warning",
            text=f"{shared:,} images of {sets[1].name} ({share:.1%}) are pictures of {sets[0].name}, too",
            hint="leave them out of one of the two: what is measured on known pictures says less about new ones",
        )
    conflicts = [each for each in groups if each.classes]
    if conflicts:
        first = conflicts[0]
        yield Remark(
            level="warning",
            text=f"{_count(len(conflicts), 'picture is', 'pictures are')} there with different classes, such as "
            f"{first.files[0]} ({', '.join(first.classes[:4])})",
            hint="all but one class of each is wrong: look at them",
        )
    if exact:
        yield Remark(
            level="warning",
            text=f"{_count(exact, 'image is a copy', 'images are copies')} of another, pixel by pixel",
            hint="a copy counts twice, and held out of a training it is known already",
        )
    if near:
        yield Remark(
            level="warning",
            text=f"{_count(near, 'image is', 'images are')} nearly the same as another: frames of a video, or another "
            "size or compression of a picture",
            hint="keep those that belong together on one side: --hold-out block, or data of their own to test on",
        )
    if not compared:
        yield Remark(level="note", text=f"more than {MOST_COMPARED:,} images: nearly equal ones were not looked for")
    for each in sets:
        yield from _of_set(each, input_size)


def _of_set(each: DataSet, input_size: tuple[int, int] | None) -> Iterator[Remark]:
    def remark(level: str, text: str, hint: str = "") -> Remark:
        return Remark.model_validate({"level": level, "text": f"{each.name}: {text}", "hint": hint})

    bad = each.count - each.usable
    if bad:
        yield remark(
            "error",
            f"{bad:,} of {each.count:,} cannot be used: {each.unusable[0].why}" + (", ..." if bad > 1 else ""),
            "replace or delete these files; or leave them out wherever data are read: --skip-bad-files",
        )
    if each.no_images.count:
        yield remark("note", f"{each.no_images.count:,} files are no images: {_some(each.no_images)}")
    if not each.kind:
        yield remark("note", "nothing is known of the images, so they serve for calibration and healing alone")
    yield from _of_class_counts(each, remark)
    if each.grey.count:
        yield remark(
            "warning",
            f"{_count(each.grey.count, 'image', 'images')} without colours among colour images: {_some(each.grey)}",
        )
    if each.turned.count:
        yield remark(
            "note", f"{_count(each.turned.count, 'image is', 'images are')} stored turned (EXIF), and taken upright"
        )
    if each.transparent.count:
        yield remark(
            "warning",
            f"{_count(each.transparent.count, 'image has', 'images have')} transparent parts, which show white: "
            f"{_some(each.transparent)}",
        )
    if each.smaller.count and input_size is not None:
        yield remark(
            "note" if each.smaller.count == each.usable else "warning",
            f"{_count(each.smaller.count, 'image is', 'images are')} smaller than the input of {input_size[1]} x "
            f"{input_size[0]}, and enlarged: {_some(each.smaller)}",
        )
    if each.boxes is not None:
        if each.boxes.empty.count:
            yield remark("note", f"{_count(each.boxes.empty.count, 'image has', 'images have')} no object")
        if each.boxes.tiny_objects:
            where = "of the model's input" if input_size is not None else "of the image"
            yield remark(
                "warning",
                f"{each.boxes.tiny_objects:,} of {each.boxes.objects:,} boxes are less than {each.boxes.tiny_pixels:g} "
                f"pixels {where} high or wide: {_some(each.boxes.tiny)}",
                "what is so small is hardly found: take a larger input, or leave such boxes out",
            )
    if each.masks is not None:
        if each.masks.ignored > 0.5:
            yield remark("warning", f"{each.masks.ignored:.0%} of the pixels of all masks count nowhere")
        if each.masks.all_ignored.count:
            yield remark(
                "warning",
                f"{_count(each.masks.all_ignored.count, 'mask has', 'masks have')} no pixel that counts: "
                f"{_some(each.masks.all_ignored)}",
            )


def _of_class_counts(each: DataSet, remark: Callable[[str, str], Remark]) -> Iterator[Remark]:
    if not each.classes:
        return
    what = "objects" if each.boxes is not None else "images"
    counts = [own.images if own.objects is None else own.objects for own in each.classes]
    names = [own.name for own in each.classes]
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    if absent:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        yield remark("warning", f"no {what} of {len(absent)} of {len(names)} classes: {', '.join(absent[:5])}{more}")
    if each.masks is None and (told := imbalance(counts, names, what)):
        yield remark("warning", told)
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if 0 < count < _FEW]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        yield remark("warning", f"fewer than {_FEW} {what} of {len(few)} classes: {', '.join(few[:5])}{more}")


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _some(listed: Listed) -> str:
    more = f" and {listed.count - 3:,} more" if listed.count > 3 else ""
    return ", ".join(listed.files[:3]) + more
