"""The commands on real pretrained networks and real images, at a small scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgespa.cli import main

MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"


def result_of(*arguments: str) -> Any:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.more
def test_resnet20_to_fashion(data_dir: Path, tmp_path: Path) -> None:
    task, bundle = str(tmp_path / "task.spa"), str(tmp_path / "bundle")
    model = (f"{data_dir}/models.py:resnet20", "--input-shape", "1,3,32,32")
    adapted = result_of(
        "adapt", *model, "--data", f"{data_dir}/fashion:train", "--eval-data", f"{data_dir}/fashion:test",
        "--limit", "1000", "--eval-limit", "1000", "--mean", MEAN, "--std", STD, "--density", "0.6", "--epochs", "3",
        "--batch-size", "32",
        "--output", task,
    )  # fmt: skip
    assert adapted["metrics"]["test_accuracy"] > 0.6
    assert adapted["channel_density"] <= 0.6
    assert adapted["size_bytes"] < 0.1 * 4 * adapted["base_parameters"]
    manifest = result_of(
        "export", task, "--precision", "fp32", "--precision", "int8", "--calibration", f"{data_dir}/fashion:train",
        "--eval-data", f"{data_dir}/fashion:test", "--limit", "500", "--eval-limit", "500", "--output", bundle,
    )  # fmt: skip
    accuracy = {variant["name"]: variant["accuracy"]["value"] for variant in manifest["variants"]}
    reference = manifest["reference_accuracy"]["value"]
    assert accuracy["onnx-fp32"] == accuracy["tflite-fp32"] == reference
    assert abs(accuracy["onnx-int8"] - reference) < 0.05
    assert abs(accuracy["tflite-int8"] - reference) < 0.05
    assert manifest["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert manifest["provenance"]["proof"]["masked_compacted_inner_error"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "within"), [(2_000, 0.02), pytest.param(10_000, 0.005, marks=pytest.mark.more)])
def test_the_base_keeps_its_accuracy_when_nothing_is_pruned(
    data_dir: Path, tmp_path: Path, limit: int, within: float
) -> None:
    """ResNet-20 is 81.0% accurate on JPEG-CIFAR; the exported file is as good as the program."""
    manifest = result_of(
        "export", f"{data_dir}/models.py:resnet20", "--input-shape", "1,3,32,32", "--format", "onnx", "--eval-data",
        f"{data_dir}/cifar10_jpeg.zip:test", "--eval-limit", str(limit), "--mean", MEAN, "--std", STD,
        "--output", str(tmp_path / "plain"),
    )  # fmt: skip
    assert manifest["reference_accuracy"]["value"] == pytest.approx(0.81, abs=within)
    assert manifest["variants"][0]["accuracy"]["value"] == manifest["reference_accuracy"]["value"]


@pytest.mark.slow
@pytest.mark.more
def test_mobilenet_cut_without_data(data_dir: Path, tmp_path: Path) -> None:
    task = str(tmp_path / "cut.spa")
    model = (f"{data_dir}/models.py:mobilenet_v2", "--input-shape", "1,3,224,224")
    cut = result_of("prune", *model, "--method", "l1", "--density", "0.75", "--output", task)
    assert 0.74 < cut["channel_density"] <= 0.75
    assert cut["metrics"]["masked_compacted_error"] < 1e-5
    manifest = result_of("export", task, "--format", "onnx", "--output", str(tmp_path / "cut"))
    assert manifest["compaction"]["macs"] == cut["macs"] < 0.7 * cut["base_macs"]
