"""YOLO: a text file for each picture, a line for each object: class, then centre, width and height as shares.

``images/train/a.jpg`` has ``labels/train/a.txt``, ``train/images/a.jpg`` has ``train/labels/a.txt``; or both lie in one
folder. A picture without a file, or with an empty one, is a picture of nothing. Lines of more numbers are polygons, as
for segmentation, and become the boxes around them; where ``data.yaml`` has ``kpt_shape`` they are a box and key points.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from edgespa.data.answers import names_in
from edgespa.data.drawn.marked import Mark, Marked, Wrong
from edgespa.data.drawn.places import Pictures, Place, name, stem
from edgespa.data.drawn.voc import folder_splits
from edgespa.errors import DataError
from edgespa.system.bounds import MAX_OUTPUTS

FORMAT = "YOLO"
_LOOKED_AT = 20
_MOST_YAML = 1 << 20
_NAME_FILES = frozenset({"classes.txt", "obj.names", "names.txt", "labels.txt", "predefined_classes.txt"})
_OWN_FILES = {"data.yaml", "data.yml", "dataset.yaml"}
_LINE = re.compile(rb"\s*\d+(?:\.0+)?(?:\s+[-+.\deE]+){4,}\s*")
_SPLIT_KEYS = ("train", "val", "test")
_ROUNDING = 0.02
"""Shares may be that much outside of 0 to 1; `edgespa.data.drawn.marked` looks at them in pixels again."""
_LINES = "a line is: class x y width height, the last four from 0 to 1"


class _Plain(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """Without aliases: some lines of them unfold to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See `yaml.composer.Composer`."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which are not taken")
        return super().compose_node(parent, index)


@dataclasses.dataclass(frozen=True)
class Names:
    """What a data set says of itself.

    Attributes:
        classes: In the order of their numbers; empty where nothing says them.
        file: That says them.
        splits: Of ``data.yaml``: where the pictures of each split lie.
        points: Numbers of a line after its box are key points.
    """

    classes: tuple[str, ...] = ()
    file: str = ""
    splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    points: bool = False


