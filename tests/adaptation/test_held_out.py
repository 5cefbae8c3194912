"""What the best epoch is chosen on: a random part, a row of neighbours, or data of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.held_out import fitted_on, parted, tell_if_neighbours_are_alike
from edgespa.api.options import DataOptions
from edgespa.api.tasks import adapt_to_file
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.errors import ConfigError, DataError
from edgespa.models.given import Given


@pytest.mark.parametrize(
    "labels", [None, np.arange(100) % 4, np.sort(np.arange(100) % 4)], ids=["none", "mixed", "row"]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_block_is_a_row_of_each_class(labels: np.ndarray | None, seed: int) -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    data = load_data(Given((images, labels) if labels is not None else (images,)), labelled=labels is not None)
    rest, out = data.split(0.2, seed, block=True)
    there = [int(out.image(index)[0, 0, 0]) for index in range(len(out))]
    left = [int(rest.image(index)[0, 0, 0]) for index in range(len(rest))]
    assert sorted(there + left) == list(range(100))
    assert len(there) == 20
    for group in [0] if labels is None else range(4):
        members = [index for index in range(100) if labels is None or labels[index] == group]
        own = [members.index(index) for index in there if index in members]
        assert len(own) == (20 if labels is None else 5)
        assert own == list(range(own[0], own[0] + len(own)))


@pytest.mark.parametrize("labels", [None, np.arange(100) % 4], ids=["none", "some"])
def test_what_may_be_looked_at_before_healing_is_all_but_what_that_holds_out(labels: np.ndarray | None) -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    data = load_data(Given((images, labels) if labels is not None else (images,)), labelled=labels is not None)
    looked_at = fitted_on(data, 0.2, 3)
    _, held_out = parted(data.unanswered(), None, 0.2, 3)
    seen, new = ([int(each.image(index)[0, 0, 0]) for index in range(len(each))] for each in (looked_at, held_out))
    assert len(new) == 20
    assert sorted(seen + new) == list(range(100))
    assert (looked_at.labelled, fitted_on(data, 0.0, 3)) == (labels is not None, data)


@pytest.mark.parametrize("video", [True, False])
def test_neighbours_that_are_alike_are_told(video: bool, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (120, 6, 6, 3)).astype(np.float64)
    if video:  # each frame is mostly what the last one was
        for index in range(1, 120):
            frames[index] = 0.9 * frames[index - 1] + 0.1 * frames[index]
        frames = (frames - frames.mean()) / frames.std() * 40 + 128
    images = frames.clip(0, 255).astype(np.uint8)
    data = load_data(Given((images, np.zeros(120, np.int64))))
    caplog.set_level(logging.INFO)
    tell_if_neighbours_are_alike(
        data, prepare(data, Preprocess(height=6, width=6, channels=3, mean=(0,) * 3, std=(1,) * 3))
    )
    assert ("--hold-out block" in caplog.text) == video


def test_data_of_their_own(toy_folder: Path, tmp_path: Path) -> None:
    net, data = f"{toy_folder / 'net.py'}:build", str(toy_folder / "colours.npz")
    arrays = np.load(data)
    np.savez(tmp_path / "val.npz", images=255 - arrays["images"][:20], labels=arrays["labels"][:20])
    config = AdaptConfig(epochs=2, batch_size=16, lr=0.01, adapter="full")
    task = adapt_to_file(
        net, data, tmp_path / "t.spa", config, input_shape=(1, 3, 8, 8), validation=str(tmp_path / "val.npz"),
        options=DataOptions(limit=48, eval_limit=30), evaluation=data,
    )  # fmt: skip
    metrics = task.header.metrics
    assert metrics["validation_images"] == 20  # neither limit is of them
    assert metrics["test_images"] == 30
    assert metrics["validation_accuracy"] < 0.6 < metrics["test_accuracy"]
    np.savez(tmp_path / "other.npz", images=arrays["images"][:20], labels=np.arange(20) % 5)
    with pytest.raises((ConfigError, DataError), match="classes"):
        adapt_to_file(
            net, data, tmp_path / "o.spa", config, input_shape=(1, 3, 8, 8), validation=str(tmp_path / "other.npz")
        )
    with pytest.raises(DataError, match="data with 3") as caught:
        parted(load_data(data), load_data(data).unanswered(), 0.1, 0)
    assert "same task" in str(caught.value.hint)


def test_a_limit_is_not_of_what_is_measured_on(toy_folder: Path) -> None:
    options, data = DataOptions(limit=24), str(toy_folder / "colours.npz")
    assert len(options.load(data)) == 24
    assert len(options.load(data, measured=True)) == 96
    assert len(DataOptions(eval_limit=30).load(data, measured=True)) == 30
    assert len(DataOptions(eval_limit=30).load(data)) == 96
