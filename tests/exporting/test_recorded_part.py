"""What a bundle records of large outputs: some positions of each component, and the proof is of all."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.device import runner
from edgespa.exporting import samples as module
from edgespa.exporting.drawing import draw_samples
from edgespa.graph.trace import trace
from edgespa.models.interface import with_plain_outputs

BOUND = {"component_error": 0.3}


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 5, 3, 2, 1)
        self.grow = nn.Upsample(scale_factor=8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = self.grow(self.conv(images))
        return maps, maps.mean((2, 3)), maps.argmax(1)


def test_large_outputs_are_recorded_in_part_and_checked_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDED_BYTES", 96 << 10)
    program = with_plain_outputs(trace(Maps().eval(), (torch.randn(2, 3, 16, 16),)))
    drawn = draw_samples(program, None, 0)
    assert drawn.outputs[0].shape[1:] == (5, 64, 64)
    file = io.BytesIO()
    np.savez(file, **drawn.record())  # type: ignore[arg-type]
    assert len(file.getvalue()) < 200 << 10  # of 80 KiB a sample, and 32 of them
    file.seek(0)
    recorded = runner.Recorded(dict(np.load(file)), None)
    assert recorded.every == {0: (1, 9, 3), 2: (3, 3)}
    outputs = [array[list(drawn.recorded)] for array in drawn.outputs]

    def check(found: list[np.ndarray]) -> list[str]:
        thin = [runner.thinned(each, recorded.every.get(i, ())) for i, each in enumerate(found)]
        return runner.exceeded(runner.compare(thin, recorded.outputs, recorded.scales), BOUND)

    assert check(outputs) == []
    assert drawn.compare_recorded(drawn.outputs)["component_error"] == 0
    wrong = [outputs[0].copy(), *outputs[1:]]
    wrong[0][:, 3] = wrong[0][:, 3].mean()
    assert check(wrong) != []
    whole = [drawn.outputs[0].copy(), *drawn.outputs[1:]]
    whole[0][:, :, 1::9] = 70  # between what is recorded
    assert runner.exceeded(drawn.compare(whole), BOUND) != []


def test_small_outputs_and_sets_are_recorded_whole() -> None:
    program = with_plain_outputs(trace(Maps().eval(), (torch.randn(2, 3, 16, 16),)))
    assert not any(key.startswith("every") for key in draw_samples(program, None, 0).record())
