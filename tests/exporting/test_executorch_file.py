"""ExecuTorch: what is written of a program and read back, and, where the package is, what its files compute."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgespa as es
from edgespa.bundle import Manifest, TensorSpec
from edgespa.bundle.manifest import Base
from edgespa.config import Preprocess
from edgespa.device.agent import probe
from edgespa.errors import ExportError, MissingExtraError
from edgespa.exporting import conversion, executorch_file
from edgespa.exporting.cache import Cache
from edgespa.exporting.conversion import Conversions
from edgespa.exporting.converter import Form, parts, remove
from edgespa.exporting.described import describe
from edgespa.exporting.facts import Facts
from edgespa.exporting.parity import File
from edgespa.exporting.said import can_say, read_said
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

IS_THERE = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not IS_THERE, reason="needs edgespa[executorch]")
IMAGE = Preprocess(height=1, width=2, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
FACTS = Facts("fruit", "classes", Base(spec="net", digest="0", license="MIT"), classes=("a", "b"))


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    """What was given to the converter, which is not run."""
    given: list[tuple[nn.Module, tuple[torch.Tensor, ...]]] = []

    def instead(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
        given.append((module, inputs))
        return b"whole" if len(given) == 1 else b"half"

    monkeypatch.setattr(executorch_file, "_converted", instead)
    return given


def test_without_the_package_its_extra_is_named(toy_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = importlib.util.find_spec

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("executorch."):  # as find_spec does for a part of what is not there
            raise ModuleNotFoundError(name)
        return None if name == "executorch" else real(name, *rest)

    def another(name: str, *rest: Any) -> Any:  # a folder of that name, as in somebody's checkout
        if name == "executorch.exir":
            return None
        return real("json" if name == "executorch" else name, *rest)

    for find in (absent, another):
        monkeypatch.setattr(importlib.util, "find_spec", find)
        with pytest.raises(MissingExtraError, match=r"^executorch is not installed") as caught:
            es.export(
                f"{toy_folder / 'net.py'}:build",
                output=tmp_path / "b",
                formats=("executorch",),
                input_shape=(1, 3, 8, 8),
            )
        assert "[executorch]'" in str(caught.value.hint)
        assert not list(tmp_path.iterdir())


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    """Not by the command line, nor by what knows every format and runtime."""
    code = """
