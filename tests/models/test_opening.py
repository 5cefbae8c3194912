"""From a spec to a program: how many inputs, of which sizes and types, and saved programs from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgespa.errors import ModelError, TraceError
from edgespa.graph.program import BATCH
from edgespa.models.inputs import InputSize
from edgespa.models.opening import open_program

CODE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 6)
        self.fc = nn.Linear(5, 6)
    def forward(self, x, ids, scale=None):
        y = self.fc(x) + self.emb(ids).mean(1)
        return y if scale is None else y * scale

class Any(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 6)
    def forward(self, *tensors):
        return self.fc(sum(tensors))
"""
X, IDS, SCALE = InputSize((1, 5)), InputSize((1, 4), "int64"), InputSize((1, 6))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("opening") / "net.py"
    path.write_text(CODE)
    return str(path)


@pytest.mark.parametrize("given", [(X, IDS), (X, IDS, SCALE)])
def test_several_inputs(net: str, given: tuple[InputSize, ...]) -> None:
    opened = open_program(f"{net}:Two", given, None)
    assert opened.inputs == given
    assert [spec.shape for spec in opened.program.inputs] == [(BATCH, *each.shape[1:]) for each in given]
    assert [spec.dtype for spec in opened.program.inputs] == [torch.float32, torch.int64, torch.float32][: len(given)]
    tensors = [torch.randn(3, 5), torch.randint(0, 7, (3, 4)), torch.randn(3, 6)][: len(given)]
    assert opened.program(*tensors).shape == (3, 6)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_inputs(net: str, count: int) -> None:
    opened = open_program(f"{net}:Any", (X,) * count, None)
    assert opened.program(*[torch.ones(2, 5)] * count).shape == (2, 6)


@pytest.mark.parametrize("given", [(X,), (X, IDS, SCALE, SCALE)])
def test_a_wrong_number_is_told_with_the_names(net: str, given: tuple[InputSize, ...]) -> None:
    with pytest.raises(ModelError, match=rf"takes 2 to 3 inputs \(x, ids, scale\), sizes were given for {len(given)}"):
        open_program(f"{net}:Two", given, None)


