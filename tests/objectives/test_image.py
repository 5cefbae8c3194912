"""Pictures for pictures: figures by hand, folders that are some and that are none, the whole way at twice the size."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from torch import nn

import edgespa as es
from edgespa.adaptation.augment import augmentation
from edgespa.config import Preprocess
from edgespa.data import ImageData, load_data, prepare
from edgespa.data.arrays import ArraySource
from edgespa.data.pictures import PictureAnswers
from edgespa.errors import DataError
from edgespa.objectives.image import MOST_DB, Image, similarity
from tests.data.annotated import Files, written

RANDOM = np.random.default_rng(3)


def stored(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, pixels)
    else:
        Pictures.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def scene(height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth, and no two alike."""
    small = RANDOM.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Pictures.fromarray(small).resize((width, height), Pictures.Resampling.BICUBIC))


def pairs(count: int = 6, given: str = "low/{}.jpg", wanted: str = "high/{}.png", factor: int = 1) -> Files:
    files: Files = {}
    for index in range(count):
        sharp = scene(24 * factor, 32 * factor)
        small = np.asarray(Pictures.fromarray(sharp).resize((32, 24), Pictures.Resampling.BOX)) // 3
        files[given.format(index)] = stored(small, "JPEG" if given.endswith("jpg") else "PNG")
        files[wanted.format(index)] = stored(sharp)
    return files


def test_loss_and_ratio_by_hand() -> None:
    """A tenth off everywhere is 20 dB; a number that nobody knows counts nowhere."""
    wanted = torch.full((2, 1, 12, 12), 0.4)
    wanted[1, 0, :, :6] = torch.nan
    outputs = torch.full((2, 1, 12, 12), 0.5)
    outputs[1, 0, :, :6] = 77
    objective = Image()
    assert float(objective.loss(outputs, wanted)) == pytest.approx(math.sqrt(0.01 + 1e-6))
    assert objective.mass(wanted) == 144 + 72
    sums = objective.sums(outputs, wanted)
    assert objective.values(sums, None)[0] == pytest.approx(20)
    assert objective.blind(sums, None) == pytest.approx(20)
    same = objective.sums(wanted.nan_to_num(0.4), wanted)
    assert objective.values(same, None) == (MOST_DB, pytest.approx(1))
    nothing = torch.full((2, 1, 12, 12), torch.nan)
    assert (float(objective.loss(outputs, nothing)), objective.mass(nothing)) == (0, 0)


def test_similarity_of_flat_pictures_is_that_of_their_levels() -> None:
    """Without any contrast equation 13 is (2 a b + C1) / (a^2 + b^2 + C1)."""
    one, other = torch.full((1, 3, 16, 16), 0.5).double(), torch.full((1, 3, 16, 16), 0.8).double()
    alike, there = similarity(one, other, torch.ones_like(one, dtype=torch.bool))
    assert bool(there.all())
    assert float(alike) == pytest.approx((0.8 + 1e-4) / (0.89 + 1e-4))


def test_similarity_of_a_window_by_hand() -> None:
    """One window of 11 x 11 in all of it."""
    x, y = (torch.from_numpy(RANDOM.random((1, 1, 11, 11))) for _ in range(2))
    places = torch.arange(11).double() - 5
    line = torch.exp(-(places**2) / 4.5)
    w = line[:, None] * line[None, :]
    w = w / w.sum()
    a, b = (w * x).sum(), (w * y).sum()
    va, vb, both = (w * (x - a) ** 2).sum(), (w * (y - b) ** 2).sum(), (w * (x - a) * (y - b)).sum()
    wanted = (2 * a * b + 1e-4) * (2 * both + 9e-4) / ((a**2 + b**2 + 1e-4) * (va + vb + 9e-4))
    found, _ = similarity(x, y, torch.ones_like(x, dtype=torch.bool))
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)


def beside(end: str, depth: Callable[[], bytes]) -> Files:
    files = {f"rgb/{n}.png": stored(scene()) for n in range(3)}
    return files | {f"depth/{n}.{end}": depth() for n in range(3)}


