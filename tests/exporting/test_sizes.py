"""Several sizes of the image in one TFLite file: one set of weights, a signature for each, each proved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

import edgespa as es
from edgespa.bundle import Manifest, read_manifest
from edgespa.bundle.files import seal_of
from edgespa.device import runner
from edgespa.device.runner.command import main as run
from edgespa.device.runner.in_litert import LiteRtModel
from edgespa.device.runner.processor import processor_flags
from edgespa.errors import BundleError, ConfigError, EdgespaError, ExportError
from edgespa.exporting import tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.tflite_meta import read_labels
from edgespa.exporting.tflite_sizes import _shift, joined
from edgespa.graph.trace import trace

pytestmark = pytest.mark.usefixtures("converters", "converted_once")
SIZES = {"serving_default": (24, 24), "size_32x40": (32, 40)}
NAMES = ("red", "green", "blue")


class Maps(nn.Module):
    """A segmenter: what its classes are enlarged to is a constant in a file."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 24, 3, 2, 1)
        self.second = nn.Conv2d(24, 48, 3, padding=1)
        self.last = nn.Conv2d(48, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.last(torch.relu(self.second(torch.relu(self.first(x)))))
        return F.interpolate(low, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Placed(nn.Module):
    """As a vision transformer: an embedding for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.place = nn.Parameter(torch.zeros(1, 8, 6, 6))
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(x) + self.place).mean((2, 3)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(12):
        pixels = random.integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((60, 50), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sizes") / "bundle"
    es.export(
        Maps(),
        output=output,
        input_shape=(1, 3, 24, 24),
        formats=("tflite",),
        precisions=("fp32", "fp16", "int8"),
        also_sizes=("32x40",),
        calibration=photos,
        labels=NAMES,
        mean=0.5,
        std=0.25,
        progress=False,
    )
    return output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("files") / "m.tflite"
    found = {}
    for signature, size in SIZES.items():
        tflite_file.write_fp32(trace(Maps().eval(), (torch.randn(1, 3, *size),)), path, Form())
        found[signature] = path.read_bytes()
    return found


def plainly(path: Path, signature: str, image: torch.Tensor) -> Any:
    """By LiteRT alone, as a program without edgespa does."""
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(str(path)).get_signature_runner(signature)(args_0=image.permute(0, 2, 3, 1).numpy().copy())
    return found["output_0"].transpose(0, 3, 1, 2)


@pytest.mark.law(2)
@pytest.mark.parametrize(
    ("file", "most"), [("model.tflite", 1e-6), ("model.fp16.tflite", 2e-3), ("model.int8.tflite", 0.1)]
)
@pytest.mark.parametrize("signature", SIZES)
def test_litert_alone_gets_what_the_program_says_at_each_size(
    bundle: Path, file: str, most: float, signature: str, photos: Path
) -> None:
    height, width = SIZES[signature]
    pixels = np.asarray(Image.open(photos / "3.png").resize((width, height)), np.float32) / 255
    image = torch.from_numpy((pixels - 0.5) / 0.25).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad():
        expected = Maps().eval()(image).numpy()
    got = plainly(bundle / file, signature, image)
    assert got.shape == (1, 3, height, width)
    assert np.abs(got - expected).max() < most * np.abs(expected).max()


@pytest.mark.parametrize(
    ("file", "bytes_each"), [("model.tflite", 4), ("model.fp16.tflite", 2), ("model.int8.tflite", 1)]
)
def test_weights_are_there_once(bundle: Path, file: str, bytes_each: int) -> None:
    with_weights = Maps().second.weight.numel() * bytes_each
    content = (bundle / file).read_bytes()
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    sizes = [0 if each.data is None else len(each.data) for each in tfl_flatbuffer_utils.read_model(content).buffers]
    assert sizes.count(with_weights) == 1


def test_joined_files_share_what_they_have_in_common(files: dict[str, bytes], tmp_path: Path) -> None:
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    content = joined(files)
    assert content == joined(files)
    assert len(content) < 0.65 * sum(map(len, files.values()))
    (tmp_path / "m.tflite").write_bytes(content)
    for signature, size in SIZES.items():
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = Maps().eval()(image).numpy()
        assert np.abs(plainly(tmp_path / "m.tflite", signature, image) - expected).max() < 1e-5
    model = tfl_flatbuffer_utils.read_model(content)
    codes = [(each.builtinCode, each.version) for each in model.operatorCodes]
    assert len(set(codes)) == len(codes)
    assert len(model.subgraphs) == 2
    assert [each.signatureKey.decode() for each in model.signatureDefs] == list(SIZES)


def test_what_is_no_file_of_one_signature_is_not_joined(files: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match="the file of both has 2 signatures"):
        joined({"one": files["serving_default"], "both": joined(files)})


def test_graphs_of_operators_are_counted_on() -> None:
    from ai_edge_litert import schema_py_generated as schema

    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    _shift(options, 3)
    assert (options.condSubgraphIndex, options.bodySubgraphIndex) == (4, 5)
    _shift(None, 3)


def test_the_manifest_has_each_size_with_its_proof(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (size,) = manifest.sizes
    assert (size.name, size.selfcheck) == ("32x40", "selfcheck.32x40.npz")
    assert size.preprocessing is not None
    assert (size.preprocessing.height, size.preprocessing.width) == (32, 40)
    assert [each.name for each in size.variants] == [each.name for each in manifest.variants]
    assert {each.signature for each in manifest.variants} == {"serving_default"}
    assert {each.signature for each in size.variants} == {"size_32x40"}
    assert all(each.parity.count >= 4 for each in size.variants)
    in_half = [True] if "fp16" in LiteRtModel.others(processor_flags()) else []
    assert [each.holds for each in size.variants[0].proofs if each.arithmetic == "fp16"] == in_half
    assert manifest.at("32x40").inputs[0].shape[2:] == (32, 40)
    with pytest.raises(BundleError, match="no other size 5x5"):
        manifest.at("5x5")


def test_the_card_names_the_sizes(bundle: Path) -> None:
    assert "other sizes, `run.py --size`: 32x40" in (bundle / "README.md").read_text()


def test_labels_and_facts_stay_in_the_files(bundle: Path) -> None:
    for file in ("model.tflite", "model.int8.tflite"):
        assert read_labels(bundle / file) == list(NAMES)


def test_each_size_is_checked(bundle: Path) -> None:
    found = es.verify(bundle)
    assert found.passed
    names = [each.name for each in found.variants]
    assert names[:3] == ["tflite-fp32", "tflite-fp16", "tflite-int8"]
    assert names[3:] == [f"{name} 32x40" for name in names[:3]]


def resealed(bundle: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    shutil.copytree(bundle, folder)
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    values["seal"] = seal_of(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def test_damage_of_another_size_is_noticed(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    recorded = tmp_path / "b" / "selfcheck.32x40.npz"
    recorded.write_bytes(recorded.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"selfcheck\.32x40\.npz"):
        es.verify(tmp_path / "b")
    assert run(["--selfcheck", "--size", "32x40", "--bundle", str(tmp_path / "b")]) == 1
    assert "selfcheck.32x40.npz has changed" in capsys.readouterr().out
    assert run(["--selfcheck", "--bundle", str(tmp_path / "b")]) == 0


@pytest.mark.parametrize(
    ("signature", "said"), [("serving_default", "is [1, 24, 24, 3]"), ("gone", "no signature gone")]
)
def test_another_signature_than_that_of_the_size_does_not_pass(
    bundle: Path, tmp_path: Path, signature: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(values: Any) -> None:
        values["sizes"][0]["variants"][0]["signature"] = signature

    folder = resealed(bundle, tmp_path / "b", change)
    assert run(["--selfcheck", "--size", "32x40", "--bundle", str(folder)]) == 1
    assert said in capsys.readouterr().out


def test_a_file_of_several_signatures_is_not_run_by_none(bundle: Path) -> None:
    variant = {**read_manifest(bundle).variants[0].model_dump(), "signature": None}
    with pytest.raises(runner.RunnerError, match="the manifest names none of them"):
        runner.open_model(bundle, variant, 1, runner.import_runtime("tflite")[0])


def test_the_runner_takes_the_size_that_is_asked_for(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = (runner.Model(bundle, size=size) for size in (None, "32x40"))
    assert (first.size, other.size) == ((24, 24), (32, 40))
    assert runner.Model(bundle, size="24x24").size == (24, 24)
    with pytest.raises(runner.RunnerError, match="no size 9x9: 24x24, 32x40"):
        runner.Model(bundle, size="9x9")
    assert run(["--bundle", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == ["24x24", "32x40"]
    shares = []
    for options in ([], ["--size", "32x40"]):
        assert run(["--input", str(photos / "1.png"), *options, "--bundle", str(bundle), "--json"]) == 0
        shares.append(json.loads(capsys.readouterr().out))
    assert shares[0] != shares[1]
    bench = ["--bench", "--size", "32x40", "--runs", "10", "--bundle", str(bundle), "--json"]
    assert run(bench) == 0
    assert json.loads(capsys.readouterr().out)["provider"] == "CPU (XNNPACK)"


def test_half_precision_is_computed_at_each_size(bundle: Path) -> None:
    module = runner.import_runtime("tflite")[0]
    variant = read_manifest(bundle).at("32x40").variants[0].model_dump()
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 40)).astype(np.float32)
    plain, half = (
        runner.infer(runner.open_model(bundle, {**variant, "arithmetic": way}, 1, module), [image])[0]
        for way in ("fp32", "fp16")
    )
    assert plain.shape == half.shape == (1, 3, 32, 40)
    assert 0 < np.abs(plain - half).max() < 0.01 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"formats": ("onnx", "tflite")}, "several sizes in one file are of TFLite files"),
        ({"also_sizes": ("32x32", "32x32")}, "a size is named twice"),
        ({"decode": "in-graph"}, "--decode in-graph does not go together"),
        ({"also_sizes": ("24x24",)}, "24x24 is the model's own size"),
        ({"also_sizes": ("24",)}, "also_sizes"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    asked = {"formats": ("tflite",), "also_sizes": ("32x40",), "input_shape": (1, 3, 24, 24), **settings}
    with pytest.raises(EdgespaError, match=said):
        es.export(Maps(), output=tmp_path / "b", progress=False, **asked)
    assert not (tmp_path / "b").exists()


def test_a_network_of_two_inputs_has_one_size(tmp_path: Path) -> None:
    class Two(Maps):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x + y)

    with pytest.raises(ConfigError, match="does not take one image alone"):
        es.export(
            Two(),
            output=tmp_path / "b",
            input_shape=((1, 3, 24, 24), (1, 3, 24, 24)),
            formats=("tflite",),
            also_sizes=("32x40",),
            progress=False,
        )


def test_weights_that_depend_on_the_size_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model cannot be had at 32x40") as caught:
        es.export(
            Placed(),
            output=tmp_path / "b",
            input_shape=(1, 3, 24, 24),
            formats=("tflite",),
            also_sizes=("32x40",),
            progress=False,
        )
    assert "embeddings of positions" in str(caught.value.hint)


def test_a_task_has_its_sizes(tmp_path: Path) -> None:
    task = es.prune(Maps(), density=0.5, input_shape=(1, 3, 24, 24), output=tmp_path / "cut.spa", progress=False)
    made = es.export(task, output=tmp_path / "b", formats=("tflite",), also_sizes=("32x40",), progress=False)
    assert made.manifest.compaction.parameter_density < 0.9
    assert es.verify(tmp_path / "b").passed
    assert run(["--selfcheck", "--size", "32x40", "--bundle", str(tmp_path / "b")]) == 0


def test_a_manifest_whose_sizes_do_not_fit_is_refused(bundle: Path) -> None:
    values = read_manifest(bundle).model_dump()
    (size,) = values["sizes"]

    def refused(said: str, **change: Any) -> None:
        with pytest.raises(ValidationError, match=said):
            Manifest.model_validate({**values, **change})

    renamed = [{**size["variants"][0], "name": "tflite-other"}]
    refused("no signature of a file of the bundle", sizes=({**size, "variants": renamed},))
    refused("a size is listed twice", sizes=(size, size))
    refused("gone.npz is not among the files", sizes=({**size, "selfcheck": "gone.npz"},))
    refused("have no signatures", variants=({**values["variants"][0], "format": "onnx"},))
    unnamed = tuple({**each, "signature": None} for each in values["variants"])
    refused("no signature of a file of the bundle", variants=unnamed)
