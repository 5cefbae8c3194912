"""Several processes come to what one comes to; precision; what accelerate does not start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgespa.adaptation.augment import augmentation
from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.adapters.adapted import AdaptedProgram
from edgespa.config import Preprocess
from edgespa.data import ImageData, prepare
from edgespa.distributed.launch import cpu_processes_to_start, run_processes, said_once
from edgespa.distributed.processes import Processes
from edgespa.distributed.ranks import is_main
from edgespa.errors import ConfigError
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

LAUNCH = ("accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "edgespa")
ASKED = {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}


def test_one_process_is_main_and_sums_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes.start()
    assert (processes.count, processes.index, processes.is_main, processes.precision) == (1, 0, True, "no")
    values = torch.tensor([1.0, 2.0])
    assert processes.total(values) is values
    assert processes.from_main(values) is values
    assert processes.totals([3, 4.5]) == [3, 4.5]
    monkeypatch.setenv("RANK", "1")
    assert not is_main()


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    Processes(count=3).require_even(48)
    with pytest.raises(ConfigError, match="a batch of 64 images cannot be split over 3 processes"):
        Processes(count=3).require_even(64)


@pytest.mark.parametrize("augment", [(), ("flip", "crop", "colour")])
def test_the_parts_of_a_batch_are_the_batch(
    toy_data: ImageData, toy_preprocess: Preprocess, augment: tuple[str, ...]
) -> None:
    data = prepare(toy_data, toy_preprocess)
    whole = list(data.batches(20, shuffle_seed=3, augment=augmentation(augment)))
    parts = [list(data.batches(20, shuffle_seed=3, augment=augmentation(augment), part=(i, 3))) for i in range(3)]
    assert len(whole) == 5
    for index, (images, labels) in enumerate(whole):
        for own in range(3):
            assert torch.equal(parts[own][index][0], images[own::3])
            assert torch.equal(parts[own][index][1], labels[own::3])


def test_bf16_learns_and_leaves_float32(
    toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, tmp_path: Path
) -> None:
    def learn(name: Any, **keywords: Any) -> Task:
        config = AdaptConfig(rank=4, epochs=4, batch_size=16, density=0.5, round_to=1, mixed_precision=name)
        return adapt(toy_base, toy_data, toy_preprocess, config, tmp_path, **keywords)

    half, whole = learn("bf16", checkpoint=tmp_path / "state"), learn("no")
    assert half.header.metrics["validation_accuracy"] > 0.85
    assert all(tensor.dtype == torch.float32 for tensor in half.factors.flat().values() if tensor.is_floating_point())
    first, second = half.factors.flat(), whole.factors.flat()
    assert any(not torch.equal(first[key], second[key]) for key in first if first[key].shape == second[key].shape)
    with pytest.raises(ConfigError, match="made with another"):
        learn("no", checkpoint=tmp_path / "state", resume=True)


def test_accelerate_says_the_precision_where_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert Processes.start().precision == "bf16"
    assert Processes.start("no").precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ConfigError):
        Processes.start()


def test_fp16_without_a_gpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        Processes.start("fp16")
    assert Processes.start().precision == "no"


def test_a_step_with_a_scaler_is_a_step_without_and_skips_what_overflowed() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = Processes(accelerator=SimpleNamespace(scaler=scaler, backward=lambda loss: scaler.scale(loss).backward()))
    results = []
    for processes in (scaled, Processes()):
        weight = nn.Parameter(torch.tensor([3.0, -1.0]))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        processes.backward(weight.square().sum())
        processes.step(optimizer)
        results.append(weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert torch.allclose(results[1], torch.tensor([2.4, -0.8]))
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaled.backward((weight * torch.tensor(float("inf"))).sum())
    scaled.step(optimizer)
    assert weight.tolist() == [3.0]
    assert scaler.get_scale() == 512.0


def test_a_program_moves_with_the_constants_that_it_makes(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + torch.arange(3, device=x.device)

    from edgespa.graph.trace import trace

    program = trace(Net(), (torch.zeros(2, 4),))
    assert any(torch.device("cpu") in node.kwargs.values() for node in program.graph.nodes)
    moved = AdaptedProgram(program, {}, ())
    moved.move_to(torch.device("meta"))
    assert moved(torch.zeros(2, 4, device="meta")).device.type == "meta"
    assert {tensor.device.type for tensor in moved.program.state().values()} == {"meta"}
    assert {tensor.device.type for tensor in program.state().values()} == {"cpu"}


@pytest.mark.parametrize(
    ("environment", "parent", "count"),
    [
        (ASKED, ["python", "/bin/accelerate", *LAUNCH[1:], "adapt"], 2),
        (ASKED, ["python", "-m", "accelerate.commands.launch", "--cpu", "--num-processes=3", "-m", "edgespa"], 3),
        (ASKED, ["accelerate-launch", "--num_processes", "4", "--cpu", "x.py", "--num_processes", "9"], 4),
        (ASKED, ["bash"], 1),
        ({**ASKED, "WORLD_SIZE": "2"}, list(LAUNCH), 1),
        ({"ACCELERATE_USE_CPU": "True"}, list(LAUNCH), 1),
        ({}, list(LAUNCH), 1),
    ],
)
def test_what_accelerate_was_asked_for_and_did_not_start(
    environment: dict[str, str], parent: list[str], count: int
) -> None:
    assert cpu_processes_to_start(environment, parent) == count


def test_what_fails_in_all_is_said_by_the_main_process_first(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr("edgespa.distributed.launch.time.sleep", paused.append)
    for index, message in ((0, "it fails"), (1, "process 1: it fails")):
        with pytest.raises(ConfigError) as caught, said_once(index):
            raise ConfigError("it fails", "do something")
        assert (caught.value.message, caught.value.hint) == (message, "do something")
    assert len(paused) == 1


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.exit(7)\n"
        "time.sleep(60)\n"
        "open('survived', 'w').close()\n"
    )
    began = time.monotonic()
    assert run_processes(2, [str(script)]) == 7
    assert time.monotonic() - began < 50
    assert run_processes(2, ["-c", "import os; assert os.environ['WORLD_SIZE'] == '2'"]) == 0


WORKER = """
import sys, torch
from edgespa.distributed.processes import Processes, synced_batch_norm

