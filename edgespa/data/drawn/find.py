"""Pictures with objects drawn on them: of which kind a folder is, and what it holds, looked at as a whole."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgespa.data.answers import Answers
from edgespa.data.boxes import BoxAnswers
from edgespa.data.drawn import coco, voc, yolo
from edgespa.data.drawn.marked import Looked, Marked, Wrong, look
from edgespa.data.drawn.places import Place
from edgespa.data.drawn.things import things_of
from edgespa.data.pairs import are_splits, holds_annotations, holds_photographs
from edgespa.data.source import LeftOut, UnusableError
from edgespa.data.tree import join
from edgespa.data.whole import summary
from edgespa.errors import DataError
from edgespa.system.quiet import NOTE

log = logging.getLogger(__name__)

_ENDS = (".json", ".xml", ".txt")


@dataclasses.dataclass(frozen=True)
class Found:
    """Pictures and what is drawn on them.

    Attributes:
        files: The pictures.
        answers: What is drawn on each; None where nobody asked.
        classes: Names.
        windows: What of which file each sample is, see `edgespa.data.drawn.things.Things`; None: each file whole.
        left_out: Pictures whose annotations cannot be used.
    """

    files: list[str]
    answers: Answers | None
    classes: list[str]
    windows: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    left_out: tuple[LeftOut, ...] = ()


def find_drawn(
    place: Place, split: str | None, title: str, *, labelled: bool, wanted: str | None = None, skip: bool = False
) -> Found | None:
    """The pictures of a split and their objects; None where the folder is of another kind.

    Args:
        place: All files.
        split: Its name, or a folder; None where there is one alone.
        title: Of the data, for messages.
        labelled: What is drawn is needed, not the pictures alone.
        wanted: What the objective needs, see `edgespa.objectives.base.Known`; None where the data say it.
        skip: Leave out what is wrong, and say so.

    Raises:
        DataError: There is no such split, or several and none is named, or something is wrong with what is drawn.
    """
    if wanted in ("table", "masks"):
        return None
    if not any(file.lower().endswith(_ENDS) for files in place.tree.others.values() for file in files):
        return None
    base = place.top()
    if not labelled and split is not None and place.tree.images.get(join(base, split.strip("/"))):
        return None  # a folder of pictures, whatever is said of them
    pictures = place.images(base)
    if not pictures:
        return None
    files = coco.candidates(place, base)
    kind = coco.FORMAT if files else None
    if kind is None and not (wanted is None and _in_class_folders(place, base)):
        kind = voc.FORMAT if voc.is_voc(place, base) else yolo.FORMAT if yolo.is_yolo(place, base) else None
    if kind is None or (wanted is None and kind != yolo.FORMAT and _has_masks(place, base)):
        return None
    if not labelled and split is None:
        return Found(pictures, None, [])
    points: coco.KeyPoints | None = None
    if kind == coco.FORMAT:
        read = coco.read_coco(place, base, coco.file_of(place, files, split, wanted != "boxes", not labelled)[0])
        marked, classes, alone = read.pictures, read.classes, read.alone
        points = read.points if wanted != "boxes" else None
    else:
        reader = voc.read_voc if kind == voc.FORMAT else yolo.read_yolo
        marked, classes, alone = reader(place, base, split, not labelled)
    if not labelled:
        return Found(sorted({each.picture for each in marked if each.picture}), None, [])
    good, wrong = look(_once(marked, place.where), place.opened, place.where)
    _tell_wrong(title, wrong, len(marked), skip and bool(good))
    if alone:
        log.warning("%s: %d pictures have no annotation and were left out", title, alone)
    if not good:
        raise DataError(f"{place.where}: no picture with an annotation", "name another split, or annotate some")
    made = _boxes(good, classes, kind, title) if points is None else _points(good, points, kind, title)
    return dataclasses.replace(
        made, left_out=tuple(LeftOut(each.picture or each.file, str(why)) for each, why in wrong)
    )


def _once(marked: Sequence[Marked], where: str) -> list[Marked]:
    """The same, but that a picture which another file annotates too is wrong."""
    seen: dict[str, str] = {}
    made = []
    for each in marked:
        if each.picture in seen and each.wrong is None:
            problem = f"{where}/{each.file} is of {each.picture}, which {seen[each.picture]} has too"
            each = dataclasses.replace(each, wrong=Wrong(problem, "keep one of them"))
        elif each.picture:
            seen[each.picture] = each.file
        made.append(each)
    return made


def _boxes(good: Sequence[Looked], classes: list[str], kind: str, title: str) -> Found:
    labels = [[mark.label for mark in each.marked.marks] for each in good]
    ignored = [[mark.ignored for mark in each.marked.marks] for each in good]
    counts = [len(each) for each in labels]
    answers = BoxAnswers(
        np.concatenate([each.boxes for each in good]).astype(np.float32),
        np.array([label for each in labels for label in each], np.int64),
        np.array([mark for each in ignored for mark in each], np.bool_),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([each.size for each in good], np.int64).reshape(-1, 2),
    )
    _tell(title, kind, len(good), f"{sum(counts):,} boxes of {len(classes)} classes", counts.count(0))
    return Found([each.marked.picture for each in good], answers, classes)


def _points(good: Sequence[Looked], points: coco.KeyPoints, kind: str, title: str) -> Found:
    things = things_of(good, points, title)
    count, whole = len(things.answers.points), things.windows is None
    what = "each a picture" if whole else "each cut out of its picture, with a quarter more around its box"
    _tell(title, kind, len(things.files), f"{count:,} things with {len(points.names)} key points, {what}", 0)
    return Found(things.files, things.answers, list(points.names), things.windows)


def _tell(title: str, kind: str, pictures: int, what: str, empty: int) -> None:
    nothing = f", {empty:,} of nothing" if empty else ""
    log.log(NOTE, "%s: %s, %s pictures%s, %s", title, kind, f"{pictures:,}", nothing, what)


def _tell_wrong(title: str, wrong: Sequence[tuple[Marked, Wrong]], total: int, skip: bool) -> None:
    """Refuse what is wrong with annotations, or say that it was left out."""
    if not wrong:
        return
    told = summary(title, [str(each) for _, each in wrong], total)
    if not skip:
        raise UnusableError(told, f"{wrong[0][1].remedy}; or leave such images out: --skip-bad-files")
    log.warning("%s; left out", told)


def _in_class_folders(place: Place, base: str) -> bool:
    """Whether pictures and files of annotations lie together in folders that are classes by their names."""
    filled = [name for name in place.tree.children(base) if place.tree.images.get(join(base, name))]
    if (
        len(filled) < 2
        or are_splits(filled)
        or any(holds_photographs(each) or holds_annotations(each) for each in filled)
    ):
        return False
    with_text = [name for name in filled if place.others(join(base, name), ".xml", ".txt")]
    return bool(with_text)


def _has_masks(place: Place, base: str) -> bool:
    """Whether there is a folder of masks too, as VOC has: those are learned unless boxes are asked for."""
    return any(
        holds_annotations(name) and place.tree.images.get(join(base, name)) for name in place.tree.children(base)
    )