LAYOUTS = {
    "two folders": (pairs(), None, 6),
    "in a split": (pairs(given="train/input/{}.jpg", wanted="train/target/{}.png"), "train", 6),
    "above splits": (pairs(given="LQ/train/{}.jpg", wanted="GT/train/{}.png"), "train", 6),
    "arrays": (beside("npy", lambda: stored(RANDOM.random((24, 32)), "npy")), None, 3),
    "grey": (beside("png", lambda: stored(scene()[:, :, 0])), None, 3),
    "deep": (beside("png", lambda: stored(RANDOM.integers(0, 9999, (24, 32)).astype(np.uint16))), None, 3),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_folders(name: str, zipped: bool, tmp_path: Path) -> None:
    files, split, count = LAYOUTS[name]
    spec = str(written(files, tmp_path, zipped)) + (f":{split}" if split else "")
    data = load_data(spec)
    assert (data.kind, data.form, len(data), data.classes) == ("image", "images", count, ())
    picture, size = data.answer(1)
    assert (picture.shape[:2], size, picture.dtype) == ((24, 32), (24, 32), np.float32)
    assert 0 < float(np.nanmean(picture)) < 1
    assert len(load_data(spec, labelled=False)) == count


def test_classes_whose_files_are_called_alike_stay_classes(tmp_path: Path) -> None:
    files = {f"{kind}/{n}.png": stored(scene()) for kind in ("dark", "bright") for n in range(5)}
    path = written(files, tmp_path)
    assert load_data(str(path)).classes == ("bright", "dark")
    assert load_data(str(path), wanted="images").kind == "image"


def test_of_depths_nobody_knows_what_is_zero(tmp_path: Path) -> None:
    deep = RANDOM.integers(1, 9999, (24, 32)).astype(np.uint16)
    deep[3, 4] = 0
    files = {f"rgb/{n}.png": stored(scene()) for n in range(2)} | {f"depth/{n}.png": stored(deep) for n in range(2)}
    picture, _ = load_data(str(written(files, tmp_path))).answer(0)
    assert np.isnan(picture[3, 4, 0])
    assert int(np.isnan(picture).sum()) == 1
    assert float(picture[0, 0, 0]) == pytest.approx(deep[0, 0] / 65535)


def test_what_does_not_fit_is_told_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = pairs()
    files["high/1.png"] = stored(scene(24, 33))
    files["high/2.png"] = files["high/2.png"][:60]
    files["low/3.jpg"] = b"none"
    path = written(files, tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(str(path), wanted="images")
    for words in ("3 of 6 images", "high/1.png is 33 x 24, its picture 32 x 24: not of its size", "low/3.jpg is not"):
        assert words in caught.value.message
    assert len(load_data(str(path), wanted="images", skip=True)) == 3
    assert "left out" in caplog.text


def _data(images: np.ndarray, factor: int) -> ImageData:
    """What is wanted says of each pixel where it lies: row and column as it is large."""
    count, height, width = images.shape[:3]
    rows, columns = np.mgrid[: factor * height, : factor * width].astype(np.float32) + 0.5
    wanted = np.stack([rows / factor, columns / factor, rows * 0], 2)
    sizes = np.tile([height, width], (count, 1))
    answers = PictureAnswers(lambda index: wanted, sizes, factor, 3, "made")
    return ImageData(ArraySource(images), None, (), "made", answers=answers)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    # Where row and column of the wanted picture lie at its first pixel that is seen, and how many there are.
    [("stretch", (0.5, 0.5, 16, 16)), ("crop", (0.5, 8.5, 16, 16)), ("letterbox", (1.0, 1.0, 8, 16))],
)
def test_wanted_pictures_land_where_theirs_do(factor: int, kind: str, wanted: tuple[float, ...]) -> None:
    how = Preprocess(height=16, width=16, channels=3, mean=(0,) * 3, std=(1,) * 3, resize=kind)
    prepared = prepare(_data(np.zeros((1, 16, 32, 3), np.uint8), factor), how)
    ((_, targets),) = prepared.batches(1)
    assert targets.shape[1:] == prepared.targets.shape == (3, 16 * factor, 16 * factor)
    known = ~targets[0, 0].isnan()
    assert int(known.any(1).sum()) == factor * wanted[2]
    assert int(known.any(0).sum()) == factor * wanted[3]
    row, column = (float(targets[0, k][known][0]) for k in (0, 1))
    scale = {"stretch": (1, 2), "crop": (1, 1), "letterbox": (2, 2)}[kind]
    begin = {"stretch": (0, 0), "crop": (0, 8), "letterbox": (0, 0)}[kind]
    assert row == pytest.approx(begin[0] + 0.5 * scale[0] / factor, abs=0.3)
    assert column == pytest.approx(begin[1] + 0.5 * scale[1] / factor, abs=0.3)


@pytest.mark.parametrize("factor", [1, 2])
def test_both_move_alike(factor: int) -> None:
    rows, columns = np.mgrid[:16, :32]
    images = np.tile(np.stack([rows * 8, columns * 8, rows * 0], 2).astype(np.uint8), (8, 1, 1, 1))
    how = Preprocess(height=16, width=32, channels=3, mean=(0,) * 3, std=(1,) * 3)
    prepared = prepare(_data(images, factor), how)
    ((inputs, wanted),) = prepared.batches(8, shuffle_seed=1, augment=augmentation(["flip", "crop"]))
    shown = nn.functional.avg_pool2d(wanted[:, :2], factor)
    known = ~shown.isnan()
    torch.testing.assert_close(shown[known], (inputs[:, :2] * 255 / 8 + 0.5)[known], atol=1e-3, rtol=0)
    assert 0.5 < float(known.float().mean()) < 1
    for name, words in (("colour", "other colours"), ("scale", "resized alike")):
        with pytest.raises(DataError, match=words):
            prepared.batches(8, augment=augmentation([name]))


class Twice(nn.Module):
    """Twice as large, by a convolution and a shuffle of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.b(torch.relu(self.a(x))), 2)


def test_the_whole_way_at_twice_the_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = written(pairs(24, wanted="high/{}.png", factor=2), tmp_path)
    task = es.adapt(
        Twice().eval(), data=str(path), eval_data=str(path), output=tmp_path / "t.spa", input_shape=(1, 3, 24, 32),
        density=0.8, adapter="full", epochs=20, batch_size=4, lr=0.02, augment=("flip",),
    )  # fmt: skip
    assert task.metrics["test_psnr"] > 20
    assert 0.5 < task.metrics["test_ssim"] <= 1
    with pytest.raises(DataError, match="the pictures that set"):
        es.adapt(
            nn.Conv2d(3, 3, 3, padding=1).eval(), data=str(path), output=tmp_path / "u.spa", input_shape=(1, 3, 24, 32)
        )
