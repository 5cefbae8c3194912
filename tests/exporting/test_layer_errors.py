"""Where in a network a smaller file loses precision."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import edgespa as es
from edgespa.bundle import read_manifest
from edgespa.errors import ConfigError, DeviceError
from edgespa.exporting.layer_errors import layer_errors

pytestmark = pytest.mark.usefixtures("converters")


@pytest.fixture(scope="module")
def bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "bundle"
    es.export(
        f"{toy_folder / 'net.py'}:build",
        output=path,
        precisions=("fp32", "fp16", "int8"),
        formats=("onnx", "tflite", *(("ncnn",) if importlib.util.find_spec("pnnx") else ())),
        int8_tolerance=1.0,
        calibration=str(toy_folder / "colours.npz"),
        input_shape=(1, 3, 8, 8),
    )
    return path


def test_each_layer_of_each_smaller_file(bundle: Path) -> None:
    found = es.verify(bundle, by_layer=True)
    smaller = [
        each.name for each in read_manifest(bundle).variants if each.precision != "fp32" and each.format != "ncnn"
    ]
    assert smaller
    assert list(found.layers) == smaller
    for name, layers in found.layers.items():
        assert len(layers) > 1
        assert all(0 < each.error < 0.3 for each in layers), name
        assert all(each.snr_db > 10 for each in layers)
    ours = {each.layer for each in found.layers["onnx-int8"]}
    import onnx

    weights = {each.name for each in onnx.load(bundle / "model.onnx").graph.initializer}
    assert {f"{layer}.weight" for layer in ours} <= weights
    halves = [max(each.error for each in layers) for name, layers in found.layers.items() if "fp16" in name]
    whole = [max(each.error for each in layers) for name, layers in found.layers.items() if "int8" in name]
    assert not halves or max(halves) < 0.1 * min(whole)


def test_a_layer_that_is_wrong_is_where_it_begins(bundle: Path) -> None:
    import onnx

    manifest = read_manifest(bundle)
    variant = manifest.variant("onnx-int8")
    before = layer_errors(bundle, manifest, variant, timeout_s=100)
    path = bundle / variant.file
    content = path.read_bytes()
    model = onnx.load(path)
    middle = before[1].layer
    (scale,) = [each for each in model.graph.initializer if each.name == f"{middle}.weight_scale"]
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    onnx.save(model, path)
    try:
        after = layer_errors(bundle, manifest, variant, timeout_s=100)
    finally:
        path.write_bytes(content)
    assert after[0] == before[0]
    assert after[1].error > 0.1 > 3 * before[1].error


def test_what_has_nothing_to_be_compared_with(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    for variant in manifest.variants:
        if variant.precision == "fp32" or variant.format == "ncnn":
            assert layer_errors(bundle, manifest, variant, timeout_s=100) == ()
    variant = manifest.variant("onnx-int8")
    alone = manifest.model_copy(update={"variants": (variant,)})
    assert layer_errors(bundle, alone, variant, timeout_s=100) == ()
    with pytest.raises(ConfigError, match="run=False runs nothing"):
        es.verify(bundle, run=False, by_layer=True)


def test_a_file_that_does_not_end_is_ended(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    with pytest.raises(DeviceError, match=r"cannot be compared: .*has not ended after 0.001 s"):
        layer_errors(bundle, manifest, manifest.variant("onnx-int8"), timeout_s=0.001)


def test_on_the_screen(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from edgespa.cli import main

    done = CliRunner().invoke(main, ["verify", str(bundle), "--by-layer"])
    assert done.exit_code == 0, done.output
    assert "layers that are farthest from float32" in done.output
    assert max(map(len, done.output.splitlines()[1:])) <= 80  # the first has the path
    done = CliRunner().invoke(main, ["verify", str(bundle), "--by-layer", "--json"])
    assert set(json.loads(done.stdout)["layers"]["onnx-int8"][0]) == {"layer", "op", "error"}


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8"])
def test_files_are_opened_once_for_all_samples(bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.device import runner
    from edgespa.exporting import layer_errors as module

    manifest = runner.read_bundle(bundle)
    variant, reference = (
        next(each for each in manifest["variants"] if each["name"] == wanted)
        for wanted in (name, f"{name.partition('-')[0]}-fp32")
    )
    opened = []
    real = module._READERS[variant["format"]]

    def counting(folder: Path, each: dict[str, object]) -> object:
        opened.append(each["name"])
        return real(folder, each)

    monkeypatch.setitem(module._READERS, variant["format"], counting)
    inputs = runner.read_samples(bundle, manifest).inputs
    rows = module._compared(bundle, variant, reference, inputs)
    assert opened == [name, reference["name"]]
    assert len(inputs[0]) > 1
    # One sample read by a file that has read others: nothing of those is left in it.
    read = real(bundle, variant)
    first, last = ([array[at : at + 1] for array in inputs] for at in (0, 1))
    alone = read(first)
    read(last)
    again = read(first)
    assert all(np.array_equal(alone[key], again[key]) for key in alone)
    assert len(rows) > 1
