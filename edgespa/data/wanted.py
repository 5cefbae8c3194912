"""Folders of pictures and of what is wanted for them: which file belongs to which, looked at as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgespa.data.answers import UNREADABLE
from edgespa.data.bounded import MAX_IMAGE_FILE, why_no_image
from edgespa.data.drawn.places import Place
from edgespa.data.pictures import (
    NUMBERS,
    PictureAnswers,
    digest_of,
    find_pictures,
    misfit,
    names_say,
    of_units,
    read_wanted,
    size_of,
    times,
)
from edgespa.data.source import LeftOut, UnusableError
from edgespa.data.tree import join
from edgespa.data.whole import looks_whole, summary
from edgespa.errors import DataError
from edgespa.pixels.picture import upright_size
from edgespa.system.quiet import NOTE

log = logging.getLogger(__name__)

_WORKERS = 4
Sizes = tuple[tuple[int, int], tuple[int, int, int]]


def find_wanted(
    place: Place,
    read: Callable[[str], bytes],
    split: str | None,
    title: str,
    *,
    labelled: bool,
    wanted: str | None = None,
    skip: bool = False,
) -> tuple[list[str], PictureAnswers | None, list[LeftOut]] | None:
    """The pictures of a split, and what is wanted for each; None where the folder is of another kind.

    They lie in two folders of files that are called alike, ``input`` and ``target``, below a folder per split or above
    one.

    Args:
        place: All files.
        read: Gives one.
        split: Its name; None for all.
        title: Of the data, for messages.
        labelled: What is wanted is needed, not the pictures alone.
        wanted: What the objective needs, see `edgespa.objectives.base.Known`; None where the data say it.
        skip: Leave out what is wrong, and say so.

    Raises:
        DataError: Something is wrong with a pair.
    """
    if wanted not in (None, "images"):
        return None
    found = find_pictures(_folders(place, split), read, wanted == "images")
    if found is None:
        return None
    given, target, pairs = found
    if not labelled:
        return [file for file, _ in pairs], None, []
    sizes = _looked_at(place, pairs)
    first = next((each for each in sizes if not isinstance(each, str)), None)
    good: list[tuple[tuple[str, str], Sizes]] = []
    wrong: list[LeftOut] = []
    for pair, own in zip(pairs, sizes, strict=True):
        if isinstance(own, str) or first is None:
            wrong.append(LeftOut(pair[0], str(own)))
        elif problem := misfit(*own, *first):
            wrong.append(LeftOut(pair[0], f"{place.where}/{pair[1]} {problem}"))
        else:
            good.append((pair, own))
    if wrong:
        told = summary(title, [each.why for each in wrong], len(pairs))
        if not (skip and good):
            raise UnusableError(told, "make all of one kind, or leave such images out: --skip-bad-files")
        log.warning("%s; left out", told)
    assert first is not None
    factor, channels = times(*first), first[1][2]
    units = of_units(target)
    names = [pair for pair, _ in good]

    def read_one(index: int) -> NDArray[np.float32]:
        file, label = names[index][1], f"{place.where}/{names[index][1]}"
        try:
            content = read(file)
        except UNREADABLE as error:
            raise DataError(f"{label} cannot be read: {error}", "copy or make the data again") from error
        return read_wanted(content, file, label, units)

    larger = f", {factor} times as large" if factor > 1 else ""
    log.log(
        NOTE, "%s: %s pictures in '%s', and what is wanted for them in '%s'%s", title, len(good), given, target, larger
    )
    answers = PictureAnswers(
        read_one,
        np.array([own[0] for _, own in good], np.int64),
        factor,
        channels,
        digest_of(names, [w for _, (_, w) in good]),
    )
    return [file for file, _ in names], answers, wrong


def _folders(place: Place, split: str | None) -> dict[str, list[str]]:
    """The folders of a split by their names, with their images and arrays."""
    top = "" if split is not None else place.top()
    while split is not None and not place.tree.has(join(top, split)) and len(place.tree.children(top)) == 1:
        top = join(top, place.tree.children(top)[0])
    if split is None:
        below = {name: join(top, name) for name in place.tree.children(top)}
    elif place.tree.has(join(top, split)):
        base = join(top, split)
        below = {name: join(base, name) for name in place.tree.children(base)}
    else:
        below = {name: join(join(top, name), split) for name in place.tree.children(top)}
    if not any(names_say(one, other) for one in below for other in below):
        return {}
    found = {
        name: [
            *place.tree.images.get(folder, ()),
            *(file for file in place.tree.others.get(folder, ()) if file.lower().endswith(NUMBERS)),
        ]
        for name, folder in below.items()
    }
    return {name: files for name, files in found.items() if files}


def _looked_at(place: Place, pairs: list[tuple[str, str]]) -> list[Sizes | str]:
    """The sizes of each pair, or what is wrong with it."""

    def one(pair: tuple[str, str]) -> Sizes | str:
        given, target = pair
        try:
            with place.opened(given) as stream, Image.open(stream) as image:
                size = upright_size(image)
        except (*UNREADABLE, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{place.where}/{given} is not a whole image: {why_no_image(error)}"
        try:
            with place.opened(target) as stream:
                own = size_of(stream, target, f"{place.where}/{target}")
                if not target.lower().endswith(NUMBERS) and not looks_whole(stream):
                    read_wanted(place.content(target, MAX_IMAGE_FILE), target, f"{place.where}/{target}", False)
                return size, own
        except DataError as error:
            return error.message
        except UNREADABLE as error:
            return f"{place.where}/{target} cannot be read: {error}"

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="edgespa-look") as threads:
        return list(threads.map(one, pairs))
