"""Programs that an older torch saved: opened where nothing in them can run code, refused with words otherwise."""

from __future__ import annotations

import importlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from edgespa.errors import ModelError
from edgespa.models.opening import open_program
from edgespa.models.saved import load_pt2
from edgespa.tasks.base import Base

NAMES = ("exported_program.json", "state_dict.pt", "constants.pt", "example_inputs.pt")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.scale = torch.rand(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.norm(self.conv(x)) * self.scale).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Scaled().eval()


@pytest.fixture(scope="module")
def parts(model: nn.Module) -> dict[str, bytes]:
    """The four parts of a file as torch 2.6 wrote it: without what the format has gained since."""
    batch = torch.export.Dim("batch", max=64)
    program: ExportedProgram = torch.export.export(model, (torch.ones(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    artifact = importlib.import_module("torch._export.serde.serialize").serialize(program)
    values = json.loads(artifact.exported_program)
    values.pop("guards_code")
    values.update(schema_version={"major": 8, "minor": 4}, torch_version="2.6.0")
    graph = values["graph_module"]["graph"]
    for node in graph["nodes"]:
        node.pop("is_hop_single_tensor_return")
        node.pop("name")
        for argument in node["inputs"]:
            argument.pop("kind")
    graph.pop("sym_float_values")
    values["graph_module"].pop("treespec_namedtuple_fields")
    content = (json.dumps(values).encode(), artifact.state_dict, artifact.constants, artifact.example_inputs)
    return dict(zip(NAMES, content, strict=True))


def saved(parts: dict[str, bytes], folder: Path, version: str = "8.4", **options: Any) -> str:
    path = folder / "old.pt2"
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("version", version)
        for name, content in parts.items():
            archive.writestr(f"serialized_{name}", content)
        archive.writestr("extra_files/notes.txt", "")
    return str(path)


def test_it_computes_what_the_module_does(parts: dict[str, bytes], model: nn.Module, tmp_path: Path) -> None:
    path = saved(parts, tmp_path)
    opened = open_program(path, (), None)
    assert opened.program.dynamic_batch
    x = torch.rand(3, 3, 6, 6)
    assert torch.equal(opened.program(x), model(x))
    assert [len(group) for group in Base.open(path, None).groups.groups.values()] == [8]


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def pickled(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def test_no_pickle_of_it_runs(parts: dict[str, bytes], model: nn.Module, tmp_path: Path) -> None:
    bomb = pickled(_Bomb(tmp_path / "ran"))
    for name in ("state_dict.pt", "constants.pt"):
        with pytest.raises(ModelError, match="could run code"):
            load_pt2(saved({**parts, name: bomb}, tmp_path))
        with pytest.raises(ModelError, match="could run code"):
            load_pt2(saved({**parts, name: pickled({"conv.weight": _Bomb(tmp_path / "ran")})}, tmp_path))
        with pytest.raises(ModelError, match="what is no tensor in"):
            load_pt2(saved({**parts, name: pickled({"conv.weight": Path("elsewhere")})}, tmp_path))
    opened = load_pt2(saved({**parts, "example_inputs.pt": bomb}, tmp_path))
    assert torch.equal(opened.module()(torch.ones(2, 3, 6, 6)), model(torch.ones(2, 3, 6, 6)))
    assert not (tmp_path / "ran").exists()


def edit(name: str, change: Callable[[Any], object]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def edited(parts: dict[str, bytes]) -> dict[str, bytes]:
        if name.endswith(".pt"):
            tensors = torch.load(io.BytesIO(parts[name]), weights_only=True)
            change(tensors)
            return {**parts, name: pickled(tensors)}
        values = json.loads(parts[name])
        change(values)
        return {**parts, name: json.dumps(values).encode()}

    return edited


def of_nodes(change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda values: change(values["graph_module"]["graph"]["nodes"][0])


PROGRAM, STATE, CONSTANTS = NAMES[:3]
HARM: dict[str, tuple[str, Callable[[Any], object]]] = {
    "an operator that reads files": (
        PROGRAM, of_nodes(lambda node: node.update(target="torch.ops.aten.from_file.default"))
    ),
    "a module's function": (PROGRAM, of_nodes(lambda node: node.update(target="os.system"))),
    "code in the name of an argument": (PROGRAM, of_nodes(lambda node: node["inputs"][0].update(name="x=exit()"))),
    "a size that is code": (
        PROGRAM, lambda v: v["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].append(
            {"as_expr": {"expr_str": "__import__('os')", "hint": None}}
        ),
    ),
    "a sparse tensor": (STATE, lambda tensors: tensors.update({"conv.bias": torch.zeros(8).to_sparse()})),
    "a name that is a method": (STATE, lambda tensors: tensors.update({"conv.__init__": torch.zeros(8)})),
    "a tensor larger than its storage": (CONSTANTS, lambda t: t.update({"scale": torch.zeros(1).expand(1 << 40)})),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
def test_what_could_run_or_fill_the_memory_is_refused(harm: str, parts: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could run code") as caught:
        load_pt2(saved(edit(*HARM[harm])(parts), tmp_path))
    assert caught.value.hint


def test_what_is_not_read_is_told(parts: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"version '7' of torch\.export; torch .* reads version 8") as caught:
        load_pt2(saved(parts, tmp_path, version="7.3"))
    assert "torch.export.save" in str(caught.value.hint)
    with pytest.raises(ModelError, match="compressed"):
        load_pt2(saved(parts, tmp_path, compression=zipfile.ZIP_DEFLATED))
    for missing in NAMES[:3]:
        with pytest.raises(ModelError):
            load_pt2(saved({name: content for name, content in parts.items() if name != missing}, tmp_path))
    whole = Path(saved(parts, tmp_path))
    whole.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(ModelError, match="not a whole saved program"):
        load_pt2(whole)


def test_a_part_that_is_packed_is_not_unpacked(parts: dict[str, bytes], tmp_path: Path) -> None:
    """Torch stores all of them; a packed one may be a thousand times as large, or small beside its neighbours."""
    with pytest.raises(ModelError, match="could run code"):
        load_pt2(saved(parts, tmp_path, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(saved(parts, tmp_path), "a") as archive:  # in all not more than the file has
        archive.writestr("extra_files/packed.txt", "x", compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="could run code"):
        load_pt2(str(tmp_path / "old.pt2"))
