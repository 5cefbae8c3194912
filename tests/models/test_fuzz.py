"""Saved programs in which any text, number or list is another: what opens computes, all else is told in words."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgespa.errors import EdgespaError
from edgespa.graph.groups import find_groups
from edgespa.models.opening import open_program

SCALE = max(1, settings().max_examples // 100)
DOCUMENTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
SIZES = [-1, 0, 1, 2, 3, 7, 2**20, 2**31, 2**40, 2**63, 10**30, 0.5, 1e300, True, None]
TEXTS = [
    "", "x", "self", "torch", "lambda", "__class__", "a.b", "conv.weight", "relu", "as_int", "None", "cpu", "cuda",
    "torch.ops.aten.relu.default", "torch.ops.aten.add_.Tensor", "torch.ops.aten.ones.default", "_operator.getitem",
    "torch.ops.aten.cat.default", "torch.sym_max", "math.floor", "Symbol('s77', integer=True)", "s77 + 1", "weight_0",
    "open('/nowhere')", "x); raise SystemExit(1)", '"', "\n", "\ud800", "[1, {}]", "1e999",
]  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return {"scores": self.head(y.mean((2, 3))) * self.table, "parts": torch.cat(y.chunk(2, 1), 1)}


@pytest.fixture(scope="module")
def original() -> dict[str, bytes]:
    torch.manual_seed(0)
    content = io.BytesIO()
    shapes = ({0: torch.export.Dim("n", max=64)},)
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(2, 3, 6, 6),), dynamic_shapes=shapes), content)
    with zipfile.ZipFile(content) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def opened(entries: dict[str, bytes], path: Path) -> bool:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    try:
        program = open_program(str(path), (), None).program
    except EdgespaError as error:
        return expect_words(error)
    find_groups(program)
    return True


def expect_words(error: EdgespaError) -> bool:
    assert error.message
    assert error.hint
    return False


@st.composite
def changed(draw: st.DrawFn, values: Any) -> Any:
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 2))):
        place = values
        for _ in range(30):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 9)):
                place = inner
                continue
            kind = draw(st.sampled_from(["drop", "size", "text", "swap", "double"]))
            if kind == "drop":
                del place[key]
            elif kind == "swap":
                place[key] = copy.deepcopy(place[draw(st.sampled_from(keys))])
            elif kind == "double" and isinstance(place, list):
                place.insert(draw(st.integers(0, len(place))), copy.deepcopy(inner))
            else:
                place[key] = draw(st.sampled_from(SIZES if kind == "size" else TEXTS))
            break
    return values


def examples(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count * SCALE, deadline=None, suppress_health_check=checks)


@examples(100)
@given(data=st.data())
def test_fuzz_saved_programs(original: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([DOCUMENTS[0], *DOCUMENTS]))
    values = data.draw(changed(json.loads(original[name])))
    opened({**original, name: json.dumps(values).encode()}, tmp_path / "x.pt2")


def test_the_original_opens(original: dict[str, bytes], tmp_path: Path) -> None:
    assert opened(original, tmp_path / "x.pt2")
