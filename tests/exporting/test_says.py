"""What files say of themselves, read back by others' readers and by offsets alone; and that it changes no number."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa import __version__
from edgespa.bundle import Base, TensorSpec
from edgespa.bundle.decoding import Columns, Decoding
from edgespa.config import Preprocess
from edgespa.exporting import onnx_file, tflite_file, tflite_meta
from edgespa.exporting.converter import Form
from edgespa.exporting.decoding import NAMES
from edgespa.exporting.described import describe
from edgespa.exporting.facts import Facts
from edgespa.exporting.said import read_said
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
Make = Callable[[str], Program]
HOW = Preprocess(height=16, width=16, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
BASE = Base(spec="/home/ann/nets/net.py:build", digest="ab" * 32, weights="/home/ann/w.pt", license="Apache-2.0")
FACTS = Facts("fruit", "classes", BASE, ("Katze", "Hund", "grün", "x"), HOW)
BOXES = Decoding(
    size=(16, 16), scores=Columns(output=2), boxes=Columns(output=0), classes=Columns(output=1), clip=False,
    unit="input", threshold=0.25, candidates=5, overlap=None, most=5,
)  # fmt: skip


class Table:
    """A table of a FlatBuffer, by the numbers of its fields: nothing of the writer is used."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _place(self, slot: int) -> int:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        size = struct.unpack_from("<H", self.data, vtable)[0]
        place = struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0] if 4 + 2 * slot < size else 0
        return self.at + place if place else 0

    def _follow(self, slot: int) -> int:
        place = self._place(slot)
        return place + int(struct.unpack_from("<I", self.data, place)[0]) if place else 0

    def number(self, slot: int, kind: str = "<b") -> Any:
        place = self._place(slot)
        return struct.unpack_from(kind, self.data, place)[0] if place else 0

    def text(self, slot: int) -> str | None:
        at = self._follow(slot)
        return self.data[at + 4 : at + 4 + struct.unpack_from("<I", self.data, at)[0]].decode() if at else None

    def table(self, slot: int) -> Table | None:
        at = self._follow(slot)
        return Table(self.data, at) if at else None

    def numbers(self, slot: int, kind: str) -> list[Any]:
        at = self._follow(slot)
        count = struct.unpack_from("<I", self.data, at)[0] if at else 0
        return [struct.unpack_from(f"<{kind}", self.data, at + 4 + 4 * index)[0] for index in range(count)]

    def rows(self, slot: int) -> list[Table]:
        at = self._follow(slot)
        offsets = self.numbers(slot, "I")
        return [Table(self.data, at + 4 + 4 * index + offset) for index, offset in enumerate(offsets)]

    def texts(self, slot: int) -> list[str]:
        return [
            self.data[each.at + 4 : each.at + 4 + struct.unpack_from("<I", self.data, each.at)[0]].decode()
            for each in self.rows(slot)
        ]


def metadata_of(path: Path) -> Table:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (entry,) = [each for each in model.metadata if each.name in (b"TFLITE_METADATA", "TFLITE_METADATA")]
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    return Table.root(data)


