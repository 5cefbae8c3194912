"""TFLite files: no transpositions that nobody asked for, either layout, metadata."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.config import Preprocess
from edgespa.device import runner
from edgespa.errors import ExportError
from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.tflite_meta import read_labels, write_metadata
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
Make = Callable[[str], Program]
HOW = Preprocess(height=16, width=16, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def run(path: Path, form: Form, arrays: list[Any]) -> list[Any]:
    inputs, outputs = tflite_file.specs(path, form)
    variant = {
        "name": "x",
        "file": path.name,
        "format": "tflite",
        "inputs": [spec.model_dump() for spec in inputs],
        "outputs": [spec.model_dump() for spec in outputs],
        "preprocess": form.pixels.model_dump() if form.pixels else None,
    }
    model = runner.open_model(path.parent, variant, 1, runner.import_runtime("tflite")[0])
    return list(runner.infer(model, arrays))


def error_of(path: Path, program: Program, form: Form) -> float:
    (image,) = program.example_inputs(3, seed=1)
    with torch.no_grad():
        expected = program(image).numpy()
    (got,) = run(path, form, [image.numpy()])
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.law(2)
@pytest.mark.parametrize("name", ["Plain", "Residual", "Gated", "Dense", "Next"])
def test_convolutional_networks_have_no_transpositions(program_of: Make, name: str, tmp_path: Path) -> None:
    program = program_of(name)
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form())
    found = tflite_file.operators(tmp_path / "m.tflite")
    assert found.get("TRANSPOSE", 0) == 0
    assert found.get("CONV_2D", 0) + found.get("FULLY_CONNECTED", 0) > 1
    assert error_of(tmp_path / "m.tflite", program, Form()) < 1e-5


def test_channels_first_has_one_transposition_at_its_input(program_of: Make, tmp_path: Path) -> None:
    program, form = program_of("Residual"), Form(layout="nchw")
    tflite_file.write_fp32(program, tmp_path / "m.tflite", form)
    assert tflite_file.operators(tmp_path / "m.tflite")["TRANSPOSE"] == 1
    (spec,), _ = tflite_file.specs(tmp_path / "m.tflite", form)
    assert (spec.shape, spec.layout) == ((1, 3, 16, 16), "NCHW")
    assert error_of(tmp_path / "m.tflite", program, form) < 1e-5


def test_pixels_and_a_batch(program_of: Make, tmp_path: Path) -> None:
    program, form = program_of("Gated"), Form(batch=2, pixels=HOW)
    tflite_file.write_fp32(program, tmp_path / "m.tflite", form)
    (spec,), _ = tflite_file.specs(tmp_path / "m.tflite", form)
    assert (spec.shape, spec.dtype, spec.layout) == ((2, 16, 16, 3), "uint8", "NHWC")
    assert "TRANSPOSE" not in tflite_file.operators(tmp_path / "m.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.float64)
    mean, std = (np.array(each)[:, None, None] for each in (HOW.mean, HOW.std))
    images = ((pixels / 255 - mean) / std).astype(np.float32)
    with torch.no_grad():
        expected = program(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(tmp_path / "m.tflite", form, [images])[0], expected, rtol=1e-4, atol=1e-5)


def test_what_no_runtime_has_is_told(tmp_path: Path) -> None:
    class Sorted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(1)[0]

    with pytest.raises(ExportError, match=r"an operator that TFLite does not have: .*STABLEHLO_SORT") as told:
        tflite_file.write_fp32(trace(Sorted(), (torch.randn(2, 8),)), tmp_path / "m.tflite", Form())
    assert told.value.hint == "export --format onnx only"


def test_attention(program_of: Make, tmp_path: Path) -> None:
    program = program_of("Attention")
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form())
    assert error_of(tmp_path / "m.tflite", program, Form()) < 1e-5


def test_labels_and_normalisation_are_in_the_file(program_of: Make, tmp_path: Path) -> None:
    program, path = program_of("Residual"), tmp_path / "m.tflite"
    tflite_file.write_fp32(program, path, Form())
    before = error_of(path, program, Form())
    for classes in (["old"], ["Katze", "Hund", "grün", "x"]):  # written twice: there is one set afterwards
        write_metadata(path, "task", ["x"], ["y"], preprocess=HOW, classes=classes)
    assert error_of(path, program, Form()) == before
    assert read_labels(path) == ["Katze", "Hund", "grün", "x"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.txt"]
    assert path.read_bytes()[4:8] == b"TFL3"
    tables = _metadata_of(path)
    assert tables["identifier"] == b"M001"
    np.testing.assert_allclose(tables["mean"], [102, 127.5, 153], rtol=1e-6)
    np.testing.assert_allclose(tables["std"], [51, 76.5, 102], rtol=1e-6)
    assert tables["size"] == (16, 16)
    assert tables["label_file"] == "labels.txt"


@pytest.mark.law(2)
@pytest.mark.parametrize(
    ("changes", "mean", "std", "colours"),
    [
        ({}, [102, 127.5, 153], [51, 76.5, 102], 1),
        ({"scale": "-1-1"}, [178.5, 191.25, 204], [25.5, 38.25, 51], 1),  # pixel / 127.5 - 1
        ({"scale": "0-255", "mean": (9.0,) * 3, "std": (2.0,) * 3}, [9] * 3, [2] * 3, 1),
        ({"channel_order": "bgr"}, [102, 127.5, 153], [51, 76.5, 102], 0),  # for which there is no word
    ],
)
def test_every_scale(
    program_of: Make, tmp_path: Path, changes: dict[str, Any], mean: list[float], std: list[float], colours: int
) -> None:
    path = tmp_path / "m.tflite"
    tflite_file.write_fp32(program_of("Plain"), path, Form())
    write_metadata(path, "task", ["x"], ["y"], preprocess=HOW.model_copy(update=changes), classes=["x"])
    tables = _metadata_of(path)
    np.testing.assert_allclose(tables["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(tables["std"], std, rtol=1e-6)
    assert tables["colours"] == colours


def test_the_same_content_gives_the_same_bytes(program_of: Make, tmp_path: Path) -> None:
    program = program_of("Plain")
    tflite_file.write_fp32(program, tmp_path / "a.tflite", Form())
    (tmp_path / "b.tflite").write_bytes((tmp_path / "a.tflite").read_bytes())
    for name in "ab":
        write_metadata(tmp_path / f"{name}.tflite", "task", ["x"], ["y"], preprocess=HOW, classes=["x"])
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


def _metadata_of(path: Path) -> dict[str, Any]:
    """Read by offsets alone, as the schema numbers its fields: nothing of the writer is used."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (entry,) = [each for each in model.metadata if each.name in (b"TFLITE_METADATA", "TFLITE_METADATA")]
    data = bytes(model.buffers[entry.buffer].data)

    def u32(at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def field(table: int, slot: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        place = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
        assert place
        return table + int(place)

    def small(table: int, slot: int) -> int:
        """A number that is left out where it is 0."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        place = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
        return data[table + place] if place else 0

    def follow(at: int) -> int:
        return at + u32(at)

    def items(at: int) -> list[int]:
        vector = follow(at)
        return [vector + 4 + 4 * index for index in range(u32(vector))]

    root = follow(0)
    graph = follow(items(field(root, 3))[0])
    image = follow(items(field(graph, 2))[0])
    scores = follow(items(field(graph, 3))[0])
    options = follow(field(follow(items(field(image, 4))[0]), 1))
    properties = follow(field(follow(field(image, 3)), 1))
    size = follow(field(properties, 1))
    name = follow(field(follow(items(field(scores, 6))[0]), 0))
    return {
        "identifier": data[4:8],
        "mean": [struct.unpack_from("<f", data, at)[0] for at in items(field(options, 0))],
        "std": [struct.unpack_from("<f", data, at)[0] for at in items(field(options, 1))],
        "size": (u32(field(size, 0)), u32(field(size, 1))),
        "colours": small(properties, 0),
        "label_file": data[name + 4 : name + 4 + u32(name)].decode(),
    }


def test_what_the_runtime_does_not_know_is_an_error_of_this_format(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"  # as a file with STABLEHLO_SORT: the converter writes it, no runtime has it
    path.write_bytes(b"\0\0\0\0TFL3 and nothing that an interpreter takes")
    with pytest.raises(ExportError, match="the runtime does not load the converted file"):
        tflite_file.specs(path, Form())