def is_yolo(place: Place, base: str) -> bool:
    """Whether there are text files of boxes beside pictures below a folder."""
    texts = [file for file in place.others(base, ".txt") if name(file).lower() not in _NAME_FILES]
    pictures = {label_of(file) for file in place.images(base)} if texts else set()
    files = [file for file in texts if file in pictures]
    if files and any(name(file).lower() in _OWN_FILES for file in place.others(base, ".yaml", ".yml")):
        return True  # and what is wrong with the texts is told
    votes = 0
    looked = files[:: max(1, len(files) // _LOOKED_AT)]
    filled = 0
    for file in looked:
        lines = [line for line in place.content(file)[:4096].splitlines()[:3] if line.strip()]
        filled += bool(lines)
        votes += bool(lines) and all(map(_LINE.fullmatch, lines[:2]))
    return bool(files) and filled > 0 and 2 * votes > filled


def label_of(picture: str) -> str:
    """The path of the text file of a picture: of its folders the last that is called ``images`` becomes ``labels``."""
    parts = picture.split("/")
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            parts[index] = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}.get(parts[index], "labels")
            break
    return "/".join([*parts[:-1], f"{stem(picture)}.txt"])


def read_yolo(place: Place, base: str, split: str | None, everything: bool) -> tuple[list[Marked], list[str], int]:
    """The pictures of a split; see `edgespa.data.drawn.voc.read_voc`.

    Raises:
        DataError: Besides: the file of the names is damaged, or there are no names and none of the numbers of classes
            are whole.
    """
    names = find_names(place, base)
    pictures = place.images(base)
    chosen = _of_split(place, base, names, pictures, split, everything)
    texts = set(place.others(base, ".txt"))
    made = [_read(place, each, texts, names) for each in chosen]
    made += _alone(place, chosen, pictures, texts, split)
    highest = max((mark.label for each in made for mark in each.marks), default=-1)
    if names.classes and highest >= len(names.classes):
        made = [_without_unknown(each, names, place.where) for each in made]
    classes = names.classes or tuple(str(number) for number in range(highest + 1))
    return made, list(classes), 0


def find_names(place: Place, base: str) -> Names:
    """The classes, from ``data.yaml`` or from a text file with a name a line.

    Raises:
        DataError: It is damaged.
    """
    files = [file for file in place.others(base, ".yaml", ".yml") if file.count("/") <= base.count("/") + 1]
    for file in sorted(files, key=lambda each: (each.count("/"), name(each) != "data.yaml", each)):
        if (found := _of_yaml(place, file)) is not None:
            return found
    for folder in place.below(base):
        for file in sorted(place.tree.others.get(folder, ())):
            if name(file).lower() in _NAME_FILES:
                return Names(names_in([line for line in place.lines(file) if line]), file)
    return Names()


def _of_yaml(place: Place, file: str) -> Names | None:
    label = f"{place.where}/{file}"
    try:
        found = yaml.load(place.content(file, _MOST_YAML), _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())[:160]
        raise DataError(f"{label} is not whole YAML: {first}", "correct that file") from error
    if not isinstance(found, dict) or "names" not in found:
        return None
    names = found["names"]
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise DataError(
                f"{label}: the names have the numbers {list(names)[:8]}", "number them from 0, without gaps"
            )
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not all(_is_name(each) for each in names) or not names:
        raise DataError(
            f"{label}: names is no list of texts", 'write names: ["cat", "dog"], in quotes where one reads as yes or no'
        )
    if isinstance(count := found.get("nc"), int) and count != len(names):
        raise DataError(f"{label}: nc is {count}, and {len(names)} names are there", "name every class")
    splits = {key: _paths(found.get(key)) for key in _SPLIT_KEYS if found.get(key)}
    return Names(tuple(map(str, names)), file, splits, "kpt_shape" in found)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _paths(value: Any) -> tuple[str, ...]:
    """Paths of a ``data.yaml``, without what leads out of the data set."""
    given = value if isinstance(value, list) else [value]
    return tuple(_inside(each) for each in given if isinstance(each, str))


def _inside(path: str) -> str:
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _of_split(
    place: Place, base: str, names: Names, pictures: Sequence[str], split: str | None, everything: bool
) -> list[str]:
    folders = folder_splits(place, base)
    there = list(dict.fromkeys([*names.splits, *folders]))
    if split is None:
        if len(there) > 1 and not everything:
            raise place.name_a_split(there)
        return list(pictures)
    for path in names.splits.get(split, ()):
        if found := _of_path(place, path, pictures, names.file):
            return [each for path in names.splits[split] for each in _of_path(place, path, pictures, names.file)]
    found = [file for file in pictures if f"/{split.strip('/')}/" in f"/{file}"]
    if not found:
        raise place.no_split(split, there)
    return found


def _of_path(place: Place, path: str, pictures: Sequence[str], beside: str) -> list[str]:
    """The pictures that a ``data.yaml`` names: those of a folder, or of a list of them.

    Tools write paths of their own machine, so the end of a path that is there counts.
    """
    parts = path.split("/")
    for first in range(len(parts)):
        tail = "/".join(parts[first:])
        if found := [file for file in pictures if f"/{tail}/" in f"/{file}"]:
            return found
        lists = [file for file in place.others("", ".txt") if f"/{file}".endswith(f"/{tail}")]
        if tail.endswith(".txt") and len(lists) == 1:
            index = Pictures(pictures)
            listed = [index.of_name(line, beside) for line in place.lines(lists[0]) if line]
            if None in listed:
                at = listed.index(None) + 1
                raise DataError(f"{place.where}/{lists[0]}, line {at}: there is no such picture", "correct the list")
            return [each for each in listed if each is not None]
    return []


def _read(place: Place, picture: str, texts: set[str], names: Names) -> Marked:
    file = label_of(picture)
    if file not in texts:
        return Marked(picture, file, shares=True)
    label = f"{place.where}/{file}"
    try:
        marks = tuple(
            parse_line(line, f"{label}, line {number}", number, names.points)
            for number, line in enumerate(place.lines(file), 1)
            if line
        )
    except DataError as error:
        return Marked(picture, file, wrong=Wrong(error.message, error.hint or "replace that file"))
    except Wrong as wrong:
        return Marked(picture, file, wrong=wrong)
    return Marked(picture, file, marks, shares=True)


def parse_line(line: str, label: str, number: int, points: bool = False) -> Mark:
    """An object, in shares of the picture.

    Args:
        line: Of the file.
        label: File and line, for messages.
        number: Of the line.
        points: What follows a box are key points, not a polygon.

    Raises:
        Wrong: It is none.
    """
    parts = line.split()
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise Wrong(f"{label}: {line[:60]!r} has what is no number", _LINES) from None
    if len(values) < 5:
        raise Wrong(f"{label}: {len(values)} numbers", _LINES)
    if not all(map(math.isfinite, values)):
        raise Wrong(f"{label}: a value that is not a number", _LINES)
    if not 0 <= values[0] < MAX_OUTPUTS or values[0] != int(values[0]):
        raise Wrong(f"{label}: the class {parts[0]}", "number the classes from 0, as in data.yaml")
    if len(values) > 5 and not points:
        if len(values) % 2 == 0 or len(values) < 7:
            raise Wrong(f"{label}: {len(values)} numbers are neither a box nor a polygon", _LINES)
        x, y = values[1::2], values[2::2]
        box = min(x), min(y), max(x), max(y)
    else:
        x0, y0, width, height = values[1:5]
        box = x0 - width / 2, y0 - height / 2, x0 + width / 2, y0 + height / 2
        if not width > 0 < height:
            raise Wrong(f"{label}: a box of width {width:g} and height {height:g}", "correct or delete that line")
    if min(box) < -_ROUNDING or max(box) > 1 + _ROUNDING:
        pixels = max(values[1:]) > 2
        what = "pixels" if pixels else "a box outside of its picture"
        raise Wrong(f"{label}: {' '.join(parts[1:5])} is {what}", _LINES)
    return Mark(box, int(values[0]), f"line {number}")


def _alone(
    place: Place, chosen: Sequence[str], pictures: Sequence[str], texts: set[str], split: str | None
) -> list[Marked]:
    """Text files of boxes without a picture, in folders where the chosen pictures have theirs."""
    folders = {label_of(each).rpartition("/")[0] for each in chosen}
    known = {label_of(each) for each in pictures}
    alone = [
        file
        for file in sorted(texts - known)
        if file.rpartition("/")[0] in folders and name(file).lower() not in _NAME_FILES and _is_of_boxes(place, file)
    ]
    return [
        Marked(
            "",
            file,
            wrong=Wrong(
                f"{place.where}/{file} has no picture: none is called {stem(file)}",
                "put the picture there, or delete the annotation",
            ),
        )
        for file in alone
    ]


def _is_of_boxes(place: Place, file: str) -> bool:
    lines = [line for line in place.content(file)[:4096].splitlines()[:2] if line.strip()]
    return bool(lines) and all(map(_LINE.fullmatch, lines[:1]))


def _without_unknown(marked: Marked, names: Names, where: str) -> Marked:
    for mark in marked.marks:
        if mark.label >= len(names.classes):
            wrong = Wrong(
                f"{where}/{marked.file}, {mark.place}: the class {mark.label}, and {names.file} names "
                f"{len(names.classes)}, from 0",
                "name every class, or correct the number",
            )
            return Marked(marked.picture, marked.file, wrong=wrong)
    return marked
