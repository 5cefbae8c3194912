"""The model card: every figure is the manifest's, and names cannot break it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgespa.bundle import Manifest, Quality, read_manifest
from edgespa.cli import card, profile
from edgespa.config import Preprocess
from edgespa.device.measure.saved import read_profiles
from edgespa.exporting.card import model_card

_spec = importlib.util.spec_from_file_location("tiny_bundles", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
bundle = _tiny.bundle

TASK = {
    "method": "adapt",
    "data": "flowers:train",
    "config": {"adapter": "splora", "rank": 8, "density": 0.4, "criterion": "taylor", "epochs": 10, "secret": 1},
    "metrics": {
        "validation_accuracy": 0.925,
        "validation_images": 40,
        "test_accuracy": 0.91234,
        "test_images": 1449,
        "mean_reconstruction_error": 0.25,
    },
    "teacher": None,
}


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest.model_validate({**manifest.model_dump(), "files": (), "seal": None, **changes})


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_what_it_says_of_a_plain_model(manifest: Manifest) -> None:
    text = model_card(manifest, ("round", "square", "star"))
    assert text.startswith("# shapes\n\nTells one of several classes (3) from an image.")
    assert "`models.py:linear`" in section(text, "Base and licence")
    assert "not recorded" in section(text, "Base and licence")
    assert "nothing was removed or trained" in section(text, "How it was made")
    assert "| parameters | 579 | 1,158 | 50.0% |" in section(text, "Size")
    assert "| MACs | 576 | 2,304 | 25.0% |" in section(text, "Size")
    assert "channels" not in section(text, "Size")
    files = section(text, "Files")
    size = f"{manifest.variants[0].size_bytes:,}"
    assert f"| onnx-fp32 | model.onnx | {size} | 75.00% | 0.0e+00 | 1.000000 | onnxruntime 1.31.1 |" in files
    assert "`onnx-fp32` is worst at `output_0[:, 0]` and must keep: relative error 0.0001, top1 agreement 1." in files
    assert "component of the outputs that is worst, on 11 seeded:" in files
    assert "Not measured yet" in section(text, "Latency")
    steps = section(text, "Input and output")
    assert "- an image is turned as its EXIF orientation says\n" in steps
    assert "- it is put on grey of 255 where it is transparent (255 is white)\n" in steps
    assert "- it is resized to 8 x 8 (bilinear), its proportions not kept\n" in steps
    assert "- it is given 3 channel(s): red, green, blue\n- it is divided by 255, less mean [" in steps
    assert "3: round, square, star" in section(text, "Input and output")
    assert "pip install numpy onnxruntime pillow" in section(text, "Run")


def test_it_claims_no_classes_for_what_gives_none(manifest: Manifest) -> None:
    image = [{"name": "map", "shape": ["batch", 5, 64, 64], "dtype": "float32", "layout": "NCHW"}]
    variants = [{**variant.model_dump(), "outputs": image} for variant in manifest.variants]
    text = model_card(changed(manifest, outputs=image, variants=variants), ())
    assert text.startswith("# shapes\n\nGives `map` from an image; see below.\n")
    assert "classes" not in text.partition("## Base")[0]
    assert "- out: `map`: float32, batch x 5 x 64 x 64 (NCHW)" in section(text, "Input and output")


def test_what_it_says_of_a_task(manifest: Manifest) -> None:
    proof = {"masked_compacted_output_error": 3.2e-7, "merged_unmerged_error": 1e-8}
    base = {**manifest.base.model_dump(), "license": "Apache-2.0", "weights": "net.safetensors"}
    compaction = {
        **manifest.compaction.model_dump(),
        "channel_density": 0.4,
        "task_size_bytes": 1234,
        "base_size_bytes": 56789,
    }
    values = {"base": base, "compaction": compaction, "learns": "multi-label"}
    reference = Quality(value=0.7501, count=2000, data="flowers:test").model_dump()
    text = model_card(
        changed(manifest, **values, reference_accuracy=reference, provenance={"task": TASK, "proof": proof}), ()
    )
    assert "Tells any of several labels from an image." in text
    assert "applies to these files: Apache-2.0" in text
    assert "with the weights `net.safetensors`" in text
    made = section(text, "How it was made")
    for line in ("method: adapt", "adapter: splora", "rank: 8", "asked density: 0.4", "criterion: taylor"):
        assert f"- {line}\n" in made
    assert "- data: flowers:train\n" in made
    assert "- validation accuracy, recorded then: 92.50% (40 images)\n" in made
    assert "- test accuracy, recorded then: 91.23% (1,449 images)\n" in made
    assert "- recorded then: mean_reconstruction_error 0.25\n" in made
    assert "removed = zeroed, relative error of the output: 3.2e-07" in made
    assert "secret" not in made
    assert "| channels |  |  | 40.0% |" in section(text, "Size")
    assert "| bytes of the task file beside its base | 1,234 | 56,789 |  |" in section(text, "Size")
    assert "on flowers:test, 2,000 samples; the program itself has 75.01%." in section(text, "Files")


@pytest.mark.parametrize(
    ("config", "lines", "none"),
    [
        ({"adapter": "full", "rank": 8}, ["adapter: full"], "rank"),
        ({"adapter": "ssf", "rank": 8}, ["adapter: ssf"], "rank"),
        ({"adapter": "theirs", "rank": 8}, ["adapter: theirs", "rank: 8"], "epochs"),
        ({"density": 0.5, "budget": "macs"}, ["asked density: 0.5 of the MACs"], "rank"),
        ({"density": 0.25, "budget": "channels"}, ["asked density: 0.25 of the channels"], "adapter"),
    ],
)
def test_it_says_what_was_used_of_what_was_asked(
    config: dict[str, Any], lines: list[str], none: str, manifest: Manifest
) -> None:
    text = model_card(changed(manifest, provenance={"task": {"method": "adapt", "config": config}}), ())
    made = section(text, "How it was made")
    assert all(f"- {line}\n" in made for line in lines)
    assert f"- {none}" not in made


def test_files_that_take_something_else_say_so(manifest: Manifest) -> None:
    how = Preprocess(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    variant = manifest.variants[0].model_dump()
    variant["inputs"] = [{"name": "pixels", "shape": ("batch", 8, 8, 3), "dtype": "uint8", "layout": "NHWC"}]
    variant["preprocess"] = how.model_dump()
    text = section(model_card(changed(manifest, variants=[variant]), ()), "Input and output")
    assert "taken as pixels, for they normalise by themselves: onnx-fp32" in text
    assert "`onnx-fp32` itself takes `pixels`: uint8, batch x 8 x 8 x 3 (NHWC)" in text
    plain = model_card(changed(manifest, preprocessing=None), ())
    assert "from its input." in plain
    assert "--input input.npy" in plain
    assert "pillow" not in plain


def test_names_cannot_break_it(manifest: Manifest) -> None:
    evil = "a | b\n# heading <script> `code` [x](y)"
    text = model_card(
        changed(manifest, task=evil, base={**manifest.base.model_dump(), "spec": evil, "license": evil}),
        [evil, "plain"],
    )
    assert [line for line in text.splitlines() if line.startswith("# ")] == [text.splitlines()[0]]
    assert not re.search(r"(?<!\\)<script", re.sub(r"(?<!\\)`[^`]*`", "", text))  # in code it is no more than text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 2  # one table of sizes, one of files


def test_every_class_up_to_twenty_is_named(manifest: Manifest) -> None:
    text = model_card(manifest, [f"c{number}" for number in range(25)])
    assert "25: c0, " in text
    assert "c19, ..." in text
    assert "c20" not in text


def test_what_was_not_clean_is_said_to_be(bundle: Path) -> None:
    assert CliRunner().invoke(profile.command, [str(bundle), "--runs", "10"]).exit_code == 0
    (found,) = read_profiles(bundle)
    throttled = found.results[0].model_copy(
        update={"clean": False, "doubts": ("it is throttled",), "provider": "CUDAExecutionProvider"}
    )
    text = model_card(read_manifest(bundle), [], [found.model_copy(update={"results": (throttled,), "emulated": True})])
    latency = section(text, "Latency")
    assert "| onnx-fp32, CUDA | 1 |" in latency
    assert "emulated: its times mean nothing" in latency
    assert "onnx-fp32, CUDA, 1 thread: it is throttled" in latency
    # Said to be: the machine that tests it may be busy.
    calm = found.results[0].model_copy(update={"clean": True, "doubts": ()})
    text = model_card(read_manifest(bundle), [], [found.model_copy(update={"results": (calm,)})])
    assert "Not clean" not in section(text, "Latency")


def test_latencies_come_with_the_profiles(bundle: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(profile.command, [str(bundle), "--runs", "10"]).exit_code == 0
    (bundle / "profiles" / "broken.json").write_text("{")
    (found,) = read_profiles(bundle)
    result = runner.invoke(card.command, [str(bundle)])
    assert result.exit_code == 0, result.output
    row = f"| onnx-fp32 | 1 | {found.results[0].p50_ms:.3g} | {found.results[0].p90_ms:.3g} |"
    assert row in section(result.stdout, "Latency")
    written = runner.invoke(card.command, [str(bundle), "-o", str(tmp_path / "card.md")])
    assert written.exit_code == 0
    assert (tmp_path / "card.md").read_text() == result.stdout
    assert json.loads(runner.invoke(card.command, [str(bundle), "--json"]).stdout)["card"] == result.stdout


def test_nothing_that_was_not_measured_has_a_column(manifest: Manifest) -> None:
    """Of a detector without evaluation data there is no accuracy to speak of, and no top class."""
    values = manifest.model_dump()["variants"]
    bare = [{**each, "accuracy": None, "agreement": None} for each in values]
    decoding = {"size": (8, 8), "scores": {"output": 0, "count": 1}, "boxes": {"output": 1, "count": 4}}
    outputs = [{**manifest.outputs[0].model_dump(), "name": name, "shape": ("batch", 5, 4)} for name in ("a", "b")]
    detector = changed(
        manifest,
        learns="detection",
        decoding=decoding,
        outputs=outputs,
        variants=[{**each, "outputs": outputs} for each in bare],
    )
    text = model_card(detector, ("round", "square", "star"))
    assert "Finds things of 3 classes from an image, each with a box and a score." in text
    assert "| variant | file | bytes | error | correlation | proved in |" in text
    assert "accuracy" not in text
    assert "top class" not in text


def test_where_else_a_file_holds_and_where_not(manifest: Manifest) -> None:
    one = {
        "runtime": "openvino 2026.4.1",
        "machine": "x86_64",
        "holds": True,
        "count": 8,
        "bound": {"relative_error": 1e-3},
    }
    two = {"runtime": "ncnn 1.0", "arithmetic": "fp16", "machine": "aarch64", "holds": False, "failures": ["it is NaN"]}
    variants = manifest.model_dump()["variants"]
    variants[0]["proofs"] = [{**one, "component_error": 2e-6}, two]
    files = section(model_card(changed(manifest, variants=variants), ()), "Files")
    name = variants[0]["name"]
    assert f"`{name}` in openvino 2026.4.1, fp32, on x86_64: holds, error 2.0e-06." in files
    assert f"`{name}` in ncnn 1.0, fp16, on aarch64: DOES NOT HOLD: it is NaN." in files
