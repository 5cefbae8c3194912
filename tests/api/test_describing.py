"""What bundles and their files say of themselves, in every format, read without running anything."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgespa as es
from edgespa.api.describing import Description, describe
from edgespa.api.documents import problems
from edgespa.cli import main
from edgespa.errors import EdgespaError
from edgespa.exporting.said import read_said

FORMATS = ("onnx", "pt2", "python")
SAME = ("task", "objective", "class_names", "license", "base", "base_digest", "preprocessing")


@pytest.fixture(scope="module")
def bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("described") / "bundle"
    es.export(
        f"{toy_folder / 'net.py'}:build", output=path, input_shape=(1, 3, 8, 8), formats=FORMATS, license="MIT",
        labels=["red", "green", "blue", "none"], mean=0.5, std=0.25, progress=False,
    )  # fmt: skip
    return path


def typed(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(each) for each in words], catch_exceptions=False)


def files(bundle: Path) -> dict[str, Path]:
    return {each.name: bundle / each.file for each in es.open_bundle(bundle).manifest.variants}


def test_every_format_says_the_same(bundle: Path) -> None:
    told = {name: read_said(path) for name, path in files(bundle).items()}
    assert set(told) == {"onnx-fp32", "pt2-fp32", "python-fp32"}
    first = told["onnx-fp32"]
    assert (first["license"], first["objective"]) == ("MIT", "classes")
    assert json.loads(first["class_names"])[0] == "red"
    assert json.loads(first["mean"]) == [0.5] * 3
    for name, each in told.items():
        assert {key: each[key] for key in SAME} == {key: first[key] for key in SAME}, name
    found = describe(bundle)
    assert [(each["variant"], each["says"]) for each in found.files] == [(name, "the same") for name in told]
    assert found.says["class_names"][0] == "red"
    assert found.says["license"] == "MIT"
    assert found.size_bytes == sum(each.size_bytes for each in es.open_bundle(bundle).manifest.files)


MAPS = """
from torch import nn

def maps():
    return nn.Conv2d(3, 3, 3, padding=1)
