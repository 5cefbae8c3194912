"""COCO: one JSON file for all pictures of a split, with their boxes and, of things that have them, key points.

Lies beside the pictures, or in a folder ``annotations`` (``instances_train2017.json``), or as Roboflow writes it
(``train/_annotations.coco.json``). A picture without an annotation is a picture of nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespa.data.answers import UNREADABLE
from edgespa.data.bounded import MAX_IMAGE_FILE, require_memory
from edgespa.data.drawn.marked import Box, Mark, Marked, Wrong
from edgespa.data.drawn.places import Pictures, Place, name, stem
from edgespa.errors import DataError

FORMAT = "COCO JSON"
_HEAD = 1 << 16
_PARSED = 8
"""A document in memory takes so many times the bytes of its file, about."""
_MOST_POINTS = 1000
MOST_LINES = 1000
_PARTS = ("images", "annotations", "categories")
_NO_SPLIT = frozenset(
    {"instances", "person", "keypoints", "annotations", "annotation", "coco", "captions", "labels", "result"}
)
_WRITE = "write it again with the tool that it is from"

# As COCO's own files and those of exports are called: what such a one is, is told, also if it is damaged.
_NAMED = re.compile(r"(instances|person_keypoints)_.*\.json$|.*annotations\.coco\.json$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class KeyPoints:
    """What the key points of a data set are.

    Attributes:
        names: In their order.
        pairs: Which of them are each other's left and right, by their numbers.
        lines: Which of them a line connects where they are drawn, likewise.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    lines: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Coco:
    """What a file holds.

    Attributes:
        pictures: What is said of each picture.
        classes: In the order of their ids.
        alone: How many pictures lie there that nothing is said of.
        points: Their names, where the things have key points.
    """

    pictures: list[Marked]
    classes: list[str]
    alone: int
    points: KeyPoints | None


def candidates(place: Place, base: str) -> list[str]:
    """Files below a folder that may be of this kind, by their names or first bytes; captions are left out."""
    files = [file for file in place.others(base, ".json") if "caption" not in name(file).lower()]
    return [file for file in files if _NAMED.match(name(file)) or _looks_like(place, file)]


def _looks_like(place: Place, file: str) -> bool:
    """Whether a document begins as these do; the parts may come in any order, so one of them is enough."""
    try:
        with place.opened(file) as stream:
            head = stream.read(_HEAD)
    except UNREADABLE:
        return False
    whole = len(head) < _HEAD
    parts = set(re.findall(r'"(images|annotations|categories)"\s*:\s*\[', head.decode("utf-8-sig", errors="replace")))
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and len(parts) >= (3 if whole else 1)


def splits_of(files: Sequence[str]) -> dict[str, list[str]]:
    """Files by the splits that their names or folders say: ``instances_train2017``, ``train/_annotations``."""
    found: dict[str, list[str]] = {}
    for file in files:
        words = [word for word in re.split(r"[_\-. ]+", stem(file)) if word and word.lower() not in _NO_SPLIT]
        folder = file.split("/")[-2] if "/" in file else ""
        inside = [folder] if not words and folder.lower() not in _NO_SPLIT else words
        for word in inside[:1]:
            found.setdefault(word, []).append(file)
    return found


def file_of(place: Place, files: Sequence[str], split: str | None, points: bool, everything: bool) -> list[str]:
    """The file of a split.

    Args:
        place: All files.
        files: From `candidates`.
        split: Its name, with or without a year; None for the only one.
        points: Key points are wanted, where there are several files of one split.
        everything: All splits may be taken as one.

    Raises:
        DataError: There is none, or are several.
    """
    splits = splits_of(files)
    if split is None:
        if len(files) == 1 or everything:
            return list(files)
        if len(splits) > 1:
            raise place.name_a_split(splits)
        return [_one_of(place, files, points)]
    plain = split.strip("/").lower()
    for named, own in splits.items():
        if plain in (named.lower(), re.sub(r"\d+$", "", named.lower())):
            return [_one_of(place, own, points)]
    below = [file for file in files if f"/{split.strip('/')}/" in f"/{file}"]
    if below:
        return [_one_of(place, below, points)]
    raise place.no_split(split, splits)