def outputs_of(path: Path, image: np.ndarray) -> list[np.ndarray]:
    """In the order of the graph, as an app reads them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]


def written(name: str, program: Program, path: Path, facts: Facts, form: Form | None = None) -> Path:
    """A file that is converted and says what it is."""
    form = form or Form()
    {"onnx": onnx_file, "tflite": tflite_file}[name].write_fp32(program, path, form)
    describe(path, name, facts, form, specs_of(program, form))
    return path


def specs_of(program: Program, form: Form) -> Any:
    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(program(*program.example_inputs(form.batch or 1)))
    return onnx_file.specs(program, [each.numpy() for each in outputs], form)


def test_an_onnx_file_says_it_in_metadata_props(program_of: Make, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    program, path = program_of("Residual"), tmp_path / "m.onnx"
    onnx_file.write_fp32(program, path, Form())
    image = program.example_inputs(2, seed=1)[0].numpy()
    session = onnxruntime.InferenceSession(path)
    before = session.run(None, {session.get_inputs()[0].name: image})
    describe(path, "onnx", FACTS, Form(), specs_of(program, Form()))
    session = onnxruntime.InferenceSession(path)
    after = session.run(None, {session.get_inputs()[0].name: image})
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    told = session.get_modelmeta().custom_metadata_map
    assert ast.literal_eval(told["names"]) == dict(enumerate(FACTS.classes))
    assert json.loads(told["class_names"]) == list(FACTS.classes)
    assert json.loads(told["imgsz"]) == [16, 16]
    assert json.loads(told["mean"]) == [0.4, 0.5, 0.6]
    assert Preprocess.parse(json.loads(told["preprocessing"]), "file") == HOW
    assert (told["task"], told["objective"], told["license"]) == ("fruit", "classes", "Apache-2.0")
    assert (told["base"], told["base_digest"], told["base_weights"]) == ("net.py:build", "ab" * 32, "w.pt")
    assert (told["producer"], told["edgespa_version"], told["input"]) == ("edgespa", __version__, "normalised")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert model.doc_string == FACTS.description
    (given,), (gives,) = model.graph.input, model.graph.output
    assert "less mean [0.4, 0.5, 0.6], divided by [0.2, 0.3, 0.4]" in given.doc_string
    assert gives.doc_string.endswith("a score for each class")
    assert json.loads(told["inputs"])[0]["name"] == given.name == "input"
    assert json.loads(told["outputs"])[0]["name"] == gives.name == "output"
    assert "/home" not in path.read_bytes().decode("latin-1")
    assert read_said(path) == told


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_it_is_said_once_and_the_same_bytes(program_of: Make, tmp_path: Path, name: str) -> None:
    program = program_of("Residual")
    one = written(name, program, tmp_path / f"a.{name}", FACTS)
    before = one.read_bytes()
    other = dataclasses.replace(FACTS, task="other", classes=())
    describe(one, name, other, Form(), specs_of(program, Form()))
    assert b"Katze" not in one.read_bytes()
    describe(one, name, FACTS, Form(), specs_of(program, Form()))
    again = tmp_path / f"b.{name}"
    again.write_bytes(before)
    describe(again, name, FACTS, Form(), specs_of(program, Form()))
    assert one.read_bytes() == again.read_bytes()
    assert one.read_bytes() == before


@pytest.mark.more
def test_pixels_are_said(program_of: Make, tmp_path: Path) -> None:
    program = program_of("Residual")
    form = Form(pixels=HOW)
    told = read_said(written("onnx", program, tmp_path / "m.onnx", FACTS, form))
    assert told["input"] == "pixels"
    assert json.loads(told["inputs"])[0]["dtype"] == "uint8"
    path = written("tflite", program, tmp_path / "m.tflite", FACTS, form)
    image = metadata_of(path).rows(3)[0].rows(2)[0]
    (unit,) = image.rows(4)
    assert unit.table(1).numbers(0, "f") == [0]  # type: ignore[union-attr]
    assert read_said(path)["input"] == "pixels"


def test_a_classifier_in_tflite(program_of: Make, tmp_path: Path) -> None:
    path = written("tflite", program_of("Residual"), tmp_path / "m.tflite", FACTS)
    root = metadata_of(path)
    assert (root.text(0), root.text(1), root.text(4), root.text(5)) == (
        "fruit", FACTS.description, "edgespa", "Apache-2.0",
    )  # fmt: skip
    assert root.text(7) == "1.0.0"
    (file,) = root.rows(6)
    assert (file.text(0), file.number(2)) == ("edgespa.json", 1)
    graph = root.rows(3)[0]
    (image,), (scores,) = graph.rows(2), graph.rows(3)
    assert image.text(0) == "image"
    assert "less mean" in str(image.text(1))
    assert scores.text(0) == "scores"
    (labels,) = scores.rows(6)
    assert (labels.text(0), labels.number(2)) == ("labels.txt", 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["edgespa.json", "labels.txt"]
        assert json.loads(archive.read("edgespa.json"))["base_digest"] == "ab" * 32
    assert tflite_meta.read_labels(path) == list(FACTS.classes)


def test_labels_that_do_not_fit_an_output_are_not_its_labels(program_of: Make, tmp_path: Path) -> None:
    """The Task Library refuses a file whose labels are not as many as its scores."""
    path = written("tflite", program_of("Residual"), tmp_path / "m.tflite", dataclasses.replace(FACTS, classes=("a",)))
    assert metadata_of(path).rows(3)[0].rows(3)[0].rows(6) == []
    assert read_said(path)["class_names"] == '["a"]'


class Segments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("layout", ["nhwc", pytest.param("nchw", marks=pytest.mark.more)])
def test_segmentation_in_tflite(tmp_path: Path, layout: Any) -> None:
    facts = dataclasses.replace(FACTS, objective="segmentation")
    program = made(Segments)
    path = written("tflite", program, tmp_path / "m.tflite", facts, Form(layout=layout))
    (masks,) = metadata_of(path).rows(3)[0].rows(3)
    assert masks.text(0) == "segmentation_masks"
    assert [each.number(2) for each in masks.rows(6)] == [2]  # a label for each entry of the last axis
    content = masks.table(3)
    assert content is not None
    assert content.number(0, "<B") == 2  # an image
    assert [content.table(2).number(slot, "<i") for slot in (0, 1)] == [1, 2]  # type: ignore[union-attr]
    assert "a score for each class at each place" in str(masks.text(1))


class Shares(Segments):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Turned(Shares):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(2, 3)


class OneMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(("kind", "activation"), [(Segments, 2), (Shares, 0), (Turned, 0), (OneMap, 1)])
def test_what_a_segmenter_of_mediapipe_has_to_do(kind: Any, activation: int, tmp_path: Path) -> None:
    """Its schema: ``activation`` NONE 0, SIGMOID 1, SOFTMAX 2, in a table of its own inside of the metadata."""
    facts = dataclasses.replace(FACTS, objective="segmentation", classes=FACTS.classes if activation != 1 else ())
    root = metadata_of(written("tflite", made(kind), tmp_path / "m.tflite", facts))
    (own,) = root.rows(3)[0].rows(9)
    assert own.text(0) == "SEGMENTER_METADATA"
    place = own._follow(1)
    assert (place + 4) % 16 == 0
    size = struct.unpack_from("<I", own.data, place)[0]
    inner = own.data[place + 4 : place + 4 + size]
    assert inner[4:8] == b"V001"
    options = Table.root(inner)
    assert options.number(0, "<b") == activation
    assert options.text(1) == "1.0.0"


def test_only_segmenters_say_it(tmp_path: Path) -> None:
    path = written("tflite", made(Segments), tmp_path / "m.tflite", dataclasses.replace(FACTS, objective="image"))
    assert metadata_of(path).rows(3)[0].rows(9) == []


@functools.cache
def made(kind: type[nn.Module]) -> Program:
    torch.manual_seed(0)
    return trace(kind(), (torch.randn(2, 3, 16, 16),))


class Finds(nn.Module):
    """Boxes, classes, scores and their count, as `edgespa.exporting.decoding` gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, stride=5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.conv(x).flatten(2)[:, :, :5].transpose(1, 2)
        return found[:, :, :4].relu(), found[:, :, 5].relu(), found[:, :, 4].sigmoid(), found[:, :, 5].sum(1)


