"""What inspection says about a model: layers, causes, and the share of the channels that can go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgespa.tasks.base import Base
from edgespa.tasks.inspection import describe, root_cause

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, stride=2)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.place = nn.Parameter(torch.randn(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.mix = nn.Parameter(torch.randn(8, 6))
        self.depth = nn.Conv1d(6, 6, 3, padding=1, groups=6)
        self.back = nn.ConvTranspose1d(6, 10, 2, stride=2)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = (self.patch(x) * self.scale).flatten(2).transpose(1, 2) + self.place
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        y = (x @ self.mix).transpose(1, 2)
        return self.head(self.back(self.depth(y)).mean(2))

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("inspection") / "net.py"
    path.write_text(NET)
    return describe(Base.open(f"{path}:build", (1, 3, 4, 4)))


def test_layers_stand_in_the_order_of_their_use(values: dict[str, Any]) -> None:
    seen = [(each["tensor"], each["operator"], each["in"], each["out"], each["groups"]) for each in values["layers"]]
    assert seen == [
        ("patch.weight", "conv2d", 1, 0, 1),
        ("place", "parameter", 1, 2, 1),
        ("up.weight", "linear", 1, 0, 1),
        ("down.weight", "linear", 1, 0, 1),
        ("mix", "matmul", 0, 1, 1),
        ("depth.weight", "conv1d", 1, 0, 6),
        ("back.weight", "conv_transpose1d", 0, 1, 1),
        ("head.weight", "linear", 1, 0, 1),
    ]


def test_share_of_the_channels(values: dict[str, Any]) -> None:
    # patch 8 and down 8 are fixed by the norm; up 12, mix 6, depth 6 and back 10 can go; the 5 of head are outputs
    assert (values["prunable"]["channels"], values["prunable"]["all_channels"]) == (34, 50)
    assert values["prunable"]["channel_share"] == 34 / 50


def test_kinds_and_causes(values: dict[str, Any]) -> None:
    known = {(each["tensor"], each["dim"]): (each["kind"], each["cause"]) for each in values["fixed"]}
    assert known["patch.weight", 1] == ("boundary", "input of the network")
    assert known["patch.weight", 2] == ("kernel", "kernel extent")
    assert known["head.bias", 0] == ("boundary", "output of the network")
    for slot in (("patch.weight", 0), ("norm.bias", 0), ("up.weight", 1), ("down.weight", 0)):
        assert known[slot] == ("inner", "layer_norm statistics over the channels"), slot


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("kernel extent (at conv2d)", "kernel extent"),
        ("multiplied (conv2d) with an input of the network (at conv2d)", "input of the network"),
        (
            "multiplied (linear) with a tensor that cannot shrink there (layer_norm statistics over the channels) "
            "(at linear_2)",
            "layer_norm statistics over the channels",
        ),
        (
            "added with a tensor that cannot shrink there (multiplied (matmul) with a tensor that cannot shrink there "
            "(operator aten.sort.default has no rule)) (at add)",
            "operator aten.sort.default has no rule",
        ),
        (
            "combined element by element (add) with a tensor that cannot shrink there (at add_3)",
            "combined element by element (add) with a tensor that cannot shrink there",
        ),
        ("read at a fixed position (select) (at select)", "read at a fixed position (select)"),
        ("tied to an index that cannot be removed", "tied to an index that cannot be removed"),
    ],
)
def test_root_cause(reason: str, cause: str) -> None:
    assert root_cause(reason) == cause


def test_several_inputs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\nclass Two(nn.Bilinear):\n    pass\ntwo = lambda: Two(3, 4, 5)\n")
    from edgespa.models.inputs import InputSize

    values = describe(Base.open(f"{path}:two", (InputSize((1, 3)), InputSize((1, 4), "float32"))))
    assert values["inputs"] == ["1,3", "1,4:float32"]
    assert values["input_shape"] == [1, 3]
