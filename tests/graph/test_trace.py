"""From a module to a program: what tracing keeps, what it refuses, and what it says then."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from edgespa.errors import TraceError
from edgespa.graph.functional import mutates
from edgespa.graph.program import BATCH
from edgespa.graph.trace import trace

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the error must name
            return x + 1
        return x


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return x + 1


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


class WritesWideIntoHalf(nn.Module):
    """The in-place addition keeps the half that it writes to; the functional one would widen it."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x.half() * 2
        y += self.shift
        return y * 2


class WritesThroughViews(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        first, second = y.split([1, 2], 1)
        first.add_(1)
        y.view(-1, 3, 64)[:, 2].mul_(3)
        return torch.cat([y, second.relu_()], 1) + y.sum()


class WritesIntoParts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1] += 1
        y[:, 1, 2:4] = -3
        inner = y[:, 1:]
        inner[:, 0] *= 5
        return inner.sum(1, keepdim=True) + y.relu_()


class ReadsAViewLater(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        first = y[:, :1]
        row = first[:, 0]
        y[:, 0] = 7
        return first + row.unsqueeze(1) + y


class ReadsAViewOfWhatIsWrittenWhole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        first = y[:, :1]
        y.add_(1)
        first.mul_(3)
        return first + y


class WritesAPartTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        first = y[:, :1]
        first.add_(1)
        first.mul_(3)
        return y + first


class WritesTheWholeAfterAPart(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        first = y[:, :1]
        first.add_(1)
        row = first.flatten(2)
        y.mul_(3)
        return y + first + row.unflatten(2, (8, 8))


class FoldsFrames(nn.Module):
    """A video of four frames is four images of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).reshape(-1, 4, x.shape[1]).mean(1)


class SizeFromData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat[flat[:, 0] > 0] * 2


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 3, 64).sum(2)


def test_program_computes_what_the_model_does_at_any_batch() -> None:
    model = Small().eval()
    program = trace(model, (IMAGE,))
    assert program.inputs[0].shape == (BATCH, 3, 8, 8)
    assert program.dynamic_batch
    assert set(program.state()) == {
        "conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
    }  # fmt: skip
    for size in (1, 2, 5):
        inputs = program.example_inputs(size, seed=size)
        assert inputs[0].shape == (size, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), model(*inputs))


def test_model_in_train_mode_is_not_changed() -> None:
    model = Small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = trace(model, (IMAGE,))
    assert model.training
    assert model.norm.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():  # traced in evaluation mode all the same
        torch.testing.assert_close(program(IMAGE), model.eval()(IMAGE))
    program.module.conv.weight.data.zero_()
    assert torch.equal(model.conv.weight, before["conv.weight"])


def test_parametrized_model_is_not_changed() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    before = model(IMAGE)
    program = trace(model, (IMAGE,))
    assert set(program.state()) == {"0.weight", "0.bias"}
    torch.testing.assert_close(model(IMAGE), before)
    torch.testing.assert_close(program(IMAGE), before)
    model[0].parametrizations.weight.original0.grad = None
    model(IMAGE).sum().backward()
    assert model[0].parametrizations.weight.original0.grad is not None


def test_data_dependent_branch_names_the_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Branching(), (IMAGE,))
    lines, first = inspect.getsourcelines(Branching)
    line = first + next(i for i, text in enumerate(lines) if "x.sum() > 0" in text)
    assert re.search(rf"test_trace\.py:{line} in forward: if x\.sum\(\) > 0", caught.value.message)
    assert caught.value.hint is not None
    assert "control flow" in caught.value.hint


def test_wrong_input_names_the_line() -> None:
    with pytest.raises(TraceError, match=r"test_trace\.py:\d+ in forward.*\n.*channels"):
        trace(Small(), (torch.zeros(2, 4, 8, 8),))


def test_dropout_in_place_on_a_view_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(144, 5)).eval()
    program = trace(model, (IMAGE,))
    names = [str(node.target) for node in program.graph.nodes]
    assert "aten.flatten.using_ints" in names  # the graph was not lowered to take the dropout apart from its view
    assert not [name for name in names if "dropout" in name]
    torch.testing.assert_close(program(IMAGE), model(IMAGE))


def test_sizes_that_depend_on_data_are_refused_with_the_line() -> None:
    with pytest.raises(TraceError, match=r"depends on the values of the inputs at .*test_trace.py:\d+ .*flat\[flat"):
        trace(SizeFromData(), (IMAGE,))


@pytest.mark.parametrize("model", [WritesInput(), WritesBuffer()])
def test_model_that_writes_outside_itself_is_refused(model: nn.Module) -> None:
    with pytest.raises(TraceError, match="writes to its inputs or to its buffers"):
        trace(model, (IMAGE,))


@pytest.mark.parametrize(
    "model",
    [
        WritesWideIntoHalf(), WritesThroughViews(), WritesIntoParts(), ReadsAViewLater(),
        ReadsAViewOfWhatIsWrittenWhole(), WritesAPartTwice(), WritesTheWholeAfterAPart(),
    ],
)  # fmt: skip
def test_in_place_operators_become_functional(model: nn.Module) -> None:
    model.requires_grad_(False)
    program = trace(model, (IMAGE,))
    assert not mutates(program.graph)
    assert program.dynamic_batch
    for size in (1, 3):
        inputs = program.example_inputs(size)
        expected = model(*(tensor.clone() for tensor in inputs))
        actual = program(*inputs)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected)


def test_fixed_batch_is_kept_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="edgespa.graph.trace"):
        program = trace(FixedBatch(), (torch.zeros(4, 3, 8, 8),))
    assert program.inputs[0].shape == (4, 3, 8, 8)
    assert not program.dynamic_batch
    assert program.example_inputs(7)[0].shape == (4, 3, 8, 8)
    assert "batches of 4 only" in caplog.text


def test_batch_that_must_be_a_multiple_is_kept_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="edgespa.graph.trace"):
        program = trace(FoldsFrames(), (torch.zeros(8, 3, 8, 8),))
    assert program.inputs[0].shape == (8, 3, 8, 8)
    assert program(*program.example_inputs()).shape == (2, 3)
    assert "batches of 8 only" in caplog.text


def test_program_is_changed_only_through_copies() -> None:
    program = trace(Small(), (IMAGE,))
    weight = program.state()["conv.weight"].clone()
    other = program.with_state({"conv.weight": torch.zeros_like(weight)})
    assert not other.state()["conv.weight"].any()
    assert torch.equal(program.state()["conv.weight"], weight)
    copied = program.copy()
    copied.module.conv.weight.data.zero_()
    assert torch.equal(program.state()["conv.weight"], weight)


class Open(nn.Module):
    """Star arguments that nothing is given to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, *args: Tensor, **kwargs: Any) -> Tensor:
        return self.fc(x)


class Options(Open):
    def forward(self, x: Tensor, scale: Tensor | None = None, *args: Any, flag: bool = False, **more: Any) -> Tensor:  # type: ignore[override]
        return self.fc(x) if scale is None else self.fc(x) * scale


class All(Open):
    def forward(self, *tensors: Tensor, **kwargs: Any) -> Tensor:
        return self.fc(sum(tensors))  # type: ignore[arg-type]


class Keywords(Open):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.fc(x)


@pytest.mark.parametrize(
    ("kind", "count"), [(Open, 1), (Open, 2), (Open, 3), (Options, 1), (Options, 2), (All, 1), (All, 3), (Keywords, 1)]
)
def test_star_arguments_do_not_fix_the_batch(
    kind: type[nn.Module], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [(1, 4), (1, 3) if kind is Options else (1, 4), (1, 4)][:count]
    program = trace(kind().eval(), [torch.randn(each) for each in sizes])
    assert program.inputs[0].shape == (BATCH, 4)
    assert program(*(torch.randn(5, *each[1:]) for each in sizes)).shape == (5, 3)
    assert "batches of" not in caplog.text


class Bank(nn.Module):
    def __init__(self, given: str) -> None:
        super().__init__()
        self.a, self.b, self.given = nn.Linear(5, 6), nn.Linear(4, 6), given

    def forward(self, one: Tensor, other: Tensor) -> Any:
        x, table = (one, other) if self.given == "last" else (other, one)
        return self.a(x) @ self.b(table).T, self.a(x)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("given", ["first", "last"])
def test_an_input_without_a_batch_keeps_its_size(given: str, rows: int) -> None:
    inputs = [torch.randn(1, 5), torch.randn(rows, 4)]
    order = inputs if given == "last" else inputs[::-1]
    program = trace(Bank(given).eval(), order)
    shapes = {spec.shape for spec in program.inputs}
    assert shapes == {(BATCH, 5), (rows, 4)}
    many = [torch.randn(7, 5), torch.randn(rows, 4)]
    scores, _ = program(*(many if given == "last" else many[::-1]))
    assert scores.shape == (7, rows)


def test_two_batches_that_never_meet_are_both_free() -> None:
    class Towers(Open):
        def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
            return self.fc(x), self.fc(y)

    program = trace(Towers().eval(), [torch.randn(1, 4), torch.randn(1, 4)])
    assert [spec.shape for spec in program.inputs] == [(BATCH, 4), (BATCH, 4)]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_has_its_batch_behind_the_layers(layers: int) -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 6, layers, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            y, state = self.rnn(x, state)
            return self.head(y[:, -1]), state

    model = Streaming().eval()
    program = trace(model, (torch.randn(1, 5, 3), torch.zeros(layers, 1, 6)))
    assert [spec.shape for spec in program.inputs] == [("batch", 5, 3), (layers, "batch", 6)]
    for batch in (1, 4):
        inputs = torch.randn(batch, 5, 3), torch.randn(layers, batch, 6)
        for own, wanted in zip(program(*inputs), model(*inputs), strict=True):
            torch.testing.assert_close(own, wanted)
