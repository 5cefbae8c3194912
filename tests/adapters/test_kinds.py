"""LoRA, SSF and RepAdapter by hand; what a kind may be asked; kinds of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import pytest
import torch

from edgespa.adapters import kinds
from edgespa.adapters.base import Adapter, Place
from edgespa.adapters.kinds import FULL, KINDS, default_lr, kind_named, method_names, options_of
from edgespa.adapters.lora import LoRA
from edgespa.adapters.repadapter import RepAdapter
from edgespa.adapters.splora import SPLoRA
from edgespa.adapters.ssf import SSF
from edgespa.errors import AdapterError, ConfigError


def test_lora_by_hand() -> None:
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 5.0]])
    adapter = LoRA.from_tensors({"up": up, "down": down}, {"rank": 1, "alpha": 4.0}, (2, 2))
    assert adapter.delta().tolist() == [[12, 20], [24, 40]]
    fresh = LoRA.for_weight(torch.ones(8, 8, 3, 3), {"rank": 2, "alpha": 1.0}, torch.Generator())
    assert fresh is not None
    assert torch.equal(fresh(torch.ones(8, 8, 3, 3)), torch.ones(8, 8, 3, 3))  # exactly the base at the start
    assert fresh.down.shape == (2, 72)


def test_ssf_by_hand() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    scaled = SSF.from_tensors({"scale": torch.tensor([[2.0], [10.0]])}, {}, (2, 3))(weight)
    assert scaled.tolist() == [[0, 2, 4], [30, 40, 50]]
    transposed = Place("conv_transpose", 1, 0)
    scaled = SSF.from_tensors({"scale": torch.tensor([[1.0, 0.0, 3.0]])}, {}, (2, 3), transposed)(weight)
    assert scaled.tolist() == [[0, 0, 6], [3, 0, 15]]
    with pytest.raises(AdapterError, match="does not fit"):
        SSF.from_tensors({"scale": torch.ones(3, 1)}, {}, (2, 3))
    with pytest.raises(AdapterError, match="'scale'"):
        SSF.from_tensors({}, {}, (2, 3))


def test_repadapter_is_the_layer_after_a_linear_adapter() -> None:
    """W (x + s up down x), computed as the paper draws it."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 6, generator=generator), torch.randn(6, generator=generator)
    up, down = torch.randn(6, 3, generator=generator), torch.randn(3, 6, generator=generator)
    adapter = RepAdapter.from_tensors({"up": up, "down": down}, {"scale": 0.3}, (5, 6))
    torch.testing.assert_close(adapter(weight) @ x, weight @ (x + 0.3 * up @ (down @ x)))


def test_repadapter_in_groups_by_hand() -> None:
    """The first three channels are written by the first half of the rank, the others by the second."""
    up = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    block = torch.tensor([0, 0, 0, 1, 1, 1], dtype=torch.uint8)
    down = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0]])
    adapter = RepAdapter.from_tensors({"up": up, "down": down, "block": block}, {"scale": 1.0}, (1, 6))
    # W = ones: channel 0 is spread by 1 + 2 + 3, channel 5 by 4 + 5 + 6
    assert adapter(torch.ones(1, 6)).tolist() == [[7, 1, 1, 1, 1, 16]]
    with pytest.raises(AdapterError, match="do not fit"):
        RepAdapter.from_tensors({"up": up, "down": down, "block": block + 1}, {}, (1, 6))
    with pytest.raises(AdapterError, match="do not fit"):
        RepAdapter.from_tensors({"up": up, "down": down}, {}, (1, 6))


def test_repadapter_before_a_padded_convolution_is_exact_at_the_border() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(4, 6, 3, 3, generator=generator), torch.randn(1, 6, 5, 5, generator=generator)
    up, down = torch.randn(6, 2, generator=generator), torch.randn(2, 6, generator=generator)
    adapter = RepAdapter.from_tensors({"up": up, "down": down}, {"scale": 1.0}, (4, 6, 3, 3))
    before = x + torch.einsum("ij,njhw->nihw", up @ down, x)
    expected = torch.nn.functional.conv2d(before, weight, padding=1)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, adapter(weight), padding=1), expected)


def test_layers_that_do_not_fit() -> None:
    generator = torch.Generator()
    rep = {"rank": 8, "scale": 1.0, "groups": 2}
    assert RepAdapter.for_weight(torch.zeros(24, 1, 3, 3), rep, generator, Place("conv", groups=24)) is None
    assert RepAdapter.for_weight(torch.zeros(4, 8), rep, generator) is None  # 8 * 12 elements for 32
    assert RepAdapter.for_weight(torch.zeros(100, 8), rep, generator, Place("embedding", 1, 0)) is None
    assert SSF.for_weight(torch.zeros(100, 8), {}, generator, Place("embedding", 1, 0)) is None
    assert LoRA.for_weight(torch.zeros(24, 1, 3, 3), {"rank": 2}, generator) is None


def test_options_have_defaults_and_are_checked() -> None:
    assert options_of("splora", {}) == {"rank": 8, "kernel": "centre"}
    assert options_of("lora", {"alpha": 16}) == {"rank": 8, "alpha": 16.0}
    assert options_of(FULL, {}) == {}
    for name, given, text in (
        ("splora", {"alpha": 1.0}, "no option alpha"),
        ("splora", {"kernel": "edge"}, "'edge'"),
        ("lora", {"rank": "many"}, "'many'"),
        ("lora", {"alpha": 0.0}, "alpha must be positive"),
        ("repadapter", {"rank": 5, "groups": 2}, "rank 5 cannot have 2 groups"),
        ("convpass", {"dim": 0}, "width 0"),
        ("splopa", {"mask": "some"}, "'some'"),
        ("splopa", {"block": 0}, "at least 1"),
        ("splopa", {"threshold": 2.0}, "threshold must be in"),
        ("splopa", {"penalty": -1.0}, "penalty"),
        (FULL, {"rank": 3}, "no option rank"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            options_of(name, given)
        assert caught.value.hint


def test_learning_rates_are_positive() -> None:
    assert all(default_lr(name) > 0 for name in (*KINDS, FULL))


class Mine(SPLoRA):
    kind = "mine"
    defaults = MappingProxyType({"rank": 2, "kernel": "full"})


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", "mine_package:Mine", kinds.GROUP),
        EntryPoint("broken", "no_such_module:X", kinds.GROUP),
        EntryPoint("wrong", "collections:OrderedDict", kinds.GROUP),
    ]
    real = EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda self: Mine if self.name == "mine" else real(self))
    monkeypatch.setattr(kinds, "entry_points", lambda group: points if group == kinds.GROUP else [])


def test_a_kind_of_another_package(plugins: None) -> None:
    from edgespa.adaptation.config import AdaptConfig

    assert kind_named("mine") is Mine
    assert method_names()[-3:] == ("mine", "broken", "wrong")
    assert AdaptConfig(adapter="mine", rank=3).adapter_options == {"rank": 3, "kernel": "centre"}


@pytest.mark.parametrize(
    ("name", "text"), [("broken", "cannot be imported"), ("wrong", "not a subclass"), ("x", "'x'")]
)
def test_a_kind_that_is_of_no_use(plugins: None, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        kind_named(name)
    assert caught.value.hint


def test_every_kind_says_what_it_is() -> None:
    for name, kind in KINDS.items():
        assert issubclass(kind, Adapter)
        assert kind.kind == name
        assert options_of(name, {}) == dict(kind.defaults)
        values: Any = kind.defaults.values()
        assert all(type(value) in (int, float, str) for value in values)
