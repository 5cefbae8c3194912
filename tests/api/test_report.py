"""``es.report`` and ``edgespa report``: one page of whatever lies there, and nothing of it runs but files of models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

import edgespa as es
from edgespa.bundle import MANIFEST, Manifest
from edgespa.bundle.files import seal_of
from edgespa.cli import main
from edgespa.device.runner.answer import Result
from edgespa.errors import BundleError, ConfigError, MissingExtraError, OutputExistsError
from edgespa.reports.depth_plot import Panel, depth_json, read_depth
from edgespa.reports.disagreement import disagreement
from edgespa.reports.examples import enlarged

pytest.importorskip("plotly")
NET = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10)
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, its log and recipe, its bundle with a profile, and what else may lie around."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("made")
    digits: dict[str, Any] = {"eval_data": "digits:test", "progress": False}
    task = es.adapt(
        NET, data="digits:train", **digits, input_shape=(1, 1, 8, 8), adapter="full", density=0.5, epochs=3, seed=0,
        mean=0.3, std=0.35, output=folder / "digits.spa", log_file=folder / "train.jsonl",
    )  # fmt: skip
    bundle = es.export(
        task, formats=["onnx"], precisions=["fp32", "int8"], calibration="digits:train", **digits,
        output=folder / "digits",
    )  # fmt: skip
    es.profile(bundle, runtimes=("onnxruntime",), by_layer=True, runs=30, progress=False)
    (folder / "recipe.toml").write_text('version = 1\n[verify]\nbundle = "digits"\n')
    panels = [
        Panel(f"blocks.{n}", "blocks", 0.1 * n, np.random.default_rng(n).random((12, 2)), n < 2) for n in range(3)
    ]
    seen = depth_json(panels, np.arange(12) % 3, ("ant", "bee", "cow"), {"blocks": 0.15}, "score")
    (folder / "seen.json").write_bytes(seen)
    es.evaluate(bundle, **digits, output=folder / "answers.json")
    es.check_data("digits:test", output=folder / "health.json", progress=False)
    (folder / "notes.txt").write_text("no part of it")
    return folder


def report(made: Path, output: Path, *names: str, **settings: Any) -> tuple[es.Report, str]:
    """The page without its own scripts, which say much that looks like markup; those of anyone else are still there."""
    paths = [made / name for name in names] or [made]
    found = es.report(paths, output=output, progress=False, **settings)
    content = output.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', content)
    for script in re.findall(r"<script>.*?</script>", content, re.DOTALL):
        inside = script.removeprefix("<script>").removesuffix("</script>").encode()
        if base64.b64encode(hashlib.sha256(inside).digest()).decode() in policy:
            content = content.replace(script, "")
    return found, content


def test_everything_in_a_folder(made: Path, tmp_path: Path) -> None:
    found, content = report(made, tmp_path / "page.html")
    kinds = ("bundles", "tasks", "logs", "recipes", "depths", "evaluations", "healths")
    assert found.counts == {**dict.fromkeys(kinds, 1), "profiles": 0, "searches": 0, "sweeps": 0}
    assert found.notes == ()
    titles = re.findall(r"<h2>(.*?)</h2>", content)
    for words in (
        "Overview", "Quality", "Everything", "Proof", "Examples", "left of each layer", "Latency", "Time per layer",
        "Training", "Depth", "Right and wrong answers", "Data", "Where it comes from",
    ):  # fmt: skip
        assert any(words in title for title in titles), words
    assert found.size_bytes == (tmp_path / "page.html").stat().st_size
    manifest = Manifest.model_validate_json((made / "digits" / MANIFEST).read_bytes())
    assert manifest.reference_accuracy is not None
    assert manifest.reference_accuracy.figure in content
    for entry in manifest.files:
        assert entry.sha256 in content
    for variant in manifest.variants:
        for proof in variant.proofs:
            assert proof.runtime in content


def test_links_lead_to_the_files(made: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    page = tmp_path / "deep" / "er" / "page.html"
    _, content = report(made, page, "digits", "digits.spa", examples=0)
    links = {link for link in re.findall(r'href="([^"#]+)"', content) if link != "data:,"}
    assert any(link.endswith("model.onnx") for link in links)
    for link in links:
        assert (page.parent / link).exists(), link


def test_widths_before_and_after_are_the_manifests(made: Path) -> None:
    manifest = Manifest.model_validate_json((made / "digits" / MANIFEST).read_bytes())
    rows: Any = manifest.provenance["modules"]
    assert sum(row["macs"] for row in rows) == manifest.compaction.macs
    assert sum(row["base_parameters"] for row in rows) == manifest.compaction.base_parameters
    assert any(row["channels"] < row["base_channels"] for row in rows if row["base_channels"])


def test_examples_are_what_the_original_and_each_file_say(made: Path, tmp_path: Path) -> None:
    _, content = report(made, tmp_path / "a.html", "digits", examples=5)
    assert content.count("data:image/png;base64,") == 5
    assert len(re.findall(r"the original: \d \d+%", content)) == 5
    assert len(re.findall(r"onnx-int8: \d \d+%", content)) == 5
    _, content = report(made, tmp_path / "b.html", "digits", examples=3, images="digits:test")
    assert content.count("data:image/png;base64,") == 3
    assert "onnx-fp32, which was proved to be the program" in content


def test_a_file_that_disagrees_comes_first_and_is_marked(made: Path, tmp_path: Path) -> None:
    """The int8 file with the outputs of two classes exchanged: the examples say so, whatever the manifest says."""
    import onnx

    bad = tmp_path / "bad"
    shutil.copytree(made / "digits", bad)
    file = bad / "model.int8.onnx"
    model = onnx.load(file)
    (output,) = model.graph.output
    order = onnx.helper.make_tensor("order", onnx.TensorProto.INT64, [10], [1, 0, *range(2, 10)])
    name = output.name
    for node in model.graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], [name], axis=1))
    onnx.save(model, file)
    resealed(bad)
    _, content = report(tmp_path, tmp_path / "page.html", "bad", examples=4)
    wrong = re.findall(r'<p class="bad">onnx-int8: (\d)', content)
    said = re.findall(r"the original: (\d)", content)
    assert len(said) == 4
    assert len(wrong) == 4, "of 32 recorded digits some are zeros and ones, and come first"
    assert all({int(a), int(b)} == {0, 1} for a, b in zip(said, wrong, strict=True))


def resealed(folder: Path, **changes: Any) -> None:
    """Digests and seal as a hostile hand would write them."""
    values = json.loads((folder / MANIFEST).read_bytes())
    values.update(changes)
    for entry in values["files"]:
        content = (folder / entry["path"]).read_bytes()
        entry.update(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    for variant in values["variants"]:
        variant["size_bytes"] = (folder / variant["file"]).stat().st_size
    values["seal"] = seal_of(values)
    (folder / MANIFEST).write_text(json.dumps(values, indent=2))


def test_texts_of_a_strangers_bundle_run_nothing(made: Path, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    bad = tmp_path / "bad"
    shutil.copytree(made / "digits", bad)
    values = json.loads((bad / MANIFEST).read_bytes())
    values["provenance"]["modules"][0]["module"] = evil
    values["provenance"]["task"]["history"][0]["epoch"] = evil
    (bad / "labels.txt").write_text("\n".join([evil] * 10) + "\n")
    resealed(bad, task=evil, provenance=values["provenance"])
    _, content = report(tmp_path, tmp_path / "page.html", "bad", title=evil)
    assert "<script>alert" not in content
    assert "&lt;script&gt;alert" in content
    assert not re.findall(r"<script>", content)


def test_a_packed_bundle_and_its_profile_alone(made: Path, tmp_path: Path) -> None:
    packed, profile = tmp_path / "digits.tar", tmp_path / "measured.json"
    done = CliRunner().invoke(main, ["pack", str(made / "digits"), "--output", str(packed)])
    assert done.exit_code == 0, done.stderr
    (saved,) = (made / "digits" / "profiles").iterdir()
    shutil.copy(saved, profile)
    found, content = report(tmp_path, tmp_path / "page.html", "digits.tar", "measured.json", examples=1)
    assert found.counts["bundles"] == found.counts["profiles"] == 1
    assert "digits.tar" in content
    assert "Latency" in found.sections


def test_of_a_folder_what_is_odd_is_told_and_what_is_named_is_an_error(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(made / "train.jsonl", folder / "train.jsonl")
    (folder / "odd.json").write_text("{")
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "broken.spa").write_bytes(b"no task")
    found, content = report(folder, tmp_path / "page.html")
    assert len(found.notes) == 3
    assert all(any(name in note for note in found.notes) for name in ("odd.json", "other.json", "broken.spa"))
    assert "broken.spa" in content
    for name in ("odd.json", "other.json", "broken.spa"):
        with pytest.raises(es.EdgespaError, match=name):
            es.report(folder / name, output=tmp_path / "no.html", progress=False)
    with pytest.raises(ConfigError, match=r"notes\.txt: it is none of those"):
        es.report(made / "notes.txt", output=tmp_path / "no.html", progress=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="nothing to report on"):
        es.report(empty, output=tmp_path / "no.html", progress=False)
    assert not (tmp_path / "no.html").exists()


def test_a_damaged_bundle_is_refused(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(made / "digits", bad)
    (bad / "model.onnx").write_bytes(b"\0" * 100)
    with pytest.raises(BundleError):
        es.report(bad, output=tmp_path / "page.html", progress=False)
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_is_there_is_kept(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(OutputExistsError):
        es.report(made / "train.jsonl", output=page, progress=False)
    assert page.read_text() == "mine"
    es.report(made / "train.jsonl", output=page, overwrite=True, progress=False)
    assert "<!DOCTYPE html>" in page.read_text()


def test_without_plotly_the_extra_is_named(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtraError) as caught:
        es.report(made / "train.jsonl", output=tmp_path / "page.html", progress=False)
    assert "[report]" in (caught.value.hint or "")


def test_the_command(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(made / "digits.spa"), "-o", str(page), "--examples", "0"])
    assert done.exit_code == 0, done.stderr
    assert "shows: 1 task" in done.stdout
    assert page.exists()
    done = CliRunner().invoke(main, ["report", str(made / "digits.spa"), "-o", str(page), "--overwrite", "--json"])
    assert json.loads(done.stdout)["counts"]["tasks"] == 1
    done = CliRunner().invoke(main, ["report", str(tmp_path / "absent"), "-o", str(tmp_path / "b.html")])
    assert done.exit_code == 1
    assert "no such file or folder" in done.stderr


def result(top: list[tuple[int, float]]) -> Result:
    rows = [{"index": index, "label": str(index), "probability": odds} for index, odds in top]
    return Result("classes", {"top": rows}, [np.array([odds for _, odds in top], np.float32)])


def boxes(*rows: tuple[int, list[float]]) -> Result:
    told = [{"index": index, "label": str(index), "score": 0.9, "box": box} for index, box in rows]
    return Result("detection", {"boxes": told}, [np.zeros(1, np.float32)])


def test_disagreement_by_hand() -> None:
    same = result([(3, 0.9), (1, 0.1)])
    assert disagreement(same, same) == 0
    assert disagreement(same, result([(3, 0.8), (1, 0.2)])) == pytest.approx(0.1)
    assert disagreement(same, result([(1, 0.6), (3, 0.4)])) == pytest.approx(1.5)
    one = boxes((0, [0, 0, 10, 10]), (1, [20, 20, 30, 30]))
    assert disagreement(one, one) == 0
    assert disagreement(one, boxes((0, [0, 0, 10, 10]))) == pytest.approx(2 / 3)
    assert disagreement(one, boxes((1, [0, 0, 10, 10]), (1, [20, 20, 30, 30]))) == pytest.approx(1.0)
    alone = boxes((0, [0, 0, 10, 10]))
    assert disagreement(alone, boxes((0, [6, 0, 16, 10]))) == pytest.approx(2.0)  # a quarter is shared
    assert disagreement(alone, boxes((0, [2, 0, 12, 10]))) == 0  # two thirds
    assert disagreement(boxes(), boxes()) == 0
    mask = [
        Result("segmentation", {"areas": []}, [], classes=np.array(rows, np.int16)) for rows in ([[0, 1]], [[0, 0]])
    ]
    assert disagreement(mask[0], mask[1]) == 0.5


def test_what_is_drawn_on_a_small_picture_has_room() -> None:
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    larger, told = enlarged(pixels, boxes((0, [1, 2, 10, 12])))
    assert larger.shape == (120, 180, 3)
    assert told["boxes"][0]["box"] == [6, 12, 60, 72]
    assert (larger[6 * 7 + 3, 6 * 11 + 1] == pixels[7, 11]).all()
    mask = Result("segmentation", {"areas": []}, [], classes=np.arange(600, dtype=np.int16).reshape(20, 30))
    _, told = enlarged(pixels, mask)
    assert told.mask is not None
    assert told.mask.shape == (120, 180)
    assert told.mask[119, 179] == 599
    same, _ = enlarged(np.zeros((10, 200, 3), np.uint8), mask)
    assert same.shape == (10, 200, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"labels": [0, 9] * 6}, {"classes": [1, 2, 3]}, {"panels": [3]},
        {"panels": [{"name": "a", "kept": True, "score": 0.5, "points": [[0, 0]]}]},
    ],
)  # fmt: skip
def test_odd_embeddings_are_refused(change: dict[str, Any]) -> None:
    panel = Panel("a", "s", 0.5, np.zeros((12, 2)), True)
    values = json.loads(depth_json([panel], np.arange(12) % 3, ("a", "b", "c"), {"s": 0.1}, "score"))
    assert read_depth(values) == values
    with pytest.raises(ConfigError):
        read_depth({**values, **change})
    assert read_depth({"kind": "other"}) is None
