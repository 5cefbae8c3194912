"""run.py on a folder of images: their order, a bad one among them, pictures that are written whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgespa.bundle import BundleWriter, Manifest, TensorSpec, read_manifest
from edgespa.bundle.decoding import Columns, Decoding
from edgespa.bundle.files import seal_of
from edgespa.device import runner
from edgespa.device.runner.draw import colour_of
from edgespa.device.runner.many import write_picture


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    random = np.random.default_rng(3)
    for name in ("frame10.png", "frame2.jpg", "frame1.bmp", "Frame3.tif"):
        Image.fromarray(random.integers(0, 256, (24, 36, 3), dtype=np.uint8)).save(folder / name)
    np.save(folder / "frame4.npy", random.standard_normal((2, 3, 8, 8)).astype(np.float32))
    (folder / ".hidden.png").write_text("no")
    (folder / "notes.txt").write_text("no")
    (folder / "inner.png").mkdir()
    return folder


ORDER = ["frame1.bmp", "frame2.jpg", "Frame3.tif", "frame4.npy", "frame10.png"]


def main(bundle: Path, *options: str | Path) -> int:
    return runner.main([str(option) for option in options], folder=bundle)


@pytest.mark.parametrize(
    "names",
    [
        ["a2", "a10"],
        ["a", "a1"],
        ["1", "a"],
        ["a1b2", "a1b10", "a2b1"],
        ["A1", "a2", "A3"],
        ["01", "1"],
    ],
)
def test_the_order_that_people_have(names: list[str]) -> None:
    assert [path.name for path in sorted(map(Path, reversed(names)), key=runner.natural)] == names


def test_a_line_for_each(bundle: Path, frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bundle, "--input", frames, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["input"]).name for row in rows] == ORDER
    assert main(bundle, "--input", frames / "frame10.png", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows[-1]
    assert main(bundle, "--input", frames) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ORDER
    assert f"{rows[0]['top'][0]['label']} {rows[0]['top'][0]['probability']:.0%}" in lines[0]


def test_a_bad_one_keeps_none_of_the_others(
    bundle: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frames / "frame2.jpg").write_bytes((frames / "frame2.jpg").read_bytes()[:300])
    (frames / "frame5.png").write_text("no picture")
    out = tmp_path / "out"
    assert main(bundle, "--input", frames, "--json", "--output", out) == 1
    found = capsys.readouterr()
    rows = {Path(row["input"]).name: row for row in map(json.loads, found.out.splitlines())}
    assert [name for name, row in rows.items() if "error" in row] == ["frame2.jpg", "frame5.png"]
    assert "cannot read the image" in rows["frame5.png"]["error"]
    assert "2 of 6 files were not read" in found.err
    assert sorted(os.listdir(out)) == ["Frame3.tif.png", "frame1.bmp", "frame10.png"]
    assert "output" not in rows["frame4.npy"]
    for name in os.listdir(out):
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.size == (36, 24)


def test_what_is_there_is_not_replaced_unasked(
    bundle: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "frame10.png").write_text("mine")
    assert main(bundle, "--input", frames, "--output", out) == 1
    assert "frame10.png exists" in capsys.readouterr().err
    assert os.listdir(out) == ["frame10.png"]  # nothing was begun
    assert main(bundle, "--input", frames, "--output", out, "--overwrite") == 0
    assert len(os.listdir(out)) == 4
    one = tmp_path / "one.png"
    one.write_text("mine")
    assert main(bundle, "--input", frames / "frame10.png", "--output", one) == 1
    assert one.read_text() == "mine"
    assert main(bundle, "--input", frames / "frame10.png", "--output", one, "--overwrite") == 0
    with Image.open(one) as picture:
        assert picture.size == (36, 24)


@pytest.mark.parametrize(
    ("given", "output", "words"),
    [
        ("frames", "frames", "another folder"),
        ("frames", "frames/frame1.bmp", "another folder"),
        ("frames/frame1.bmp", "frames", "is a folder"),
        ("frames/frame1.bmp", "frames/frame1.bmp", "the image itself"),
        ("frames/frame1.bmp", "new.tiff", "pictures are written as"),
        ("frames/frame1.bmp", "new", "pictures are written as"),
        ("frames/frame4.npy", "new.png", "is no image"),
        ("frames/inner.png", "new", "holds no images"),
    ],
)
def test_outputs_that_cannot_be(
    bundle: Path, frames: Path, capsys: pytest.CaptureFixture[str], given: str, output: str, words: str
) -> None:
    before = sorted(frames.parent.rglob("*"))
    assert main(bundle, "--input", frames.parent / given, "--output", frames.parent / output) == 1
    assert words in capsys.readouterr().err
    assert sorted(frames.parent.rglob("*")) == before


def test_what_cannot_be_drawn_is_said_first(bundle: Path, frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    values["learns"] = "spot"
    values["seal"] = seal_of(values)
    (bundle / "manifest.json").write_text(json.dumps(values))
    assert main(bundle, "--input", frames, "--output", frames.parent / "new") == 1
    found = capsys.readouterr()
    assert "nothing can be drawn of what it learned (spot)" in found.err
    assert not found.out
    assert main(bundle, "--input", frames) == 0
    assert capsys.readouterr().out.splitlines()[0] == "frame1.bmp: logits of 1 x 3"


def test_a_picture_is_whole_or_not_there(tmp_path: Path) -> None:
    class Broken:
        def save(self, stream: object, **_: object) -> None:
            stream.write(b"half")  # type: ignore[attr-defined]
            raise OSError("the disk is full")

    with pytest.raises(runner.RunnerError, match="the disk is full"):
        write_picture(Broken(), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_who_reads_may_stop(bundle: Path, frames: Path) -> None:
    """Each line is there at once, and a reader that has enough is no error to be printed."""
    for i in range(20, 400):
        (frames / f"frame{i}.jpg").symlink_to(frames / "frame2.jpg")
    command = [sys.executable, str(bundle / "run.py"), "--input", str(frames), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["input"].endswith("frame1.bmp")
    process.stdout.close()
    words = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert words == ""


@pytest.fixture
def detector(bundle: Path, tmp_path: Path) -> Path:
    """Three boxes in every image, in pixels of an input of 8 x 8, each as sure as its bias says."""
    boxes = np.array([[1, 1, 4, 4], [2, 0, 8, 8], [0, 6, 3, 8]], np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "none_of_3", "sure"], ["scores"]),
        helper.make_node("Gemm", ["flat", "none_of_12", "corners"], ["row"]),
        helper.make_node("Reshape", ["row", "shape"], ["boxes"]),
    ]
    constants = {
        "none_of_3": np.zeros((192, 3), np.float32),
        "none_of_12": np.zeros((192, 12), np.float32),
        "sure": np.float32([0.9, 0.5, 0.2]),
        "corners": boxes.reshape(-1),
        "shape": np.array([-1, 3, 4]),
    }
    sizes: dict[str, tuple[int | str, ...]] = {"scores": ("batch", 3), "boxes": ("batch", 3, 4)}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(size)) for name, size in sizes.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    manifest = read_manifest(bundle)
    outputs = tuple(TensorSpec(name=name, shape=size, dtype="float32") for name, size in sizes.items())
    variant = manifest.variants[0].model_copy(update={"outputs": outputs, "size_bytes": len(content)})
    how = Decoding(size=(8, 8), scores=Columns(output=0), boxes=Columns(output=1), overlap=None)
    values = {**manifest.model_dump(), "variants": [variant.model_dump()], "files": (), "seal": None}
    values |= {"learns": "detection", "decoding": how.model_dump(), "outputs": [each.model_dump() for each in outputs]}
    with BundleWriter(tmp_path / "detector") as writer:
        (writer.path / "model.onnx").write_bytes(content)
        (writer.path / "labels.txt").write_text("cell\n")
        writer.commit(Manifest.model_validate(values))
    return tmp_path / "detector"


def test_boxes_from_the_file_to_the_photograph(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 8 x 8 for a photograph of 80 x 160: ten times as high, twenty times as wide."""
    Image.new("RGB", (160, 80), (120, 120, 120)).save(tmp_path / "a.png")
    options = ("--input", tmp_path / "a.png", "--output", tmp_path / "b.png")
    assert main(detector, *options, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["boxes"]
    assert [(row["label"], row["box"]) for row in rows] == [
        ("cell", [20, 10, 80, 40]),
        ("cell", [40, 0, 160, 80]),
    ]
    assert [row["score"] for row in rows] == pytest.approx([0.9, 0.5])
    with Image.open(tmp_path / "b.png") as picture:
        edge = np.asarray(picture)[39, 50]
    assert edge.tolist() == list(colour_of(0))
    assert main(detector, *options, "--overwrite", "--score", "0.1") == 0
    assert capsys.readouterr().out.count("cell") == 3
    assert main(detector, *options, "--overwrite", "--score", "0.95") == 0
    assert "boxes: none" in capsys.readouterr().out
