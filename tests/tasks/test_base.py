"""The base of a task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgespa.errors import BaseMismatchError, GraphError, ModelError
from edgespa.tasks.base import Base


def test_the_same_model_has_the_same_digest_and_another_has_another(toy_base: Base, toy_folder: Path) -> None:
    again = Base.open(f"{toy_folder / 'net.py'}:build", (1, 3, 8, 8))
    other = Base.open(f"{toy_folder / 'net.py'}:other", (1, 3, 8, 8))
    assert again.digest == toy_base.digest
    assert other.digest != toy_base.digest
    with pytest.raises(BaseMismatchError) as caught:
        other.require_digest(toy_base.digest)
    assert toy_base.digest in caught.value.message
    assert other.digest in caught.value.message
    assert "--base" in str(caught.value.hint)
    again.require_digest(toy_base.digest)


def test_costs_by_hand(toy_base: Base) -> None:
    cost = toy_base.whole_cost
    assert cost.macs == 64 * (16 * 27 + 24 * 16 * 9 + 24 * 9 + 16 * 24) + 16 * 4
    assert cost.parameters == (432 + 16) + 32 + 3456 + 48 + (216 + 24) + (384 + 16) + (64 + 4)


def test_a_new_head(toy_base: Base) -> None:
    before = toy_base.program.state()
    base = toy_base.with_outputs(7, seed=3)
    state = base.program.state()
    assert (toy_base.outputs(), base.outputs()) == (4, 7)
    assert base.digest == toy_base.digest
    assert state["fc.weight"].shape == (7, 16)
    assert 0.2 < state["fc.weight"].abs().max() <= 0.25  # 1 / sqrt(16)
    assert not state["fc.bias"].any()
    assert torch.equal(state["conv1.weight"], before["conv1.weight"])
    assert base.program(torch.randn(5, 3, 8, 8)).shape == (5, 7)
    assert torch.equal(toy_base.with_outputs(7, seed=3).program.state()["fc.weight"], state["fc.weight"])
    assert not torch.equal(toy_base.with_outputs(7, seed=4).program.state()["fc.weight"], state["fc.weight"])
    assert base.groups.groups.keys() == toy_base.groups.groups.keys()


def test_a_network_without_a_linear_end_has_no_outputs(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU())\n"
    )
    base = Base.open(f"{tmp_path / 'n.py'}:build", (1, 3, 4, 4))
    assert base.outputs() is None
    with pytest.raises(GraphError):
        base.with_outputs(3)


def test_the_sizes_of_the_input_have_to_be_known(toy_folder: Path) -> None:
    with pytest.raises(ModelError, match="not known") as caught:
        Base.open(f"{toy_folder / 'net.py'}:build", None)
    assert "--input-shape" in str(caught.value.hint)


def test_a_saved_program_says_its_sizes_itself(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    shapes = ({0: torch.export.Dim("n")},)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 2, 2),), dynamic_shapes=shapes), path)
    base = Base.open(str(path), None)
    assert base.input_shape == (1, 3, 2, 2)
    assert base.outputs() == 3
    assert Base.open(str(path), (5, 3, 2, 2)).digest == base.digest
    with pytest.raises(ModelError, match="takes inputs of shape"):
        Base.open(str(path), (1, 3, 4, 4))
