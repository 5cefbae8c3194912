"""Programs made plain: what they take, what they give, and in which type they compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgespa.graph.program import Program
from edgespa.graph.trace import from_exported, trace
from edgespa.models.interface import (
    in_float32,
    input_and_output_names,
    output_shapes,
    output_tensors,
    runs_whole,
    with_batch_first,
    with_plain_inputs,
    with_plain_outputs,
)


class Nested(nn.Module):
    """Takes a dict and a keyword, gives a nest."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, batch: dict[str, Tensor], *, scale: Tensor) -> dict[str, Any]:
        y = self.fc(batch["x"] + batch["y"])
        return {"second": [y * scale, None, 7], "first": y}


def nested() -> tuple[Nested, Program, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Nested().eval()
    x, y, scale = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 3)
    program = from_exported(torch.export.export(model, ({"x": x, "y": y},), {"scale": scale}))
    return model, program, x, y, scale


def test_nested_inputs_are_given_one_after_the_other() -> None:
    model, program, x, y, scale = nested()
    plain = with_plain_inputs(program)
    assert [spec.name for spec in plain.inputs] == ["batch_x", "batch_y", "scale"]
    expected = model({"x": x, "y": y}, scale=scale)
    given = plain(x, y, scale)
    assert torch.equal(given["first"], expected["first"])
    assert torch.equal(given["second"][0], expected["second"][0])
    assert given["second"][1:] == [None, 7]
    assert torch.equal(plain.copy()(x, y, scale)["first"], expected["first"])
    assert torch.equal(program.module({"x": x, "y": y}, scale=scale)["first"], expected["first"])


def test_plain_inputs_stay_as_they_are() -> None:
    program = trace(nn.Linear(4, 3), (torch.randn(2, 4),))
    assert with_plain_inputs(program) is program


def test_outputs_are_the_tensors_in_order() -> None:
    _, program, x, y, scale = nested()
    nest = program.module({"x": x, "y": y}, scale=scale)
    tensors = with_plain_outputs(with_plain_inputs(program))(x, y, scale)
    assert isinstance(tensors, tuple)
    assert [t.tolist() for t in tensors] == [t.tolist() for t in output_tensors(nest)]
    assert len(tensors) == 2


def test_a_single_output_is_itself() -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor | None]:
            return {"x": x * 2, "none": None}

    program = with_plain_outputs(trace(One(), (torch.ones(2, 3),)))
    assert torch.equal(program(torch.ones(5, 3)), torch.full((5, 3), 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_type_becomes_float32(dtype: torch.dtype) -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return self.fc(x).to(dtype) + torch.ones(3, dtype=dtype)[index]

    torch.manual_seed(0)
    model = Typed().to(dtype)
    x, index = torch.randn(2, 4), torch.zeros(2, 1, dtype=torch.long)
    program = trace(model, (x.to(dtype), index))
    single = in_float32(program)
    assert [spec.dtype for spec in single.inputs] == [torch.float32, torch.int64]
    assert {tensor.dtype for tensor in single.state().values()} == {torch.float32}
    assert {spec.dtype for spec in program.inputs} == {dtype, torch.int64}
    given = single(x, index)
    assert given.dtype == torch.float32
    expected = x @ model.fc.weight.float().T + model.fc.bias.float() + 1
    assert torch.allclose(given, expected, atol=1e-6)
    assert in_float32(single) is single


def test_tensors_of_anything(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Unknown:
        x: Tensor

    one, two = torch.ones(1), torch.ones(2)
    assert [len(t) for t in output_tensors({"b": [two, None, 3.0], "a": (one, "text")})] == [2, 1]
    assert output_tensors(Unknown(one)) == []


class Named(nn.Module):
    """Gives names that are taken: by an input, and by one of its own tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, image: Tensor, gain: Tensor) -> dict[str, Any]:
        y = image * gain * self.weight
        return {"mask": y, "parts": (y.sum(1), None), "gain": gain * 2, "weight": y + 1}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, x + 1, x * 2


def test_names_are_those_of_the_model_and_all_different() -> None:
    named = input_and_output_names(trace(Named(), (torch.ones(2, 3), torch.ones(2, 3))))
    assert named == (["image", "gain"], ["mask", "parts_0", "output_gain", "output_weight"])
    assert input_and_output_names(trace(Pair(), (torch.ones(2, 3),))) == (["input"], ["output_0", "output_1"])
    assert input_and_output_names(trace(nn.ReLU(), (torch.ones(2, 3),))) == (["input"], ["output"])


class Given(nn.Module):
    """A layer, and what becomes of its result."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.fc, self.run = nn.Linear(5, 6), run

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        return self.run(self.fc(x), *more)


ROWS, STATE = torch.randn(1, 4, 5), torch.randn(2, 1, 6)
BATCH_ELSEWHERE: dict[str, tuple[Any, tuple[Tensor, ...], tuple[tuple[int, ...], ...]]] = {
    "second": (lambda y: y.transpose(0, 1), (ROWS,), ((4, 1, 6),)),
    "last": (lambda y: y.permute(1, 2, 0), (ROWS,), ((4, 6, 1),)),
    "merged": (lambda y: y.flatten(0, 1), (ROWS,), ((4, 6),)),
    "nowhere": (lambda y: (y, y.mean()), (ROWS,), ((1, 4, 6), ())),
    "constant": (lambda y: (y, torch.arange(3.0) * 2), (ROWS,), ((1, 4, 6), (3,))),
    "state": (lambda y, s: (y[:, 0] + s[0], torch.stack([y[:, 0], y[:, 1]])), (ROWS, STATE), ((1, 6), (2, 1, 6))),
}


@pytest.mark.parametrize("name", BATCH_ELSEWHERE)
def test_a_batch_that_is_not_first_is_fixed(name: str) -> None:
    run, inputs, sizes = BATCH_ELSEWHERE[name]
    model = Given(run).eval()
    program = with_plain_outputs(trace(model, inputs))
    assert program.dynamic_batch
    fixed = with_batch_first(program)
    assert [spec.shape for spec in fixed.inputs] == [tuple(each.shape) for each in inputs]
    assert output_shapes(fixed) == sizes
    assert runs_whole(fixed) == (name != "nowhere")
    assert not runs_whole(program)
    assert fixed.state().keys() == program.state().keys()
    for one, other in zip(output_tensors(fixed(*inputs)), output_tensors(model(*inputs)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_that_is_first_stays_free() -> None:
    for run in (lambda y: y, lambda y: {"a": y, "b": [y.sum((1, 2)), y[:, :, None]]}):
        program = with_plain_outputs(trace(Given(run).eval(), (ROWS,)))
        assert with_batch_first(program) is program
        assert {shape[0] for shape in output_shapes(program)} == {None}
