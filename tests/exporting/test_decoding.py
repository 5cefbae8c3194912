"""Boxes that a graph reads off by itself are those that are read off its raw outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction
from edgespa.bundle.decoding import Columns, Decoding, Grid
from edgespa.errors import ConfigError
from edgespa.exporting.bundle import export
from edgespa.exporting.config import ExportConfig, Origin
from edgespa.exporting.decoding import CANDIDATES, with_decoding
from edgespa.graph.program import Program
from edgespa.graph.trace import trace
from edgespa.models.interface import with_plain_outputs
from edgespa.pixels.boxes import decode_boxes

GRIDS = (
    Grid(rows=6, columns=5, stride=(10, 12), offset=(0.5, 0.5), cells=((-8, -8, 8, 8), (-12, -6, 12, 6))),
    Grid(rows=3, columns=2, stride=(20, 30), cells=((-16, -16, 16, 16),)),
)
PLACES = sum(grid.count for grid in GRIDS)
SIZE = (60, 64)


class Split(nn.Module):
    """Raw outputs are columns of the input."""

    def __init__(self, widths: tuple[int, ...], rows: bool = False) -> None:
        super().__init__()
        self.widths, self.rows = widths, rows

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        if self.rows:
            return (values.transpose(1, 2).contiguous(),)
        return tuple(part * 1.0 for part in values.split(self.widths, 2))


CASES: dict[str, tuple[Split, Decoding]] = {
    "deltas": (
        Split((4, 4)),
        Decoding(
            size=SIZE, scores=Columns(output=0), boxes=Columns(output=1), activation="softmax", background="first",
            coding="deltas", weights=(10, 10, 5, 5), anchors=GRIDS, overlap=0.45, threshold=0.1,
        ),
    ),
    "distances": (
        Split((3, 4, 1)),
        Decoding(
            size=SIZE, scores=Columns(output=0), boxes=Columns(output=1), centerness=Columns(output=2),
            activation="sigmoid", coding="distances", anchors=GRIDS, threshold=0.3, most=40,
        ),
    ),
    "corners": (
        Split((4, 3)),
        Decoding(
            size=SIZE, scores=Columns(output=1), boxes=Columns(output=0), activation="softmax", background="last",
            unit="input", coding="centres", overlap=None, threshold=0.2,
        ),
    ),
    "rows": (
        Split((), rows=True),
        Decoding(
            size=SIZE, scores=Columns(output=0, first=4, rows=True), boxes=Columns(output=0, count=4, rows=True),
            activation="sigmoid", coding="centres", only_best=True, threshold=0.4, overlap=0.3,
        ),
    ),
}  # fmt: skip


def made(name: str) -> tuple[Program, Decoding, Tensor]:
    module, how = CASES[name]
    width = sum(module.widths) or 7
    random = torch.Generator().manual_seed(2)
    values = torch.randn(3, PLACES, width, generator=random)
    if name == "rows":  # boxes that overlap
        values[:, :, :2] = 30 + 12 * values[:, :, :2]
        values[:, :, 2:4] = 10 + 4 * values[:, :, 2:4].abs()
    if name == "corners":
        values[:, :, :4] = values[:, :, :4].sigmoid() / 2
    return with_plain_outputs(trace(module, (values,))), how, values


@pytest.mark.law(1)
@pytest.mark.parametrize("name", CASES)
def test_they_are_the_same(name: str) -> None:
    program, how, values = made(name)
    raw = program(values)
    raw = [raw] if isinstance(raw, Tensor) else list(raw)
    plain = how.model_copy(update={"pool": "image", "candidates": CANDIDATES}).model_dump()
    wanted = decode_boxes([each.numpy() for each in raw], plain)
    decoded, read = with_decoding(program, how)
    outputs = [each.numpy() for each in decoded(values)]
    most = min(how.most, CANDIDATES, PLACES * 3)
    kept = min(most, PLACES) if name == "rows" else most
    assert [each.shape for each in outputs] == [(3, kept, 4), (3, kept), (3, kept), (3,)]
    assert outputs[3].tolist() == [len(each) for each in wanted]
    assert 0.4 < outputs[0].max() <= 1.5  # shares of the input; only one of them clips nothing
    found = decode_boxes(outputs, read.model_dump())
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(ours) == len(theirs) > 5
        assert [each["index"] for each in ours] == [each["index"] for each in theirs]
        for part in ("score", "box"):
            np.testing.assert_allclose([each[part] for each in ours], [each[part] for each in theirs], atol=1e-4)
        assert not any(each[found.index(ours), len(ours) :].any() for each in outputs[:3])  # the rest is 0


def test_a_long_chain_is_settled() -> None:
    """Each box overlaps with the next alone: every second one stays."""
    count = 12
    corners = torch.tensor([[3.0 * i, 0, 3.0 * i + 8, 8] for i in range(count)])
    values = torch.cat([corners, torch.linspace(3, 1, count)[:, None]], 1)[None]
    how = Decoding(
        size=SIZE, scores=Columns(output=1), boxes=Columns(output=0), activation="sigmoid", overlap=0.4, threshold=0.1
    )
    program = with_plain_outputs(trace(Split((4, 1)), (values,)))
    decoded, read = with_decoding(program, how)
    (found,) = decode_boxes([each.numpy() for each in decoded(values)], read.model_dump())
    assert [each["box"][0] for each in found] == [0, 6, 12, 18, 24, 30]


def test_outputs_that_are_not_described() -> None:
    program, how, _ = made("corners")
    wrong = how.model_copy(update={"scores": Columns(output=1, first=9)})
    with pytest.raises(ConfigError, match="columns of output 1 that are not there"):
        with_decoding(program, wrong)


def origin(decoding: Decoding | None) -> Origin:
    return Origin(
        task="drawn",
        base=BaseEntry(spec="net.py:make", digest="sha256:0"),
        compaction=Compaction(parameters=0, macs=0, base_parameters=0, base_macs=0),
        decoding=decoding,
    )


def test_boxes_in_pixels_are_read_as_ever() -> None:
    """Of manifests that say nothing of a unit, with three outputs: boxes, scores, classes."""
    told = {
        "size": SIZE, "scores": {"output": 1}, "boxes": {"output": 0}, "classes": {"output": 2}, "clip": False,
        "threshold": 0.1, "candidates": 2, "overlap": None, "most": 2,
    }  # fmt: skip
    how = Decoding.model_validate(told)
    outputs = [np.float32([[[3, 4, 30, 40], [0, 0, 0, 0]]]), np.float32([[0.5, 0]]), np.float32([[2, 0]])]
    assert how.problem([each.shape for each in outputs]) is None
    found = decode_boxes(outputs, how.model_dump())
    assert found == [[{"box": [3.0, 4.0, 30.0, 40.0], "index": 2, "score": 0.5}]]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", pytest.param("tflite", marks=pytest.mark.more)])
def test_files_take_it(form: str, tmp_path: Path) -> None:
    program, how, values = made("deltas")
    config: Any = ExportConfig(formats=(form,), decode="in-graph")
    manifest = export(program, origin(how), config, tmp_path / "bundle")
    assert [each.name for each in manifest.outputs] == ["boxes", "classes", "scores", "count"]
    assert manifest.decoding is not None
    assert manifest.decoding.overlap is None
    (variant,) = manifest.variants
    batch = 1 if form == "tflite" else "batch"
    assert [each.shape for each in variant.outputs] == [(batch, 100, 4), (batch, 100), (batch, 100), (batch,)]
    assert manifest.variants[0].parity.failures() == ()
    assert values.shape[1] == PLACES


def test_what_nobody_described(tmp_path: Path) -> None:
    program, _, _ = made("corners")
    with pytest.raises(ConfigError, match="how boxes are read off the model's outputs is not known"):
        export(program, origin(None), ExportConfig(formats=("onnx",), decode="in-graph"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