def test_detection_in_tflite(tmp_path: Path) -> None:
    facts = dataclasses.replace(FACTS, objective="detection", decoding=BOXES)
    program = made(Finds)
    image = program.example_inputs(1, seed=3)[0]
    form = Form(names=(["input"], [*NAMES]))
    tflite_file.write_fp32(program, tmp_path / "plain.tflite", form)
    path = written("tflite", program, tmp_path / "m.tflite", facts, form)
    pixels = image.permute(0, 2, 3, 1).contiguous().numpy()
    got = outputs_of(path, pixels)
    assert all((a == b).all() for a, b in zip(got, outputs_of(tmp_path / "plain.tflite", pixels), strict=True))
    root = metadata_of(path)
    assert root.text(7) == "1.2.0"  # of groups
    graph = root.rows(3)[0]
    told = graph.rows(3)
    by_name = {str(each.text(0)): each for each in told}
    assert list(by_name) == ["location", "category", "score", "number of detections"]  # where nobody reads names
    with torch.no_grad():
        wanted = program(image)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    content = by_name["location"].table(3)
    assert content is not None
    assert content.number(0, "<B") == 3
    properties = content.table(1)
    assert properties is not None
    assert properties.numbers(0, "I") == [0, 1, 2, 3]
    assert (properties.number(1), properties.number(2)) == (1, 0)  # boundaries, ratio
    assert [content.table(2).number(slot, "<i") for slot in (0, 1)] == [2, 2]  # type: ignore[union-attr]
    (labels,) = by_name["category"].rows(6)
    assert (labels.text(0), labels.number(2)) == ("labels.txt", 3)  # a label for each value
    (unit,) = by_name["score"].rows(4)
    assert unit.number(0, "<B") == 3
    assert unit.table(1).number(0, "<f") == 0.25  # type: ignore[union-attr]
    (group,) = graph.rows(8)
    assert (group.text(0), group.texts(1)) == ("detection_result", ["location", "category", "score"])
    assert "left, top, right, bottom as shares" in str(by_name["location"].text(1))
    assert "float32 [1]: of the boxes" in str(by_name["number of detections"].text(1))


