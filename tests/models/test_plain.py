"""Models as they come: weights that hooks compute, outputs of the user's own types, modules that cannot be traced."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm

from edgespa.errors import ModelError, TraceError
from edgespa.graph.trace import trace
from edgespa.models.load import load_model
from edgespa.models.plain import register_outputs, store_computed_weights


def weight_normed(layer: nn.Linear) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(3)  # type: ignore[operator]


def pruned_twice(layer: nn.Linear) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.3)
    prune.random_unstructured(layer, "weight", amount=0.3)
    prune.random_unstructured(layer, "bias", amount=1)


@pytest.mark.parametrize("change", [weight_normed, spectral_norm, pruned_twice])
def test_computed_weights_become_plain_ones(change: Callable[[nn.Linear], Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    change(model[0])  # type: ignore[arg-type]
    model.eval()
    x = torch.randn(3, 6)
    expected = model(x).detach()
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    store_computed_weights(model)
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.allclose(copy.deepcopy(model)(x), expected, atol=1e-6)
    assert torch.allclose(trace(model, (x,))(x), expected, atol=1e-6)
    with torch.no_grad():
        model[0].weight.zero_()
    assert not torch.allclose(model(x), expected, atol=1e-3)  # nothing computes it any more


@dataclasses.dataclass
class Found:
    logits: Tensor
    more: Any = None


@dataclasses.dataclass
class Wrapped:
    found: Found


class Gives(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(x))


def test_dataclasses_in_the_output_are_registered_once() -> None:
    model = Gives(lambda y: [Wrapped(Found(y)), {"a": Found(y * 2)}]).eval()
    x = torch.randn(2, 4)
    with pytest.raises(TraceError):
        trace(model, (x,))
    assert register_outputs(model, (x,))
    assert not register_outputs(model, (x,))
    first, second = trace(model, (x,))(x)
    assert torch.allclose(first.found.logits, model.fc(x))
    assert torch.allclose(second["a"].logits, 2 * model.fc(x))


def test_nothing_is_registered_for_what_is_known_or_fails() -> None:
    x = torch.randn(2, 4)
    assert not register_outputs(Gives(lambda y: {"a": (y, [y])}), (x,))
    assert not register_outputs(nn.Linear(5, 2), (x,))


MODULES = """
import torch
from torch import nn
lazy = lambda: nn.Sequential(nn.LazyLinear(4))
scripted = lambda: torch.jit.script(nn.Linear(3, 4))
instance = nn.Sequential(nn.LazyBatchNorm1d())
normed = nn.utils.prune.identity(nn.Linear(3, 4), "weight")
"""


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("lazy", "0.weight has no shape yet", "run the module once"),
        ("instance", "0.weight has no shape yet", "run the module once"),
        ("normed", "cannot be copied", "a function that builds a fresh one"),
        ("scripted", "TorchScript", "before torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_modules_that_cannot_be_traced(tmp_path: Path, name: str, said: str, hint: str) -> None:
    (tmp_path / "net.py").write_text(MODULES)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(f"{tmp_path / 'net.py'}:{name}")
    assert hint in str(caught.value.hint)
