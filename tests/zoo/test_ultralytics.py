"""The YOLO of docs/how-to/detection.md, where its package is installed; that is under the AGPL, so mostly it is not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import plain_nms, torchvision_or_skip

from edgespa.data.boxes import Objects
from edgespa.exporting.decoding import with_decoding
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact
from edgespa.models.interface import with_plain_outputs
from edgespa.objectives.kinds import objective_named
from edgespa.pixels.boxes import decode_boxes
from edgespa.tasks.base import Base

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "detection.md"
SIDE = 96


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    torchvision_or_skip()
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ULTRALYTICS ABSENT: its YOLO was not tried")
    (code,) = re.findall(r"```python\n(# yolo\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path_factory.mktemp("yolo") / "yolo.py"
    file.write_text(code.replace('SIDE = "yolo11n.yaml", 3, 320', f'SIDE = "yolo11n.yaml", 3, {SIDE}'))
    return str(file)


@pytest.fixture(scope="module")
def base(spec: str) -> Base:
    return Base.open(f"{spec}:Yolo", (1, 3, SIDE, SIDE))


def targets() -> list[Objects]:
    known = torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 80]])
    return [Objects(known, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool)), Objects.none()]


def test_most_of_it_can_go_exactly(base: Base) -> None:
    random = np.random.RandomState(0)
    kept = {}
    for name, group in base.groups.groups.items():
        kept[name] = random.rand(len(group)) < 0.6
        kept[name][0] = True
    compacted = compact(base.program, base.groups, kept)
    prove(base.program, base.groups, kept, compacted, base.program.example_inputs()).require()
    assert base.cost.cost(kept).macs < 0.6 * base.whole_cost.macs


def test_its_own_loss_teaches_it(spec: str, base: Base) -> None:
    objective: Any = objective_named(f"{spec}:Learn")
    program = base.program.copy()
    trained = [each.requires_grad_() for _, each in program.tensors() if isinstance(each, torch.nn.Parameter)]
    loss = objective.loss(objective.take(program(*program.example_inputs())), targets())
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    assert sum(each is not None and bool(each.abs().sum() > 0) for each in gradients) > 0.9 * len(trained)


def test_boxes_are_those_of_the_package(spec: str, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.ops.nms", plain_nms)
    nms: ModuleType = importlib.import_module("ultralytics.utils.nms")
    objective: Any = objective_named(f"{spec}:Learn")
    random = torch.Generator().manual_seed(0)
    middles, sides = 20 + 56 * torch.rand(2, 2, 500, generator=random), 8 + 40 * torch.rand(2, 2, 500, generator=random)
    values = torch.cat([middles, sides, torch.rand(2, 3, 500, generator=random) ** 3], 1)
    wanted = nms.non_max_suppression(values.clone(), conf_thres=0.001, iou_thres=0.7, max_det=300)
    for ours, theirs in zip(decode_boxes([values.numpy()], objective.decoding.model_dump()), wanted, strict=True):
        assert len(ours) == len(theirs) > 50
        np.testing.assert_allclose([each["box"] for each in ours], theirs[:, :4].numpy(), atol=1e-4)
        np.testing.assert_allclose([each["score"] for each in ours], theirs[:, 4].numpy(), atol=1e-6)
        assert [each["index"] for each in ours] == theirs[:, 5].int().tolist()
    decoded, read = with_decoding(with_plain_outputs(base.program), objective.decoding)
    boxes, classes, scores, count = decoded(*base.program.example_inputs())
    assert boxes.shape[1:] == (read.most, 4)
    assert scores.shape == classes.shape
    assert count.shape == boxes.shape[:1]
