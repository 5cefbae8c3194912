"""The picture of depth pruning: its parts are there, and it is the same for the same input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edgespa.errors import ConfigError, MissingExtraError
from edgespa.reports.depth_plot import Panel, draw_depth, plot_format

pytest.importorskip("matplotlib")


def panels(count: int = 8, points: int = 30) -> tuple[list[Panel], np.ndarray]:
    random = np.random.default_rng(0)
    made = [
        Panel(f"blocks.{number}", "blocks", 0.1 * number, random.random((points, 2)), number < 5)
        for number in range(count)
    ]
    return made, np.arange(points) % 3


def test_svg_holds_every_block_and_class() -> None:
    made, labels = panels()
    content = draw_depth(made, labels, ("cat", "dog", "emu"), {"blocks": 0.2}, "silhouette score", "svg")
    text = " ".join(element.text or "" for element in ElementTree.fromstring(content).iter())
    for word in (*(panel.name for panel in made), "cat", "dog", "emu", "kept", "removed", "threshold", "0.700"):
        assert word in text
    assert draw_depth(made, labels, ("cat", "dog", "emu"), {"blocks": 0.2}, "silhouette score", "svg") == content


def test_png_is_an_image_that_is_not_empty() -> None:
    made, labels = panels()
    content = draw_depth(made, labels, ("a", "b", "c"), {"blocks": 0.2}, "silhouette score", "png")
    image = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    assert image.shape[1] > 1000
    assert (image < 200).mean() > 0.002


def test_many_classes_and_one_block() -> None:
    made, _ = panels(count=1, points=60)
    names = tuple(f"class {number}" for number in range(30))
    assert draw_depth(made, np.arange(60) % 30, names, {}, "a long name of a score that goes on", "svg")


def test_two_stages_have_their_own_thresholds() -> None:
    made, labels = panels(4)
    made = [*made[:2], *(Panel(f"late.{n}", "late", 0.5, made[n].points, True) for n in (2, 3))]
    content = draw_depth(made, labels, ("a", "b", "c"), {"blocks": 0.05, "late": 0.4}, "score", "svg").decode()
    assert content.count("stroke-dasharray") >= 2


def test_format_by_name() -> None:
    assert plot_format(Path("a.SVG")) == "svg"
    assert plot_format(Path("a.png")) == "png"
    with pytest.raises(ConfigError, match="SVG or PNG"):
        plot_format(Path("a.pdf"))


def test_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="matplotlib") as caught:
        plot_format(Path("a.svg"))
    assert "[report]'" in str(caught.value.hint)
