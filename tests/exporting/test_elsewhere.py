"""One file in the other runtimes that are here: proved there, or named with what does not hold."""

from __future__ import annotations

import importlib.util
import json
import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgespa as es
from edgespa.bundle import Manifest, read_manifest
from edgespa.device import connect, load_device
from edgespa.device.measure.profile import failures_of, profile
from edgespa.device.measure.settings import Settings
from edgespa.device.runner.in_openvino import OpenVinoModel
from edgespa.device.runner.processor import processor_flags

pytestmark = [
    pytest.mark.usefixtures("converters"),
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs edgespa[openvino]"),
]


def exported(toy_folder: Path, output: Path) -> Manifest:
    es.export(
        f"{toy_folder / 'net.py'}:build",
        output=output,
        precisions=("fp32",),
        formats=("onnx",),
        calibration=str(toy_folder / "colours.npz"),
        input_shape=(1, 3, 8, 8),
    )
    return read_manifest(output)


def test_each_runtime_that_is_here_has_its_proof(toy_folder: Path, tmp_path: Path) -> None:
    (variant,) = exported(toy_folder, tmp_path / "bundle").variants
    assert variant.runtime.startswith("onnxruntime ")
    found = {(each.runtime.partition(" ")[0], each.arithmetic): each for each in variant.proofs}
    assert set(found) >= {("openvino", numbers) for numbers in ("fp32", *OpenVinoModel.others(processor_flags()))}
    plain = found["openvino", "fp32"]
    assert plain.holds
    assert plain.failures == ()
    assert plain.bound == variant.parity.bound
    assert plain.count == variant.parity.count
    assert plain.machine == platform.machine()
    assert plain.tolerance_used is not None
    assert plain.tolerance_used <= 1
    for (_, numbers), proof in found.items():
        assert (numbers == "fp32") == ("tolerance_used" in proof.bound)
    # An older manifest has none of it.
    content = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    del content["variants"][0]["proofs"]
    assert Manifest.model_validate(content).variants[0].proofs == ()


def test_a_runtime_that_is_wrong_is_named_and_not_picked(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = OpenVinoModel.results

    def off(self: OpenVinoModel, raw: Any) -> list[np.ndarray]:
        return [array * np.float32(1.2) for array in real(self, raw)]

    monkeypatch.setattr(OpenVinoModel, "results", off)
    with caplog.at_level(logging.WARNING):
        manifest = exported(toy_folder, tmp_path / "bundle")
    (variant,) = manifest.variants
    (proof,) = [each for each in variant.proofs if (each.runtime[:8], each.arithmetic) == ("openvino", "fp32")]
    assert not proof.holds
    assert "tolerance_used" in " ".join(proof.failures)
    assert proof.runtime in caplog.text
    assert "not picked" in caplog.text
    here = platform.machine()
    assert failures_of(manifest, "onnx-fp32", "openvino", "fp32", here)
    assert not failures_of(manifest, "onnx-fp32", "openvino", "fp32", "another")
    assert not failures_of(manifest, "onnx-fp32", "onnxruntime", "fp32", here)
    monkeypatch.undo()  # on the device it is right, on the samples that are recorded
    with connect(load_device("local")) as connection:
        measured = profile(
            tmp_path / "bundle", connection, Settings(runtimes=("openvino",), arithmetics=("fp32",), runs=2)
        )
    (proof_there,) = measured.proofs
    assert not proof_there.holds
    assert all(each.startswith("where it was exported") for each in proof_there.failures)