"""


@pytest.mark.parametrize(
    ("said", "objective"),
    [({"labels": ["sky", "road", "car"]}, "segmentation"), ({}, "classes"), ({"objective": "image"}, "image"),
     ({"labels": ["a", "b", "c"], "objective": "heatmaps"}, "heatmaps")],
)  # fmt: skip
def test_what_a_network_does_that_is_exported_as_it_is(said: dict[str, Any], objective: str, tmp_path: Path) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    path = tmp_path / "bundle"
    es.export(
        f"{tmp_path / 'maps.py'}:maps", output=path, input_shape=(1, 3, 8, 8), formats=("onnx",), progress=False, **said
    )
    assert es.open_bundle(path).manifest.learns == objective
    assert read_said(path / "model.onnx")["objective"] == objective


def test_names_that_are_not_one_for_each_channel(tmp_path: Path) -> None:
    (tmp_path / "maps.py").write_text(MAPS)
    with pytest.raises(EdgespaError, match="2 names, and the model 3 outputs"):
        es.export(
            f"{tmp_path / 'maps.py'}:maps", output=tmp_path / "bundle", input_shape=(1, 3, 8, 8), formats=("onnx",),
            labels=["sky", "road"], progress=False,
        )  # fmt: skip


def test_ncnn_says_it_beside(bundle: Path, tmp_path: Path) -> None:
    said = read_said(files(bundle)["onnx-fp32"])
    (tmp_path / "m.ncnn.param").write_text("7767517\n")
    assert read_said(tmp_path / "m.ncnn.param") == {}
    (tmp_path / "m.ncnn.json").write_text(json.dumps(said))
    assert read_said(tmp_path / "m.ncnn.param") == said


def test_what_a_file_says_is_shown(bundle: Path) -> None:
    for path, kind in ((bundle, "bundle"), (files(bundle)["python-fp32"], "py")):
        shown = typed("inspect", path)
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.startswith(f"{path}: a")
        for line in ("objective: classes", "licence: MIT", "takes: input float32 [batch, 3, 8, 8] NCHW"):
            assert line in shown.stdout
        assert "\x1b" not in shown.stdout
        document = json.loads(typed("inspect", path, "--json").stdout)
        assert problems("inspect", document) == []
        assert (document["kind"], document["says"]["license"]) == (kind, "MIT")
    assert re.search(r"^onnx-fp32 +model.onnx +[\d,]+ +the same", typed("inspect", bundle).stdout, re.MULTILINE)
    # Of what can be opened as a model too, both are shown.
    shown = typed("inspect", files(bundle)["onnx-fp32"])
    assert "can go: " in shown.stdout
    assert "licence: MIT" in shown.stdout.partition("What the file says of itself")[2]
    document = json.loads(typed("inspect", files(bundle)["onnx-fp32"], "--json").stdout)
    assert document["says"]["license"] == "MIT"
    assert document["groups"]


def test_a_card_of_a_single_file(bundle: Path, tmp_path: Path) -> None:
    path = files(bundle)["python-fp32"]
    assert "licence: MIT" in typed("card", path).stdout
    done = typed("card", path, "--format", "json", "--output", tmp_path / "card.json")
    assert done.exit_code == 0
    assert json.loads((tmp_path / "card.json").read_text())["says"]["license"] == "MIT"


def test_a_file_that_says_otherwise_is_told(bundle: Path, tmp_path: Path) -> None:
    import onnx

    from edgespa.bundle import Manifest
    from edgespa.exporting import said

    wanted = said.bundle_says(es.open_bundle(bundle).manifest, ("red",))
    model = onnx.load(str(files(bundle)["onnx-fp32"]))
    assert isinstance(es.open_bundle(bundle).manifest, Manifest)
    assert said.differing(read_said(files(bundle)["onnx-fp32"]), wanted) == ("class_names",)
    onnx.helper.set_model_props(model, {"license": "WTFPL", "task": wanted["task"]})
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert "license" in said.differing(read_said(tmp_path / "other.onnx"), wanted)
    assert "task" not in said.differing(read_said(tmp_path / "other.onnx"), wanted)


def test_nothing_is_run_and_nothing_odd_is_believed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"FACTS = {{\n    'task': open({str(ran)!r}, 'w').name,\n}}\n")
    assert read_said(tmp_path / "evil.py") == {}
    assert not ran.exists()
    (tmp_path / "deep.py").write_text("FACTS = {\n" + "[" * 100_000 + "}\n")
    assert read_said(tmp_path / "deep.py") == {}
    with zipfile.ZipFile(tmp_path / "two.tflite", "w") as archive:
        for folder in ("a", "b"):
            archive.writestr(f"{folder}/extra/edgespa.json", '{"task": "x"}')
    assert read_said(tmp_path / "two.tflite") == {}
    with zipfile.ZipFile(tmp_path / "large.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/extra/edgespa.json", '{"task": "' + "x" * (9 << 20) + '"}')
    assert read_said(tmp_path / "large.pt2") == {}
    (tmp_path / "no.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(EdgespaError, match="not a readable ONNX file"):
        read_said(tmp_path / "no.onnx")
    for name in ("no.tflite", "no.pt2", "no.param", "no.py"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        assert read_said(tmp_path / name) == {}
        assert "it says nothing of itself" in str(describe(tmp_path / name))


def test_anybodys_words_stay_words(tmp_path: Path) -> None:
    odd = {
        "task": "a\x1b[31mb\nc", "preprocessing": '{"mean": "x"}', "class_names": '["' + "n" * 500 + '", 7]',
        "inputs": '[{"name": 1, "shape": "x"}, 3]', **{f"own{number}": "v" * 999 for number in range(30)},
    }  # fmt: skip
    (tmp_path / "m.ncnn.param").write_text("")
    (tmp_path / "m.ncnn.json").write_text(json.dumps(odd))
    found = describe(tmp_path / "m.ncnn.param")
    assert isinstance(found, Description)
    text = str(found)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 500
    assert "and: 18 more, see --json" in text
    assert "prepared in a way that this edgespa does not know" in text
    assert problems("inspect", found.to_dict()) == []


@pytest.mark.parametrize("option", ["--svg", "--html", "--per-layer", "--all"])
def test_options_of_a_model_are_refused(bundle: Path, tmp_path: Path, option: str) -> None:
    value = [tmp_path / "x.html"] if option in ("--svg", "--html") else []
    done = CliRunner().invoke(main, ["inspect", str(bundle), option, *map(str, value)])
    assert done.exit_code != 0
    assert "of a model's layers" in done.output
    assert not list(tmp_path.iterdir())
