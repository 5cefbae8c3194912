"""The whole export: files that are proved, or nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import nn

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction, Manifest
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.data.targets import Table
from edgespa.device.runner import read_samples
from edgespa.errors import ConfigError, DataError, ExportError, MissingExtraError, OutputExistsError, ParityError
from edgespa.exporting import drawing, onnx_file, quantise, tflite_file, variants
from edgespa.exporting.bundle import export
from edgespa.exporting.card import model_card
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.exporting.converter import Form
from edgespa.exporting.drawing import draw_samples
from edgespa.exporting.quantise import Made, NotUseful
from edgespa.exporting.running import run_program
from edgespa.exporting.samples import Samples
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.objectives.evaluate import accuracy
from edgespa.quantisation.ranges import METHODS
from edgespa.tasks.base import Base

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
CLASSES = ("red", "green", "blue", "grün")
ONNX = ExportConfig(formats=("onnx",))


def origin_of(base: Base | None = None, preprocess: Preprocess | None = None) -> Origin:
    cost = Compaction(parameters=1000, macs=5000, base_parameters=4000, base_macs=10_000, channel_density=0.5)
    digest = base.digest if base else "sha256:0"
    return Origin("colours", BaseEntry(spec="net.py:build", digest=digest), cost, preprocess, CLASSES)


@pytest.fixture(scope="module")
def prepared(toy_data: ImageData, toy_preprocess: Preprocess) -> Prepared:
    return prepare(toy_data, toy_preprocess)


@pytest.fixture(scope="module")
def made(
    toy_base: Base, toy_preprocess: Preprocess, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest, list[tuple[float, float | None, str]]]:
    output = tmp_path_factory.mktemp("export") / "bundle"
    told: list[tuple[float, float | None, str]] = []
    config = ExportConfig(precisions=("fp32", "int8"), calibration_images=32)
    manifest = export(
        toy_base.program,
        origin_of(toy_base, toy_preprocess),
        config,
        output,
        calibration=prepared,
        evaluation=prepared,
        progress=lambda *args: told.append(args),
    )
    return output, manifest, told


def test_all_files_are_there_and_nothing_else(made: tuple[Path, Manifest, Any]) -> None:
    output, manifest, _ = made
    assert sorted(path.name for path in output.iterdir()) == sorted(
        {"README.md", "labels.txt", "manifest.json", "run.py", "selfcheck.npz"}
        | {"model.onnx", "model.tflite", "model.int8.onnx", "model.int8.tflite"}
    )
    assert [path.name for path in output.parent.iterdir()] == ["bundle"]
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert manifest.inputs[0].shape == ("batch", 3, 8, 8)
    assert manifest.outputs[0].shape == ("batch", 4)
    assert manifest.variants[2].inputs[0].shape == (1, 8, 8, 3)
    assert manifest.variants[3].inputs[0].dtype == "float32"
    assert (output / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)


def test_the_figures_are_those_of_an_independent_run(
    made: tuple[Path, Manifest, Any], toy_base: Base, prepared: Prepared
) -> None:
    import onnxruntime

    output, manifest, _ = made
    recorded = read_samples(output, json.loads((output / "manifest.json").read_text(encoding="utf-8")))
    inputs = prepared.tensor(np.linspace(0, 95, 64).astype(np.int64)).numpy()
    with torch.no_grad():
        expected = toy_base.program(torch.from_numpy(inputs)).numpy()
    places = np.linspace(0, 63, 32).astype(np.int64)
    np.testing.assert_array_equal(recorded.inputs[0], inputs[places])
    np.testing.assert_allclose(recorded.outputs[0], expected[places], rtol=1e-5, atol=1e-6)
    images = torch.cat([batch for batch, _ in prepared.batches(50)]).numpy()
    labels = prepared.labels.numpy()
    for variant in manifest.variants[:2]:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # on processors without VNNI
        session = onnxruntime.InferenceSession(str(output / variant.file), options, ["CPUExecutionProvider"])
        (got,) = session.run(None, {"input": inputs})
        a, b = got.astype(np.float64), expected.astype(np.float64)
        assert variant.parity.max_abs_error == pytest.approx(np.abs(a - b).max(), rel=1e-3)
        assert variant.parity.relative_error == pytest.approx(np.abs(a - b).max() / np.abs(b).max(), rel=1e-3)
        cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        assert variant.parity.cosine == pytest.approx(cosine, abs=1e-9)
        spread = np.sqrt(((b - b.mean(0)) ** 2).mean(0))
        errors = np.sqrt(((a - b) ** 2).mean(0)) / spread
        assert variant.parity.component_error == pytest.approx(errors.max(), rel=1e-3)
        assert variant.parity.worst == f"output_0[:, {errors.argmax()}]"
        correlations = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(4)]
        assert variant.parity.correlation == pytest.approx(min(correlations), abs=1e-9)
        assert (variant.parity.components, variant.parity.varying) == (4, 4)
        assert variant.parity.top1_agreement == (a.argmax(1) == b.argmax(1)).mean()
        assert variant.parity.count == len(inputs) == 64
        (logits,) = session.run(None, {"input": images})
        assert variant.agreement is not None
        with torch.no_grad():
            decided = toy_base.program(torch.from_numpy(images)).argmax(1).numpy()
        assert variant.agreement.value == (logits.argmax(1) == decided).mean()
        assert (variant.agreement.count, variant.agreement.what) == (96, "top class")
        assert variant.accuracy is not None
        assert variant.accuracy.value == (logits.argmax(1) == labels).mean()
        assert variant.accuracy.count == 96
    assert manifest.reference_accuracy is not None
    assert manifest.reference_accuracy.value == accuracy(toy_base.program, prepared)


def test_bounds_by_precision(made: tuple[Path, Manifest, Any]) -> None:
    for variant in made[1].variants:
        if variant.precision == "fp32":
            assert variant.parity.bound == {"tolerance_used": 1.0, "relative_error": 1e-3}
            assert variant.parity.relative_error < 1e-5
        else:
            assert variant.parity.bound == {"component_error": 0.3}
            assert variant.parity.correlation > 0.95  # type: ignore[operator]
            assert variant.parity.relative_error > 1e-4  # it really is quantised


def test_the_bundle_checks_itself_where_it_lies(made: tuple[Path, Manifest, Any], tmp_path: Path) -> None:
    command = [sys.executable, str(made[0] / "run.py"), "--selfcheck", "--variant", "all"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(variant.name in done.stdout for variant in made[1].variants)


def test_the_card_says_what_was_measured(made: tuple[Path, Manifest, Any]) -> None:
    output, manifest, _ = made
    card = (output / "README.md").read_text(encoding="utf-8")
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "pipeline_tag: image-classification" in head
    assert body.lstrip().startswith("# colours\n")
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert f"| {variant.name} | {variant.file} | {variant.size_bytes:,} | {variant.accuracy.value:.2%} |" in card
    assert "| parameters | 1,000 | 4,000 | 25.0% |" in card
    assert "| MACs | 5,000 | 10,000 | 50.0% |" in card
    assert manifest.base.digest in card
    assert "resized to 8 x 8" in card
    assert "4: red, green, blue, grün" in card


def test_progress_rises_to_its_total(made: tuple[Path, Manifest, Any]) -> None:
    done = [step for step, _, _ in made[2]]
    totals = {total for _, total, _ in made[2]}
    assert done == sorted(done)
    assert totals == {10}
    assert done[0] == 0
    assert 9 <= done[-1] <= 10


def test_an_output_that_exists_is_refused_before_any_work(
    made: tuple[Path, Manifest, Any], toy_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "write_fp32", lambda *_: pytest.fail("work was done"))
    before = (made[0] / "manifest.json").read_bytes()
    with pytest.raises(OutputExistsError):
        export(toy_base.program, origin_of(), ONNX, made[0])
    assert (made[0] / "manifest.json").read_bytes() == before


def test_int8_needs_calibration_images(toy_base: Base, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibrate") as caught:
        export(toy_base.program, origin_of(), ExportConfig(precisions=("int8",)), tmp_path / "b")
    assert "--calibration" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("missing", "extra"), [("onnxsim", "onnx"), ("litert_torch", "tflite")])
def test_a_missing_package_names_its_extra(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else real(name, *rest))
    with pytest.raises(MissingExtraError, match=missing) as caught:
        export(toy_base.program, origin_of(), ExportConfig(), tmp_path / "b")
    assert f"[{extra}]'" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def spoil(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    real = onnx_file.write_fp32

    def wrong(program: Program, path: Path, form: Form) -> None:
        real(program, path, form)
        model = onnx.load(path)
        (head,) = (each for each in model.graph.initializer if list(each.dims) in ([4, 16], [16, 4]))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(scale), head.name))
        onnx.save(model, path)

    monkeypatch.setattr(onnx_file, "write_fp32", wrong)


@pytest.mark.parametrize("scale", [1.1, 1.002, float("nan")])
def test_a_file_that_computes_something_else_is_not_shipped(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    spoil(monkeypatch, scale)
    message = "not finite" if np.isnan(scale) else r"tolerance_used \d[\d.e+]* is above 1 at output_0\[:, \d\]"
    with pytest.raises(ParityError, match=f"onnx-fp32 .* noise: .*{message}"):
        export(toy_base.program, origin_of(), ONNX, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def left_out(manifest: Manifest) -> dict[str, str]:
    rows: Any = manifest.provenance.get("left_out", [])
    return {each["variant"]: each["reason"] for each in rows}


def test_a_format_that_fails_does_not_take_the_other_along(
    toy_base: Base, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 1.1)
    config = ExportConfig(precisions=("fp32", "int8"), calibration_images=8)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert [variant.name for variant in manifest.variants] == ["tflite-fp32", "tflite-int8"]
    missing = left_out(manifest)
    assert list(missing) == ["onnx-fp32", "onnx-int8"]
    assert "tolerance_used" in missing["onnx-fp32"]
    assert missing["onnx-int8"] == "the float32 file that it is made from cannot be had"
    assert "There is no `onnx-fp32`: onnx-fp32 does not compute" in (tmp_path / "b" / "README.md").read_text()
    with pytest.raises(ParityError, match="onnx-fp32 does not compute"):
        export(
            toy_base.program,
            origin_of(),
            config.model_copy(update={"strict": True}),
            tmp_path / "c",
            calibration=prepared,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_all_that_failed_is_said_where_nothing_is_left(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ExportError("no such operator", "leave it out")

    monkeypatch.setattr(onnx_file, "write_fp32", fail)
    monkeypatch.setattr(tflite_file, "write_fp32", fail)
    with pytest.raises(ExportError, match=r"onnx-fp32: no such operator\n  tflite-fp32: no such operator") as caught:
        export(toy_base.program, origin_of(), ExportConfig(), tmp_path / "b")
    assert caught.value.hint == "leave it out"
    assert not list(tmp_path.iterdir())


class Steep(nn.Module):
    """Amplifies the rounding of float32 a thousand times, as some detectors do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(192, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x.flatten(1)) + 3000.0
        return self.second((hidden - 3000.0).relu())


