"""Outputs that are sets are found by what they do, and compared as sets by whatever checks the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgespa.bundle import Base, Compaction
from edgespa.exporting.bundle import export
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.exporting.sets import find_sets, steady
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.models.interface import with_plain_outputs


class Queries(nn.Module):
    """Scores and boxes of the best of many entries; ``refined`` as a decoder's: by what was chosen is not told."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.score, self.box, self.refine = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1), nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> object:
        features = self.conv(images).relu()
        scores, boxes = self.score(features).flatten(1), self.box(features).flatten(2)
        best, index = scores.topk(6)
        chosen = boxes.gather(2, index.unsqueeze(1).expand(-1, 4, -1))
        if self.form == "apart":
            return {"boxes": chosen, "scores": best, "places": index}
        if self.form == "table":
            return torch.cat([chosen.transpose(1, 2), best.unsqueeze(2)], 2)
        if self.form == "refined":
            rows = chosen.transpose(1, 2)
            return rows + self.refine(rows).tanh() + rows.softmax(1).sum(1, keepdim=True)
        if self.form == "sum":
            return chosen.sum(2)
        return boxes.flatten(1)[:, :6]  # as many, and not chosen


def program_of(form: str) -> Program:
    return with_plain_outputs(trace(Queries(form).eval(), (torch.randn(2, 3, 32, 32),)))


@pytest.mark.parametrize(
    ("form", "axes"),
    [
        ("apart", [((0, 2), (1, 1), (2, 1))]),
        ("table", [((0, 1),)]),
        ("refined", [((0, 1),)]),
        ("sum", []),
        ("plain", []),
    ],
)
def test_sets_are_found(form: str, axes: list[tuple[tuple[int, int], ...]]) -> None:
    assert [each.axes for each in find_sets(program_of(form))] == axes


def test_samples_whose_last_entry_is_chosen_by_rounding_are_known() -> None:
    program = program_of("table")
    torch.manual_seed(1)
    images = torch.randn(3, 3, 32, 32)
    images[1] = 0.5  # every entry has the same score, but for the border
    assert steady(program, [images]).tolist() == [True, False, True]


@pytest.mark.law(2)
@pytest.mark.parametrize("form", ["apart", "table", "refined"])
@pytest.mark.usefixtures("converters")
def test_a_file_that_chooses_inside_is_proved_and_checks_itself(tmp_path: Path, form: str) -> None:
    cost = Compaction(parameters=1, macs=1, base_parameters=1, base_macs=1)
    origin = Origin("queries", Base(spec="net.py:build", digest="sha256:0"), cost)
    manifest = export(program_of(form), origin, ExportConfig(formats=("onnx",)), tmp_path / "b")
    assert len(manifest.sets) == 1
    assert manifest.variants[0].parity.tolerance_used <= 1  # type: ignore[operator]
    done = subprocess.run([sys.executable, str(tmp_path / "b" / "run.py"), "--selfcheck"], check=False, timeout=120)
    assert done.returncode == 0
