"""Where pictures land, and that masks, boxes and points land there too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespa.config import Preprocess
from edgespa.pixels.picture import model_pixels
from edgespa.pixels.placement import Placement, placed

IGNORED = 255
SIDE = st.integers(1, 60)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def ways(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a preprocessing that is allowed."""
    resize = draw(st.sampled_from(["stretch", "crop", "letterbox"]))
    height, width = draw(SIDE), draw(SIDE)
    more = st.integers(0, 30)
    to = draw(st.none() | st.tuples(st.just(height) | more.map(lambda n: height + n), more.map(lambda n: width + n)))
    return {"height": height, "width": width, "channels": 1, "resize": resize, "resize_to": to}


def how(**fields: Any) -> Preprocess:
    return Preprocess(mean=(0.0,), std=(1.0,), **{"channels": 1, **fields})


class TestByHand:
    def test_stretch(self) -> None:
        found = how(height=4, width=6).placement(8, 3)
        assert found == Placement((8, 3), (4, 6), (0, 0), (4, 6))
        assert found.scale == (0.5, 2.0)
        assert not found.unchanged
        assert how(height=4, width=6).placement(4, 6).unchanged

    def test_crop(self) -> None:
        """480 x 640 with the shorter side to 256 is 256 x 341; of that the middle 224 x 224."""
        found = how(height=224, width=224, resize="crop", resize_to=256).placement(480, 640)
        assert found == Placement((480, 640), (256, 341), (16, 58), (224, 224))  # 58.5 to the even one

    def test_crop_of_two_sides(self) -> None:
        found = how(height=20, width=10, resize="crop").placement(30, 30)
        assert (found.resized, found.offset) == ((20, 20), (0, 5))

    def test_letterbox(self) -> None:
        found = how(height=640, width=640, resize="letterbox").placement(480, 640)
        assert found == Placement((480, 640), (480, 640), (-80, 0), (640, 640))
        assert found.boxes(np.array([0, 0, 640, 480])).tolist() == [0, 80, 640, 560]
        assert found.boxes_back(np.array([-5, 80, 700, 560]), clip=True).tolist() == [0, 0, 640, 480]

    def test_a_letterbox_is_never_empty(self) -> None:
        assert how(height=8, width=8, resize="letterbox").placement(1, 1000).resized == (1, 8)

    def test_a_mask(self) -> None:
        mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
        boxed = how(height=4, width=3, resize="letterbox").placement(2, 3).mask(mask, IGNORED)
        assert boxed.tolist() == [[255] * 3, [0, 1, 2], [3, 4, 5], [255] * 3]
        cropped = how(height=2, width=2, resize="crop", resize_to=2).placement(2, 4)
        assert cropped.mask(np.arange(8, dtype=np.int64).reshape(2, 4), -1).tolist() == [[1, 2], [5, 6]]
        assert cropped.mask_back(np.array([[1, 2], [5, 6]]), -1).tolist() == [[-1, 1, 2, -1], [-1, 5, 6, -1]]

    def test_what_does_not_fit(self) -> None:
        place = how(height=2, width=2).placement(4, 4)
        with pytest.raises(ValueError, match="5 x 4 lies over 4 x 4"):
            place.mask(np.zeros((5, 4), np.uint8), 0)
        with pytest.raises(ValueError, match="uint8 does not hold -1"):
            place.mask(np.zeros((4, 4), np.uint8), -1)
        with pytest.raises(ValueError, match="by 'squeeze'"):
            placed((4, 4), {"height": 2, "width": 2, "resize": "squeeze"})


@patient
@given(ways(), SIDE, SIDE)
def test_the_input_shows_the_middle(fields: dict[str, Any], height: int, width: int) -> None:
    place = how(**fields).placement(height, width)
    (rows, columns), (into_rows, into_columns) = place.window()
    for seen, become in ((rows, into_rows), (columns, into_columns)):
        assert seen.stop - seen.start == become.stop - become.start > 0
    for whole, first, size in zip(place.resized, place.offset, place.size, strict=True):
        assert abs((whole - first - size) - first) <= 1  # as much on both sides
    if fields["resize"] == "crop":
        assert min(place.offset) >= 0
    if fields["resize"] != "stretch":  # proportions are kept, but for whole pixels
        error = abs(place.resized[0] * width - place.resized[1] * height)
        assert error <= max(height, width)


@patient
@given(ways(), SIDE, SIDE, st.integers(0, 2**32 - 1))
def test_there_and_back(fields: dict[str, Any], height: int, width: int, seed: int) -> None:
    place = how(**fields).placement(height, width)
    boxes = np.random.default_rng(seed).uniform(-10, 70, (3, 4))
    np.testing.assert_allclose(place.boxes_back(place.boxes(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(place.points(boxes[:, :2]), place.boxes(boxes)[:, :2])
    clipped = place.boxes(boxes, clip=True)
    assert (clipped >= 0).all()
    assert (clipped <= np.array([place.size[1], place.size[0]] * 2)).all()


@patient
@given(ways(), SIDE, SIDE)
def test_masks_lie_where_the_pixels_do(fields: dict[str, Any], height: int, width: int) -> None:
    """A picture whose grey value says where it is, resized by its nearest pixels."""
    padding = {"padding": (IGNORED,)} if fields["resize"] == "letterbox" else {}
    preprocess = how(interpolation="nearest", **fields, **padding)
    picture = (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)
    place = preprocess.placement(height, width)
    (fitted,) = model_pixels(picture[:, :, None], preprocess.model_dump())
    sure = [  # that is, not on the edge of two pixels, where Pillow takes the one or the other
        (2 * (np.arange(size) + first) + 1) * whole % (2 * there) != 0
        for size, first, whole, there in zip(place.size, place.offset, place.source, place.resized, strict=True)
    ]
    np.testing.assert_array_equal(place.mask(picture, IGNORED)[np.ix_(*sure)], fitted[np.ix_(*sure)])


@patient
@given(ways(), SIDE, SIDE)
def test_points_lie_where_the_mask_does(fields: dict[str, Any], height: int, width: int) -> None:
    """Each column of the input shows the column of the picture that its middle is in."""
    place = how(**fields).placement(height, width)
    columns = place.mask(np.broadcast_to(np.arange(width), (height, width)), -1).max(0)
    x = place.points_back(np.stack([np.arange(place.size[1]) + 0.5, np.zeros(place.size[1])], 1))[:, 0]
    inside = columns >= 0
    np.testing.assert_array_equal(inside, (x >= 0) & (x < width))
    assert (np.abs(columns[inside] + 0.5 - x[inside]) <= 0.5 + 1e-9).all()


@patient
@given(ways(), SIDE, SIDE, st.integers(0, 2**32 - 1))
def test_what_is_seen_comes_back(fields: dict[str, Any], height: int, width: int, seed: int) -> None:
    """Where nothing is made smaller, all of a mask that is seen is the same after both ways."""
    place = how(**fields).placement(height, width)
    mask = np.random.default_rng(seed).integers(0, 9, (height, width, 2))
    back = place.mask_back(place.mask(mask, -1), -1)
    assert back.shape == mask.shape
    if min(place.scale) >= 1:
        seen = back >= 0
        np.testing.assert_array_equal(back[seen], mask[seen])
