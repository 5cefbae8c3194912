"""Files to go on from in PyTorch: they compute the same, without edgespa, and no name of anybody becomes code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import edgespa as es
from edgespa.bundle import read_manifest
from edgespa.errors import DeviceError, EdgespaError
from edgespa.exporting.onward.layers import ordinary
from edgespa.exporting.onward.naming import Names, class_name, identifier
from edgespa.exporting.onward.source import source_of
from edgespa.graph.trace import trace

ALONE = """
import sys
sys.modules["edgespa"] = None
sys.path.insert(0, sys.argv[1])
import torch
x = torch.load(sys.argv[1] + "/x.pt")
if sys.argv[2] == "pt2":
    network = torch.export.load(sys.argv[1] + "/model.pt2").module()
elif sys.argv[2] == "pickle":
    network = torch.load(sys.argv[1] + "/module.pt", weights_only=False)
else:
    import model
    network = model.build()
with torch.no_grad():
    torch.save(network(x), sys.argv[1] + "/y.pt")
"""


@pytest.fixture(scope="module")
def task(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> es.TaskFile:
    """Adapted, so that there are adapters to merge."""
    folder = tmp_path_factory.mktemp("onward")
    return es.adapt(
        f"{toy_folder / 'net.py'}:build", data=toy_folder / "colours.npz", output=folder / "t.spa",
        input_shape=(1, 3, 8, 8), density=0.5, epochs=2, batch_size=32, lr=0.05,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(task: es.TaskFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    es.export(task, output=folder, formats=["pt2", "python", "onnx"], trust=True)
    return folder


def wanted(task: es.TaskFile, x: Tensor) -> Tensor:
    base = task.task.open_base(task.path.parent, None, None, trust=True)
    with torch.no_grad():
        found: Tensor = task.task.program(base)(x)
    return found


@pytest.mark.parametrize("kind", ["pt2", "python", "pickle"])
def test_they_compute_the_same_where_edgespa_is_not(task: es.TaskFile, bundle: Path, tmp_path: Path, kind: str) -> None:
    for name in ("model.pt2", "model.py", "model.safetensors"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    torch.save(task.module(trust=True), tmp_path / "module.pt")
    x = torch.randn(5, 3, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), wanted(task, x), atol=1e-5, rtol=1e-5)


def test_each_is_proved_and_nothing_runs_them_on_devices(bundle: Path) -> None:
    variants = {each.format: each for each in read_manifest(bundle).variants}
    assert set(variants) == {"pt2", "python", "onnx"}
    for kind in ("pt2", "python"):
        assert variants[kind].parity.component_error < 1e-5  # type: ignore[operator]
        assert variants[kind].parts == ("model.safetensors",)
    states = {each.name: each.status for each in es.verify(bundle).variants}
    assert states == {"pt2-fp32": "not run", "python-fp32": "not run", "onnx-fp32": "passed"}


def test_a_bundle_of_nothing_else_is_told_apart(task: es.TaskFile, tmp_path: Path) -> None:
    es.export(task, output=tmp_path / "b", formats=["python"], trust=True)
    with pytest.raises(DeviceError, match="PyTorch") as caught:
        es.profile(tmp_path / "b", runs=3)
    assert "--format onnx" in str(caught.value.hint)
    with pytest.raises(EdgespaError, match="nothing in it runs on devices"):  # and nothing was sent
        es.ship(tmp_path / "b", device="local")


def test_the_module_trains_compiles_and_has_the_names_of_the_base(task: es.TaskFile, bundle: Path) -> None:
    module = task.module(trust=True)
    assert not module.training
    names = set(load_file(bundle / "model.safetensors"))
    assert set(module.state_dict()) >= {name for name in names if "num_batches" not in name}
    assert {"conv1.weight", "fc.bias"} <= set(dict(module.named_parameters()))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    torch.manual_seed(0)
    x, optimiser = torch.randn(16, 3, 8, 8), torch.optim.SGD(module.parameters(), 0.05)
    losses = []
    for _ in range(5):
        loss = module(x).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert all(each.grad is not None for each in module.parameters()), "every parameter learns"
    assert {"conv1.weight", "conv2.weight", "bn1.weight", "fc.weight", "fc.bias"} <= changed
    assert any("running_mean" in name for name in changed), "norms count what they see"
    module.eval()
    compiled = torch.compile(module, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_what_was_written_comes_back_with_the_same_units(task: es.TaskFile, bundle: Path) -> None:
    counts = []
    for spec in (f"{bundle / 'model.py'}:build", str(bundle / "model.pt2")):
        found = es.inspect(spec, input_shape=(1, 3, 8, 8))
        counts.append((found.parameters, sorted(each["units"] for each in found.details["groups"])))
    assert counts[0] == counts[1]
    assert counts[0][1]
    assert counts[0][0] == sum(each.numel() for each in task.module(trust=True).parameters())


EVIL = "x = 1; open('ran', 'w')"


class Evil(nn.Module):
    """Names that would be code if they were written as they are."""

    def __init__(self) -> None:
        super().__init__()
        layers = ("a b", EVIL, "0x", "é", "a-b", "a_b")
        for name in layers:
            self._modules[name] = nn.Conv2d(4, 4, 1)
        self.names = layers

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            found = self._modules[name]
            assert found is not None
            x = found(x)
        return x


def test_no_name_becomes_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = trace(Evil().eval(), (torch.randn(2, 4, 3, 3),))
    module = ordinary(program)
    text = source_of(module, "w.safetensors")
    tree = ast.parse(text)
    assert {each.names[0].name for each in ast.walk(tree) if isinstance(each, ast.Import)} <= {
        "json", "torch", "torch.nn.functional",
    }  # fmt: skip
    assert "open(" not in text
    exec(compile(tree, "network.py", "exec"), space := {"__name__": "network", "__file__": "network.py"})
    (kind,) = [each for each in space.values() if isinstance(each, type) and issubclass(each, nn.Module)]
    network = kind()
    network.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(network.eval()(x), program(x))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("conv1", "conv1"),
        ("class", "class_"),
        ("1x", "part_1x"),
        ("a b", "a_b"),
        ("", "part"),
        ("é", "part"),
        ("if", "if_"),
    ],
)
def test_names_are_identifiers(text: str, name: str) -> None:
    assert identifier(text) == name
    assert identifier(text).isidentifier()


def test_names_stay_apart() -> None:
    names = Names(["a b.weight", "a_b.weight", "a-b.weight", "forward.weight"])
    found = [names(each) for each in ("a b", "a_b", "a-b", "forward")]
    assert len(set(found)) == 4
    assert "forward" not in found
    assert class_name("x.y.basic-block") == "Basic_block"
