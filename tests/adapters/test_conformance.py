"""Laws that every kind of adapter keeps, on every kind of layer. A new kind is added to `conftest.OPTIONS`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.factors import Factors, attach
from edgespa.adapters.insertion import inserted_tensors, is_inserted
from edgespa.adapters.kinds import KINDS
from edgespa.adapters.places import find_places
from edgespa.errors import AdapterError
from edgespa.graph.surgery import compact, masked, relative_indices
from edgespa.tasks import sealed

Case = Any  # see conftest


def outputs(program: Any, case: Case) -> Tensor:
    with torch.no_grad():
        result: Tensor = program(*case.base.example_inputs(batch=3))
    return result


def assert_close(one: Tensor, other: Tensor, limit: float = 2e-5) -> None:
    assert (one - other).abs().max() <= limit * other.abs().max()


def test_every_kind_is_tried(request: pytest.FixtureRequest) -> None:
    definitions: Any = request._fixturemanager.getfixturedefs("kind", request.node)
    assert {name.split(" ")[0] for name in definitions[-1].params} == set(KINDS)


def trained_of(model: AdaptedProgram) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.law(7)
def test_it_starts_near_the_base(case: Case) -> None:
    assert_close(outputs(case.fresh(), case), outputs(case.base, case), 1e-2)
    assert trained_of(case.fresh())


def test_inserted_operators_change_nothing_before_training(case: Case) -> None:
    assert_close(outputs(case.program, case), outputs(case.base, case), 1e-6)
    names = {name for name, _ in case.program.tensors() if not is_inserted(name)}
    assert names == {name for name, _ in case.base.tensors()}
    assert bool(inserted_tensors(case.program)) == (case.kind in ("convpass", "ssf"))


def test_a_step_of_training_moves_factors_and_never_the_base(case: Case) -> None:
    before = {name: tensor.clone() for name, tensor in case.program.state().items()}
    model = AdaptedProgram(case.program, copy.deepcopy(case.plan.adapters), case.plan.trained, case.plan.shared)
    model.set_training(True)
    model(*case.base.example_inputs(batch=4)).square().sum().backward()
    now = dict(model.program.tensors())
    frozen = set(now) - set(model.trained) - set(case.plan.statistics)
    assert frozen >= set(model.adapted)
    for name in frozen:
        assert not now[name].requires_grad
        assert now[name].grad is None
        assert torch.equal(now[name], before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.program.state().items())
    for name in model.adapted:
        assert all(parameter.grad is not None for parameter in model.adapter_of(name).parameters()), name
    for parameter in case.plan.shared.values():
        parameter.grad = None


def test_every_trained_value_matters(case: Case) -> None:
    """The output depends on each factor, once factors that start at zero have moved."""
    model = case.perturbed()
    model(*case.base.example_inputs(batch=4)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    factors = [p for n in model.adapted for p in model.adapter_of(n).parameters()]
    assert all(bool((p.grad != 0).any()) for p in factors if p.grad is not None)


def test_merged_is_unmerged(case: Case) -> None:
    model = case.perturbed()
    unmerged = outputs(model, case)
    assert (unmerged - outputs(case.base, case)).abs().max() > 0.05 * outputs(case.base, case).abs().max()
    assert_close(outputs(model.merged(), case), unmerged)


def shapes_of(program: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in program.tensors()}


def narrowed(case: Case, model: AdaptedProgram, seed: int) -> tuple[AdaptedProgram, Any]:
    kept = case.random_kept(seed)
    indices = relative_indices(case.groups, case.groups.all_kept(), kept)
    factors = Factors.of(model, case.plan.statistics)
    places = find_places(case.program)
    small = factors.narrowed(shapes_of(case.program), indices, case.kind, case.options, places=places)
    return attach(compact(case.program, case.groups, kept), small, case.kind, case.options, case.program), kept


@pytest.mark.law(5)
@pytest.mark.parametrize("seed", [0, 1])
def test_sliced_is_the_masked_program(case: Case, seed: int) -> None:
    """Removing units from weights and adapters equals zeroing them in the weights before and after adapting."""
    model = case.perturbed()
    small, kept = narrowed(case, model, seed)
    zeroed = masked(case.program, case.groups, kept)
    whole = attach(zeroed, Factors.of(model, case.plan.statistics), case.kind, case.options, case.program)
    expected = masked(whole.merged(), case.groups, kept)
    assert small.merged().parameter_count() < case.program.parameter_count()
    assert_close(outputs(small, case), outputs(expected, case))
    assert_close(outputs(small.merged(), case), outputs(expected, case))


@pytest.mark.law(7)
def test_slicing_twice_is_slicing_once(case: Case) -> None:
    model = case.perturbed()
    once, kept = narrowed(case, model, 0)
    half = {name: mask.copy() for name, mask in case.groups.all_kept().items()}
    for name in list(half)[::2]:
        half[name] = kept[name]
    places, every = find_places(case.program), case.groups.all_kept()
    factors = Factors.of(model, case.plan.statistics)
    shapes = shapes_of(case.program)
    first = relative_indices(case.groups, every, half)
    factors = factors.narrowed(shapes, first, case.kind, case.options, places=places)
    shapes = shapes_of(compact(case.program, case.groups, half))
    second = relative_indices(case.groups, half, kept)
    factors = factors.narrowed(shapes, second, case.kind, case.options, places=places)
    twice = Factors.of(once, case.plan.statistics).flat()
    assert factors.flat().keys() == twice.keys()
    assert all(torch.equal(tensor, twice[key]) for key, tensor in factors.flat().items())


@pytest.mark.law(7)
def test_running_averages_are_sliced_like_what_they_belong_to(case: Case) -> None:
    """An average that equals its parameter still does afterwards; factors without a gradient have none."""
    model = case.perturbed()
    small, kept = narrowed(case, model, 1)
    adapters = {n: {k: p.detach() for k, p in model.adapter_of(n).named_parameters()} for n in model.adapted}
    tensors = {n: t.detach() for n, t in model.program.tensors() if n in model.trained}
    averages = Factors(adapters, tensors, {n: t.detach() for n, t in model.shared.items()})
    indices = relative_indices(case.groups, case.groups.all_kept(), kept)
    whole = Factors.of(model, case.plan.statistics)
    places = find_places(case.program)
    result = averages.narrowed(shapes_of(case.program), indices, case.kind, case.options, places=places, like=whole)
    for name in small.adapted:
        for key, parameter in small.adapter_of(name).named_parameters():
            assert torch.equal(result.adapters[name][key], parameter)
    now = dict(small.program.tensors())
    assert all(torch.equal(result.tensors[name], now[name]) for name in small.trained)


@pytest.mark.law(7)
def test_stored_factors_give_the_same_program_bit_for_bit(case: Case, tmp_path: Path) -> None:
    small, kept = narrowed(case, case.perturbed(), 2)
    factors = Factors.of(small, case.plan.statistics)
    (tmp_path / "x").write_bytes(sealed.to_bytes("test", "", factors.flat()))
    again = Factors.from_flat(sealed.read(tmp_path / "x", "test")[1])
    model = attach(compact(case.program, case.groups, kept), again, case.kind, case.options, case.program)
    assert torch.equal(outputs(model, case), outputs(small, case))
    assert factors.size() == again.size()


@pytest.mark.law(7)
def test_settled_factors_compute_the_same(case: Case) -> None:
    small, kept = narrowed(case, case.perturbed(), 2)
    program = compact(case.program, case.groups, kept)
    factors = Factors.of(small, case.plan.statistics)
    settled = factors.settled(program, case.kind, case.options, case.program)
    assert settled.size() <= factors.size()
    assert torch.equal(
        outputs(attach(program, settled, case.kind, case.options, case.program), case), outputs(small, case)
    )


def test_a_value_that_is_not_finite_is_refused_by_the_tensors_name(case: Case) -> None:
    model = case.perturbed()
    if not model.adapted:
        pytest.skip("nothing to merge: the loop checks every trained tensor")
    name = model.adapted[-1]
    with torch.no_grad():
        next(model.adapter_of(name).parameters()).view(-1)[0] = float("nan")
    with pytest.raises(AdapterError, match=f"^{name}: .*not finite"):
        model.merged()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_weight_is_kept_and_factors_are_wide(kind: Any, dtype: torch.dtype) -> None:
    if kind.name == "convpass":
        pytest.skip("it adapts no weight")
    weight = torch.randn(24, 16, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    adapter = kind.adapter(weight)
    wide = torch.promote_types(dtype, torch.float32)
    assert all(p.dtype in (wide, torch.float32) for p in adapter.parameters())
    assert adapter(weight).dtype == dtype
    assert adapter.merged(weight).dtype == dtype
    exact = adapter.changed(weight.double())
    error = (adapter.merged(weight).double() - exact).abs().max()
    assert error <= torch.finfo(dtype).eps * 2 * exact.abs().max() + 1e-6


def test_factors_are_made_where_the_weight_is(kind: Any) -> None:
    if kind.name == "convpass":
        pytest.skip("it adapts no weight")
    adapter = kind.adapter(torch.empty(24, 16, 3, 3, device="meta"))
    assert {tensor.device.type for tensor in adapter.state_dict().values()} == {"meta"}


def test_the_seed_alone_decides_on_the_beginning(kind: Any, make: Callable[..., Any]) -> None:
    one = make(kind.name, "convolutions")
    torch.manual_seed(7)
    first, second = (Factors.of(each.fresh()).flat() for each in (one, make(kind.name, "convolutions")))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.law(4)
def test_a_program_in_double_precision(kind: Any, make: Callable[..., Any]) -> None:
    case = make(kind.name, "tokens", torch.float64)
    model = case.perturbed()
    assert outputs(model, case).dtype == torch.float64
    assert_close(outputs(model.merged(), case), outputs(model, case), 1e-12)
