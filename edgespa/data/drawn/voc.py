"""Pascal VOC: an XML file for each picture, and lists of the pictures of each split.

Pixels are counted from 1 there and both ends belong to a box (Everingham et al., development kit, section 4.1), so that
``xmin`` and ``ymin`` are one less here: a box from 1 to the width covers it from 0 to the width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from xml.parsers import expat

from edgespa.data.drawn.marked import Mark, Marked, Wrong
from edgespa.data.drawn.places import Pictures, Place, name, stem
from edgespa.data.tree import join
from edgespa.errors import DataError

FORMAT = "Pascal VOC"
_LOOKED_AT = 5
_DEPTH, _MOST_OBJECTS, _MOST_TEXT = 20, 100_000, 1000
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_AGAIN = "write it again with the tool that it is from, or delete it and its picture"


@dataclasses.dataclass(frozen=True)
class Item:
    """An object of a file.

    Attributes:
        name: Of its class.
        texts: Of its elements, by name: ``xmin``, ``difficult``.
        line: Where it begins.
    """

    name: str
    texts: dict[str, str]
    line: int


def is_voc(place: Place, base: str) -> bool:
    """Whether there are such files below a folder."""
    files = place.others(base, ".xml")
    return any(b"<annotation" in place.content(file)[:4096] for file in files[:_LOOKED_AT])


def splits_of(place: Place, base: str) -> dict[str, str]:
    """The lists of pictures below a folder, by the names of the splits."""
    lists = [file for file in place.others(base, ".txt") if "/imagesets/main/" in f"/{file.lower()}"]
    return {stem(file): file for file in lists if "_" not in stem(file)}  # dog_train.txt is of a class


def read_voc(place: Place, base: str, split: str | None, everything: bool) -> tuple[list[Marked], list[str], int]:
    """The pictures of a split.

    Args:
        place: All files.
        base: The folder that they lie below.
        split: Of a list, or a folder; None for all.
        everything: All splits may be taken as one.

    Returns:
        What is said of each picture; the names of the classes, over all splits; how many pictures nothing is said of.

    Raises:
        DataError: There is no such split, or none is named where there are several.
    """
    lists, folders = splits_of(place, base), folder_splits(place, base)
    files = place.others(base, ".xml")
    read = {file: _read(place, file) for file in files}
    classes = sorted({item.name for found in read.values() if not isinstance(found, Wrong) for item in found.items})
    wanted: set[str] | None = None
    chosen, inside = files, place.images(base)
    if split is None:
        if not everything and len(there := [*lists, *folders]) > 1:
            raise place.name_a_split(there)
    elif split in lists:
        wanted = {line.split()[0] for line in place.lines(lists[split]) if line}
    elif (part := _of_folder(split, files)) or split in folders:
        chosen, inside = part, _of_folder(split, inside)
    else:
        raise place.no_split(split, [*lists, *folders])
    pictures = Pictures(inside)
    numbers = {called: number for number, called in enumerate(classes)}
    made = [
        _marked(place, file, read[file], pictures, numbers) for file in chosen if wanted is None or stem(file) in wanted
    ]
    if wanted is not None:
        said = {stem(file) for file in chosen}
        made += [_without(place, each, lists[split or ""], pictures) for each in sorted(wanted - said)]
    alone = 0 if wanted is not None else len(set(inside) - {each.picture for each in made})
    return made, classes, alone


def folder_splits(place: Place, base: str) -> list[str]:
    """Folders that are called as splits are, at the top or one below it."""
    names = [*place.tree.children(base)]
    for each in place.tree.children(base):
        names += place.tree.children(join(base, each))
    return [each for each in dict.fromkeys(names) if each.lower() in _SPLITS]


_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev"})


def _of_folder(split: str, files: Iterable[str]) -> list[str]:
    """Those files that lie in a folder of that name or path."""
    return [file for file in files if f"/{split.strip('/')}/" in f"/{file}"]


@dataclasses.dataclass(frozen=True)
class _File:
    items: tuple[Item, ...]
    size: tuple[int, int] | None
    picture: str


def _read(place: Place, file: str) -> _File | Wrong:
    label = f"{place.where}/{file}"
    try:
        return parse(place.content(file), label)
    except DataError as error:
        return Wrong(error.message, error.hint or _AGAIN)
    except Wrong as wrong:
        return wrong


def parse(content: bytes, label: str) -> _File:
    """The objects of one file.

    Entities and document types are refused: nothing that the file says of itself is expanded or fetched.

    Args:
        content: The file.
        label: Its name for messages.

    Raises:
        Wrong: It is no such file.
    """
    path: list[str] = []
    texts: dict[str, str] = {}
    sizes: dict[str, str] = {}
    items: list[Item] = []
    said = {"filename": "", "line": ""}
    parser = expat.ParserCreate()

    def refused(*_: object) -> None:
        raise Wrong(f"{label}, line {parser.CurrentLineNumber}: it defines a document type or entities", _AGAIN)

    def begin(tag: str, _: object) -> None:
        if not path and tag != "annotation":
            raise Wrong(f"{label} is no annotation of Pascal VOC: it begins with <{tag[:40]}>", _AGAIN)
        path.append(tag)
        if len(path) > _DEPTH or len(items) > _MOST_OBJECTS:
            raise Wrong(f"{label}, line {parser.CurrentLineNumber}: too much of it", _AGAIN)
        if path == ["annotation", "object"]:
            texts.clear()
            said["line"] = str(parser.CurrentLineNumber)

    def text(data: str) -> None:
        into, key = (texts, path[-1]) if path[:2] == ["annotation", "object"] else (sizes, path[-1])
        if (into is texts and (len(path) == 3 or path[2:3] == ["bndbox"])) or path[1:2] == ["size"]:
            into[key] = (into.get(key, "") + data)[:_MOST_TEXT]
        elif path == ["annotation", "filename"]:
            said["filename"] = (said["filename"] + data)[:_MOST_TEXT]

    def end(tag: str) -> None:
        if path == ["annotation", "object"]:
            items.append(Item(texts.get("name", "").strip(), dict(texts), int(said["line"])))
        path.pop()

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refused  # type: ignore[assignment]
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, text
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise Wrong(f"{label}, line {error.lineno}: not whole XML ({expat.ErrorString(error.code)})", _AGAIN) from error
    except (ValueError, LookupError) as error:  # of a character set that there is none of
        raise Wrong(f"{label}: not whole XML ({error})", _AGAIN) from error
    return _File(tuple(items), _size(sizes), said["filename"].strip())


def _size(texts: dict[str, str]) -> tuple[int, int] | None:
    """Height and width; None where they are not said, or as 0, as some tools do."""
    try:
        size = int(float(texts["height"])), int(float(texts["width"]))
    except (KeyError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def _marked(place: Place, file: str, found: _File | Wrong, pictures: Pictures, numbers: dict[str, int]) -> Marked:
    picture = pictures.of_stem(stem(file), file)
    if isinstance(found, Wrong):
        return Marked(picture or "", file, wrong=found)
    picture = picture or pictures.of_stem(stem(name(found.picture)), file)
    if picture is None:
        wrong = Wrong(
            f"{place.where}/{file} has no picture: none is called {stem(file)}, as {found.picture or stem(file)}",
            "put the picture there, or delete the annotation",
        )
        return Marked("", file, wrong=wrong)
    try:
        marks = tuple(_mark(item, f"{place.where}/{file}", numbers) for item in found.items)
    except Wrong as wrong:
        return Marked(picture, file, wrong=wrong)
    return Marked(picture, file, marks, found.size)


def _mark(item: Item, label: str, numbers: dict[str, int]) -> Mark:
    at = f"{label}, line {item.line}"
    if not item.name:
        raise Wrong(f"{at}: an object without a <name>", "name its class")
    sides = []
    for side in _SIDES:
        try:
            sides.append(float(item.texts[side]))
        except KeyError:
            raise Wrong(f"{at}: an object without <{side}>: only upright boxes are read", "draw a box") from None
        except ValueError:
            raise Wrong(f"{at}: <{side}> is {item.texts[side][:40]!r}, no number", "correct that box") from None
    x1, y1, x2, y2 = sides
    if x2 < x1 or y2 < y1:
        raise Wrong(
            f"{at}: a box from {x1:g}, {y1:g} to {x2:g}, {y2:g}, which has no area", "correct or delete that box"
        )
    difficult = item.texts.get("difficult", "").strip() == "1"
    return Mark((x1 - 1, y1 - 1, x2, y2), numbers[item.name], f"line {item.line}", difficult)


def _without(place: Place, wanted: str, listed: str, pictures: Pictures) -> Marked:
    """A picture that a list names and no file annotates."""
    found = pictures.of_stem(wanted, listed)
    what = "no annotation" if found is not None else "neither picture nor annotation"
    return Marked(
        found or "",
        listed,
        wrong=Wrong(f"{place.where}/{listed} names {wanted}, which has {what}", "add it, or take it off the list"),
    )