processes = Processes.start()
assert processes.count == 2
torch.manual_seed(0)
x, weight, bias = torch.randn(8, 5, 3, 3), torch.randn(5), torch.randn(5)
target = torch.randn(8, 5, 3, 3)

def run(values, wanted, norm):
    values = values.clone().requires_grad_(True)
    w, b = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)
    mean, var = torch.full((5,), 0.5), torch.full((5,), 2.0)
    out = norm(values, w, b, mean, var, True, 0.1, 1e-5, True)
    (out - wanted).square().mean().backward()
    return out.detach(), values.grad, w.grad, b.grad, mean, var

own = slice(processes.index, None, 2)
out, dx, dw, db, mean, var = run(x[own], target[own], synced_batch_norm)
OUT, DX, DW, DB, MEAN, VAR = run(x, target, torch.ops.aten.batch_norm.default)
for a, b in ((out, OUT[own]), (dx / 2, DX[own]), (processes.total(dw) / 2, DW), (processes.total(db) / 2, DB),
             (mean, MEAN), (var, VAR)):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
rank = float(processes.index)
assert processes.totals([1, rank]) == [2, 1]
assert processes.from_main(torch.tensor([rank])).tolist() == [0]
parameter = torch.nn.Parameter(torch.zeros(2))
optimizer = torch.optim.SGD([parameter], lr=1.0)
(parameter * torch.tensor([1.0, rank])).sum().backward()
processes.step(optimizer)
assert parameter.tolist() == [-1.0, -0.5], parameter

from edgespa.graph.groups import find_groups
from edgespa.graph.trace import trace
from edgespa.selection.score import score_units

