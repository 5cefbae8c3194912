"""A proof must be able to fail."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.errors import GraphError
from edgespa.graph.groups import find_groups
from edgespa.graph.program import Program
from edgespa.graph.proof import Proof, largest_difference, prove
from edgespa.graph.surgery import compact
from edgespa.graph.trace import trace


@pytest.fixture
def proved(zoo: Any, select: Any) -> Any:
    """A prover of the residual network, for one selection, against any compacted program."""
    case = zoo("residual")
    kept = select(case.groups, 1)
    kept["a"][:] = [True, False, True, True, False, True, True, False]
    small = compact(case.program, case.groups, kept)

    def against(program: Program) -> Proof:
        return prove(case.program, case.groups, kept, program, case.inputs)

    return small, against


def test_true_program_passes(proved: Any) -> None:
    small, against = proved
    proof = against(small)
    proof.require()
    assert proof.output_error <= proof.inner_error <= 1e-6


@pytest.mark.parametrize("name", ["a.weight", "n.weight", "n.running_mean", "c.bias", "b.weight", "fc.bias"])
def test_corrupt_tensor(proved: Any, name: str) -> None:
    small, against = proved
    tensor = small.state()[name].clone()
    tensor.view(-1)[0] += 0.1
    with pytest.raises(GraphError, match="differ by"):
        against(small.with_state({name: tensor})).require()


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "fc.weight"])
def test_swapped_channels(proved: Any, name: str) -> None:
    small, against = proved
    tensor = small.state()[name]
    dim = 0 if name == "a.weight" else 1
    swapped = tensor.index_select(dim, torch.tensor([1, 0, *range(2, tensor.shape[dim])]))
    with pytest.raises(GraphError, match="differ by"):
        against(small.with_state({name: swapped})).require()


def test_inner_error_that_the_output_hides(proved: Any) -> None:
    """Channels swapped inside, and swapped back before the output: only inner activations can tell."""
    small, against = proved
    order = torch.tensor([1, 0, *range(2, small.state()["c.weight"].shape[1])])
    state = small.state()
    swapped = {name: state[name][order] for name in ("b.weight", "b.bias")}
    hidden = small.with_state({**swapped, "c.weight": state["c.weight"][:, order]})
    proof = against(hidden)
    assert proof.output_error < 1e-6
    with pytest.raises(GraphError, match="at conv2d_1"):
        proof.require()


def test_wrong_selection(zoo: Any) -> None:
    """Shapes agree, other units: every later activation differs, and a difference found early is not forgotten."""
    case = zoo("residual")
    kept, other = case.groups.all_kept(), case.groups.all_kept()
    kept["a"][0], other["a"][1] = False, False
    with pytest.raises(GraphError, match="differ by"):
        prove(case.program, case.groups, kept, compact(case.program, case.groups, other), case.inputs).require()


def test_wrong_width_is_infinite(zoo: Any) -> None:
    case = zoo("residual")
    kept, other = case.groups.all_kept(), case.groups.all_kept()
    kept["b"][0], other["b"][:2] = False, False
    proof = prove(case.program, case.groups, kept, compact(case.program, case.groups, other), case.inputs)
    assert proof.inner_error == math.inf
    with pytest.raises(GraphError):
        proof.require()


def test_not_a_number_fails(proved: Any) -> None:
    small, against = proved
    with pytest.raises(GraphError):
        against(small.with_state({"b.bias": torch.full_like(small.state()["b.bias"], math.nan)})).require()


def test_not_a_number_on_both_sides_fails_too(zoo: Any, select: Any) -> None:
    case = zoo("residual")
    broken = case.program.state()["fc.bias"].clone()
    broken[0] = float("nan")
    program = case.program.with_state({"fc.bias": broken})
    kept = select(case.groups, 1)
    proof = prove(program, case.groups, kept, compact(program, case.groups, kept), case.inputs)
    with pytest.raises(GraphError, match="gives what is no number"):
        proof.require()


@pytest.mark.parametrize("place", [0, 1])
def test_the_largest_difference_of_pairs_is_infinite_for_what_is_no_number(place: int) -> None:
    before, after = [torch.ones(3), 2 * torch.ones(2)], [torch.ones(3), torch.tensor([2.0, 2.5])]
    assert largest_difference(before, after) == 0.25
    after[place][0] = float("nan")  # first or last of the pairs: a plain maximum would lose it in one of the two
    assert largest_difference(before, after) == math.inf
    before[place][0] = float("nan")
    assert largest_difference(before, after) == math.inf
    before[place][0] = after[place][0] = float("-inf")  # meant, as in a mask
    assert largest_difference(before, after) == 0.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_difference_is_that_of_the_magnitudes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(3, 50, generator=generator).to(dtype)
    after = before + 0.25 * torch.randn(3, 50, generator=generator).to(dtype)
    wanted = float((before.double() - after.double()).abs().max() / before.double().abs().max())
    assert largest_difference([before], [after]) == pytest.approx(wanted, rel=4 * torch.finfo(dtype).eps)
    assert largest_difference([-before], [-after]) == largest_difference([before], [after])
    assert largest_difference([before.T[::2]], [before.T[::2]]) == 0
    largest = torch.tensor([torch.finfo(dtype).max, 1.0], dtype=dtype)
    # Too large a difference for all types but the widest, in which it is computed.
    assert largest_difference([largest], [-largest]) == (math.inf if dtype == torch.float64 else 2.0)
    assert largest_difference([torch.zeros(2, dtype=dtype)], [torch.zeros(2, dtype=dtype)]) == 0
    assert largest_difference([torch.zeros(0, dtype=dtype)], [torch.zeros(0, dtype=dtype)]) == 0


def test_limit_is_the_callers() -> None:
    Proof(1e-3, 1e-3, "x", 1).require(1e-2)
    with pytest.raises(GraphError, match="at x"):
        Proof(1e-3, 1e-3, "x", 1).require()
    with pytest.raises(GraphError):
        Proof(math.nan, math.nan, "x", 1).require()


class Amplifier(nn.Module):
    """Rounding of the convolutions is made ten thousand times larger."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.b(torch.relu(self.a(x))) * 1e4)