def test_a_network_that_rounds_roughly_is_no_fault_of_a_file(tmp_path: Path) -> None:
    program = trace(Steep().eval(), (torch.randn(2, 3, 8, 8),))
    manifest = export(program, origin_of(), ONNX, tmp_path / "b")
    parity = manifest.variants[0].parity
    # Further off than 1e-4 of the spread: that it is the network's own is known from double precision.
    with np.load(tmp_path / "b" / "selfcheck.npz") as arrays:
        assert (arrays["allowed_0_1"] > 1e-4 * arrays["scale_0_1"]).all()
    assert parity.tolerance_used <= 1  # type: ignore[operator]
    assert parity.correlation > 0.999  # type: ignore[operator]


def test_agreement_is_measured_on_all_calibration_images_where_there_are_no_labels(
    toy_base: Base, prepared: Prepared, tmp_path: Path
) -> None:
    manifest = export(toy_base.program, origin_of(), ONNX, tmp_path / "b", calibration=prepared)
    agreement = manifest.variants[0].agreement
    assert agreement is not None
    assert (agreement.count, agreement.data, agreement.value) == (len(prepared), "colours", 1.0)
    assert manifest.variants[0].accuracy is None


def test_recorded_images_are_pixels_of_which_the_same_inputs_are_made(
    made: tuple[Path, Manifest, Any], prepared: Prepared
) -> None:
    output, manifest, _ = made
    with np.load(output / "selfcheck.npz") as arrays:
        assert arrays["pixels_0"].dtype == np.uint8
        assert "input_0" not in arrays.files
    recorded = read_samples(output, json.loads(manifest.model_dump_json()))
    np.testing.assert_array_equal(recorded.inputs[0][-1], prepared.tensor([95])[0].numpy())