nn = torch.nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())
program = trace(net, (torch.randn(2, 2, 5, 5),))
groups = find_groups(program)
batches = [(torch.randn(4, 2, 5, 5), torch.randint(0, 4, (4,))) for _ in range(6)]

def loss(weights, images, labels):
    return nn.functional.cross_entropy(torch.func.functional_call(program.module, dict(weights), (images,)), labels)

def score(own, among):
    return score_units(
        groups, groups.all_kept(), dict(program.tensors()), "jacobian", "mean", torch.Generator(), program=program,
        loss=loss, batches=own, joined=2, mass=len, processes=among,
    )

mine = batches[:2] + batches[4:] if rank == 0 else batches[2:4]
(together,), (alone,) = score(mine, processes).values(), score(batches, Processes()).values()
torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=1e-5, atol=1e-8)
processes.end()
"""


@pytest.mark.slow
def test_two_processes_sum_average_and_normalise_as_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    assert run_processes(2, [str(script)]) == 0


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.fc(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Net()
"""
ADAPT = (
    "adapt", "net.py:build", "--input-shape", "1,3,8,8", "--data", "colours.npz", "--eval-data", "colours.npz",
    "--batch-size", "16", "--rank", "2", "--epochs", "30", "--density", "0.5", "--prune-steps", "2", "--json",
    "--class-weights", "balanced", "--augment", "flip", "--accumulate", "2", "--round-to", "1",
)  # fmt: skip


def outputs(task: Task, folder: Path) -> Tensor:
    inputs = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result: Tensor = task.program(task.open_base(folder))(inputs)
    return result


def losses(path: Path) -> list[float]:
    return [event["loss"] for line in path.read_text().splitlines() if (event := json.loads(line))["event"] == "epoch"]


@pytest.mark.slow
@pytest.mark.more  # the same law as of the sums above, for a whole adaptation
def test_accelerate_launches_two_processes_that_come_to_what_one_comes_to_after_a_kill_too(
    toy_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "colours.npz").write_bytes((toy_folder / "colours.npz").read_bytes())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    launch = [str(Path(sys.executable).with_name(LAUNCH[0])), *LAUNCH[1:]]

    def run(begin: list[str], name: str, *said: str) -> subprocess.Popen[str]:
        said = said or (*ADAPT, "--output", f"{name}.spa", "--log", f"{name}.jsonl")
        return subprocess.Popen(
            [*begin, *said],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    first = run(launch, "two")
    log = tmp_path / "two.jsonl"
    while first.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 6):
        time.sleep(0.02)
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGKILL)
    _, error = first.communicate()
    assert first.returncode == -signal.SIGKILL, error
    assert not (tmp_path / "two.spa").exists()
    assert (tmp_path / "two.spa.resume").exists()

    alone = run([sys.executable, "-m", "edgespa"], "one")
    together = run(launch, "two", "adapt", "--resume", "two.spa.resume", "--json")
    (said_one, _), (said_two, error) = alone.communicate(timeout=500), together.communicate(timeout=500)
    assert alone.returncode == 0
    assert together.returncode == 0, error
    assert json.loads(said_two).keys() == json.loads(said_one).keys()  # one document: the other process is silent
    assert not (tmp_path / "two.spa.resume").exists()

    one, two = Task.load(tmp_path / "one.spa"), Task.load(tmp_path / "two.spa")
    assert all(np.array_equal(one.kept[name], two.kept[name]) for name in one.kept)
    assert one.header.metrics["test_accuracy"] == pytest.approx(two.header.metrics["test_accuracy"], abs=0.02)
    expected, found = outputs(one, tmp_path), outputs(two, tmp_path)
    assert float((expected - found).abs().max() / expected.abs().max()) < 0.02
    assert losses(tmp_path / "two.jsonl") == pytest.approx(losses(tmp_path / "one.jsonl"), rel=1e-2)
    assert len(losses(tmp_path / "two.jsonl")) == 30
