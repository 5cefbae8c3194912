"""What outputs say: areas of what is seen, key points in pixels of the photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgespa.bundle.decoding import Columns, Decoding
from edgespa.config import Preprocess
from edgespa.device import runner
from edgespa.device.runner.answer import UNSEEN, brief, together
from edgespa.device.runner.many import write_picture
from edgespa.pixels.placement import placed


def reader(
    folder: Path,
    learns: str,
    how: dict[str, Any],
    labels: str = "",
    outputs: int = 1,
    decoding: Decoding | None = None,
    least: float | None = None,
) -> runner.Reader:
    (folder / "labels.txt").write_text(labels)
    pre = Preprocess(channels=3, mean=(0, 0, 0), std=(1, 1, 1), **how).model_dump()
    manifest: dict[str, Any] = {
        "learns": learns,
        "preprocessing": pre,
        "inputs": [{"shape": [1, 3, pre["height"], pre["width"]]}],
    }
    if decoding is not None:
        manifest["decoding"] = decoding.model_dump()
    return runner.Reader(folder, manifest, {"outputs": [{"name": f"out_{i}"} for i in range(outputs)]}, 5, least)


def test_areas_by_hand() -> None:
    classes = np.array([[0, 0, 0, 2], [2, 2, 2, 2]])
    assert runner.areas(classes, 3, ["ground", "bright"], 5) == {
        "areas": [{"index": 2, "label": "2", "share": 5 / 8}, {"index": 0, "label": "ground", "share": 3 / 8}]
    }
    assert len(runner.areas(classes, 3, [], 1)["areas"]) == 1


def test_no_areas_from_what_is_not_finite() -> None:
    with pytest.raises(runner.RunnerError, match="not finite"):
        runner.class_map(np.full((2, 2, 2), np.nan), None)


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (2, 3), (1, 1)])
@pytest.mark.parametrize("own", [(4, 6), (1, 3)])
def test_the_class_map_is_that_of_the_measure(size: tuple[int, int], own: tuple[int, int]) -> None:
    scores = np.random.default_rng(0).standard_normal((5, *own)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(scores)[None], size, mode="bilinear")[0].argmax(0)
    found = runner.class_map(scores, size)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, wanted.numpy())


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_areas_and_mask_are_of_the_photograph(tmp_path: Path, resize: str) -> None:
    """A photograph of 10 x 40, its left quarter of class 1; beside it class 2, where the input shows nothing."""
    how = {"height": 16, "width": 16, "resize": resize}
    own = reader(tmp_path, "segmentation", how, "sky\nroad\nnothing\n")
    truth = np.zeros((10, 40), np.int16)
    truth[:, :10] = 1
    place = placed((10, 40), how)
    over = place.mask(truth, 2)
    scores = (np.arange(3)[:, None, None] == over).astype(np.float32)[None]
    (result,) = own.read([scores], place)
    shares = {row["label"]: row["share"] for row in result["areas"]}
    if resize == "crop":  # of the middle 10 x 10 nothing is road
        assert shares == {"sky": 1.0}
        assert (result.mask[:, :15] == UNSEEN).all()  # type: ignore[index]
    else:
        assert shares == {"sky": 0.75, "road": 0.25}
        np.testing.assert_array_equal(result.mask, truth)
    assert result.size == (10, 40)


def test_key_points_by_hand() -> None:
    maps = np.zeros((3, 4, 6))
    maps[0, 1, 2], maps[0, 1, 3], maps[0, 0, 2] = 1, 0.5, 0.2  # to the right, and up
    maps[1, 0, 5] = 2  # in a corner nothing is moved
    maps[2, 2, 2] = 3  # between equals neither
    places, scores = runner.point_rows(maps, (8, 24))
    assert places.tolist() == [[(2 + 0.25 + 0.5) * 4, (1 - 0.25 + 0.5) * 2], [5.5 * 4, 0.5 * 2], [2.5 * 4, 2.5 * 2]]
    assert scores.tolist() == [1, 2, 3]


def test_key_points_come_back_to_the_photograph(tmp_path: Path) -> None:
    how = {"height": 32, "width": 32, "resize": "letterbox"}
    own, place = reader(tmp_path, "heatmaps", how, "nose\nleft eye\n"), placed((60, 120), how)
    wanted = np.array([[30.0, 20.0], [100.0, 50.0]])
    x, y = np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5)
    maps = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in place.points(wanted) / 2]
    (result,) = own.read([np.stack(maps)[None]], place)
    assert [row["label"] for row in result["points"]] == ["nose", "left eye"]
    found = np.array([[row["x"], row["y"]] for row in result["points"]])
    # A quarter of a pixel of the map, which is 2 x 120 / 32 of the photograph.
    assert np.abs(found - wanted).max() <= 0.25 * 7.5 + 1e-6
    assert "nose (" in brief(result)


def test_what_is_not_known_is_figures(tmp_path: Path) -> None:
    own = reader(tmp_path, "spot", {"height": 4, "width": 4}, outputs=2)
    (result,) = own.read([np.ones((1, 2)), np.zeros((1, 3))])
    assert [row["shape"] for row in result["outputs"]] == ["1 x 2", "1 x 3"]
    assert brief(result) == "out_0 of 1 x 2, out_1 of 1 x 3"


def test_what_is_no_number_has_no_figure(tmp_path: Path) -> None:
    """And is valid JSON all the same."""
    own = reader(tmp_path, "spot", {"height": 4, "width": 4})
    (result,) = own.read([np.array([[1.0, np.inf]])])
    assert result["outputs"] == [{"output": "out_0", "shape": "1 x 2", "min": 1.0, "max": None, "mean": None}]
    json.dumps(result.answer, allow_nan=False)


def test_maps_over_an_input_of_any_size_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    manifest = {"learns": "segmentation", "preprocessing": None, "inputs": [{"shape": ["batch", 3, "height", "width"]}]}
    own = runner.Reader(tmp_path, manifest, {"outputs": [{"name": "out_0"}]})
    (result,) = own.read([np.eye(2, dtype=np.float32)[None, :, :, None]])
    assert own.size is None
    assert result["areas"] == [{"index": 0, "label": "a", "share": 0.5}, {"index": 1, "label": "b", "share": 0.5}]
    assert result.mask.tolist() == [[0], [1]]  # type: ignore[union-attr]


def test_several_samples_are_one_table(tmp_path: Path) -> None:
    results = reader(tmp_path, "regression", {"height": 4, "width": 4}).read([np.array([[1.0], [2.0]])])
    assert together(results) == {
        "values": [
            {"sample": 0, "index": 0, "label": "0", "value": 1.0},
            {"sample": 1, "index": 0, "label": "0", "value": 2.0},
        ]
    }


def test_boxes_come_back_to_the_photograph(tmp_path: Path) -> None:
    """What lies in the padding is no box of it, what sticks out is cut, what is not sure is left out."""
    how = {"height": 32, "width": 32, "resize": "letterbox"}
    decoding = Decoding(size=(32, 32), scores=Columns(output=0), boxes=Columns(output=1), overlap=None)
    corners = [[4, 8, 8, 16], [0, 0, 32, 7], [28, 20, 40, 30], [1, 9, 2, 10]]
    scores = [[0.0, 0.9], [0.8, 0.0], [0.7, 0.0], [0.2, 0.0]]
    outputs = [np.array(each, np.float32)[None] for each in (scores, corners)]
    for least, count in ((None, 2), (0.1, 3), (0.85, 1)):
        own = reader(tmp_path, "detection", how, "cat\ndog\n", 2, decoding, least)
        (result,) = own.read(outputs, placed((40, 80), how))
        assert len(result["boxes"]) == count
    own = reader(tmp_path, "detection", how, "cat\ndog\n", 2, decoding)
    (result,) = own.read(outputs, placed((40, 80), how))
    first, second = result["boxes"]
    assert (first["label"], first["score"]) == ("dog", pytest.approx(0.9))
    assert first["box"] == [10, 0, 20, 20]  # 2.5 times as large, and 8 rows of padding above it
    assert second["box"] == [70, 30, 80, 40]
    assert brief(result) == "dog 90% at [10, 0, 20, 20]; cat 70% at [70, 30, 80, 40]"
    assert own.draws
    with pytest.raises(runner.RunnerError, match="not as the manifest's decoding describes"):
        own.read([outputs[0], outputs[1][:, :, :3]])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_a_picture_has_the_proportions_of_the_photograph(tmp_path: Path, resize: str, times: int) -> None:
    """A photograph of 20 x 40 whose left half is 1: what the model made of it, without the padding."""
    how = {"height": 16, "width": 16, "resize": resize}
    own, place = reader(tmp_path, "image", how), placed((20, 40), how)
    half = np.zeros((20, 40), np.float32)
    half[:, :20] = 1
    over = np.repeat(np.repeat(place.mask(half, 0.5), times, 0), times, 1)
    (result,) = own.read([over[None, None].repeat(3, 1)], place)
    picture = result.picture
    assert picture is not None
    sizes = {"stretch": (16, 32), "letterbox": (8, 16), "crop": (16, 16)}
    assert picture.shape == (sizes[resize][0] * times, sizes[resize][1] * times, 3)
    middle = picture.shape[1] // 2
    assert (picture[:, : middle - 1] == 1).all()
    assert (picture[:, middle + 1 :] == 0).all()
    assert result["outputs"][0]["shape"] == f"3 x {16 * times} x {16 * times}"
    (plain,) = own.read([over[None, None]])
    np.testing.assert_array_equal(plain.picture, over[:, :, None])


def test_pictures_are_written(tmp_path: Path) -> None:
    """Three channels in 8 bits, one in 16 where the file has them: numbers of 0 to 1, what is beyond is cut."""
    ramp = np.linspace(-0.5, 1.5, 9, dtype=np.float32).reshape(1, 3, 3)
    wanted = np.clip(ramp[0], 0, 1)
    for channels, suffix, most in ((1, "png", 65535), (1, "bmp", 255), (3, "png", 255)):
        result = runner.Result("image", {"outputs": []}, [ramp.repeat(channels, 0)])
        path = tmp_path / f"{channels}.{suffix}"
        write_picture(runner.draw(np.zeros((3, 3, 3), np.uint8), result, []), path)
        with Image.open(path) as image:
            found = np.asarray(image, np.float64)
        assert np.abs(found / most - (wanted if channels == 1 else wanted[:, :, None])).max() <= 1 / most
    with pytest.raises(runner.RunnerError, match="2 channels"):
        runner.draw(np.zeros((3, 3, 3), np.uint8), runner.Result("image", {}, [ramp.repeat(2, 0)]), [])
