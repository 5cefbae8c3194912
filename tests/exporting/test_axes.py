"""Programs whose batch is not the first dimension of all that they take and give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction
from edgespa.exporting.bundle import ExportConfig, Origin, export
from edgespa.exporting.drawing import draw_samples
from edgespa.exporting.running import fixed_batch, run_program
from edgespa.graph.trace import trace
from edgespa.models.interface import with_batch_first, with_plain_outputs

pytestmark = pytest.mark.usefixtures("converters")


class Reader(nn.Module):
    """As readers of text: [T, N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, (8, 3)), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).relu().squeeze(2).permute(2, 0, 1)).log_softmax(2)


class Stateful(nn.Module):
    """A state [2, 1, H] goes in, and one [2, N, H] comes out beside the answer."""

    def __init__(self, *, state_first: bool) -> None:
        super().__init__()
        self.state_first = state_first
        self.a, self.b = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        x, state = (other, one) if self.state_first else (one, other)
        hidden = (self.a(x) + state[0].view(1, 6)).tanh() + state[1].view(1, 6)
        return self.b(hidden), torch.stack([hidden, hidden])


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]] = {
    "reader": (Reader, ((1, 1, 8, 12),), ((10, 1, 5),)),
    "state": (lambda: Stateful(state_first=False), ((1, 10), (2, 1, 6)), ((1, 3), (2, 1, 6))),
}


@pytest.mark.law(1)
@pytest.mark.parametrize("name", CASES)
def test_files_take_one_sample_and_are_proved_on_many(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build, inputs, outputs = CASES[name]
    torch.manual_seed(0)
    program = trace(build().eval(), [torch.randn(each) for each in inputs])
    origin = Origin(
        task=name, base=BaseEntry(spec="x", digest="sha256:" + "0" * 64),
        compaction=Compaction(parameters=1, macs=1, base_parameters=1, base_macs=1, base_size_bytes=4),
    )  # fmt: skip
    manifest = export(program, origin, ExportConfig(), tmp_path / "b")
    assert "one sample at a time" in caplog.text
    assert [spec.shape for spec in manifest.inputs] == list(inputs)
    assert [spec.shape for spec in manifest.outputs] == list(outputs)
    assert {variant.format for variant in manifest.variants} == {"onnx", "tflite"}
    assert {variant.parity.count for variant in manifest.variants} == {64}
    command = [sys.executable, str(tmp_path / "b" / "run.py"), "--selfcheck", "--variant", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_run_is_a_sample() -> None:
    torch.manual_seed(0)
    model = Stateful(state_first=True).eval()
    program = with_batch_first(with_plain_outputs(trace(model, (torch.randn(2, 1, 6), torch.randn(1, 10)))))
    assert fixed_batch(program) == 1
    state, x = torch.randn(3, 2, 1, 6), torch.randn(3, 10)
    found = run_program(program, (state, x))
    assert [array.shape for array in found] == [(3, 3), (3, 2, 1, 6)]
    for run in range(3):
        answer, after = model(state[run], x[run : run + 1])
        np.testing.assert_allclose(found[0][run : run + 1], answer.detach(), atol=1e-6)
        np.testing.assert_allclose(found[1][run], after.detach(), atol=1e-6)
    samples = draw_samples(program, None, seed=3)
    assert [array.shape for array in samples.inputs] == [(64, 2, 1, 6), (64, 10)]
    assert not np.array_equal(samples.inputs[0][0], samples.inputs[0][1])  # each has its own noise
    assert samples.weak is None
    part = samples.part([1, 5])
    assert [array.shape for array in part.outputs] == [(2, 3), (2, 2, 1, 6)]
    one = run_program(program, (state[1], x[1:2]))  # as the model takes one
    np.testing.assert_allclose(one[1][0], found[1][1], atol=1e-6)
