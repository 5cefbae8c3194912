"""What every runtime must do, whatever it is: those that are installed, each against the same small files."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.device.agent import probe
from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layouts import feed_by_name
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.runtimes import RUNTIMES, import_runtime, is_there, list_variants, runtimes_of
from edgespa.device.versions import MODULES, TESTED
from edgespa.exporting import executorch_file, ncnn_file, onnx_file, tflite_file
from edgespa.exporting.cache import Cache
from edgespa.exporting.conversion import SUFFIXES, Conversions
from edgespa.exporting.converter import Form, parts
from edgespa.graph.program import Program
from edgespa.graph.trace import trace

NAMES = [each.name for each in RUNTIMES]
ALONE = {"openvino"}
"""In a process of its own, as edgespa runs all: beside other libraries' threads it does not outlive a signal."""
_IS_ALONE = "EDGESPA_TEST_ALONE"
STAND_IN = Path(__file__).with_name("trtexec_stand_in.py")
"""In place of trtexec, which needs a GPU."""


class Two(nn.Module):
    """An image and a row of numbers in; a map and scores out, which are of other sizes and in this order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.row, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = torch.relu(self.conv(image)) + self.row(row)[:, :, None, None]
        return seen, self.head(seen.mean((2, 3)))


@dataclasses.dataclass(frozen=True)
class Case:
    """A runtime with a file for it."""

    name: str
    runtime: Any
    program: Program
    variant: dict[str, Any]
    folder: Path

    def open(self, threads: int = 1, **asked: Any) -> Any:
        return open_model(self.folder, {**self.variant, **asked}, threads, self.runtime)

    def inputs(self, count: int, seed: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        return [
            random.standard_normal((count, 3, 9, 7), dtype=np.float32),
            random.standard_normal((count, 5), dtype=np.float32),
        ]

    def wanted(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [each.numpy() for each in self.program(*map(torch.from_numpy, inputs))]


@pytest.fixture(scope="module", autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("machine")
    program = folder / "trtexec"
    program.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("EDGESPA_ENGINES", str(folder / "engines"))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    folder = tmp_path_factory.mktemp("conformance")
    program = trace(Two().eval(), (torch.randn(2, 3, 9, 7), torch.randn(2, 5)))
    made = Conversions(program, Form(), Cache(None))
    for kind in dict.fromkeys(each.kind for each in RUNTIMES if is_there(each)):
        made.write(kind, folder / f"model.{SUFFIXES[kind]}")
    return program, folder


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, files: tuple[Program, Path]) -> Case:
    (own,) = (each for each in RUNTIMES if each.name == request.param)
    if own.name in ALONE and _IS_ALONE not in os.environ:
        pytest.skip("see test_those_that_are_run_alone")
    try:
        runtime, text = import_runtime(own.kind, own.name)
    except RunnerError as error:
        pytest.skip(str(error))
    assert text.startswith(f"{own.name} ")
    assert text.split(" ")[1][0].isdigit()
    program, folder = files
    path = folder / f"model.{SUFFIXES[own.kind]}"
    outputs = Case(own.name, runtime, program, {}, folder).wanted(
        [np.zeros((1, 3, 9, 7), np.float32), np.zeros((1, 5), np.float32)]
    )
    specs = {
        "onnx": lambda: onnx_file.specs(program, outputs),
        "tflite": lambda: tflite_file.specs(path, Form()),
        "ncnn": lambda: ncnn_file.specs(program, outputs),
        "executorch": lambda: executorch_file.specs(program, outputs, Form()),
    }[own.kind]()
    variant = {
        "name": f"{own.kind}-fp32", "file": path.name, "format": own.kind, "preprocess": None,
        "parts": [each.name for each in parts(path)],
        "inputs": [each.model_dump() for each in specs[0]], "outputs": [each.model_dump() for each in specs[1]],
    }  # fmt: skip
    return Case(own.name, runtime, program, variant, folder)


def test_several_inputs_and_outputs_by_name_in_the_programs_layout(case: Case) -> None:
    inputs = case.inputs(3)
    found = infer(case.open(), inputs)
    for own, wanted in zip(found, case.wanted(inputs), strict=True):
        assert own.shape == wanted.shape
        np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=1e-5)
    turned = {**case.variant, "outputs": case.variant["outputs"][::-1]}
    other = infer(open_model(case.folder, turned, 1, case.runtime), inputs)
    np.testing.assert_array_equal(other[0], found[1])


def test_any_batch_where_it_is_free_and_full_ones_where_it_is_not(case: Case) -> None:
    model = case.open()
    many = case.inputs(11)
    whole = infer(model, many)
    for at in (0, 10):
        (_, alone) = infer(model, [each[at : at + 1] for each in many])
        np.testing.assert_allclose(alone, whole[1][at : at + 1], rtol=1e-4, atol=1e-5)


def test_two_runs_and_two_models_do_not_touch_each_other(case: Case) -> None:
    model, other = case.open(), case.open()
    first, second = case.inputs(1), case.inputs(1, seed=1)
    raw = model.run(model.feed(first))
    kept = [each.copy() for each in model.results(raw)]
    other.run(other.feed(second))
    model.run(model.feed(second))
    for own, before in zip(model.results(raw), kept, strict=True):
        np.testing.assert_array_equal(own, before)


def test_several_threads_give_the_same(case: Case) -> None:
    inputs = case.inputs(2)
    for own, wanted in zip(infer(case.open(threads=2), inputs), infer(case.open(), inputs), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


def test_what_it_computes_in_is_read_back(case: Case) -> None:
    model = case.open()
    assert model.arithmetic() == "fp32"
    assert model.provider()
    assert case.open(arithmetic="fp32").arithmetic() == "fp32"
    for other in ("bf16", "fp16"):  # the processor may lack it: then what takes its place is said
        found = _told(lambda other=other: case.open(arithmetic=other).arithmetic())
        assert found == other or "fp32" in found


def _told(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except RunnerError as error:
        return str(error)


def test_an_unknown_arithmetic_a_broken_file_and_one_that_is_not_there(case: Case) -> None:
    with pytest.raises(RunnerError):
        case.open(arithmetic="fp5")
    for name in ("garbage", "garbage.param", "garbage.bin"):
        (case.folder / name).write_bytes(b"nothing of the kind" * 100)
    for name in ("garbage", "absent"):
        path = Path(name).with_suffix(Path(case.variant["file"]).suffix if case.variant["parts"] else "")
        beside = [each.name for each in parts(path)]
        with pytest.raises(RunnerError, match=f"cannot load {name}|{name}"):
            case.open(file=str(path), parts=beside)


def test_a_runtime_that_does_not_load_is_a_reason(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    from edgespa.device.runner import runtimes

    def fails(module: str) -> Any:
        raise ImportError(f"cannot open a library of {module}")

    monkeypatch.setattr(runtimes.importlib, "import_module", fails)
    if (own := next(each for each in RUNTIMES if each.name == case.name)).program is not None:
        monkeypatch.setattr(runtimes, "RUNTIMES", (own._replace(program=lambda: fails(case.name)),))
    kind = case.variant["format"]
    with pytest.raises(RunnerError, match=f"no runtime for {kind} files .{case.name}: cannot open a library"):
        import_runtime(kind, case.name)
    with pytest.raises(RunnerError, match="does not run"):
        import_runtime("tflite" if kind == "onnx" else "onnx", case.name)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_those_that_are_run_alone(name: str) -> None:
    if importlib.util.find_spec(name) is None or _IS_ALONE in os.environ:
        pytest.skip(f"needs edgespa[{name}], once")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**environment, _IS_ALONE: "1"})
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout, done.stdout


def test_fractions_for_a_quantised_onnx_input_are_refused() -> None:
    variant = {"preprocess": None, "inputs": [{"name": "x", "dtype": "uint8", "layout": "other", "shape": [1, 4]}]}
    with pytest.raises(RunnerError, match="input x is quantised"):
        feed_by_name([np.zeros((1, 4), np.float32)], variant)
    assert feed_by_name([np.zeros((1, 4), np.uint8)], variant)["x"].dtype == np.uint8


def test_the_lists_of_runtimes_are_one() -> None:
    """The probe stands alone on devices, so it has a list of its own; TensorFlow is taken where it is, never set up."""
    assert set(probe.RUNTIMES) == set(NAMES) - {"tensorflow"}
    programs = {each.name for each in RUNTIMES if each.program is not None}
    assert {MODULES[package] for package in TESTED} == set(probe.RUNTIMES) - programs
    assert {each.kind for each in RUNTIMES} == set(SUFFIXES)
    assert [each.name for each in runtimes_of("onnx")] == ["onnxruntime"]  # no other takes its place by itself
    assert [each.name for each in runtimes_of("tflite")] == ["ai_edge_litert", "tflite_runtime", "tensorflow"]


def test_what_is_there_beside_the_usual_runtime_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.device.runner import runtimes

    monkeypatch.setattr(runtimes, "is_there", lambda each: each.name == "openvino")
    plain = {"file": "f", "precision": "fp32", "size_bytes": 1}
    rows = [{**plain, "name": f"{kind}-fp32", "format": kind} for kind in ("onnx", "tflite")]
    found = list_variants({"variants": rows})
    assert [each["others"] for each in found] == [["openvino"], []]