import sys, edgespa.cli.export, edgespa.exporting.variants, edgespa.device.runner, edgespa.device.agent.probe as probe
from edgespa.device.runner.runtimes import RUNTIMES, is_there
[is_there(each) for each in RUNTIMES], probe.list_installed()
sys.exit(bool({"executorch.exir", "executorch.extension.pybindings._C"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_files_come_of_one_conversion(
    converted: list[tuple[nn.Module, tuple[torch.Tensor, ...]]], program_of: Any, tmp_path: Path
) -> None:
    program, path = program_of("Residual"), tmp_path / "source.pte"
    executorch_file.write_fp32(program, path, Form(batch=3))
    executorch_file.lay_out(path)
    assert path.read_bytes() == b"whole"
    executorch_file.ExecuTorchHalf(path).write_half(tmp_path / "model.fp16.pte")
    assert (tmp_path / "model.fp16.pte").read_bytes() == b"half"
    (whole, inputs), (half, _) = converted
    assert [each.shape for each in inputs] == [(3, 3, 16, 16)]
    assert "batch_norm" in program.module.code
    assert "batch_norm" not in whole.code  # they are in the convolutions
    assert {each.dtype for each in whole.parameters()} == {torch.float32}  # of the first, after the second was made
    assert {each.dtype for each in half.parameters()} == {torch.float16}
    with torch.no_grad():
        assert half(*inputs).dtype == torch.float32
        np.testing.assert_allclose(half(*inputs), program(*inputs), atol=0.05)
    remove(path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.fp16.pte"]


def test_integers_stay_what_they_are_in_half_precision() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(5, 4)

        def forward(self, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.rows(number), number + 1

    found = executorch_file._Half(Looked())(torch.tensor([3]))
    assert [each.dtype for each in found] == [torch.float32, torch.int64]


def test_what_has_no_half_precision_is_a_file_in_float32_alone(
    monkeypatch: pytest.MonkeyPatch, program_of: Any, tmp_path: Path
) -> None:
    path, calls = tmp_path / "source.pte", []

    def instead(module: nn.Module, inputs: Any) -> bytes:
        calls.append(module)
        if len(calls) == 2:
            raise RuntimeError("no such operator in half precision")
        return b"whole"

    monkeypatch.setattr(executorch_file, "_converted", instead)
    executorch_file.write_fp32(program_of("Residual"), path, Form())
    executorch_file.lay_out(path)
    assert path.read_bytes() == b"whole"
    with pytest.raises(ExportError, match="in half precision: RuntimeError: no such operator") as caught:
        executorch_file.ExecuTorchHalf(path).write_half(tmp_path / "half.pte")
    assert caught.value.hint == "leave out --precision fp16"
    assert not (tmp_path / "half.pte").exists()


@pytest.mark.parametrize("what", ["pixels", "converter"])
def test_what_it_does_not_take(what: str, monkeypatch: pytest.MonkeyPatch, program_of: Any, tmp_path: Path) -> None:
    def fails(module: nn.Module, inputs: Any) -> bytes:
        raise RuntimeError("aten::odd is not known\nand more")

    monkeypatch.setattr(executorch_file, "_converted", fails)
    form = Form(pixels=IMAGE) if what == "pixels" else Form()
    words = "take no pixels" if what == "pixels" else "cannot be converted to ExecuTorch: .*aten::odd is not known\n"
    with pytest.raises(ExportError, match=words) as caught:
        executorch_file.write_fp32(program_of("Residual"), tmp_path / "m", form)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_tensors_are_numbered_and_their_batch_is_fixed(program_of: Any) -> None:
    program = program_of("Residual")
    outputs = [np.zeros((2, 4), np.float32)]
    for batch in (None, 4):
        takes, gives = executorch_file.specs(program, outputs, Form(batch=batch))
        assert (takes[0].name, takes[0].shape, takes[0].layout) == ("in0", (batch or 1, 3, 16, 16), "NCHW")
        assert (gives[0].name, gives[0].shape[0]) == ("out0", batch or 1)
    specs = (
        TensorSpec(name="a", shape=(5, "batch", 2), dtype="float32"),
        TensorSpec(name="b", shape=(), dtype="int64"),
    )
    found = executorch_file.numbered(specs, "out", Form())
    assert [(each.name, each.shape, each.dtype) for each in found] == [
        ("out0", (5, 1, 2), "float32"), ("out1", (), "int64"),
    ]  # fmt: skip


def test_it_says_what_it_is_behind_the_program(program_of: Any, tmp_path: Path) -> None:
    specs = executorch_file.onnx_file.specs(program_of("Residual"), [np.zeros((2, 4), np.float32)], Form(batch=2))
    content = bytes(range(256)) * 9
    files = [tmp_path / f"{name}.pte" for name in "ab"]
    for path in files:
        path.write_bytes(content)
        assert read_said(path) == {}
        describe(path, "executorch", FACTS, Form(batch=2), specs)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().startswith(content)  # as it was, for a reader that goes by its header
    assert can_say(files[0])
    told = read_said(files[0])
    assert (told["task"], told["license"], json.loads(told["class_names"])) == ("fruit", "MIT", ["a", "b"])
    (own,) = json.loads(told["inputs"])
    assert (own["name"], own["shape"]) == ("in0", [2, 3, 16, 16])
    assert json.loads(told["outputs"])[0]["name"] == "out0"
    with zipfile.ZipFile(files[0]) as archive:
        assert [(each.filename, each.date_time[0]) for each in archive.infolist()] == [("edgespa.json", 1980)]


def laid_out(program: Program, path: Path, form: Form | None = None) -> Path:
    Conversions(program, form or Form(), Cache(None)).write("executorch", path)
    return path


def outputs_of(program: Program, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        found = program(*inputs)
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


@needs_executorch
@pytest.mark.law(1)
def test_it_computes_what_the_program_computes(network: tuple[str, Program], tmp_path: Path) -> None:
    _, program = network
    inputs = program.example_inputs(5, seed=3)
    wanted = outputs_of(program, inputs)
    path, half = laid_out(program, tmp_path / "source.pte"), tmp_path / "half.pte"
    executorch_file.ExecuTorchHalf(path).write_half(half)
    specs = executorch_file.specs(program, wanted, Form())
    for each, within in ((path, 1e-5), (half, 0.01)):
        found = File(each, "executorch", "executorch", *specs, 1)([each.numpy() for each in inputs])
        for own, other in zip(found, wanted, strict=True):
            assert own.shape == other.shape
            assert np.abs(own - other).max() <= within * np.abs(other).max()


class Mixed(nn.Module):
    """Numbers of rows and an image, in that order; scores, whole numbers, and a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.conv, self.head = nn.Embedding(9, 6), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, numbers: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen = torch.relu(self.conv(image))
        scores = self.head(self.rows(numbers).mean(1) + seen.mean((2, 3)))
        return scores, scores.argmax(1), seen


@needs_executorch
def test_integers_in_and_out_and_a_fixed_batch(tmp_path: Path) -> None:
    program = trace(Mixed().eval(), (torch.zeros(2, 5, dtype=torch.int64), torch.randn(2, 3, 6, 7)))
    random = np.random.default_rng(0)
    inputs = [random.integers(0, 9, (5, 5)), random.standard_normal((5, 3, 6, 7), np.float32)]
    wanted = outputs_of(program, tuple(map(torch.from_numpy, inputs)))
    form = Form(batch=3)
    path = laid_out(program, tmp_path / "m.pte", form)
    found = File(path, "executorch", "executorch", *executorch_file.specs(program, wanted, form), 1)(inputs)
    assert found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], wanted[1])
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


@needs_executorch
def test_the_network_of_the_probe_gives_what_it_should() -> None:
    found = probe.try_provider("executorch", "CPU")
    assert found["works"], found
    assert probe.list_providers("executorch")["providers"] == ["CPU"]
    assert "executorch" in [each["runtime"] for each in probe.list_installed()]


CUT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_executorch_file import Mixed
from edgespa.exporting import executorch_file
from edgespa.exporting.converter import Form
from edgespa.graph.trace import trace
program = trace(Mixed().eval(), (torch.zeros(2, 5, dtype=torch.int64), torch.randn(2, 3, 6, 7)))
executorch_file.write_fp32(program, Path(sys.argv[1]), Form())
executorch_file.lay_out(Path(sys.argv[1]))
"""


@needs_executorch
@pytest.mark.more
def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        command = [sys.executable, "-c", CUT, str(tmp_path / str(number) / "m.pte"), str(Path(__file__).parent)]
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": ("UTC", "Asia/Tokyo")[number % 2]}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    for name in ("m.pte", "m.half"):
        one, other = ((tmp_path / number / name).read_bytes() for number in "12")
        assert one == other
        assert one


@pytest.fixture(scope="module")
def bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("executorch") / "bundle"
    es.export(
        f"{toy_folder / 'net.py'}:build",
        output=path,
        formats=("executorch",),
        precisions=("fp32", "int8"),
        calibration=str(toy_folder / "colours.npz"),
        input_shape=(1, 3, 8, 8),
    )
    return path


@needs_executorch
def test_a_bundle_of_them(bundle: Path) -> None:
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    (variant,) = manifest.variants
    assert (variant.name, variant.file, variant.parts, parts(bundle / variant.file)) == (
        "executorch-fp32", "model.pte", (), (),
    )  # fmt: skip
    assert "executorch files are made in fp32 and fp16" in json.dumps(manifest.provenance["left_out"])
    assert variant.size_bytes == (bundle / variant.file).stat().st_size
    assert variant.runtime.startswith("executorch 1.")
    assert sorted(each.name for each in bundle.glob("model*")) == ["model.pte"]
    assert not list(bundle.glob("source*"))
    assert es.verify(bundle).passed
    assert "`executorch-fp32` itself takes `in0`" in (bundle / "README.md").read_text()
    assert "pip install numpy executorch torch pillow" in (bundle / "README.md").read_text()
    assert read_said(bundle / "model.pte")["objective"] == "classes"


@needs_executorch
@pytest.mark.parametrize("options", [["--selfcheck"], ["--bench", "--runs", "3"]], ids=str)
def test_run_py_runs_them(bundle: Path, options: list[str]) -> None:
    command = [sys.executable, "-B", str(bundle / "run.py"), *options, "--variant", "executorch-fp32", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "executorch 1." in done.stdout


@needs_executorch
@pytest.mark.parametrize("length", [0, 100, -3000])
def test_a_file_that_is_cut_off_is_told_as_that(bundle: Path, tmp_path: Path, length: int) -> None:
    """Without its digests, as it lies in somebody's folder: no crash of what opens it."""
    shutil.copytree(bundle, tmp_path / "copy")
    path = tmp_path / "copy" / "model.pte"
    path.write_bytes(path.read_bytes()[:length])
    code = (
        "import sys, json; from pathlib import Path; from edgespa.device import runner\n"
        "folder = Path(sys.argv[1]); (variant,) = json.loads((folder / 'manifest.json').read_text())['variants']\n"
        "module, _ = runner.import_runtime('executorch')\n"
        "try: runner.open_model(folder, variant, 1, module)\n"
        "except runner.RunnerError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "copy")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "executorch-fp32: cannot load model.pte: " in done.stdout


def test_every_list_has_it() -> None:
    from edgespa.cli import export
    from edgespa.exporting import card, config, variants

    (formats,) = (each for each in export.command.params if each.name == "formats")
    assert tuple(formats.type.choices) == config.FORMATS  # type: ignore[attr-defined]
    for lists in (conversion.CONVERTERS, conversion.SUFFIXES, variants.QUANTISERS, card._PACKAGES):
        assert {"onnx", "tflite", "ncnn", "executorch"} == set(lists)
