"""Key points: by numbers worked out by hand, as the device says them, and the whole way from COCO to a task."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgespa as es
from edgespa.adaptation.augment import augmentation
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.data.points import Points
from edgespa.device.runner import Model
from edgespa.device.runner.points import point_rows
from edgespa.errors import DataError
from edgespa.objectives.heatmaps import Heatmaps, maps_of, points_of, sizes_of

NAMES = ("left_eye", "right_eye", "nose")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def _points(*places: tuple[float, float, float], size: tuple[int, int] = (32, 64)) -> Points:
    return Points(torch.tensor([places]), torch.tensor([size]).float())


def test_maps_are_one_where_the_point_is() -> None:
    """An input of 64 x 32 and maps of a quarter of it: (10, 6) is the middle of column 2, row 1."""
    maps = maps_of(_points((10, 6, 2)), 8, 16)
    assert maps.shape == (1, 1, 8, 16)
    assert float(maps[0, 0, 1, 2]) == 1
    assert float(maps[0, 0, 1, 5]) == pytest.approx(math.exp(-9 / 2))
    assert float(maps[0, 0, 3, 3]) == pytest.approx(math.exp(-5 / 2))
    wide = maps_of(_points((10, 6, 2)), 64, 128)  # a 32nd of 128 is a spread of 4; the middle is between pixels
    assert float(wide[0, 0, 12, 20]) == pytest.approx(math.exp(-2 * 0.25 / 32))


def test_the_loss_is_a_mean_over_what_is_known() -> None:
    targets = _points((10, 6, 2), (30, 20, 0))
    outputs = maps_of(targets, 8, 16)
    outputs[0, 1] = 7  # nobody knows
    objective = Heatmaps()
    assert float(objective.loss(outputs, targets)) == 0
    assert float(objective.loss(outputs + 0.5, targets)) == pytest.approx(0.25)
    assert objective.mass(targets) == 1
    unknown = _points((10, 6, 0), (3, 3, 0))
    assert (float(objective.loss(outputs, unknown)), objective.mass(unknown)) == (0, 0)


def test_measures_by_hand() -> None:
    """Points 20 apart; one is hit, one 3 off, one 1 off: a tenth is 2 pixels."""
    targets = _points((10.5, 10.5, 2), (30.5, 10.5, 1), (20.5, 12.5, 2), size=(32, 64))
    outputs = torch.zeros(1, 3, 32, 64)
    outputs[0, 0, 10, 10] = outputs[0, 1, 10, 33] = outputs[0, 2, 13, 20] = 1
    sums = Heatmaps().sums(outputs, targets)
    assert sums.tolist() == pytest.approx([2, 3, 4 / 20, 0])
    assert Heatmaps().values(sums, None) == pytest.approx((2 / 3, 4 / 60))
    assert sizes_of(_points((5, 5, 2), (9, 9, 0))).tolist() == [64]  # of one point there is no size


def test_answers_are_those_of_the_device() -> None:
    maps = torch.randn(5, 3, 6, 9, generator=torch.Generator().manual_seed(1))
    found = points_of(maps, torch.tensor([[24.0, 45.0]]).expand(5, 2))
    for own, sample in zip(found, maps, strict=True):
        np.testing.assert_allclose(own.numpy(), point_rows(sample.numpy(), (24, 45))[0], rtol=1e-6)


def _picture(places: list[tuple[int, int]], size: tuple[int, int] = (48, 64)) -> bytes:
    pixels = np.zeros((*size, 3), np.uint8)
    for (x, y), colour in zip(places, COLOURS * (len(places) // 3), strict=True):
        pixels[y - 2 : y + 2, x - 2 : x + 2] = colour
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _written(path: Path, things: int, count: int, names: tuple[str, ...] = NAMES) -> Path:
    """Things with three bright points, one beside the other."""
    random = np.random.default_rng(things)
    (path / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        places = []
        for thing in range(things):
            x, y = random.integers(6, 64 // things - 20) + thing * 64 // things, random.integers(6, 30)
            own = [(int(x), int(y)), (int(x) + 12, int(y)), (int(x) + 6, int(y) + 12)]
            places += own
            said = [value for place in own for value in (*place, 2)]
            box = [own[0][0] - 2, own[0][1] - 2, 16, 16]
            number = len(annotations)
            annotations.append({"id": number, "image_id": index, "category_id": 1, "bbox": box, "keypoints": said})
        (path / "images" / f"{index}.png").write_bytes(_picture(places))
        images.append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 48})
    category = {"id": 1, "name": "face", "keypoints": list(names), "skeleton": [[1, 3]]}
    whole = {"images": images, "annotations": annotations, "categories": [category]}
    (path / "annotations.json").write_text(json.dumps(whole))
    return path


HOW = Preprocess(height=48, width=64, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize("names", [[], ["flip"], ["crop"], ["crop", "flip", "colour"]])
def test_points_lie_on_their_colours(names: list[str], tmp_path: Path) -> None:
    """In a mirror left is right: the left eye is green there, and red what is called the right one."""
    data = load_data(str(_written(tmp_path / "set", 1, 24)))
    assert (data.kind, data.form, data.classes) == ("heatmaps", "points", NAMES)
    images, points = next(prepare(data, HOW).batches(24, shuffle_seed=1, augment=augmentation(names)))
    mirrored = 0
    for image, own in zip(images, points.places, strict=True):
        flipped = float(own[0, 0]) > float(own[1, 0])
        assert not flipped  # left stays left
        for k, (x, y, seen) in enumerate(own.tolist()):
            if seen and 2 < x < 62 and 2 < y < 46:
                pixels = image[:, int(y) - 1 : int(y) + 1, int(x) - 1 : int(x) + 1].mean((1, 2))
                mirrored += k == 0 and int(pixels.argmax()) == 1
                assert int(pixels.argmax()) in ((k,) if "flip" not in names else (k, {0: 1, 1: 0, 2: 2}[k]))
    assert ("flip" in names) == (mirrored > 3)


def test_things_are_cut_out_where_a_picture_has_several(tmp_path: Path) -> None:
    data = load_data(str(_written(tmp_path / "set", 2, 6)))
    assert len(data) == 12
    places, size = data.answer(3)
    assert size == (20, 20)  # 16 and a quarter
    assert data.image(3).shape == (20, 20, 3)
    for (x, y, _), colour in zip(places.tolist(), COLOURS, strict=True):
        assert tuple(data.image(3)[int(y), int(x)]) == colour
    boxes = load_data(str(tmp_path / "set"), wanted="boxes")
    assert (boxes.kind, len(boxes), boxes.classes) == ("detection", 6, ("face",))


def test_without_left_and_right_nothing_is_mirrored(tmp_path: Path) -> None:
    data = load_data(str(_written(tmp_path / "set", 1, 3, ("tip", "left", "base"))))
    with pytest.raises(DataError, match="left and right"):
        prepare(data, HOW).batches(3, augment=augmentation(["flip"]))
    assert len(list(prepare(data, HOW).batches(3, augment=augmentation(["crop"])))) == 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.b(torch.relu(self.a(x)))))
        return found


def test_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = _written(tmp_path / "set", 1, 32)
    task = es.adapt(
        Net().eval(), data=str(source), output=tmp_path / "t.spa", eval_data=str(source), input_shape=(1, 3, 48, 64),
        density=0.8, adapter="full", epochs=16, batch_size=4, lr=0.02, augment=("crop",), validation=0.2,
    )  # fmt: skip
    assert task.metrics["test_pck"] > 0.8
    assert task.metrics["test_nme"] < 0.2
    assert "PCK" in str(task)
    assert task.task.header.provenance["skeleton"] == [[0, 2]]  # COCO counts from 1


def test_what_the_device_says_and_draws(tmp_path: Path) -> None:
    """From a network whose maps are the colours themselves, to points in the photograph and the lines between them."""
    pytest.importorskip("onnxscript")
    source = _written(tmp_path / "set", 1, 8)

    class Colours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blur = nn.Conv2d(3, 3, 5, 2, 2, bias=False)
            own = torch.zeros(3, 3, 5, 5)
            for k in range(3):
                own[k, :, 1:4, 1:4] = -1.0
                own[k, k, 1:4, 1:4] = 1.0
            self.blur.weight.data = own / 9

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.blur(x)
            return found

    task = es.adapt(
        Colours().eval(), data=str(source), output=tmp_path / "t.spa", input_shape=(1, 3, 48, 64), epochs=1,
        batch_size=4, lr=1e-9, augment=(), resize="letterbox",
    )  # fmt: skip
    bundle = es.export(task, output=tmp_path / "b", formats="onnx", cache=False, eval_data=str(source))
    assert bundle.manifest.skeleton == ((0, 2),)
    assert "key points lie" in (tmp_path / "b" / "README.md").read_text()
    wide = Image.new("RGB", (128, 48))
    with Image.open(source / "images" / "0.png") as own:
        wide.paste(own, (40, 0))
    model = Model(tmp_path / "b")
    result = model(wide)
    truth = json.loads((source / "annotations.json").read_text())["annotations"][0]["keypoints"]
    for row, name, x, y in zip(result["points"], NAMES, truth[::3], truth[1::3], strict=True):
        assert row["label"] == name
        assert (row["x"], row["y"]) == pytest.approx((x + 40, y), abs=3)
    picture = np.asarray(model.draw(wide, result))
    middle = [round((result["points"][0][axis] + result["points"][2][axis]) / 2) for axis in "xy"]
    assert (picture[middle[1] - 1 : middle[1] + 2, middle[0] - 1 : middle[0] + 2] == 255).all(-1).any()


@pytest.mark.parametrize("said", [[[1, 4]], [[0, 1]], [[1]], [["a", 1]], {"1": 2}, [[True, 1]]], ids=str)
def test_a_skeleton_of_other_points_is_told(said: object, tmp_path: Path) -> None:
    path = _written(tmp_path / "set", 1, 3) / "annotations.json"
    whole = json.loads(path.read_text())
    whole["categories"][0]["skeleton"] = said
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="its skeleton is no list of pairs of the numbers 1 to 3"):
        load_data(str(path.parent))
