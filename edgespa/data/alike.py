"""Which images are the same picture: pixel by pixel, or nearly, as after another compression or size. Pure.

An image is known by a difference hash (Krawetz 2013, "Kind of like that": whether each pixel of a picture of 9 x 8 is
brighter than its neighbour, 64 bits) and by a small picture of itself. Hashes find candidates, for equal pictures
differ in few bits: two of at most 3 different bits have one of four parts of 16 bits in common. The small pictures
decide. Of 200 photographs of ImageNet it knows 200 again as JPEG of quality 90, 195 of 50, 197 at half the size, and
takes no two of 600, or of 10,000 of CIFAR-10, for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
BITS = 3
"""Candidates have hashes that differ in no more bits."""
NEAR = 0.12
"""The same picture twice: small pictures whose difference is less than this share of what they vary by themselves."""
_PARTS, _WIDTH = 4, 16
_MOST = 400
"""Of one part of hashes: more images that share it are flat, or of one kind, and are compared along a line alone."""
_SPAN = 32


@dataclass(frozen=True)
class Looks:
    """What is kept of images.

    Attributes:
        hashes: uint64 [N].
        small: uint8 [N, SIDE, SIDE, 3].
        digests: Of all pixels, one for each.
    """

    hashes: NDArray[np.uint64]
    small: NDArray[np.uint8]
    digests: list[bytes]


def look_of(pixels: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    """The hash and the small picture of an image.

    Args:
        pixels: uint8 [H, W, C] with C of 1, 3 or 4; transparent parts show white.
    """
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if picture.mode == "RGBA":
        behind = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(behind, picture)
    small = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).reshape(-1))
    return int.from_bytes(bits.tobytes(), "big"), small


def alike(looks: Looks, near: bool = True) -> tuple[list[list[int]], list[list[int]]]:
    """Groups of images that are the same pixel by pixel, and groups that are so nearly, with the former in them.

    Args:
        looks: Of all images.
        near: Look for the second kind, too; else there is none.

    Returns:
        Positions, in order; each group of at least two. A group of the second kind holds images that are not all equal.
    """
    by_digest: dict[bytes, list[int]] = {}
    for place, digest in enumerate(looks.digests):
        by_digest.setdefault(digest, []).append(place)
    exact = [group for group in by_digest.values() if len(group) > 1]
    first = np.array([group[0] for group in by_digest.values()], np.int64)
    parents = {int(place): int(place) for place in first}

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    for one, other in _near(looks, first) if near else ():
        parents[max(root(one), root(other))] = min(root(one), root(other))
    joined: dict[int, list[int]] = {}
    for group in by_digest.values():
        joined.setdefault(root(group[0]), []).append(group[0])
    members = {group[0]: group for group in by_digest.values()}
    nearly = [sorted(each for one in own for each in members[one]) for own in joined.values() if len(own) > 1]
    return exact, nearly


def _near(looks: Looks, chosen: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of images that are nearly the same, of those that are not the same pixel by pixel."""
    small = looks.small.reshape(len(looks.small), -1)
    for part in range(_PARTS):
        keys = (looks.hashes[chosen] >> np.uint64(part * _WIDTH)) & np.uint64((1 << _WIDTH) - 1)
        order = np.lexsort((looks.hashes[chosen], keys))
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for own in np.split(chosen[order], edges):
            if len(own) < 2:
                continue
            span = len(own) - 1 if len(own) <= _MOST else _SPAN
            for step in range(1, span + 1):
                one, other = own[:-step], own[step:]
                kept = _bits(looks.hashes[one] ^ looks.hashes[other]) <= BITS
                one, other = one[kept], other[kept]
                for at in range(0, len(one), 1 << 14):
                    a, b = (small[each[at : at + (1 << 14)]].astype(np.float32) for each in (one, other))
                    same = _same(a, b)
                    pairs = (each[at : at + len(a)][same].tolist() for each in (one, other))
                    yield from zip(*pairs, strict=True)


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether small pictures are the same but for brightness of the whole, [n]; flat ones are not told apart by it."""
    apart = (one - other) - (one - other).mean(1, keepdims=True)
    spread = np.minimum(one.std(1), other.std(1))
    return np.asarray((np.sqrt((apart**2).mean(1)) <= NEAR * spread) & (spread > 1))


_ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def _bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits are 1, [n]."""
    return np.asarray(_ONES[values.view(np.uint8).reshape(-1, 8)].sum(1, dtype=np.int64))
