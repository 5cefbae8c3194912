"""ncnn: a file for each of the small networks, and what it does not take."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgespa as es
from edgespa.bundle import Manifest
from edgespa.config import Preprocess
from edgespa.device import runner
from edgespa.errors import BundleError, ExportError
from edgespa.exporting import ncnn_file
from edgespa.exporting.cache import Cache
from edgespa.exporting.conversion import Conversions
from edgespa.exporting.converter import Form, parts, size_of
from edgespa.exporting.lowering import plain_projections, plain_strides
from edgespa.exporting.parity import File
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pnnx") is None, reason="needs edgespa[ncnn]")


def laid_out(program: Program, path: Path, form: Form | None = None) -> Path:
    Conversions(program, form or Form(), Cache(None)).write("ncnn", path)
    return path


def outputs_of(program: Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        found = program(*inputs)
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.law(1)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_it_computes_what_the_program_computes(network: tuple[str, Program], tmp_path: Path, half: bool) -> None:
    _, program = network
    inputs = program.example_inputs(5, seed=3)
    wanted = outputs_of(program, inputs)
    source = path = laid_out(program, tmp_path / "source.ncnn.param")
    if half:
        path = tmp_path / "model.fp16.ncnn.param"
        ncnn_file.NcnnHalf(source).write_half(path)
        assert 0.4 * size_of(source) < size_of(path) < 0.8 * size_of(source)
    specs = ncnn_file.specs(program, wanted)
    assert [each.name for each in (*specs[0], *specs[1])] == ["in0", "out0"]
    assert all(each.shape[0] == 1 for each in (*specs[0], *specs[1]))
    file = File(path, "ncnn", "ncnn", *specs, 1)
    found = file([each.numpy() for each in inputs])
    for own, other in zip(found, wanted, strict=True):
        assert own.shape == other.shape
        assert np.abs(own - other).max() <= (0.01 if half else 1e-5) * np.abs(other).max()


class Strided(nn.Module):
    def __init__(self, *by: slice) -> None:
        super().__init__()
        self.conv, self.by = nn.Conv2d(3, 4, 3, padding=1), by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x)[(slice(None), slice(0, 3), *self.by)])


@pytest.mark.law(1)
@pytest.mark.parametrize(
    "by",
    [
        (slice(None, None, 2), slice(None, None, 2)),
        (slice(1, None, 2), slice(0, 7, 3)),
        (slice(1, -1), slice(2, None)),
        (slice(None), slice(1, 6, 2)),
    ],
    ids=str,
)
def test_rows_and_columns_that_are_left_out(by: tuple[slice, ...], tmp_path: Path) -> None:
    program = trace(Strided(*by).eval(), (torch.randn(2, 3, 8, 9),))
    inputs = program.example_inputs(3, seed=1)
    (wanted,) = outputs_of(program, inputs)
    np.testing.assert_array_equal(outputs_of(plain_strides(program), inputs)[0], wanted)
    path = laid_out(program, tmp_path / "m.ncnn.param")
    (found,) = File(path, "ncnn", "ncnn", *ncnn_file.specs(program, [wanted]), 1)([inputs[0].numpy()])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


class Heads(nn.Module):
    """Queries, keys and values as one tensor of five dimensions, written in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.qkv, self.out = way, nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        last = -1 if self.way == "-1" else 6
        parts = self.qkv(x).reshape(batch, length, 3, 2, last).permute(2, 0, 3, 1, 4)
        q, k, v = (parts[0], parts[1], parts[-1]) if self.way == "by number" else parts.unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, 12))


@pytest.mark.law(1)
@pytest.mark.parametrize("way", ["-1", "6", "by number"])
def test_projections_of_attention(way: str, tmp_path: Path) -> None:
    program = trace(Heads(way).eval(), (torch.randn(2, 5, 12),))
    inputs = program.example_inputs(3, seed=1)
    (wanted,) = outputs_of(program, inputs)
    plain = plain_projections(program)
    assert "unbind" not in plain.module.code
    np.testing.assert_allclose(outputs_of(plain, inputs)[0], wanted, rtol=1e-5, atol=1e-6)
    path = laid_out(program, tmp_path / "m.ncnn.param")
    (found,) = File(path, "ncnn", "ncnn", *ncnn_file.specs(program, [wanted]), 1)([inputs[0].numpy()])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


