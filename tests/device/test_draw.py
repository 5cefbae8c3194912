"""Pictures with what a model says: the right colours in the right places, of small and large photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from edgespa.device import runner
from edgespa.device.runner.draw import Canvas, colour_of
from edgespa.pixels.placement import placed

SIZES = [(240, 320), (900, 2400)]


def grey(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    return np.full((*size, channels), 120, np.uint8)


def result(learns: str, answer: dict[str, Any], size: tuple[int, int], classes: Any = None) -> runner.Result:
    return runner.Result(learns, answer, [], placed(size, {"height": size[0], "width": size[1]}), classes)


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((picture == colour).all(-1).mean())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_boxes(size: tuple[int, int], channels: int) -> None:
    height, width = size
    box = [width * 0.25, height * 0.5, width * 0.75, height * 0.9]
    rows = [{"index": 1, "label": "cat", "score": 0.9, "box": box}]
    picture = np.asarray(runner.draw(grey(size, channels), result("detection", {"boxes": rows}, size), []))
    assert picture.shape == (*size, 3)
    blue = (picture == colour_of(1)).all(-1)
    edge = round(box[1]) + 1, round(box[0]) + 1
    assert blue[edge[0], edge[1] : round(box[2]) - 1].all()
    assert blue[edge[0] : round(box[3]) - 1, edge[1]].all()
    assert not blue[round(height * 0.7), round(width * 0.5)]
    # The words stand above it, black or white, and are large enough to be read.
    above = picture[: round(box[1]), :]
    rows_of_words = np.flatnonzero((above == colour_of(1)).all(-1).any(1))
    assert 11 <= len(rows_of_words) <= height / 10
    assert (np.abs(above.astype(int) - 20).max(-1) < 40).any()


def test_words_do_not_hide_each_other() -> None:
    canvas = Canvas(grey((300, 300)))
    for _ in range(3):
        canvas.label("cat 90%", colour_of(0), [(50, 100), (50, 150), (50, 200)])
    tops = sorted(box[1] for box in canvas._taken)
    assert len(set(tops)) == 3
    canvas.label("at the edge", colour_of(0), [(-20, -20)])
    left, top, right, bottom = canvas._taken[-1]
    assert (left, top) == (0, 0)
    assert right < 300 > bottom


@pytest.mark.parametrize("size", SIZES)
def test_areas_shine_through_and_the_legend_names_them(size: tuple[int, int]) -> None:
    classes = np.zeros(size, np.int16)
    classes[:, : size[1] // 4] = 1
    drawn = runner.draw(grey(size), result("segmentation", {"areas": []}, size, classes), ["sky", "road"])
    picture = np.asarray(drawn)
    assert picture.shape[0] == size[0]
    assert picture.shape[1] > size[1]
    for column, index in ((1, 1), (size[1] - 1, 0)):
        half = (np.array(colour_of(index)) + 120) / 2
        assert np.abs(picture[0, column] - half).max() <= 1
    legend = picture[:, size[1] :]
    assert share_of(legend, colour_of(0)) > 0
    assert share_of(legend, colour_of(1)) > 0
    # As wide whatever is there: the frames of a video stay of one size.
    other = runner.draw(grey(size), result("segmentation", {"areas": []}, size, classes * 0), ["sky", "road"])
    assert other.size == drawn.size


def test_what_was_not_looked_at_is_dark() -> None:
    how = {"height": 10, "width": 10, "resize": "crop"}
    seen = runner.Result("segmentation", {}, [], placed((20, 60), how), np.zeros((10, 10), np.int16))
    picture = np.asarray(runner.draw(grey((20, 60)), seen, ["sky"]))
    assert picture[10, 1].tolist() == [60, 60, 60]
    assert np.abs(picture[10, 30] - (np.array(colour_of(0)) + 120) / 2).max() <= 1


def test_points_and_their_lines() -> None:
    rows = [{"index": i, "label": "p", "score": s, "x": 40.0 + 100 * i, "y": 50.0} for i, s in enumerate([0.9, 0.8])]
    found = result("heatmaps", {"points": rows}, (100, 300))
    picture = np.asarray(runner.draw(grey((100, 300)), found, [], skeleton=[(0, 1), (1, 2)]))
    assert picture[50, 40].tolist() == list(colour_of(0))
    assert picture[50, 140].tolist() == list(colour_of(1))
    assert picture[50, 90].tolist() == [255, 255, 255]
    assert picture[50, 190].tolist() == [120, 120, 120]
    assert picture[50, 240].tolist() == [120, 120, 120]


@pytest.mark.parametrize(
    "answer",
    [
        {"top": [{"label": "cat", "probability": 0.9}]},
        {"top": [{"label": "cat", "probability": 0.1, "present": False}]},
        {"values": [{"label": "width", "value": 1.5}]},
    ],
)
def test_words_in_the_corner(answer: dict[str, Any]) -> None:
    picture = np.asarray(runner.draw(grey((100, 200)), result("classes", answer, (100, 200)), []))
    assert (picture[:30, :100] == 20).all(-1).any()
    assert (picture[60:] == 120).all()


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(runner.RunnerError, match=r"learned \(spot\)"):
        runner.draw(grey((9, 9)), result("spot", {"outputs": []}, (9, 9)), [])


def test_old_letters_are_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Pillow 10.1 there is one size, of western Europe alone."""
    old = ImageFont.load_default_imagefont()

    def load_default() -> Any:
        return old

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    small, large = (Canvas(grey(size)).text("cat \u732b") for size in SIZES)
    assert large.size[1] > 3 * small.size[1]
    assert np.asarray(large).max() == 255


def test_colours_differ() -> None:
    assert len({colour_of(index) for index in range(150)}) == 150
