"""Models as they come, from end to end: inspect and prune as a user types them, the same values, and the first law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn
from torch.export import Dim

from edgespa.cli import main
from edgespa.errors import ModelError
from edgespa.graph.proof import prove
from edgespa.graph.surgery import compact, masked
from edgespa.models.imports import find_object
from edgespa.models.inputs import InputSize
from edgespa.models.interface import output_tensors
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

NETS = '''
import dataclasses
from collections import namedtuple

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.fc = nn.Linear(24, 5)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)

    def features(self, x):
        return torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x)))))

    def pooled(self, x):
        return self.features(x).mean((2, 3))

    def forward(self, x):
        return self.fc(self.pooled(x))


class Two(Net):
    """A picture and some words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 24)

    def forward(self, x, ids):
        return self.fc(self.pooled(x) + self.words(ids).mean(1))


class Twins(Net):
    """Two pictures, and a mask of yes and no."""

    def forward(self, one, other, mask):
        return self.fc(torch.where(mask, self.pooled(one), self.pooled(other)))


class Tuple(Net):
    def forward(self, x):
        y = self.pooled(x)
        return self.fc(y), [y.sum(1), None]


class Dict(Net):
    def forward(self, x):
        y = self.pooled(x)
        return {"logits": self.fc(y), "energy": y.sum(1)}


Pair = namedtuple("Pair", "logits energy")


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    energy: torch.Tensor
    attention: torch.Tensor = None


class Named(Net):
    def forward(self, x):
        y = self.pooled(x)
        return Pair(self.fc(y), y.sum(1))


class Data(Net):
    def forward(self, x):
        y = self.pooled(x)
        return Output(self.fc(y), y.sum(1))


class FixedBatch(Net):
    def forward(self, x):
        return self.fc(self.features(x).reshape(4, 24, 64).mean(2))


def half():
    return Net().half()


def bfloat16():
    return Net().bfloat16()


def double():
    return Net().double()


def channels_last():
    return Net().to(memory_format=torch.channels_last)


def frozen():
    return Net().requires_grad_(False)


def training():
    return Net().train()


def parametrised():
    net = Net()
    nn.utils.parametrizations.weight_norm(net.conv1)
    nn.utils.parametrizations.spectral_norm(net.conv2)
    nn.utils.parametrizations.orthogonal(net.fc)
    return net


def hooked():
    net = Net()
    nn.utils.spectral_norm(net.conv1)
    nn.utils.prune.l1_unstructured(net.conv2, "weight", amount=0.3)
    return net


def parallel():
    return nn.DataParallel(Net())
