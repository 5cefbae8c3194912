"""What a network's own rounding explains: of sigmoids that are nearly 0, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.device.runner import exceeded
from edgespa.export.parity import bound_for
from edgespa.export.samples import judged
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.interface import with_plain_outputs

RARE = -22.0


class Scores(nn.Module):
    """Scores of four classes, of which the last is hardly ever there; beside boxes, or alone."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.form = form
        self.conv, self.score, self.box = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("often", torch.tensor([0.0, -1.0, -2.0, RARE]).view(1, 4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).relu()
        scores = 3 * self.score(features) + self.often
        found = (scores.softmax(1) if self.form == "softmax" else scores.sigmoid()).flatten(2)
        if self.form == "weighted":
            return (self.score(features) * 1e-8).mean((2, 3))  # as small, and of no sigmoid
        return found if self.form != "boxes" else torch.cat([100 * self.box(features).flatten(2), found], 1)


def program_of(form: str) -> Program:
    return with_plain_outputs(trace(Scores(form).eval(), (torch.randn(2, 3, 16, 16),)))


@pytest.mark.parametrize("form", ["alone", "boxes", "softmax"])
def test_scores_that_runtimes_round_to_a_constant_are_no_fault(form: str) -> None:
    samples = judged(program_of(form), [torch.randn(32, 3, 16, 16)], "noise")
    rare = samples.outputs[0].shape[1] - 1
    assert 0 < samples.outputs[0][:, rare].max() < 1e-7
    rounded = samples.outputs[0].copy()
    rounded[:, rare] = 1.5e-8  # what ONNX Runtime makes of all sigmoids below exp(-18)
    bound = {str(metric): limit for metric, limit in bound_for("fp32", 0.3).items()}
    assert exceeded(samples.compare([rounded]), bound) == []
    for column in (rare - 1, rare - 2):
        wrong = rounded.copy()
        wrong[:, column] = wrong[:, column].mean()
        assert exceeded(samples.compare([wrong]), {"component_error": 0.3}) != []
    wrong = rounded.copy()
    wrong[:, rare] = 1e-4
    assert exceeded(samples.compare([wrong]), bound) != []


def test_small_numbers_of_no_sigmoid_are_judged_by_how_they_vary() -> None:
    samples = judged(program_of("weighted"), [torch.randn(32, 3, 16, 16)], "noise")
    wrong = np.broadcast_to(samples.outputs[0].mean(0), samples.outputs[0].shape)
    found = samples.compare([wrong])
    assert (found["varying"], found["constant"]) == (4, 4)