def test_a_failure_leaves_the_bundle_that_was_there(
    toy_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(toy_base.program, origin_of(), ONNX, tmp_path / "b")
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    spoil(monkeypatch, 1.1)
    with pytest.raises(ParityError):
        export(toy_base.program, origin_of(), ONNX, tmp_path / "b", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_int8_alone_leaves_no_fp32_file(toy_base: Base, prepared: Prepared, tmp_path: Path) -> None:
    config = ExportConfig(formats=("onnx",), precisions=("int8",), calibration_images=8)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert [variant.name for variant in manifest.variants] == ["onnx-int8"]
    assert sorted(path.name for path in (tmp_path / "b").glob("model*")) == ["model.int8.onnx"]
    strict = config.model_copy(update={"int8_tolerance": 1e-9})
    with pytest.raises(ParityError, match=r"onnx-int8: the error of a component is .*, and more than 8.5e-10 with any"):
        export(toy_base.program, origin_of(), strict, tmp_path / "c", calibration=prepared)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        return y, y.mean((2, 3)) + shift


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_several_inputs_and_outputs(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    program = trace(TwoOutputs(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4)))
    manifest = export(program, origin_of(), ExportConfig(formats=(name,)), tmp_path / "b")
    assert [spec.name for spec in manifest.inputs] == ["x", "shift"]
    assert [spec.name for spec in manifest.outputs] == ["output_0", "output_1"]
    assert [spec.shape for spec in manifest.outputs] == [("batch", 4, 6, 6), ("batch", 4)]
    assert manifest.variants[0].parity.relative_error < 1e-4
    with np.load(tmp_path / "b" / "selfcheck.npz") as arrays:
        plain = [key for key in arrays.files if key.split("_")[0] in ("noise", "output")]
        assert sorted(plain) == ["noise_0", "noise_1", "output_0", "output_1"]


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.reshape(5, 192))


@pytest.mark.parametrize(
    ("size", "classes", "learns"), [(1, (), "regression"), (2, (), "classes"), (1, ("a",), "classes")]
)
def test_one_number_is_no_class(tmp_path: Path, size: int, classes: tuple[str, ...], learns: str) -> None:
    program = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, size)), (torch.randn(2, 3, 2, 2),))
    origin = dataclasses.replace(origin_of(), classes=classes)
    assert export(program, origin, ONNX, tmp_path / "b").learns == learns