'''
SHAPE = ("4,3,8,8",)
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        name: (name, SHAPE)
        for name in (
            "Net", "Tuple", "Dict", "Named", "Data", "FixedBatch", "half", "bfloat16", "double", "channels_last",
            "frozen", "training", "parametrised", "hooked", "parallel",
        )
    },
    "two inputs": ("Two", ("1,3,8,8", "1x6:int64")),
    "three inputs": ("Twins", ("1,3,8,8", "1,3,8,8", "1,1:bool")),
    "static.pt2": ("Net", ()),
    "dynamic.pt2": ("Net", ()),
    "sizes.pt2": ("Net", ()),
    "half.pt2": ("half", ()),
    "two.pt2": ("Two", ()),
    "dict.pt2": ("Dict", ()),
}  # fmt: skip
LIMITS = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-5}


def build(folder: Path, name: str) -> nn.Module:
    """The model as its author sees it, with the weights that edgespa gives it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = find_object(f"{folder / 'net.py'}:{name}", ModelError, "factory").call()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``net.py``, and programs that ``torch.export`` itself has saved."""
    place = tmp_path_factory.mktemp("as they come")
    (place / "net.py").write_text(NETS)
    x, ids = torch.randn(2, 3, 8, 8), torch.zeros(2, 6, dtype=torch.long)
    free = ({0: Dim("n")},)

    def save(file: str, name: str, inputs: tuple[Any, ...], shapes: Any) -> None:
        torch.export.save(torch.export.export(build(place, name), inputs, dynamic_shapes=shapes), place / file)

    save("static.pt2", "Net", (x,), None)
    save("dynamic.pt2", "Net", (x,), free)
    save("sizes.pt2", "Net", (x,), ({0: Dim("n"), 2: Dim.AUTO, 3: Dim.AUTO},))
    save("half.pt2", "half", (x.half(),), free)
    save("two.pt2", "Two", (x, ids), ({0: Dim("n")}, {0: Dim("n")}))
    save("dict.pt2", "Dict", (x,), free)
    return place


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result


def spec_of(folder: Path, case: str) -> str:
    return str(folder / case) if case.endswith(".pt2") else f"{folder / 'net.py'}:{CASES[case][0]}"


def shape_options(case: str) -> list[str]:
    return [word for shape in CASES[case][1] for word in ("--input-shape", shape)]


def inputs_for(base: Base, seed: int) -> tuple[torch.Tensor, ...]:
    """Random inputs in which numbers, indices and yes and no vary."""
    generator = torch.Generator().manual_seed(seed)
    given = []
    for example in base.program.example_inputs(3, seed):
        if example.is_floating_point():
            given.append(example)
        else:
            given.append(torch.randint(0, 2 if example.dtype == torch.bool else 7, example.shape, generator=generator))
            given[-1] = given[-1].to(example.dtype)
    return tuple(given)


@pytest.mark.law(6)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_from_end_to_end(folder: Path, tmp_path: Path, case: str) -> None:
    spec = spec_of(folder, case)
    seen = json.loads(run("inspect", spec, *shape_options(case), "--json").stdout)
    prefix = "module." if case == "parallel" else ""
    assert [group["name"] for group in seen["groups"]] == [f"{prefix}conv1", f"{prefix}conv2"]
    assert seen["prunable"]["channel_share"] == 1.0

    task_file = tmp_path / "cut.spa"
    run("prune", spec, *shape_options(case), "--density", "0.5", "--output", str(task_file))
    task = Task.load(task_file)
    base = task.open_base(tmp_path)
    assert [str(size) for size in base.inputs or (InputSize(base.input_shape),)] == seen["inputs"]

    # The program is the model.
    inputs = inputs_for(base, 1)
    limit = LIMITS[next(t.dtype for t in base.program.state().values() if t.is_floating_point())]
    model = build(folder, CASES[case][0])
    expected = output_of(model, inputs)
    assert differences(output_tensors(base.program(*inputs)), expected) <= limit

    # Law 1: on what was pruned, and on random halves.
    generator = np.random.default_rng(0)
    for kept in (task.kept, *(
        {name: random_half(generator, len(group)) for name, group in base.groups.groups.items()} for _ in range(2)
    )):  # fmt: skip
        small = compact(base.program, base.groups, kept)
        prove(base.program, base.groups, kept, small, inputs).require()
        zeroed = output_tensors(masked(base.program, base.groups, kept)(*inputs))
        assert differences(output_tensors(small(*inputs)), zeroed) <= limit
        assert differences(zeroed, expected) > 10 * limit  # the check is not empty
    assert small.parameter_count() < base.program.parameter_count()
    assert [each.dtype for each in small.inputs] == [each.dtype for each in base.program.inputs]


def random_half(generator: np.random.Generator, count: int) -> np.ndarray:
    mask = generator.random(count) < 0.5
    mask[generator.integers(count)] = True
    return mask


def output_of(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(*inputs)
    return output_tensors(vars(output) if type(output).__name__ == "Output" else output)


def differences(given: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest, relative to the largest magnitude of its tensor."""
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max())
        for a, b in zip(given, expected, strict=True)
    )


def test_channels_last_weights_keep_their_layout(folder: Path) -> None:
    base = Base.open(spec_of(folder, "channels_last"), (1, 3, 8, 8))
    assert base.program.state()["conv2.weight"].is_contiguous(memory_format=torch.channels_last)


def test_images_can_feed_one_input_only(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.arange(20) % 2)
    spec, data, output = spec_of(folder, "two inputs"), str(tmp_path / "x.npz"), str(tmp_path / "out")
    shapes = shape_options("two inputs")
    for command in (
        ("adapt", spec, *shapes, "--data", data, "--output", output),
        ("prune", spec, *shapes, "--method", "asym-in-change", "--calibration", data, "--density", "0.5",
         "--output", output),
        ("export", spec, *shapes, "--precision", "int8", "--calibration", data, "--output", output),
        ("export", spec, *shapes, "--eval-data", data, "--output", output),
    ):  # fmt: skip
        result = run(*command, code=1)
        assert "2 inputs" in result.stderr, command
        assert "\nHint: " in result.stderr
        assert "wrap" in result.stderr
        assert not Path(output).exists()


@pytest.mark.parametrize("case", ["two inputs", "Tuple", "half"])
@pytest.mark.filterwarnings("ignore")
def test_export(folder: Path, tmp_path: Path, case: str) -> None:
    """A bundle of a pruned model: inputs in order with their types, outputs numbered, float32 throughout."""
    pytest.importorskip("onnxsim")
    task, bundle = tmp_path / "cut.spa", tmp_path / "bundle"
    run("prune", spec_of(folder, case), *shape_options(case), "--density", "0.5", "--output", str(task))
    result = run("export", str(task), "--format", "onnx", "--output", str(bundle), "--json")
    manifest = json.loads(result.stdout)
    types = ["float32", "int64"] if case == "two inputs" else ["float32"]
    assert [spec["dtype"] for spec in manifest["inputs"]] == types
    assert len(manifest["outputs"]) == (2 if case == "Tuple" else 1)
    assert {spec["dtype"] for spec in manifest["outputs"]} == {"float32"}
    assert manifest["variants"][0]["parity"]["relative_error"] <= 1e-4
    run("verify", str(bundle))


UNTRACEABLE = """
import torch
from torch import nn

class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # a branch on values
            x = x + 1
        return x

class Item(nn.Module):
    def forward(self, x):
        return x[:, : int(x.abs().sum().item())]

class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy())
"""


@pytest.mark.parametrize(
    ("name", "line"), [("Branch", "if x.sum() > 0:"), ("Item", "x.abs().sum().item()"), ("Numpy", "x.detach().numpy()")]
)
@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_an_untraceable_model_names_the_line_and_what_helps(tmp_path: Path, name: str, line: str, command: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(UNTRACEABLE)
    number = next(index for index, text in enumerate(UNTRACEABLE.splitlines(), 1) if line in text)
    more = ["--density", "0.5", "--output", str(tmp_path / "t.spa")] if command == "prune" else []
    result = run(command, f"{path}:{name}", "--input-shape", "1,3,8,8", *more, code=1)
    assert f"{path}:{number} in forward" in result.stderr
    assert line in result.stderr
    assert "torch.where" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
