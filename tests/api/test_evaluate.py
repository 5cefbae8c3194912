"""`es.evaluate` as docs/how-to/bring-data.md has it: of a model, a task and the files of a bundle it says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import edgespa as es
from edgespa.cli import main
from edgespa.exporting import confined as module
from edgespa.exporting.confined import confined, receive, send


class Mean(nn.Module):
    """Says by how bright an image is which of three classes it is of; of 200 to 255 it says the second, wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.conv.weight.fill_(0.0)
            self.conv.weight[0], self.conv.weight[1] = -20.0 / 3, 20.0 / 3
            self.conv.bias.copy_(torch.tensor([5.0, -9.0, -30.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


GREYS = {"bright": (140, 150, 160, 170), "dark": (10, 20, 30), "white": (250,)}
"""`Mean` gives its outputs in this order: dark, bright, white."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shades"
    for name, greys in GREYS.items():
        (root / name).mkdir(parents=True)
        for grey in greys:
            Image.new("RGB", (10, 10), (grey,) * 3).save(root / name / f"{grey}.png")
    return root


LABELS = ("dark", "bright", "white")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: Path) -> es.Bundle:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    return es.export(
        Mean(),
        output=tmp_path_factory.mktemp("bundle") / "b",
        input_shape=(1, 3, 8, 8),
        formats=("onnx",),
        calibration=noise,
        labels=LABELS,
        mean=0.0,
        std=1.0,
        cache=False,
        progress=False,
    )


def check(found: es.Evaluation) -> None:
    details = found.details
    assert details.class_names == LABELS
    assert details.count == 8
    for subject in details.subjects:
        assert subject.values["accuracy"] == 7 / 8
        assert [(each.count, each.said) for each in subject.classes] == [(3, 3), (4, 5), (1, 0)]
        assert [(each.right, each.said, each.count) for each in subject.confusions] == [(2, 1, 1)]
        assert [each.file for each in subject.wrong] == ["white/250.png"]
        assert subject.wrong[0].confidence == pytest.approx(1, abs=1e-3)
        assert subject.wrong_count == 1


def test_a_model_and_a_bundle(bundle: es.Bundle, data: Path, tmp_path: Path) -> None:
    whole = es.evaluate(Mean(), eval_data=data, input_shape=(1, 3, 8, 8), labels=LABELS, mean=0, std=1, progress=False)
    check(whole)
    assert whole.details.subjects[0].name == "program"
    told: list[str] = []
    files = es.evaluate(
        bundle, eval_data=data, output=tmp_path / "d.json", progress=lambda done, total, text: told.append(text)
    )
    check(files)
    assert [each.name for each in files.details.subjects] == ["onnx-fp32"]
    assert (files.details.subjects[0].runtime or "").startswith("onnxruntime")
    assert "evaluate onnx-fp32" in told
    assert es.Evaluation.read(tmp_path / "d.json").details == files.details
    for text in (repr(files), files.to_markdown(), files._repr_html_()):
        assert "white/250.png" in text
        assert "recall" in text
    with pytest.raises(es.EdgespaError, match="exists"):
        es.evaluate(bundle, eval_data=data, output=tmp_path / "d.json", progress=False)


def test_a_task(data: Path, tmp_path: Path) -> None:
    task = es.prune(
        Mean(), density=1.0, input_shape=(1, 3, 8, 8), output=tmp_path / "t.spa", mean=0, std=1, progress=False
    )
    check(es.evaluate(task, eval_data=data, labels=LABELS, progress=False))


def test_several_files_side_by_side(bundle: es.Bundle, data: Path) -> None:
    found = es.evaluate(bundle, eval_data=data, progress=False).details
    other = found.subjects[0].model_copy(update={"name": "onnx-int8"})
    text = repr(es.Evaluation(found.model_copy(update={"subjects": (found.subjects[0], other)})))
    assert "by class: recall\nclass   images  onnx-fp32  onnx-int8\n" in text
    assert "of onnx-int8 likewise" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": ["onnx-int8"]}, "no variant 'onnx-int8'"),
        ({"mean": 0.5, "std": 0.5}, "leave out --mean"),
        ({"wrong": 5000}, "wrong=5000"),
        ({"rezise": "crop"}, "resize"),
        ({"identity": "me"}, "signers"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], words: str, bundle: es.Bundle, data: Path) -> None:
    with pytest.raises(es.EdgespaError) as told:
        es.evaluate(bundle, eval_data=data, progress=False, **changes)
    assert words in f"{told.value} {told.value.hint}"


def test_other_classes_are_refused(bundle: es.Bundle, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (10, 10)).save(tmp_path / name / "a.png")
    with pytest.raises(es.EdgespaError, match="has the classes cat, dog"):
        es.evaluate(bundle, eval_data=tmp_path, progress=False)


def test_what_the_command_prints(bundle: es.Bundle, data: Path, tmp_path: Path) -> None:
    line = ["evaluate", str(bundle.path), "--eval-data", str(data)]
    shown = CliRunner().invoke(main, line)
    assert shown.exit_code == 0, shown.output
    for words in ("87.50%", "by class", "taken for", "white/250.png"):
        assert words in shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
    plain = CliRunner().invoke(main, [*line, "--json"])
    assert json.loads(plain.stdout)["subjects"][0]["wrong_count"] == 1


def test_a_file_that_takes_too_long_is_ended(bundle: es.Bundle) -> None:
    variant = bundle.manifest.variants[0]
    with (
        pytest.raises(es.EdgespaError, match=r"not ended after|has ended"),
        confined(bundle.path, variant, threads=1, timeout_s=1e-4) as run,
    ):
        run([np.zeros((20_000, 3, 8, 8), np.float32)])  # no machine is fast enough


def test_a_file_that_does_not_run_says_why(bundle: es.Bundle) -> None:
    with (
        confined(bundle.path, bundle.manifest.variants[0], threads=1, timeout_s=60) as run,
        pytest.raises(es.EdgespaError, match="cannot be run"),
    ):
        run([np.zeros((1, 5, 8, 8), np.float32)])


def test_what_runs_a_file_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answer"

    def answered(content: bytes) -> Any:
        path.write_bytes(content)
        with path.open("rb") as stream:
            return receive(stream)

    with path.open("wb") as stream:
        send(stream, {"a": 1}, [np.arange(6, dtype=np.int64).reshape(2, 3)])
    header, arrays = answered(path.read_bytes())
    assert header["a"] == 1
    assert arrays[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    for content, error in (
        (b"", EOFError),
        (b'{"arrays": [["<f4", [4]]]}\n1234', EOFError),
        (b'{"arrays": [["O", [4]]]}\n', ValueError),
        (b'{"arrays": [["<f4", [-4]]]}\n', ValueError),
        (b'{"arrays": [["<f4", [99999999, 99999999]]]}\n', ValueError),
        (b"[1]\n", ValueError),
        (b"{\n", ValueError),
    ):
        with pytest.raises(error):
            answered(content)
    monkeypatch.setattr(module, "MAX_ANSWER", 8)
    with pytest.raises(ValueError, match="at once"):
        answered(b'{"arrays": [["<f4", [4]]]}\n' + bytes(16))
