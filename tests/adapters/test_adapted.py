"""Programs with adapters: the plan, the laws, training flags, slicing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.adapted import AdaptedProgram, plan
from edgespa.adapters.factors import Factors, attach, make_adapter
from edgespa.errors import AdapterError, ConfigError, GraphError
from edgespa.graph.program import Program
from edgespa.graph.surgery import compact, head_tensors, relative_indices
from edgespa.graph.trace import trace
from edgespa.tasks.base import Base

OPTIONS = {"rank": 4, "kernel": "centre"}


def adapted_program(program: Program, method: str = "splora", scale: float = 0.3) -> AdaptedProgram:
    generator = torch.Generator().manual_seed(0)
    made = plan(program, method, OPTIONS, head_tensors(program), generator)
    result = AdaptedProgram(program, made.adapters, made.trained)
    with torch.no_grad():
        for adapter in result.adapters.values():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return result


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 4, 32))
        self.norm = nn.LayerNorm(32)
        self.mix = nn.Linear(32, 48)
        self.head = nn.Linear(48, 5)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(torch.relu(self.mix(self.norm(tokens))).mean(1) * self.scale)


def test_every_tensor_is_adapted_trained_or_frozen_with_a_reason() -> None:
    torch.manual_seed(0)
    program = trace(Embedded(), (torch.randn(2, 3, 8, 8),))
    made = plan(program, "splora", OPTIONS, head_tensors(program), torch.Generator())
    assert set(made.adapters) == {"patch.weight", "mix.weight"}
    assert made.trained == {
        "patch.bias": "norm or bias",
        "norm.weight": "norm or bias",
        "norm.bias": "norm or bias",
        "mix.bias": "norm or bias",
        "head.weight": "head",
        "head.bias": "head",
    }
    assert made.frozen == {"position": "not the weight of a linear or convolution layer", "scale": "a buffer"}
    assert made.statistics == ()


def test_norms_depthwise_and_statistics(toy_base: Base) -> None:
    program = toy_base.program
    made = plan(program, "splora", OPTIONS, head_tensors(program), torch.Generator())
    assert set(made.adapters) == {"conv1.weight", "conv2.weight", "conv3.weight"}
    assert made.trained["depthwise.weight"] == "an adapter would not be smaller"
    assert made.trained["bn1.weight"] == "norm or bias"
    assert set(made.statistics) == {f"bn{n}.running_{what}" for n in (1, 2) for what in ("mean", "var")}
    assert not made.frozen


def test_full_trains_every_parameter(toy_base: Base) -> None:
    made = plan(toy_base.program, "full", {}, (), torch.Generator())
    parameters = {n for n, tensor in toy_base.program.tensors() if isinstance(tensor, nn.Parameter)}
    assert set(made.trained) == parameters
    assert not made.adapters
    assert len(made.statistics) == 4


def test_an_unknown_method_is_refused(toy_base: Base) -> None:
    with pytest.raises(ConfigError, match="'lora9'"):
        plan(toy_base.program, "lora9", OPTIONS, (), torch.Generator())


def test_merged_is_unmerged(toy_base: Base) -> None:
    model = adapted_program(toy_base.program)
    inputs = toy_base.program.example_inputs(batch=4)
    with torch.no_grad():
        unmerged, base = model(*inputs), toy_base.program(*inputs)
        merged = model.merged()(*inputs)
    assert (unmerged - base).abs().max() > 0.1 * base.abs().max()
    torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.merged().module.parameters())


def test_a_fresh_adapter_is_near_the_base(toy_base: Base) -> None:
    inputs = toy_base.program.example_inputs(batch=4)
    with torch.no_grad():
        difference = (adapted_program(toy_base.program, scale=0)(*inputs) - toy_base.program(*inputs)).abs().max()
        assert 0 < difference < 0.01 * toy_base.program(*inputs).abs().max()


def test_training_changes_the_task_and_never_the_base(toy_base: Base) -> None:
    before = {name: tensor.clone() for name, tensor in toy_base.program.state().items()}
    model = adapted_program(toy_base.program, scale=0)
    frozen = {name: dict(model.program.tensors())[name].detach().clone() for name in model.adapted}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.set_training(True)
    model(*toy_base.program.example_inputs(batch=8)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(toy_base.program.state()[name], tensor) for name, tensor in before.items())
    now = dict(model.program.tensors())
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    assert all(not now[name].requires_grad and now[name].grad is None for name in model.adapted)
    assert not torch.equal(now["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(now["fc.weight"], before["fc.weight"])
    assert all(p.grad is not None for adapter in model.adapters.values() for p in adapter.parameters())


def test_training_flags(toy_base: Base) -> None:
    def flags(model: AdaptedProgram) -> dict[str, bool]:
        positions = {"batch_norm": 5, "dropout": 2}
        return {
            node.name: node.args[positions[name]]
            for node in model.module.graph.nodes
            if node.op == "call_function" and (name := node.target._schema.name.split("::")[1]) in positions
        }

    model = adapted_program(toy_base.program)
    assert flags(model) == {"batch_norm": False, "batch_norm_1": False, "dropout": False}
    model.set_training(True)
    assert all(flags(model).values())
    inputs = toy_base.program.example_inputs(batch=8)
    with torch.no_grad():
        assert not torch.equal(model(*inputs), model(*inputs))  # dropout draws
    model.set_training(True, freeze_norms=True)
    assert flags(model) == {"batch_norm": False, "batch_norm_1": False, "dropout": True}
    model.set_training(False)
    assert not any(flags(model).values())
    with torch.no_grad():
        assert torch.equal(model(*inputs), model(*inputs))


def test_a_norm_without_statistics_is_never_switched_off() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Flatten(), nn.Linear(8 * 36, 3)
    )
    program = trace(net, (torch.randn(2, 3, 8, 8),))
    model = adapted_program(program, scale=0)
    inputs = program.example_inputs(batch=4)
    model.set_training(True)
    model.set_training(False)
    with torch.no_grad():
        torch.testing.assert_close(model.merged()(*inputs), model(*inputs))


def test_a_merge_that_is_not_finite_names_the_tensor(toy_base: Base) -> None:
    model = adapted_program(toy_base.program)
    with torch.no_grad():
        next(model.adapter_of("conv2.weight").parameters())[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"^conv2\.weight: .*not finite"):
        model.merged()


def factors_of(model: AdaptedProgram) -> Factors:
    adapters = {name: model.adapter_of(name).tensors() for name in model.adapted}
    return Factors(adapters, model.task_tensors(["bn1.running_mean", "bn1.running_var"]))


def test_slicing_the_factors_is_slicing_the_merged_program(toy_base: Base) -> None:
    groups = toy_base.groups
    model = adapted_program(toy_base.program)
    random = np.random.default_rng(0)
    one = {name: random.random(len(group)) < 0.7 for name, group in groups.groups.items()}
    two = {name: mask & (random.random(len(mask)) < 0.7) for name, mask in one.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in toy_base.program.tensors()}
    factors = factors_of(model).narrowed(shapes, relative_indices(groups, groups.all_kept(), one), "splora", OPTIONS)
    shapes = {name: tuple(t.shape) for name, t in compact(toy_base.program, groups, one).tensors()}
    factors = factors.narrowed(shapes, relative_indices(groups, one, two), "splora", OPTIONS)
    small = attach(compact(toy_base.program, groups, two), factors, "splora", OPTIONS).merged()
    expected = compact(model.merged(), groups, two)
    assert small.state().keys() == expected.state().keys()
    for name, tensor in expected.state().items():
        torch.testing.assert_close(small.state()[name], tensor, msg=name)
    assert small.parameter_count() < model.merged().parameter_count()


def test_training_an_attached_program_leaves_its_factors_as_they_were(toy_base: Base) -> None:
    factors = factors_of(adapted_program(toy_base.program))
    before = factors.copied().flat()
    model = attach(toy_base.program, factors, "splora", OPTIONS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in factors.flat().items())


def test_factors_go_flat_and_back() -> None:
    factors = Factors({"a.b/c": {"up": torch.ones(1)}}, {"x/y": torch.zeros(2)})
    assert set(factors.flat()) == {"adapter/a.b/c/up", "tensor/x/y"}
    again = Factors.from_flat(factors.flat())
    assert set(again.adapters) == {"a.b/c"}
    assert set(again.tensors) == {"x/y"}
    assert factors.size() == 3


@pytest.mark.parametrize("key", ["adapter/up", "tensor/", "other/x", "adapter//up", "adapter/x/", ""])
def test_a_key_of_no_known_form_is_refused(key: str) -> None:
    with pytest.raises(AdapterError, match="unexpected tensor"):
        Factors.from_flat({key: torch.zeros(1)})


def test_factors_that_do_not_belong_to_the_program_are_refused_by_name(toy_base: Base) -> None:
    factors = {"up": torch.zeros(16, 2), "down": torch.zeros(2, 3)}
    with pytest.raises(AdapterError, match=r"no tensor named conv9\.weight"):
        attach(toy_base.program, Factors({"conv9.weight": factors}), "splora", OPTIONS)
    with pytest.raises(AdapterError, match=r"conv2\.weight: .*do not fit"):
        attach(toy_base.program, Factors({"conv2.weight": factors}), "splora", OPTIONS)
    with pytest.raises(AdapterError, match="unknown adapter kind 'lora9'"):
        make_adapter("lora9", factors, OPTIONS, "conv1.weight", (16, 3, 3, 3))
    with pytest.raises(GraphError, match=r"bn1\.weight: expected \(16,\)"):
        attach(toy_base.program, Factors({}, {"bn1.weight": torch.zeros(5)}), "splora", OPTIONS)


def test_views_take_images_in_any_layout() -> None:
    """As text readers have them: a map becomes columns by a view."""

    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            n, c, h, w = y.shape
            return self.last(y.view(n, c * h, w).mean(2))

    program = trace(Columns(), (torch.randn(2, 3, 4, 6),))
    images = torch.randn(3, 3, 4, 6)
    adapted = AdaptedProgram(program, {}, ())
    torch.testing.assert_close(adapted(images.to(memory_format=torch.channels_last)), program(images))