def _one_of(place: Place, files: Sequence[str], points: bool) -> str:
    """One of the files of one split: that of the key points or that of the boxes, if there are both."""
    if len(files) == 1:
        return files[0]
    of_points = [file for file in files if "keypoint" in name(file).lower()]
    others = [file for file in files if file not in of_points]
    chosen = of_points if points and of_points else others
    if len(chosen) != 1:
        raise DataError(
            f"{place.where} has several files of annotations: {', '.join(files[:5])}", "keep one for each split"
        )
    return chosen[0]


def read_coco(place: Place, base: str, file: str) -> Coco:
    """What a file says.

    Args:
        place: All files.
        base: The folder that the pictures lie below.
        file: Its path.

    Raises:
        DataError: It is no such file: what is wrong with the annotations of one picture is told with that.
    """
    label = f"{place.where}/{file}"
    document: Mapping[str, list[Any]] = _document(place, file, label)
    images, annotations, categories = (document[part] for part in _PARTS)
    numbers, classes, points = _classes(categories, annotations, label)
    pictures = Pictures(place.images(base))
    made: dict[Any, Marked] = {}
    for index, entry in enumerate(images):
        at = f"{label}, images[{index}]"
        key = _field(entry, "id", at)
        if not isinstance(key, int | str) or key in made:
            raise DataError(f"{at}: the id {key!r} is no number, or is there twice", _WRITE)
        made[key] = _picture(entry, at, file, place.where, pictures)
    marks: dict[Any, list[Mark]] = {key: [] for key in made}
    wrong: dict[Any, Wrong] = {key: each.wrong for key, each in made.items() if each.wrong is not None}
    seen: set[Any] = set()
    lost: list[Marked] = []
    for index, entry in enumerate(annotations):
        at = f"annotations[{index}]"
        picture = _field(entry, "image_id", f"{label}, {at}")
        try:
            if not isinstance(picture, int | str) or picture not in made:
                raise Wrong(f"{label}, {at} is of the image {picture!r}, which is not among its images", _WRITE)
            own = entry.get("id")
            if isinstance(own, int | str):
                if own in seen:
                    raise Wrong(f"{label}, {at}: the id {own} is there twice", "give each annotation its own")
                seen.add(own)
            marks[picture].append(_mark(entry, at, label, numbers, points))
        except Wrong as problem:
            if isinstance(picture, int | str) and picture in made:
                wrong.setdefault(picture, problem)
            else:
                lost.append(Marked("", file, wrong=problem))
    result = [dataclasses.replace(each, marks=tuple(marks[key]), wrong=wrong.get(key)) for key, each in made.items()]
    folders = {each.picture.rpartition("/")[0] for each in result}
    there = [each for each in place.images(base) if each.rpartition("/")[0] in folders]
    alone = len(set(there) - {each.picture for each in result})
    return Coco([*result, *lost], classes, alone, points)


def _document(place: Place, file: str, label: str) -> Mapping[str, list[Any]]:
    content = place.content(file, MAX_IMAGE_FILE)
    require_memory(_PARSED * len(content), label)
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{label}, line {error.lineno}: not whole JSON ({error.msg})", "copy or make it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} is not JSON: {str(error)[:100]}", "copy or make it again") from error
    for part in _PARTS:
        if not isinstance(document, dict) or not isinstance(document.get(part), list):
            raise DataError(f"{label} has no list '{part}', as COCO has it", _WRITE)
    return {part: document[part] for part in _PARTS}