def test_boxes_in_pixels_in_tflite(tmp_path: Path) -> None:
    """Of a network that reads them off by itself, and counts nothing."""
    facts = dataclasses.replace(FACTS, objective="detection", decoding=BOXES.model_copy(update={"unit": "pixels"}))
    form = Form(names=(["input"], ["boxes", "classes", "scores", "own"]))
    graph = metadata_of(written("tflite", made(Finds), tmp_path / "m.tflite", facts, form)).rows(3)[0]
    told = graph.rows(3)
    assert [each.text(0) for each in told] == ["location", "category", "score", "own"]
    assert told[0].table(3).table(1).number(2) == 1  # type: ignore[union-attr]
    assert "in pixels of the input" in str(told[0].text(1))


def test_raw_outputs_of_a_detector_are_no_boxes(tmp_path: Path) -> None:
    raw = BOXES.model_copy(update={"classes": None})
    program = made(Finds)
    facts = dataclasses.replace(FACTS, objective="detection", decoding=raw)
    form = Form(names=(["input"], [*NAMES]))
    graph = metadata_of(written("tflite", program, tmp_path / "m.tflite", facts, form)).rows(3)[0]
    assert sorted(str(each.text(0)) for each in graph.rows(3)) == sorted(NAMES)
    assert graph.rows(8) == []
    assert all(each.table(3) is None and each.rows(6) == [] for each in graph.rows(3))


HOSTILE = (
    "two\nlines", "a \"quote' and \\", "nul\0nul", "x" * 10_000_000, "\u202eturned", "\ud800", "{0: 'evil'}",
    "</script>",
)  # fmt: skip


def test_names_of_anybody(tmp_path: Path) -> None:
    """One line each, at their places, of a size that a reader bears; whatever they are, they are text."""
    program = made(Segments)
    facts = Facts("a\nb" + "y" * 9_000, "classes", BASE.model_copy(update={"license": "\0" * 9}), HOSTILE, HOW)
    found = tflite_meta.read_labels(written("tflite", program, tmp_path / "m.tflite", facts))
    assert len(found) == len(HOSTILE)
    assert (found[0], found[2], found[6]) == ("two?lines", "nul?nul", "{0: 'evil'}")
    assert found[1] == HOSTILE[1]
    assert max(map(len, found)) <= 500
    path = written("onnx", program, tmp_path / "m.onnx", facts)
    told = read_said(path)
    assert list(ast.literal_eval(told["names"]).values()) == json.loads(told["class_names"]) == found
    assert told["license"] == "?" * 9
    assert "\n" not in told["task"] + told["description"]
    assert path.stat().st_size < 50_000


def test_a_file_that_says_nothing_is_read_as_that(program_of: Make, tmp_path: Path) -> None:
    """As those of an older edgespa are."""
    program = program_of("Residual")
    onnx_file.write_fp32(program, tmp_path / "m.onnx", Form())
    tflite_file.write_fp32(program, tmp_path / "m.tflite", Form())
    assert read_said(tmp_path / "m.onnx") == {}
    assert read_said(tmp_path / "m.tflite") == {}
    with zipfile.ZipFile(tmp_path / "odd.tflite", "w") as archive:
        archive.writestr("edgespa.json", "[1, 2")
    assert read_said(tmp_path / "odd.tflite") == {}


def test_ncnn_says_it_in_a_file_beside(program_of: Make, tmp_path: Path) -> None:
    program = program_of("Residual")
    path = tmp_path / "m.ncnn.param"
    path.write_text("7767517\n")
    specs = specs_of(program, Form())
    describe(path, "ncnn", FACTS, Form(), specs)
    told = read_said(path)
    assert (told["task"], told["license"]) == (FACTS.task, FACTS.base.license)
    assert [(each["name"], each["shape"][0]) for each in json.loads(told["inputs"])] == [("in0", 1)]
    assert json.loads(told["outputs"])[0]["name"] == "out0"


def test_without_images_nothing_is_said_of_them() -> None:
    spec = (TensorSpec(name="x", shape=("batch", 9), dtype="float32"),)
    told = Facts("t", "regression", Base(spec="net", digest="0")).entries(spec, spec, pixels=False)
    assert not {"imgsz", "mean", "std", "preprocessing", "input", "names", "license", "decoding"} & set(told)
    assert told["description"].startswith("t: gives numbers. Made by edgespa")