class First(nn.Module):
    """What begins by changing its input, which is the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        return torch.relu(self.conv(x) + 1) - x[:, :1]


def test_an_input_is_as_it_was_after_a_run(tmp_path: Path) -> None:
    program = trace(First().eval(), (torch.randn(2, 3, 4, 4),))
    (image,) = program.example_inputs(1)
    path = laid_out(program, tmp_path / "m.ncnn.param")
    specs = ncnn_file.specs(program, outputs_of(program, (image,)))
    variant = {
        "name": "n", "file": path.name, "parts": [each.name for each in parts(path)], "format": "ncnn",
        "inputs": [each.model_dump() for each in specs[0]], "outputs": [each.model_dump() for each in specs[1]],
    }  # fmt: skip
    model = runner.open_model(tmp_path, variant, 1, runner.import_runtime("ncnn")[0])
    feed = model.feed([image.numpy()])
    first = model.run(feed)[0]
    np.testing.assert_array_equal(model.run(feed)[0], first)


class Odd(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.fc = what, nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> Any:
        if self.what == "an integer in":
            return self.fc(x.float())
        if self.what == "an integer out":
            return self.fc(x).argmax(1)
        if self.what == "no batch":
            return self.fc(x).transpose(0, 1)
        return torch.sort(self.fc(x), dim=1).values


@pytest.mark.parametrize(
    ("what", "form", "words"),
    [
        ("an integer in", Form(), "take float32 only"),
        ("an integer out", Form(), "give float32 only"),
        ("no batch", Form(), "take one sample at a time, and"),
        ("sorting", Form(), "ncnn has no layer for|cannot convert|cannot be converted to ncnn"),
        ("sorting", Form(batch=2), "take one sample at a time\n"),
        (
            "sorting",
            Form(pixels=Preprocess(height=1, width=2, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)),
            "take no pixels",
        ),
    ],
)
def test_what_it_does_not_take(what: str, form: Form, words: str, tmp_path: Path) -> None:
    example = torch.zeros(2, 6, dtype=torch.int64) if what == "an integer in" else torch.randn(2, 6)
    program = trace(Odd(what).eval(), (example,))
    with pytest.raises(ExportError, match=words) as caught:
        ncnn_file.write_fp32(program, tmp_path / "m", form)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ncnn") / "bundle"
    es.export(
        f"{toy_folder / 'net.py'}:build",
        output=path,
        formats=("ncnn",),
        precisions=("fp32", "fp16", "int8"),
        calibration=str(toy_folder / "colours.npz"),
        input_shape=(1, 3, 8, 8),
    )
    return path


def test_a_bundle_of_them(bundle: Path) -> None:
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    by_name = {each.name: each for each in manifest.variants}
    assert "ncnn-fp32" in by_name
    left_out = json.dumps(manifest.provenance["left_out"])
    assert "ncnn files are made in fp32 and fp16" in left_out
    for variant in manifest.variants:
        assert variant.parts == (variant.file.replace(".param", ".bin"),)
        assert variant.size_bytes == size_of(bundle / variant.file)
        assert variant.runtime.startswith("ncnn 1.")
    assert not list(bundle.glob("source*"))
    assert not list(bundle.glob("*.half"))
    assert es.verify(bundle).passed


@pytest.mark.parametrize("change", ["weights", "missing"])
def test_weights_that_are_not_those_of_the_manifest(bundle: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    weights = folder / "model.ncnn.bin"
    weights.unlink() if change == "missing" else weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    status, text = _selfcheck(folder)
    assert status
    assert f"model.ncnn.bin {'is missing' if change == 'missing' else 'has changed'}" in text


@pytest.mark.parametrize("parts", [[], ["elsewhere/model.ncnn.bin"], ["model.ncnn.bin", "run.py"]], ids=str)
def test_weights_are_read_only_where_the_manifest_says(bundle: Path, tmp_path: Path, parts: list[str]) -> None:
    """Else they would not be those whose digest was looked at."""
    folder = tmp_path / "copy"
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in parts:
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            shutil.copyfile(folder / "model.ncnn.bin", folder / name)
            (entry,) = [each for each in manifest["files"] if each["path"] == "model.ncnn.bin"]
            manifest["files"].append({**entry, "path": name})
    for variant in manifest["variants"]:
        variant["parts"] = parts
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    sealed = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")
    path.write_text(json.dumps({**rest, "seal": hashlib.sha256(sealed).hexdigest()}))
    status, text = _selfcheck(folder)
    assert status
    assert "needs model.ncnn.bin, and the manifest does not say" in text
    with pytest.raises(BundleError, match=r"the parts of model\.ncnn\.param are model\.ncnn\.bin"):
        es.verify(folder)


def _selfcheck(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-B", str(folder / "run.py"), "--selfcheck", "--variant", "ncnn-fp32", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, json.dumps(json.loads(done.stdout)) + done.stderr if done.stdout else done.stderr
