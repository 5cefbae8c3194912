"""What a network's own rounding explains: of sigmoids that are nearly 0, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.device.runner import exceeded
from edgespa.errors import ParityError
from edgespa.exporting import drawing
from edgespa.exporting.drawing import judged
from edgespa.exporting.parity import File, bound_for
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.models.interface import with_plain_outputs

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
    found = judged(program_of(form), [torch.randn(32, 3, 16, 16)], "noise")
    rare = found.outputs[0].shape[1] - 1
    assert 0 < found.outputs[0][:, rare].max() < 1e-7
    rounded = found.outputs[0].copy()
    rounded[:, rare] = 1.5e-8  # what ONNX Runtime makes of all sigmoids below exp(-18)
    bound = {str(metric): limit for metric, limit in bound_for("fp32", 0.3).items()}
    assert exceeded(found.compare([rounded]), bound) == []
    for column in (rare - 1, rare - 2):
        wrong = rounded.copy()
        wrong[:, column] = wrong[:, column].mean()
        assert exceeded(found.compare([wrong]), {"component_error": 0.3}) != []
    wrong = rounded.copy()
    wrong[:, rare] = 1e-4
    assert exceeded(found.compare([wrong]), bound) != []


def test_small_numbers_of_no_sigmoid_are_judged_by_how_they_vary() -> None:
    found = judged(program_of("weighted"), [torch.randn(32, 3, 16, 16)], "noise")
    wrong = np.broadcast_to(found.outputs[0].mean(0), found.outputs[0].shape)
    found = found.compare([wrong])
    assert (found["varying"], found["constant"]) == (4, 4)


class Cancelling(nn.Module):
    """What is added is taken away again, and with it the last digits."""

    def __init__(self, large: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.large = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5), large

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = 30 * self.head(self.conv(images).relu().mean((2, 3)))
        away = self.large * images.mean((1, 2, 3))[:, None]
        return (scores + away) - away


def test_the_bound_on_whole_outputs_knows_the_rounding_too() -> None:
    images = [torch.randn(32, 3, 16, 16)]
    for large, least, most in ((1.0, 0.0, 2e-4), (1e6, 2e-3, 0.05)):
        program = with_plain_outputs(trace(Cancelling(large).eval(), (torch.randn(2, 3, 16, 16),)))
        found = judged(program, images, "noise")
        bound = bound_for("fp32", 0.3, found.explained)
        assert least < found.explained <= most
        assert bound["relative_error"] == max(1e-3, found.explained)
        limits = {str(metric): limit for metric, limit in bound.items()}
        right = found.outputs[0] * (1 + 0.5 * found.explained)
        assert exceeded(found.compare([right]), limits) == []
        off = found.outputs[0] + 3 * found.explained * np.abs(found.outputs[0]).max()
        assert len(exceeded(found.compare([off]), limits)) == (2 if large > 1 else 1)
    assert bound_for("fp32", 0.3, 7.0)["relative_error"] == 0.05


def test_an_option_is_named_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(program_of("softmax"), [torch.randn(32, 3, 16, 16)], "noise")
    scale, column = found.scales["scale_0_1"], 1  # type: ignore[index]
    monkeypatch.setattr(File, "__init__", lambda *_: None)
    file = File()  # type: ignore[call-arg]
    file.name = "onnx-fp32"
    for share, named in ((5e-4, True), (5e-3, False)):
        wrong = found.outputs[0].copy()
        wrong[:, column] += share * scale[column]
        monkeypatch.setattr(File, "__call__", lambda *_, wrong=wrong, **__: [wrong])
        with pytest.raises(ParityError, match="tolerance_used") as failed:
            file.prove(found, bound_for("fp32", 0.3, found.explained))
        assert ("--fp32-tolerance" in (failed.value.hint or "")) == named


class Normalised(nn.Module):
    """Each image by its own deviation: one of hardly any contrast amplifies rounding ten thousandfold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 500)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        apart = flat * 1.5 - 1.5
        return self.head(apart / (apart.square().mean(1, keepdim=True).sqrt() + 1e-9))


def test_an_image_that_amplifies_rounding_leaves_no_component_without(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[5] = 1 + 1e-4 * images[5]
    program = with_plain_outputs(trace(Normalised().eval(), (torch.randn(2, 1, 8, 8),)))
    outputs = judged(program, [images], "noise").outputs
    least = []
    for draws in (1, 6):
        monkeypatch.setattr(drawing, "DRAWS", draws)
        ((_, once, rough),) = drawing._rounded(program, [images], outputs, ()) or []
        assert rough is not None
        noise = np.abs(rough - once)
        one = noise[noise.mean(1).argmax()]  # of that image
        assert noise.mean() < 0.1 * one.mean()
        least.append(float(one.min() / np.median(one)))
    assert least[0] < 0.05 < 0.2 < least[1]