def _field(entry: Any, key: str, at: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{at} has no '{key}'", _WRITE)
    return entry[key]


def _classes(
    categories: Sequence[Any], annotations: Sequence[Any], label: str
) -> tuple[dict[Any, int], list[str], KeyPoints | None]:
    """Numbers of classes by their ids, their names, and their key points."""
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(categories):
        at = f"{label}, categories[{index}]"
        key, called = _field(entry, "id", at), _field(entry, "name", at)
        if not isinstance(key, int) or key in found or not isinstance(called, str):
            raise DataError(f"{at}: the id {key!r} is no number, or is there twice, or its name is no text", _WRITE)
        found[key] = entry
    used = {entry.get("category_id") for entry in annotations if _hashable(entry)}
    order = [key for key in sorted(found) if key in used or not _is_umbrella(found[key], list(found.values()))]
    names = [str(found[key]["name"]) for key in order]
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise DataError(f"{label}: two categories are called {twice!r}", "name each differently")
    return {key: number for number, key in enumerate(order)}, names, _points([found[key] for key in order], label)


def _hashable(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("category_id"), int | str)


def _is_umbrella(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a category only stands for all others, as Roboflow writes one."""
    others = [each for each in entries if each is not entry]
    return bool(others) and all(each.get("supercategory") == entry["name"] for each in others)


def _points(categories: Sequence[Mapping[str, Any]], label: str) -> KeyPoints | None:
    """The key points, the same for all categories that have any."""
    said = [each["keypoints"] for each in categories if each.get("keypoints")]
    if not said:
        return None
    names = said[0]
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names) or len(names) > _MOST_POINTS:
        raise DataError(f"{label}: the names of the key points are no list of texts", _WRITE)
    if any(each != names for each in said):
        raise DataError(
            f"{label} has categories with different key points",
            "learn one kind at a time: keep one of them in the file",
        )
    return KeyPoints(tuple(names), mirrored_pairs(names), _lines(categories, len(names), label))


def _lines(categories: Sequence[Mapping[str, Any]], count: int, label: str) -> tuple[tuple[int, int], ...]:
    """The skeleton, of the first category that has one; COCO counts key points from 1."""
    said: Any = next((each["skeleton"] for each in categories if each.get("skeleton")), [])
    good = isinstance(said, list) and len(said) <= MOST_LINES
    if not good or not all(_is_line(each, count) for each in said):
        raise DataError(
            f"{label}: its skeleton is no list of pairs of the numbers 1 to {count}",
            "correct it, or leave it out: it is for drawing",
        )
    return tuple((one - 1, other - 1) for one, other in said)


def _is_line(entry: Any, count: int) -> bool:
    whole = isinstance(entry, list) and len(entry) == 2 and all(type(each) is int for each in entry)
    return whole and all(0 < each <= count for each in entry)


def mirrored_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Which names are each other's left and right: ``left_eye`` and ``right_eye``, ``l-hip`` and ``r-hip``."""
    keys: dict[str, int] = {each.lower(): index for index, each in enumerate(names)}
    found = []
    for called, index in keys.items():
        for left, right in (("left", "right"), ("l", "r")):
            swapped, count = re.subn(rf"(?<![a-z]){left}(?![a-z])", right, called)
            if left == "left" and not count:
                swapped, count = re.subn("left", "right", called)
            if count and swapped in keys and (index, keys[swapped]) not in found:
                found.append((index, keys[swapped]))
    return tuple(found)


def _picture(entry: Any, at: str, file: str, where: str, pictures: Pictures) -> Marked:
    called = _field(entry, "file_name", at)
    found = pictures.of_name(called, file) if isinstance(called, str) else None
    size = None
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        size = height, width
    if found is None:
        wrong = Wrong(
            f"{at}: there is no image {called!r} in {where}, or several of that name",
            "put it where the file says, or take it out of the file",
        )
        return Marked("", file, size=size, wrong=wrong)
    return Marked(found, file, size=size)


def _mark(entry: Mapping[str, Any], at: str, label: str, numbers: Mapping[Any, int], points: KeyPoints | None) -> Mark:
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in numbers:
        raise Wrong(f"{label}, {at}: the category {category!r}, which is not among its categories", _WRITE)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise Wrong(f"{label}, {at}: bbox is no [x, y, width, height]", "draw the box again, or delete the annotation")
    x, y, width, height = map(float, box)
    where: Box = (x, y, x + width, y + height)
    ignored = entry.get("iscrowd") in (1, True) or entry.get("ignore") in (1, True)
    return Mark(where, numbers[category], at, ignored, tuple(_triples(entry, at, label, points)))


def _triples(
    entry: Mapping[str, Any], at: str, label: str, points: KeyPoints | None
) -> Iterator[tuple[float, float, float]]:
    """x, y and visibility of each key point; none is there where an annotation has none."""
    if points is None:
        return
    said = entry.get("keypoints", [0] * 3 * len(points.names))
    if not isinstance(said, list) or len(said) != 3 * len(points.names) or not all(map(_is_number, said)):
        raise Wrong(f"{label}, {at}: keypoints are not 3 numbers for each of {len(points.names)} key points", _WRITE)
    for index in range(0, len(said), 3):
        x, y, seen = said[index : index + 3]
        if seen not in (0, 1, 2):
            raise Wrong(f"{label}, {at}: a key point with the visibility {seen!r}", "it is 0, 1 or 2")
        yield float(x), float(y), float(seen)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
