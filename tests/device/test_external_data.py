"""A model whose weights lie in another file: only where the manifest lists that file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import external_data_helper, numpy_helper

from edgespa.bundle import verify_files
from edgespa.errors import BundleError


def outside(content: bytes, location: str) -> tuple[bytes, bytes]:
    """A model that refers to its weight, and that weight."""
    model = onnx.load_model_from_string(content)
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    data = numpy_helper.to_array(weight).tobytes()
    external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    return bytes(model.SerializeToString()), data


def run(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_file_that_is_listed_is_read(make_bundle: Any, bundle: Path, tmp_path: Path) -> None:
    model, data = outside((bundle / "model.onnx").read_bytes(), "weights.bin")
    made = make_bundle(tmp_path / "made", onnx=model, extra={"weights.bin": data})
    verify_files(made)
    assert run(made, "--selfcheck").returncode == 0
    (made / "weights.bin").write_bytes(data[:-4] + b"none")
    done = run(made, "--selfcheck", "--json")
    assert "weights.bin has changed" in json.loads(done.stdout)["selfcheck"][0]["failures"][0]


@pytest.mark.parametrize("location", ["../weights.bin", "profiles/weights.bin", "weights.bin"])
def test_a_file_that_is_not_listed_is_refused(make_bundle: Any, bundle: Path, tmp_path: Path, location: str) -> None:
    """Whoever changes it changes what the model computes, and no digest notices."""
    model, data = outside((bundle / "model.onnx").read_bytes(), location)
    made = make_bundle(tmp_path / "made", onnx=model)
    place = made / location
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    if location != "weights.bin":  # which stands out by itself, as a file too many
        with pytest.raises(BundleError, match=f"refers to '{location}', which is not in the manifest"):
            verify_files(made)
    check = json.loads(run(made, "--selfcheck", "--json").stdout)["selfcheck"][0]
    assert (check["status"], check.get("component_error")) == ("failed", None)
    assert f"refers to '{location}', which is not in the manifest" in check["failures"][0]
    for option in ("--bench", "--input=x.npy"):
        done = run(made, option)
        assert done.returncode == 1
        assert "which is not in the manifest" in done.stderr