@pytest.mark.parametrize(("gain", "weak"), [(1e-6, True), (1.0, False)])
def test_a_proof_on_outputs_that_hardly_depend_on_inputs_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gain: float, weak: bool
) -> None:
    layer = nn.Linear(12, 3)
    with torch.no_grad():
        layer.weight.mul_(gain)
        layer.bias.fill_(1.0)
    program = trace(nn.Sequential(nn.Flatten(), layer), (torch.randn(2, 3, 2, 2),))
    manifest = export(program, origin_of(), ONNX, tmp_path / "b")
    assert ("weak_proof" in manifest.provenance) == weak
    assert ("a weak proof: 3 of 3 components of the outputs hardly vary on 64 samples" in caplog.text) == weak
    assert ("These figures say little: 3 of 3 components" in (tmp_path / "b" / "README.md").read_text()) == weak


def test_a_program_of_a_fixed_batch(prepared: Prepared, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Fixed()
    program = trace(model, (torch.randn(5, 3, 8, 8),))
    assert not program.dynamic_batch
    images = prepared.tensor(np.arange(12))
    free = model.fc(images.flatten(1)).detach()
    np.testing.assert_allclose(run_program(program, [images])[0], free.numpy(), rtol=1e-5, atol=1e-6)
    config = ExportConfig(precisions=("fp32", "int8"), formats=("onnx",), calibration_images=7)
    manifest = export(program, origin_of(), config, tmp_path / "b", calibration=prepared, evaluation=prepared)
    assert manifest.inputs[0].shape == (5, 3, 8, 8)
    assert manifest.outputs[0].shape == (5, 4)
    logits = model.fc(prepared.tensor(np.arange(96)).flatten(1))
    expected = float((logits.argmax(1) == prepared.labels).double().mean())
    assert manifest.reference_accuracy is not None
    assert manifest.variants[0].accuracy is not None
    assert manifest.reference_accuracy.value == manifest.variants[0].accuracy.value == expected
    assert manifest.variants[0].parity.count == 64
    command = [sys.executable, str(tmp_path / "b" / "run.py"), "--selfcheck", "--variant", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_recorded_outputs_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = trace(nn.Upsample(scale_factor=8), (torch.zeros(2, 3, 16, 16),))
    samples = draw_samples(dense, None, 0)
    assert samples.count == 64
    assert 4 <= len(samples.recorded) < 64
    outputs = samples.record()["output_0"]
    assert outputs.nbytes <= 4 << 20
    np.testing.assert_array_equal(outputs, samples.outputs[0][list(samples.recorded)])
    monkeypatch.setattr(drawing, "MEMORY_BYTES", 4 << 20)  # as if they were large
    vast = trace(nn.Upsample(scale_factor=8), (torch.zeros(2, 3, 16, 16),))
    assert draw_samples(vast, None, 0).count < 64


def test_samples_are_images_where_there_are_some_and_noise_else(toy_base: Base, prepared: Prepared) -> None:
    images = draw_samples(toy_base.program, prepared, 0)
    assert images.description == "64 images of colours"
    np.testing.assert_array_equal(images.inputs[0][0], prepared.tensor([0])[0].numpy())
    np.testing.assert_array_equal(images.inputs[0][-1], prepared.tensor([95])[0].numpy())
    noise = draw_samples(toy_base.program, None, 3)
    assert noise.description == "64 samples of uniform noise"
    np.testing.assert_array_equal(noise.inputs[0], draw_samples(toy_base.program, None, 3).inputs[0])


def test_a_program_whose_own_outputs_are_not_finite_is_not_exported(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    nn.init.constant_(net[1].weight, float("nan"))
    program = trace(net, (torch.randn(2, 3, 2, 2),))
    with pytest.raises(ExportError, match="own outputs are not finite"):
        export(program, origin_of(), ONNX, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_converter_that_fails_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxsim

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("deep trouble\nmore of it")

    program = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), (torch.randn(2, 3, 2, 2),))
    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(ExportError) as failed:
        export(program, origin_of(), ONNX, tmp_path / "b")
    assert failed.value.message.endswith("converted to ONNX: RuntimeError: deep trouble")
    assert not list(tmp_path.iterdir())


def test_images_without_classes_cannot_be_evaluated_on(
    toy_base: Base, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    np.savez(tmp_path / "plain.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    unlabelled = prepare(load_data(str(tmp_path / "plain.npz"), labelled=False), toy_preprocess)
    with pytest.raises(DataError, match="no classes"):
        export(toy_base.program, origin_of(), ONNX, tmp_path / "b", evaluation=unlabelled)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.npz"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"formats": ("trt",)},
        {"formats": ()},
        {"formats": ("onnx", "onnx")},
        {"precisions": ("fp8",)},
        {"int8_tolerance": 2},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExportConfig(**wrong)


def test_the_manifest_on_disk_is_the_one_that_was_returned(made: tuple[Path, Manifest, Any]) -> None:
    values = json.loads((made[0] / "manifest.json").read_text(encoding="utf-8"))
    assert Manifest.parse(values, "manifest") == made[1]


@pytest.mark.parametrize("spoiled", METHODS)
def test_the_best_calibration_is_kept(
    toy_base: Base, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    """One way of choosing ranges is spoiled: its ranges are far too narrow."""
    real = quantise.find_ranges

    def spoil(observed: Any, method: str) -> Any:
        found = real(observed, method)
        return {name: (low / 50, high / 50) for name, (low, high) in found.items()} if method == spoiled else found

    monkeypatch.setattr(quantise, "find_ranges", spoil)
    config = ExportConfig(formats=("onnx",), precisions=("int8",))
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert manifest.variants[0].calibration in {*METHODS} - {spoiled}
    assert manifest.variants[0].parity.component_error < 0.15  # type: ignore[operator]
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(("trial", "source"))]


def tolerance_in(arguments: Sequence[Any]) -> float:
    (config,) = (each for each in arguments if isinstance(each, ExportConfig))
    return config.int8_tolerance


def test_int8_that_fails_its_proof_is_made_once_more_and_nearer(
    toy_base: Base, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where other images are proved on than it was chosen by: as wrong as the tolerance and a half allows."""
    asked: list[float] = []

    def as_wrong_as_allowed(_precision: str, _quantiser: Any, plain: Path, path: Path, *rest: Any) -> Made:
        asked.append(tolerance_in(rest))
        model = onnx.load(plain)
        (head,) = (each for each in model.graph.initializer if list(each.dims) in ([4, 16], [16, 4]))
        factor = np.float32(1 + 1.5 * asked[-1])
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * factor, head.name))
        onnx.save(model, path)
        return Made("minmax")

    monkeypatch.setattr(variants, "make", as_wrong_as_allowed)
    config = ExportConfig(formats=("onnx",), precisions=("int8",))
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert len(asked) == 2
    assert asked[0] == 0.3
    assert asked[1] < 0.8 * 0.3
    assert manifest.variants[0].parity.component_error <= 0.3  # type: ignore[operator]
    assert manifest.variants[0].parity.bound == {"component_error": 0.3}  # that of the user, not the nearer one


def test_int8_that_cannot_be_made_nearer_says_what_its_proof_was(
    toy_base: Base, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_then_nothing(_precision: str, _quantiser: Any, plain: Path, path: Path, *rest: Any) -> Made:
        if tolerance_in(rest) < 0.3:
            raise NotUseful("the error is above 0.06")
        model = onnx.load(plain)
        (head,) = (each for each in model.graph.initializer if list(each.dims) in ([4, 16], [16, 4]))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(2), head.name))
        onnx.save(model, path)
        return Made("minmax")

    monkeypatch.setattr(variants, "make", wrong_then_nothing)
    config = ExportConfig(formats=("onnx",), precisions=("int8",))
    with pytest.raises(ParityError, match=r"component_error .* is above 0\.3"):
        export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)


def test_a_smaller_file_that_is_slower_is_left_out_with_figures(
    toy_base: Base, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "interleaved_ms", lambda *_: (3.0, 1.0))
    free = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"))
    manifest = export(toy_base.program, origin_of(), free, tmp_path / "slow", calibration=prepared)
    assert [variant.time_ratio for variant in manifest.variants] == [None, 3.0]  # the board decides, not this machine
    config = free.model_copy(update={"int8_slowdown": 1.1})
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32"]
    (left,) = manifest.provenance["left_out"]  # type: ignore[misc,union-attr]
    assert left["variant"] == "onnx-int8"  # type: ignore[index,call-overload]
    assert "3.00 ms of CPU time instead of 1.00" in left["reason"]  # type: ignore[index,call-overload,operator]
    assert sorted(path.name for path in (tmp_path / "b").glob("model*")) == ["model.onnx"]
    only = config.model_copy(update={"precisions": ("int8",)})
    with pytest.raises(ParityError, match=r"slower than fp32: 3\.00 ms"):
        export(toy_base.program, origin_of(), only, tmp_path / "c", calibration=prepared)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "slow"]


def test_all_precisions_of_both_formats(toy_base: Base, prepared: Prepared, tmp_path: Path) -> None:
    precisions = ("fp32", "fp16", "int8", "int8-weights")
    config = ExportConfig(precisions=precisions, calibration_images=16)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared)
    assert [variant.name for variant in manifest.variants] == [
        f"{name}-{precision}" for name in ("onnx", "tflite") for precision in precisions
    ]
    sizes = {variant.name: variant.size_bytes for variant in manifest.variants}
    assert sizes["onnx-fp16"] < sizes["onnx-fp32"]
    assert all(variant.inputs[0].dtype == "float32" for variant in manifest.variants)
    assert all(
        set(variant.parity.bound) == {"component_error"} for variant in manifest.variants if variant.precision != "fp32"
    )


def test_pixels_go_in_where_the_normalisation_is_in_the_graph(
    toy_base: Base, toy_preprocess: Preprocess, toy_data: ImageData, prepared: Prepared, tmp_path: Path
) -> None:
    config = ExportConfig(preprocess="in-graph")
    with pytest.raises(ConfigError, match="not known"):
        export(toy_base.program, origin_of(), config, tmp_path / "b")
    bad = config.model_copy(update={"layout": "nchw"})
    with pytest.raises(ConfigError, match="channels last"):
        export(toy_base.program, origin_of(preprocess=toy_preprocess), bad, tmp_path / "b")
    manifest = export(
        toy_base.program, origin_of(preprocess=toy_preprocess), config, tmp_path / "b", evaluation=prepared
    )
    for variant in manifest.variants:
        assert variant.preprocess == toy_preprocess
        assert (variant.inputs[0].dtype, variant.inputs[0].layout) == ("uint8", "NHWC")
        assert variant.parity.relative_error < 1e-4
        assert variant.accuracy is not None
        assert variant.accuracy.value == manifest.reference_accuracy.value  # type: ignore[union-attr]
    import onnxruntime

    image = toy_data.image(5)  # the pixels themselves, without anything of ours in between
    session = onnxruntime.InferenceSession(str(tmp_path / "b" / "model.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": image[None]})
    with torch.no_grad():
        expected = toy_base.program(prepared.tensor([5])).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_a_fixed_batch(toy_base: Base, tmp_path: Path, name: str) -> None:
    config = ExportConfig(formats=(name,), batch=3)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b")
    assert manifest.variants[0].inputs[0].shape[0] == 3
    assert manifest.inputs[0].shape[0] == "batch"
    assert manifest.variants[0].parity.count == 64


def test_another_batch_than_the_models_only_one_is_refused(tmp_path: Path) -> None:
    program = trace(Fixed(), (torch.randn(5, 3, 8, 8),))
    with pytest.raises(ConfigError, match="batches of 5 only, not of 4"):
        export(program, origin_of(), ExportConfig(batch=4), tmp_path / "b")


# ---- int8 by what it loses


@pytest.fixture(scope="module")
def right(toy_base: Base, prepared: Prepared) -> Prepared:
    """Images on which the program is right each time: whatever is decided otherwise is a loss."""
    (outputs,) = run_program(toy_base.program, [prepared.tensor(np.arange(len(prepared)))])
    return prepared.with_targets(Table(torch.from_numpy(outputs.argmax(1))))


def _lossy(share: float) -> Callable[..., Made]:
    """Stands in for a quantiser: noise on the weights of the last layer."""

    def made(_precision: str, _quantiser: Any, plain: Path, path: Path, *rest: Any) -> Made:
        model = onnx.load(plain)
        (head,) = (each for each in model.graph.initializer if list(each.dims) in ([4, 16], [16, 4]))
        values = numpy_helper.to_array(head).copy()
        values[...] += share * np.random.default_rng(0).standard_normal(values.shape).astype(np.float32)
        head.CopyFrom(numpy_helper.from_array(values, head.name))
        onnx.save(model, path)
        return Made("minmax")

    return made


def test_what_int8_loses_bounds_it_and_is_recorded(
    toy_base: Base, prepared: Prepared, right: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose outputs are far off is taken where the measure says that it does no harm, and only there."""
    monkeypatch.setattr(variants, "make", _lossy(0.4))
    near = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_tolerance=0.05)
    manifest = export(toy_base.program, origin_of(), near, tmp_path / "a", calibration=prepared, evaluation=right)
    assert list(left_out(manifest)) == ["onnx-int8"]
    config = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_max_loss=1.0)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared, evaluation=right)
    small = manifest.variant("onnx-int8")
    error = small.parity.component_error
    lost = manifest.lost(small)
    assert error is not None
    assert lost is not None
    assert lost > 0
    assert small.max_loss == 1.0
    (bound,) = small.parity.bound.values()
    assert max(0.3, 2 * error) <= bound < 3 * error  # that it stays as near
    assert lost == manifest.reference_accuracy.value - small.accuracy.value  # type: ignore[union-attr]
    assert f"chosen by what it loses: {max(lost, 0):.3g} of accuracy, of at most 1" in model_card(manifest, CLASSES)
    assert manifest.variant("onnx-fp32").max_loss is None
    values = manifest.model_dump()
    for variant in values["variants"]:
        variant["max_loss"] = lost / 2 if variant["name"] == "onnx-int8" else None
    with pytest.raises(ValidationError, match="loses at most"):
        Manifest.model_validate(values)


def test_what_is_recorded_may_be_farther_off_than_all_is(
    toy_base: Base, prepared: Prepared, right: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is judged by its measure: of a few samples one component may be three times as far off."""
    compare = Samples.compare_recorded

    def farther(self: Samples, outputs: list[Any]) -> dict[str, Any]:
        found = compare(self, outputs)
        return {**found, "component_error": 3 * self.compare(outputs)["component_error"]}

    monkeypatch.setattr(variants, "make", _lossy(0.4))
    monkeypatch.setattr(Samples, "compare_recorded", farther)
    config = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_max_loss=1.0)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared, evaluation=right)
    parity = manifest.variant("onnx-int8").parity
    assert parity.component_error is not None
    assert parity.bound == {"component_error": pytest.approx(max(0.3, 6 * parity.component_error))}


def test_what_loses_more_is_left_out_with_its_figure(
    toy_base: Base, prepared: Prepared, right: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "make", _lossy(30.0))
    config = ExportConfig(formats=("onnx",), precisions=("fp32", "int8"), int8_max_loss=0.01)
    manifest = export(toy_base.program, origin_of(), config, tmp_path / "b", calibration=prepared, evaluation=right)
    assert re.search(r"onnx-int8 loses (0\.\d+|1) of accuracy, more than 0\.01", left_out(manifest)["onnx-int8"])


@pytest.mark.parametrize(
    ("precisions", "evaluated", "words"),
    [(("fp32", "int8"), False, "on what is it measured"), (("fp32",), True, "is of int8 files, and none is asked for")],
)
def test_a_largest_loss_needs_data_and_int8(
    toy_base: Base, prepared: Prepared, tmp_path: Path, precisions: tuple[str, ...], evaluated: bool, words: str
) -> None:
    config = ExportConfig(formats=("onnx",), precisions=precisions, int8_max_loss=0.01)
    with pytest.raises(ConfigError, match=words):
        export(
            toy_base.program,
            origin_of(),
            config,
            tmp_path / "b",
            calibration=prepared,
            evaluation=prepared if evaluated else None,
        )
    with pytest.raises(ConfigError, match="give one of them"):
        ExportConfig.parse({"int8_max_loss": 0.1, "int8_tolerance": 0.2}, "export")