class Convolution(nn.Module):
    """Its pooled features, so that it takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def saved(path: Path, model: nn.Module, shapes: Any = None, size: int = 8) -> str:
    example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), path)
    return str(path)


FREE = ({0: Dim("b"), 2: Dim.AUTO, 3: Dim.AUTO},)


@pytest.mark.parametrize(
    ("shapes", "given", "inputs", "program"),
    [
        (None, (), (2, 3, 8, 8), (2, 3, 8, 8)),
        (({0: Dim("b")},), (), (1, 3, 8, 8), (BATCH, 3, 8, 8)),
        (({0: Dim("b")},), (InputSize((5, 3, 8, 8)),), (1, 3, 8, 8), (BATCH, 3, 8, 8)),
        (FREE, (), (1, 3, 8, 8), (BATCH, 3, 8, 8)),
        (FREE, (InputSize((1, 3, 6, 10)),), (1, 3, 6, 10), (BATCH, 3, 6, 10)),
    ],
)
def test_sizes_of_a_saved_program(
    tmp_path: Path, shapes: Any, given: Any, inputs: tuple[int, ...], program: tuple[Any, ...]
) -> None:
    model = Convolution().eval()
    opened = open_program(saved(tmp_path / "p.pt2", model, shapes), given, None)
    assert opened.inputs == (InputSize(inputs),)
    assert opened.program.inputs[0].shape == program
    x = torch.randn(2 if program[0] == 2 else 3, *program[1:])
    assert torch.allclose(opened.program(x), model(x), atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "given"),
    [(None, (1, 3, 9, 8)), (None, (1, 3, 8)), (None, (1, 1, 8, 8)), (FREE, (1, 3, 8)), (FREE, (1, 1, 8, 8))],
)
def test_other_sizes_are_refused(tmp_path: Path, given: tuple[int, ...], shapes: Any) -> None:
    with pytest.raises(ModelError, match=r"takes inputs of shape \(\d, 3, 8, 8\), not"):
        open_program(saved(tmp_path / "p.pt2", Convolution().eval(), shapes), (InputSize(given),), None)


def test_too_small_a_size_is_told(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()).eval()
    path = saved(tmp_path / "p.pt2", model, FREE)
    with pytest.raises(TraceError, match=r"p\.pt2 does not take inputs of 1,3,4,4"):
        open_program(path, (InputSize((1, 3, 4, 4)),), None)


def test_a_program_in_training_form_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError) as caught:
        open_program(saved(tmp_path / "p.pt2", Convolution().train()), (), None)
    assert "p.pt2" in caught.value.message
    assert "model.eval()" in str(caught.value.hint)


def test_a_wrong_name_is_told_before_sizes_are_asked_for() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.py: no such file"):
        open_program("nowhere.py:build", (), None)


FINITE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, poison=None, value=float("nan"), frozen=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(8), requires_grad=not frozen)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        if poison:
            with torch.no_grad():
                self.state_dict()[poison].view(-1)[:2] = value

    def forward(self, x):
        y = self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale
        scores = self.fc(y).unsqueeze(1) + self.mask
        q = y.view(-1, 1, 4, 2)
        z = F.scaled_dot_product_attention(q, q, q, attn_mask=self.mask.unsqueeze(0).unsqueeze(0))
        return scores.softmax(2).sum(1) + z.flatten(1)[:, :4] + torch.where(self.mask < 0, self.mask, 0.0).exp()[0]

class Frozen(Net):
    # a mask as a parameter that is not trained
    def __init__(self):
        super().__init__()
        del self.mask
        self.mask = nn.Parameter(torch.full((4, 4), float("-inf")).triu(1), requires_grad=False)

INF = float("inf")
ones = {
    "weight_nan": ("conv.weight", -INF * 0, False), "weight_inf": ("fc.weight", INF, False),
    "weight_minus": ("conv.weight", -INF, True), "bias_nan": ("fc.bias", INF - INF, False),
    "mean_nan": ("norm.running_mean", INF - INF, False), "variance_inf": ("norm.running_var", INF, False),
    "mean_minus": ("norm.running_mean", -INF, False), "scale_minus": ("scale", -INF, True),
    "mask_nan": ("mask", INF - INF, False),
}
for name, (tensor, value, frozen) in ones.items():
    globals()[name] = lambda tensor=tensor, value=value, frozen=frozen: Net(tensor, value, frozen)
"""
POISONED = {
    "weight_nan": "conv.weight (2 of 216", "weight_inf": "fc.weight (2 of 32", "weight_minus": "conv.weight (2 of 216",
    "bias_nan": "fc.bias (2 of 4", "mean_nan": "norm.running_mean (2 of 8", "variance_inf": "norm.running_var (2 of 8",
    "mean_minus": "norm.running_mean (2 of 8", "scale_minus": "scale (2 of 8", "mask_nan": "mask (",
}  # fmt: skip


@pytest.mark.parametrize("name", POISONED)
def test_weights_that_are_not_finite_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "finite.py").write_text(FINITE)
    with pytest.raises(ModelError, match="weights that are not finite") as caught:
        open_program(f"{tmp_path / 'finite.py'}:{name}", (InputSize((1, 3, 8, 8)),), None)
    assert POISONED[name] in caught.value.message


@pytest.mark.parametrize("name", ["Net", "Frozen"])
def test_masks_of_minus_infinity_go_on(name: str, tmp_path: Path) -> None:
    (tmp_path / "finite.py").write_text(FINITE)
    opened = open_program(f"{tmp_path / 'finite.py'}:{name}", (InputSize((1, 3, 8, 8)),), None)
    masks = [tensor for _, tensor in opened.program.tensors() if bool(torch.isneginf(tensor).any())]
    assert len(masks) == 1
    assert bool(torch.isfinite(opened.program(torch.randn(2, 3, 8, 8))).all())
    saved = torch.export.export(opened.program.module, (torch.randn(1, 3, 8, 8),))
    torch.export.save(saved, tmp_path / "saved.pt2")
    assert open_program(str(tmp_path / "saved.pt2"), (), None).inputs == (InputSize((1, 3, 8, 8)),)


def test_a_saved_program_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.bias, float("inf"))
    torch.export.save(torch.export.export(layer, (torch.randn(1, 3),)), tmp_path / "saved.pt2")
    with pytest.raises(ModelError, match=r"bias \(2 of 2 values\)"):
        open_program(str(tmp_path / "saved.pt2"), (), None)
