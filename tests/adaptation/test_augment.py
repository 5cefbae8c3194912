"""What is known of an image goes where the image goes: a bright rectangle stays in its box."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgespa.adaptation.augment import augmentation
from edgespa.adaptation.moves import CROP_FRACTION, SCALES
from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.data.answers import IGNORED
from edgespa.data.arrays import ArraySource
from edgespa.data.boxes import BoxAnswers, Drawn, Objects
from edgespa.data.points import Points
from edgespa.errors import DataError
from edgespa.pixels.picture import GREY

SIZE = (40, 64)


def _objects(*boxes: tuple[float, ...]) -> Objects:
    count = len(boxes)
    return Objects(torch.tensor(boxes).float(), torch.arange(count), torch.zeros(count, dtype=torch.bool))


def _lit(boxes: list[tuple[int, int, int, int]]) -> torch.Tensor:
    """An image for each box, bright where it is."""
    images = torch.zeros(len(boxes), 3, *SIZE, dtype=torch.uint8)
    for image, (x1, y1, x2, y2) in zip(images, boxes, strict=True):
        image[:, y1:y2, x1:x2] = 255
    return images


@pytest.mark.parametrize("names", [["flip"], ["crop"], ["flip", "crop"], ["crop", "flip"], ["crop", "crop", "flip"]])
def test_a_bright_rectangle_stays_in_its_box(names: list[str]) -> None:
    random = np.random.default_rng(5)
    corners = [(int(x), int(y), int(x) + 9, int(y) + 6) for x, y in random.integers(0, (55, 34), (60, 2))]
    changed = augmentation(names)
    assert changed is not None
    images, objects = changed.with_boxes(
        _lit(corners), [_objects(each) for each in corners], torch.Generator().manual_seed(1)
    )
    places, gone = set(), 0
    for image, each in zip(images, objects, strict=True):
        rows, columns = (image[0] == 255).nonzero(as_tuple=True)
        if not len(each):
            gone += 1
            assert len(rows) < 0.1 * 54
            continue
        seen = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert each.boxes.tolist() == [seen]
        places.add(tuple(seen))
    assert len(places) > 40  # they moved
    assert gone < 10


def test_what_comes_in_is_grey() -> None:
    """Mirrored it would be an object that has no box."""
    changed = augmentation(["crop"])
    assert changed is not None
    images = torch.full((8, 3, *SIZE), 255, dtype=torch.uint8)
    moved, objects = changed.with_boxes(images, [_objects((0, 0, 64, 40))] * 8, torch.Generator().manual_seed(2))
    for image, each in zip(moved, objects, strict=True):
        x1, y1, x2, y2 = map(int, each.boxes[0].tolist())
        assert bool((image[:, y1:y2, x1:x2] == 255).all())
        outside = torch.ones(SIZE, dtype=torch.bool)
        outside[y1:y2, x1:x2] = False
        assert bool((image[:, outside] == GREY).all())
        assert x1 <= CROP_FRACTION * 64
        assert y1 <= CROP_FRACTION * 40


def test_draws_as_for_images_alone() -> None:
    changed = augmentation(["flip", "colour"])
    assert changed is not None
    images = torch.randint(0, 255, (6, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    alone = changed(images, torch.Generator().manual_seed(4))
    both, _ = changed.with_boxes(images, [Objects.none()] * 6, torch.Generator().manual_seed(4))
    assert torch.equal(alone, both)


def test_batches_have_both() -> None:
    """Of each of several processes the same as of one."""
    corners = [(4 + k, 6, 20 + k, 18) for k in range(12)]
    answers = BoxAnswers.of([Drawn(_objects(each), SIZE) for each in corners])
    data = ImageData(ArraySource(_lit(corners).permute(0, 2, 3, 1).numpy()), None, ["c"], "made", answers=answers)
    how = Preprocess(height=SIZE[0], width=SIZE[1], channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    prepared, changed = prepare(data, how), augmentation(["flip", "crop"])
    whole = list(prepared.batches(6, shuffle_seed=3, augment=changed))
    halves = [list(prepared.batches(6, shuffle_seed=3, augment=changed, part=(k, 2))) for k in range(2)]
    for index, (images, objects) in enumerate(whole):
        for image, each in zip(images, objects, strict=True):
            rows, columns = (image[0] > 0.9).nonzero(as_tuple=True)
            assert each.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for k in range(2):
            assert torch.equal(halves[k][index][0], images[k::2])
            wanted = [each.boxes.tolist() for each in objects[k::2]]
            assert [each.boxes.tolist() for each in halves[k][index][1]] == wanted
    with pytest.raises(DataError, match="moves images alone"):
        next(prepared.batches(6, augment=lambda images, generator: images))


@pytest.mark.parametrize("names", [["scale"], ["scale", "flip", "crop"]])
def test_a_bright_rectangle_is_scaled_with_its_box(names: list[str]) -> None:
    random = np.random.default_rng(6)
    corners = [(int(x), int(y), int(x) + 20, int(y) + 12) for x, y in random.integers(0, (44, 28), (60, 2))]
    changed = augmentation(names)
    assert changed is not None
    drawn = [_objects(each) for each in corners]
    images, objects = changed.with_boxes(_lit(corners), drawn, torch.Generator().manual_seed(1))
    widths = []
    for image, each in zip(images, objects, strict=True):
        rows, columns = (image[0] > 185).nonzero(as_tuple=True)  # half way from grey to white
        if not len(each):
            assert len(rows) < 0.12 * 540
            continue
        seen = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert each.boxes[0].tolist() == pytest.approx(seen, abs=1.01)
        inside = seen[0] > 0 and seen[2] < 64
        widths += [float(each.boxes[0, 2] - each.boxes[0, 0]) / 20] if inside else []
    assert 1.2 < max(widths) < SCALES[1] + 1e-6
    assert min(widths) < 0.8
    assert min(widths) > SCALES[0] - 1e-6 or "crop" in names  # what was cut off may be shifted inside


def test_masks_and_points_are_scaled_too() -> None:
    changed = augmentation(["scale"])
    assert changed is not None
    corners = [(k, 10, k + 20, 30) for k in range(30)]
    images = _lit(corners)
    masks = (images[:, 0] > 0).long()
    moved, scaled = changed.with_masks(images, masks, torch.Generator().manual_seed(2))
    known = scaled != IGNORED
    assert float(((moved[:, 0] > 127) == (scaled == 1))[known].float().mean()) > 0.97  # but for the edges
    assert 0.6 < float(known.float().mean()) < 1
    places = torch.tensor([[[k + 10.0, 20.0, 2.0]] for k in range(30)])
    points = Points(places, torch.tensor([[40.0, 64.0]]).expand(30, 2))
    same, found = changed.with_points(images, points, None, torch.Generator().manual_seed(2))
    assert torch.equal(same, moved)
    for image, (x, y, seen) in zip(same, found.places[:, 0].tolist(), strict=True):
        if seen:
            assert int(image[0, int(y), int(x)]) == 255
    assert 20 < int(found.known.sum()) <= 30


def test_of_each_three_images_about_one_stays_one_is_laid_over_and_one_gets_a_rectangle() -> None:
    values = torch.arange(240, dtype=torch.uint8)
    images = values[:, None, None, None].expand(240, 3, 12, 10).contiguous()
    changed = augmentation(["mix"])
    assert changed is not None
    mixed = changed(images, torch.Generator().manual_seed(1))
    assert torch.equal(mixed, changed(images, torch.Generator().manual_seed(1)))
    same, laid, pieces = 0, 0, 0
    for value, image in zip(values.tolist(), mixed, strict=True):
        found = image.unique().tolist()
        assert torch.equal(image[0], image[2])  # of one image all channels
        if found == [value]:
            same += 1
        elif len(found) == 1:
            laid += 1
        else:
            other = next(each for each in found if each != value)
            assert found == sorted((value, other))
            where = image[0] == other
            assert torch.equal(where, where.any(1, keepdim=True) & where.any(0, keepdim=True))  # a rectangle
            pieces += 1
    assert min(same, laid, pieces) > 50
    assert int((mixed.float() - images.float()).abs().max()) > 60
