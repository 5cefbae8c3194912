"""The runner's side of tasks without weights: whatever is wrong with a recipe or a tensor file is said in words."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespa.device import runner
from edgespa.device.runner import RunnerError
from edgespa.device.runner.tensors import unpacked
from edgespa.device.runner.weights import task_files, wrong_base

WEIGHTS = {"recipe": "recipe.json.gz", "task": "task.spa", "base_sha256": "0" * 64, "base_size_bytes": 1}
VARIANT: dict[str, Any] = {"name": "onnx-fp32", "file": "model.onnx.gz", "format": "onnx", "weights": WEIGHTS}
BASE = {
    "conv": np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4),
    "half": np.linspace(-1, 1, 7).astype(np.float16),
    "steps": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 3), np.float32),
}


def write(folder: Path, recipe: Any) -> Path:
    safetensors.numpy.save_file(BASE, folder / runner.BASE)
    safetensors.numpy.save_file({"tensor/bias": np.ones(2, np.float32)}, folder / "task.spa")
    (folder / "recipe.json.gz").write_bytes(gzip.compress(json.dumps(recipe).encode()))
    return folder


def test_slices_copies_and_casts(tmp_path: Path) -> None:
    recipe = {
        "version": 1,
        "masks": [[3, "a0"], [4, "60"]],  # bits 101 and 0110
        "tensors": {
            "conv": {"from": "base", "name": "conv", "keep": [[1, 0], [3, 1]]},
            "half": {"from": "base", "name": "half", "dtype": "float32"},
            "steps": {"from": "base", "name": "steps"},
            "none": {"from": "base", "name": "none"},
            "bias": {"from": "task", "name": "tensor/bias"},
        },
    }
    found = runner.materialise(write(tmp_path, recipe), VARIANT)
    assert np.array_equal(found["conv"], BASE["conv"][:, [0, 2]][..., [1, 2]])
    assert found["half"].dtype == np.float32
    assert np.array_equal(found["half"], BASE["half"].astype(np.float32))
    assert (found["steps"].shape, found["steps"].dtype) == ((), np.int64)
    assert found["none"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in found.values())


@pytest.mark.parametrize(
    "recipe",
    [
        [],
        {"version": 2, "masks": [], "tensors": {}},
        {"version": 1, "masks": []},
        {"version": 1, "masks": [[3, "xy"]], "tensors": {}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "elsewhere", "name": "conv"}}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "base", "name": "absent"}}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "base", "name": "conv", "keep": [[1, 0]]}}},
        {"version": 1, "masks": [[9, "ffff"]], "tensors": {"a": {"from": "base", "name": "conv", "keep": [[1, 0]]}}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "base", "name": "conv", "adapter": {"kind": "magic"}}}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "base", "name": "conv", "adapter": {"kind": "scale"}}}},
        {"version": 1, "masks": [], "tensors": {"a": {"from": "base", "name": "conv", "dtype": "no type"}}},
    ],
)
def test_a_recipe_that_makes_no_sense(tmp_path: Path, recipe: Any) -> None:
    with pytest.raises(RunnerError):
        runner.materialise(write(tmp_path, recipe), VARIANT)


def test_files_that_are_absent_or_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {"version": 1, "masks": [], "tensors": {}})
    assert runner.materialise(tmp_path, VARIANT) == {}
    for key in ("recipe", "task"):
        with pytest.raises(RunnerError):
            runner.materialise(tmp_path, {**VARIANT, "weights": {**WEIGHTS, key: "../task.spa"}})
    (tmp_path / runner.BASE).unlink()
    with pytest.raises(RunnerError, match=r"base\.safetensors, the base that the weights of onnx-fp32 are made of"):
        runner.materialise(tmp_path, VARIANT)
    assert wrong_base(tmp_path, VARIANT) == ["base.safetensors, the base that the weights are made of, is missing"]
    assert wrong_base(tmp_path, {"name": "whole"}) == []
    assert task_files(VARIANT) == ["model.onnx.gz", "recipe.json.gz", "task.spa"]
    assert task_files({"file": "model.onnx"}) == ["model.onnx"]


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespa.device.runner.tensors.MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(RunnerError, match="larger than 1 MiB"):
        unpacked(path)
    for content in (b"", b"not gzip", gzip.compress(b"abc")[:-6]):
        path.write_bytes(content)
        if content:
            with pytest.raises(RunnerError, match=r"cannot read bomb\.gz"):
                unpacked(path)


def test_bfloat16_comes_as_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 0.15625, 3e38], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits)
    found = runner.read_tensors(tmp_path / "b.safetensors")["w"]
    assert found.dtype == np.float32
    assert np.allclose(found, values, rtol=2**-8)


def header_of(entry: Any, length: int | None = None) -> bytes:
    text = json.dumps({"w": entry}).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1",
        struct.pack("<Q", 1 << 60),
        header_of({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, 10_000),
        header_of({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}),
        header_of({"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}),
        header_of({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}),
        header_of({"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}),
        header_of({"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}),
        header_of({"dtype": "F32", "shape": "x", "data_offsets": [0, 16]}),
        header_of(7),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 1) + b"7",
    ],
)
def test_tensor_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunnerError, match=r"cannot read w\.safetensors"):
        runner.read_tensors(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_fuzz_a_damaged_tensor_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "good"
    if not good.exists():
        safetensors.numpy.save_file(BASE, good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "bad"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(RunnerError):
        runner.read_tensors(path)


def test_one_tensor_made_over_and_over_is_an_end(tmp_path: Path) -> None:
    """A recipe of some bytes, packed, may name a large tensor of the base as often as it likes."""
    write(tmp_path, {"version": 1, "masks": [], "tensors": {}})
    safetensors.numpy.save_file({"large": np.zeros(6 << 20, np.float32)}, tmp_path / runner.BASE)
    tensors = {f"t{i}": {"from": "base", "name": "large", "dtype": "float64"} for i in range(1000)}
    (tmp_path / "recipe.json.gz").write_bytes(
        gzip.compress(json.dumps({"version": 1, "masks": [], "tensors": tensors}).encode())
    )
    with pytest.raises(runner.RunnerError, match="far more than the manifest says"):
        runner.materialise(tmp_path, VARIANT)
