"""Ranges that a training ends with: the files have them, and then compute what the program with levels computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.exporting import onnx_file, tflite_file
from edgespa.exporting.converter import Form
from edgespa.exporting.parity import File
from edgespa.exporting.trained import ranges_in_file
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.quantisation.fake import OUTPUT, at_levels, coarse_weights, on_levels, sites_of, with_levels
from edgespa.quantisation.ranges import METHODS, Range, find_ranges
from edgespa.quantisation.trained import trained_ranges

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
FORMATS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert"}


class Blocks(nn.Module):
    """A residual stream with norms, a depthwise layer, ReLU6, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depthwise, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.back, self.fc = nn.Conv2d(12, 12, 1), nn.Linear(12, 5)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.3, 2.0)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = x + self.back(nn.functional.relu6(self.bn2(self.depthwise(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    return trace(Blocks().eval(), (torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def narrow(program: Program) -> dict[str, Range]:
    """Ranges as no way of finding them has them: that much narrower."""
    return {site: (0.83 * low, 0.83 * high) for site, (low, high) in trained_ranges(program, [(IMAGES,)]).items()}


def with_weights_at_levels(program: Program) -> Program:
    state = program.state()
    return program.with_state({name: on_levels(state[name]) for name in coarse_weights(program)})


@torch.no_grad()
def computed(program: Program) -> Any:
    return program(IMAGES)


def written(kind: str, program: Program, ranges: dict[str, Range], folder: Path) -> tuple[Any, dict[str, Range]]:
    """What the int8 file of a program gives, and which ranges of it are trained ones."""
    from edgespa.exporting.onnx_quant import OnnxQuantiser
    from edgespa.exporting.tflite_quant import TfliteQuantiser

    plain, path = folder / f"plain.{kind}", folder / f"m.{kind}"
    if kind == "onnx":
        onnx_file.write_fp32(program, plain, Form())
        specs = onnx_file.specs(program, [computed(program).numpy()])
    else:
        tflite_file.write_fp32(program, plain, Form())
        specs = tflite_file.specs(plain, Form())
    quantiser = (OnnxQuantiser if kind == "onnx" else TfliteQuantiser)(plain)
    feeds = [[each] for each in (IMAGES.permute(0, 2, 3, 1) if kind == "tflite" else IMAGES).numpy()[:, None]]
    known = ranges_in_file(program, quantiser, ranges)
    quantiser.write_static(path, {**find_ranges(quantiser.observe(feeds), "minmax"), **known})
    file = File(path, "m", kind, *specs, 1)
    return np.concatenate([file([each])[0] for each in IMAGES.numpy()[:, None]]), known


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_file_computes_what_was_trained(
    kind: str, program: Program, narrow: dict[str, Range], tmp_path: Path
) -> None:
    if importlib.util.find_spec(FORMATS[kind]) is None:
        pytest.skip(f"{FORMATS[kind]} ABSENT: needs edgespa[{kind}]")
    ours = computed(with_levels(with_weights_at_levels(program), narrow))
    theirs, known = written(kind, program, narrow, tmp_path)
    assert len(known) >= 6
    assert set(known.values()) <= set(narrow.values())
    if kind == "tflite":  # whose outputs have levels, too
        ours = at_levels(ours, *narrow[f"fc.weight/{OUTPUT}"])
    lost, beside = np.abs(theirs - computed(program).numpy()).mean(), np.abs(theirs - ours.numpy()).mean()
    assert beside < 0.1 * lost  # its biases have levels


def test_one_of_the_usual_ways_that_is_nearest(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = torch.cat([IMAGES, 1000 * IMAGES[:1]])  # one image makes the ends of the values useless
    found = trained_ranges(program, [(spoilt,)])
    assert set(found) == set(sites_of(program))

    def error(ranges: dict[str, Range]) -> float:
        coarse = with_weights_at_levels(program)
        with torch.no_grad():
            return float((with_levels(coarse, ranges)(spoilt) - coarse(spoilt)).square().mean())

    alone = {}
    for method in METHODS:
        monkeypatch.setattr("edgespa.quantisation.trained.METHODS", (method,))
        alone[method] = trained_ranges(program, [(spoilt,)])
    assert error(found) == min(error(each) for each in alone.values())
    assert len({error(each) for each in alone.values()}) > 1


def test_a_program_that_has_levels_already(program: Program) -> None:
    """Of the training before: its levels are no part of what is seen."""
    assert trained_ranges(with_levels(program), [(IMAGES,)]) == trained_ranges(program, [(IMAGES,)])


def test_what_shares_its_weights_has_none(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="ONNX ABSENT: needs edgespa[onnx]")

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.b.load_state_dict(self.a.state_dict())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x))).mean((2, 3))

    from edgespa.exporting.onnx_quant import OnnxQuantiser

    twin = trace(Twice().eval(), (torch.randn(2, 3, 8, 8),))
    onnx_file.write_fp32(twin, tmp_path / "plain.onnx", Form())
    assert ranges_in_file(twin, OnnxQuantiser(tmp_path / "plain.onnx"), trained_ranges(twin, [(IMAGES,)])) == {}


@pytest.fixture
def task(toy_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    import edgespa as es

    def made(**changes: Any) -> Any:
        keywords: dict[str, Any] = {
            "data": f"{toy_folder / 'colours.npz'}", "input_shape": (1, 3, 8, 8), "adapter": "full", "density": 1.0,
            "epochs": 4, "lr": 0.01, "quantise": "int8", "output": tmp_path / "t.spa", "progress": False,
        }  # fmt: skip
        return es.adapt(f"{toy_folder / 'net.py'}:build", **{**keywords, **changes})

    return made


def test_from_training_to_the_files(task: Any, toy_folder: Path, tmp_path: Path) -> None:
    import edgespa as es

    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX ABSENT: needs edgespa[onnx]")
    found = task()
    header = found.task.header
    assert header.int8 is not None
    assert {site.rpartition("/")[0] for site in header.int8.ranges} >= {"fc.weight"}
    asked: dict[str, Any] = {
        "precisions": "int8", "formats": "onnx", "calibration": str(toy_folder / "colours.npz"), "progress": False,
        "int8_tolerance": 1.0, "int8_slowdown": 100.0,
    }  # fmt: skip
    bundle = es.export(found, output=tmp_path / "a", trust=True, **asked)
    (variant,) = bundle.manifest.variants
    assert variant.calibration == "training"
    other = es.export(found, output=tmp_path / "b", trust=True, int8_calibration="minmax", **asked)
    (variant,) = other.manifest.variants
    assert variant.calibration == "minmax"
    assert task(quantise=None, overwrite=True).task.header.int8 is None