def test_rounding_is_told_from_a_wrong_channel(select: Any, randomised: Any) -> None:
    """The proof is made in double precision where it fails in single precision, and can fail there too."""
    inputs = (torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)),)
    program = trace(randomised(Amplifier()), inputs)
    groups = find_groups(program)
    kept = select(groups, 1)
    small = compact(program, groups, kept)
    proof = prove(program, groups, kept, small, inputs)
    proof.require()
    assert proof.precision == "float64"
    assert proof.rounding is not None
    assert proof.worst < 1e-8 < 1e-5 < proof.rounding
    wrong = small.state()["b.weight"].clone()
    wrong[0, 0] += 0.01
    with pytest.raises(GraphError, match="differ by"):
        prove(program, groups, kept, small.with_state({"b.weight": wrong}), inputs).require()


class LowPrecisionAmplifier(Amplifier):
    """Names an element type, which a repetition in double precision must not go back to."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.float32).to(torch.float64).to(torch.float32))


def test_double_precision_asks_for_no_other(select: Any, randomised: Any) -> None:
    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    program = trace(randomised(LowPrecisionAmplifier()), inputs)
    groups = find_groups(program)
    kept = select(groups, 1)
    proof = prove(program, groups, kept, compact(program, groups, kept), inputs)
    assert proof.precision == "float64"
    assert proof.worst < 1e-8
    assert all(tensor.dtype == torch.float32 for tensor in program.state().values())


class Noisy(nn.Module):
    """Draws random numbers when it runs, as a masked autoencoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * torch.rand(6, 6))


def test_both_sides_draw_the_same_random_numbers(select: Any, randomised: Any) -> None:
    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    program = trace(randomised(Noisy()), inputs)
    groups = find_groups(program)
    kept = select(groups, 1)
    proof = prove(program, groups, kept, compact(program, groups, kept), inputs)
    proof.require()


def test_a_network_without_numbers_is_told_from_a_wrong_program(select: Any) -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)).mean((2, 3)).log()

    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    program = trace(Logarithm().eval(), (x,))
    groups = find_groups(program)
    kept = select(groups, 1)
    proof = prove(program, groups, kept, compact(program, groups, kept), (x,))
    assert proof.undefined == "log"
    with pytest.raises(GraphError, match="the network itself gives what is no number, first at log"):
        proof.require()
