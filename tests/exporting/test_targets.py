"""Bundles of heads without classes: several labels per image, and numbers; how well they do is measured, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.tasks import adapt_to_file
from edgespa.bundle import Quality
from edgespa.cli import main


def data_of(folder: Path, kind: str) -> Path:
    """Noisy images whose channels are bright or dark independently: which are, or how many."""
    random = np.random.default_rng(0)
    bright = random.integers(0, 2, (96, 3))
    images = (random.integers(0, 90, (96, 8, 8, 3)) + 120 * bright[:, None, None, :]).astype(np.uint8)
    targets: Any = bright if kind == "multi-label" else bright.sum(1) / 3
    np.savez(folder / "t.npz", images=images, targets=targets)
    return folder / "t.npz"


@pytest.mark.law(1)
@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_a_bundle_says_how_well_it_does_without_classes(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = data_of(tmp_path, kind)
    config = AdaptConfig(rank=4, density=0.5, epochs=12, batch_size=16, round_to=1, validation=0.2)
    task = adapt_to_file(
        f"{toy_folder / 'net.py'}:build", str(data), tmp_path / "t.spa", config, input_shape=(1, 3, 8, 8),
        evaluation=str(data),
    )  # fmt: skip
    result = click.testing.CliRunner().invoke(
        main, ["export", "t.spa", "--format", "onnx", "--eval-data", str(data), "--output", "bundle"]
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    measure = "r2" if kind == "regression" else "accuracy"
    assert manifest["learns"] == kind
    for found in (manifest["variants"][0]["accuracy"], manifest["reference_accuracy"]):
        assert (found["measure"], found["count"]) == (measure, 96)
        assert found["value"] == pytest.approx(task.header.metrics[f"test_{measure}"], abs=1e-4)
        assert found["value"] > 0.5
    assert ("test R2: on 96 images" in result.output) == (kind == "regression")


def test_only_numbers_may_be_worse_than_nothing() -> None:
    assert str(Quality(value=0.5, count=1, data="d")) == "50.00%"
    assert str(Quality(value=-2.0, count=1, data="d", measure="r2")) == "R2 -2.0000"
    with pytest.raises(ValueError, match="accuracy -2: that cannot be"):
        Quality(value=-2.0, count=1, data="d")
