"""What cannot be done with images is said clearly, and before anything long begins."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgespa.api.bundles import check_task
from edgespa.config import Preprocess
from edgespa.data import Prepared, load_data, prepare
from edgespa.errors import ConfigError, DataError, EdgespaError, TaskFileError
from edgespa.pruning import PruneConfig, prune
from edgespa.pruning.images import Images
from edgespa.pruning.survey import Network, gather, path_of
from edgespa.tasks.base import Base

PREPROCESS = Preprocess(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
Build = Callable[[str], Base]


def data_of(folder: Path, images: np.ndarray, **more: Any) -> Prepared:
    np.savez(folder / "d.npz", images=images, **more)
    return prepare(load_data(str(folder / "d.npz"), labelled=False), PREPROCESS)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def config(**settings: Any) -> PruneConfig:
    return PruneConfig.model_validate({"density": 0.5, "method": "layer-in-change", **settings})


def test_too_few_images(network: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"too few calibration images \(1\)"):
        prune(network("plain"), config(), tmp_path, data=data_of(tmp_path, noise(1)))
    with caplog.at_level(logging.WARNING):
        prune(network("flatten"), config(), tmp_path, data=data_of(tmp_path, noise(20)))
    assert "f1: 20 images give 20 rows for 96 columns" in caplog.text
    assert "f2" not in caplog.text


def test_few_images_do_not_make_errors_vanish(network: Build, tmp_path: Path) -> None:
    whole = Network.of(network("flatten"))

    def errors(count: int) -> np.ndarray:
        images = Images(network("flatten"), data_of(tmp_path, noise(count)))
        evidence = gather(whole, images, whole.readers.values(), lambda text: None)
        return path_of(whole, "c1", evidence).errors

    few, many = errors(20), errors(400)
    # 20 rows: plain least squares explains them with two of six channels of 16 columns
    assert few[2:6].min() > 0.03
    assert np.abs(few - many).max() < 0.35


def test_few_images_fit_others_too(network: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = network("flatten")
    x = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def change() -> float:
        # 96 columns, 64 of which remain, for 70 rows
        settings = {"only": ("c1",), "density": 0.9, "round_to": 1}
        task = prune(base, config(**settings), tmp_path, data=data_of(tmp_path, noise(70)))
        assert 0 < task.kept["c1"].sum() < 6
        with torch.no_grad():
            old, new = base.program(x), task.program(base)(x)
        return float((new - old).norm() / (old - old.mean(0)).norm())

    shrunk = change()
    monkeypatch.setattr("edgespa.selection.reconstruct.shrink.ENOUGH", 0.0)
    assert shrunk < 0.9 * change()


def test_images_that_are_all_the_same(network: Build, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are the same"):
        prune(network("plain"), config(), tmp_path, data=data_of(tmp_path, np.repeat(noise(1), 9, 0)))


def test_values_that_are_not_finite(network: Build, tmp_path: Path) -> None:
    (tmp_path / "nan.py").write_text(
        "import torch\n\n\nclass D(torch.utils.data.Dataset):\n    def __len__(self):\n        return 9\n\n"
        "    def __getitem__(self, i):\n"
        "        return torch.full((3, 8, 8), float('nan') if i == 7 else float(i)), 0\n\n\n"
        "def make():\n    return D()\n"
    )
    with pytest.raises(DataError, match="item 7 has values"):
        prune(network("plain"), config(), tmp_path, data=prepare(load_data(f"{tmp_path / 'nan.py'}:make"), PREPROCESS))


@pytest.mark.parametrize("method", ["layer-in-change", "asym-in-change"])
def test_activations_that_are_not_finite(network: Build, tmp_path: Path, method: str) -> None:
    base = network("plain")
    broken = {"b1.running_var": torch.full((8,), -1.0)}
    base = Base(base.spec, None, base.input_shape, "", base.program.with_state(broken), base.groups)
    with pytest.raises(DataError, match="c2: its inputs"):
        prune(base, config(method=method), tmp_path, data=data_of(tmp_path, noise(20)))


def test_a_wrong_shape(network: Build, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=noise(9))
    other = prepare(load_data(str(tmp_path / "d.npz"), labelled=False), PREPROCESS.model_copy(update={"height": 16}))
    with pytest.raises(ConfigError, match=r"takes inputs of \[3, 8, 8\], the images are \[3, 16, 8\]"):
        prune(network("plain"), config(), tmp_path, data=other)


def test_no_images_where_they_are_needed(network: Build, tmp_path: Path) -> None:
    for settings in (
        {},
        {"method": "l1", "reweight": True},
        {"method": "l1", "bn_reestimate": True},
        {"method": "l1", "allocation": "equal-error"},
    ):
        with pytest.raises(ConfigError, match="needs images"):
            prune(network("plain"), config(**settings), tmp_path)
    with pytest.raises(ConfigError, match="labelled images"):
        prune(network("plain"), config(allocation="equal-accuracy"), tmp_path, data=data_of(tmp_path, noise(20)))


@pytest.mark.parametrize("method", ["act-grad", "layer-act-grad", "l1", "weight-norm", "layer-sampling"])
def test_nothing_is_chosen_by_scores_that_are_not_finite(network: Build, tmp_path: Path, method: str) -> None:
    base = network("plain")
    weight = base.program.state()["fc.weight"].clone()
    weight[0, 3] = float("nan")
    spoilt = base.with_state(
        {"fc.weight": weight} if method != "l1" else {"c1.weight": torch.full((8, 3, 3, 3), torch.inf)}
    )
    data = data_of(tmp_path, noise(20), labels=np.arange(20) % 4)
    words = (
        "the loss of the network on these images is nan" if "act" in method else f"its {method} scores are not finite"
    )
    with pytest.raises(EdgespaError, match=words):
        prune(spoilt, config(method=method), tmp_path, data=data)
    assert not list(tmp_path.glob("*.spa"))


@pytest.mark.parametrize("decisions", [True, False])
def test_accuracy_is_shared_out_by_the_measure_of_the_data(network: Build, tmp_path: Path, decisions: bool) -> None:
    base = network("plain")
    images = noise(40)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(40, dtype=np.int64))
    x = prepare(load_data(str(tmp_path / "images.npz")), PREPROCESS).tensor(range(40))
    with torch.no_grad():
        own = base.program(x).numpy()
    targets = (own > np.median(own, 0)).astype(np.int64) if decisions else own - 100
    np.savez(tmp_path / "t.npz", images=images, targets=targets)
    held_out = prepare(load_data(str(tmp_path / "t.npz")), PREPROCESS)
    assert (held_out.kind, bool((held_out.labels < 0).any())) == (
        ("multi-label", False) if decisions else ("regression", True)
    )
    data = data_of(tmp_path, images)
    task = prune(base, config(allocation="equal-accuracy"), tmp_path, data=data, held_out=held_out)
    assert task.header.figures.channel_density <= 0.5


def test_labels_where_they_are_needed(network: Build, tmp_path: Path) -> None:
    bare = data_of(tmp_path, noise(20))
    with pytest.raises(DataError, match="act-grad needs them"):
        prune(network("plain"), config(method="act-grad"), tmp_path, data=bare)
    with pytest.raises(DataError, match="equal-accuracy needs them"):
        prune(network("plain"), config(allocation="equal-accuracy"), tmp_path, data=bare, held_out=bare)
    many = data_of(tmp_path, noise(20), labels=np.arange(20))
    with pytest.raises(DataError, match=r"gives \[N, 4\], and d has 20 classes"):
        prune(network("plain"), config(method="layer-act-grad"), tmp_path, data=many)


def test_words_that_are_not_known() -> None:
    for wrong in (
        {"method": "taylor"},
        {"allocation": "fair"},
        {"activations": "all"},
        {"allocation": "global"},
        {"activations": "seq"},
    ):
        with pytest.raises(ValidationError):
            config(**wrong)


def test_a_reader_that_is_too_wide(network: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespa.pruning.survey.MOST_COLUMNS", 50)
    task = prune(network("flatten"), config(density=0.8), tmp_path, data=data_of(tmp_path, noise(20)))
    assert task.kept["c1"].all()
    assert task.header.provenance["whole"] == {"c1": "read by f1 with 96 columns, at most 50"}


def test_a_task_that_is_not_finite_is_not_exported(network: Build, tmp_path: Path) -> None:
    base = network("plain")
    task = prune(base, config(), tmp_path, data=data_of(tmp_path, noise(40)))
    check_task(task, base)
    name = next(iter(task.tensors))
    spoilt = task.tensors[name].clone()
    spoilt.view(-1)[:3] = torch.nan
    with pytest.raises(TaskFileError, match=rf"tensor/{re.escape(name)} of the task is not finite \(3 of"):
        check_task(dataclasses.replace(task, tensors={**task.tensors, name: spoilt}), base)
