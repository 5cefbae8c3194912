"""Saved programs of one who means harm: nothing of theirs runs, writes or fills the memory; others open as ever."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgespa.errors import EdgespaError, ModelError
from edgespa.models import fields
from edgespa.models.expressions import is_plain_expression
from edgespa.models.opening import open_program
from edgespa.models.saved import load_pt2
from edgespa.tasks.base import Base

PROGRAM, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


class Standardised(nn.Module):
    """Weights that are computed from others, which is done when the program is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight
        scaled = functional.batch_norm(weight.reshape(1, 4, -1), None, None, training=True).reshape_as(weight)
        y = self.act(functional.conv2d(x, scaled, self.conv.bias, padding=1))
        y = functional.batch_norm(y, self.mean, self.var)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "net.pt2"
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(Standardised().eval(), (torch.ones(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What an attack would write, or change."""
    path = tmp_path / "marker"
    path.write_bytes(b"mine" * 64)
    yield path
    assert path.read_bytes() == b"mine" * 64
    assert not (tmp_path / "ran").exists()


def edited(source: Path, target: Path, change: Callable[[Any], Any], entry: str = PROGRAM) -> Path:
    """A copy with another JSON document."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info.filename)
            if info.filename.partition("/")[2] == entry:
                values = json.loads(content)
                content = json.dumps(change(values) or values).encode()
            new.writestr(info.filename, content)
    return target


def refused(path: Path, match: str = "could run code") -> None:
    with pytest.raises(ModelError, match=match) as caught:
        open_program(str(path), (), None)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def nodes(values: Any) -> list[Any]:
    found: list[Any] = values["graph_module"]["graph"]["nodes"]
    return found


def argument(name: str, kind: int = 1, **value: Any) -> Any:
    return {"name": name, "arg": value, "kind": kind}


def insert(values: Any, target: str, arguments: list[Any], *, shape: tuple[int, ...] = (4, 3, 3, 3)) -> None:
    """Let the weight of the convolution be what an operator gives: it is computed when the file is opened."""
    graph = values["graph_module"]["graph"]
    at = next(i for i, node in enumerate(graph["nodes"]) if "conv2d" in node["target"])
    weight = next(each for each in graph["nodes"][at]["inputs"] if each["name"] == "weight")
    before = weight["arg"]["as_tensor"]["name"]
    meta = copy.deepcopy(graph["tensor_values"][before])
    meta["sizes"] = [{"as_int": size} for size in shape]
    meta["strides"] = [{"as_int": 1} for _ in shape]
    graph["tensor_values"].update(made=meta, joined=copy.deepcopy(graph["tensor_values"][before]))
    common = {"metadata": {}, "is_hop_single_tensor_return": None}
    made = {"target": target, "inputs": arguments, "outputs": [{"as_tensor": {"name": "made"}}], "name": "made"}
    both = [argument("self", as_tensor={"name": before}), argument("other", as_tensor={"name": "total"})]
    graph["tensor_values"]["total"] = {**copy.deepcopy(meta), "sizes": [], "strides": []}
    total = {
        "target": "torch.ops.aten.sum.default",
        "inputs": [argument("self", as_tensor={"name": "made"})],
        "outputs": [{"as_tensor": {"name": "total"}}],
        "name": "total",
    }
    joined = {
        "target": "torch.ops.aten.mul.Tensor",
        "inputs": both,
        "outputs": [{"as_tensor": {"name": "joined"}}],
        "name": "joined",
    }
    graph["nodes"][at:at] = [{**made, **common}, {**total, **common}, {**joined, **common}]
    weight["arg"]["as_tensor"]["name"] = "joined"


def test_an_honest_program_is_taken(honest: Path) -> None:
    """In-place operators, standardised weights, names of modules, a free batch: all that an export has."""
    opened = open_program(str(honest), (), None)
    assert opened.program.dynamic_batch
    torch.manual_seed(0)
    model = Standardised().eval()
    x = torch.rand(3, 3, 6, 6)
    assert torch.allclose(opened.program(x), model(x), atol=1e-6)
    assert Base.open(str(honest), None).groups.groups  # the standardised weight was folded, so its channels can go
    inserted = honest.with_name("full.pt2")
    edited(honest, inserted, lambda v: insert(v, "torch.ops.aten.ones.default", [argument("size", as_ints=[1, 1])]))
    assert torch.allclose(open_program(str(inserted), (), None).program(x), opened.program(x), atol=1e-6)


class Padded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=float("-inf")), 2)


def test_a_number_without_an_end_is_taken(tmp_path: Path) -> None:
    """As in front of a maximum over uneven borders; JSON has no form for it, and it is stored as a word."""
    path, other = tmp_path / "net.pt2", tmp_path / "other.pt2"
    x = -torch.rand(2, 3, 5, 5)
    torch.export.save(torch.export.export(Padded(), (x,)), path)
    assert torch.equal(open_program(str(path), (), None).program(x), Padded()(x))
    for word in ("exit()", "Infinity or exit()", "1e9"):

        def change(values: Any, word: str = word) -> None:
            at = next(each for node in nodes(values) for each in node["inputs"] if "as_float" in each["arg"])
            assert at["arg"]["as_float"] == "-Infinity"
            at["arg"]["as_float"] = word

        refused(edited(path, other, change))


def test_what_torch_reads_is_what_was_checked(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers of zip files may see two archives in one file: torch is given another one."""
    seen = []
    load = torch.export.load
    monkeypatch.setattr(torch.export, "load", lambda given: seen.append(given.getvalue()) or load(given))
    load_pt2(honest)
    (content,) = seen
    assert content != honest.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        assert not archive.read("archive/data/sample_inputs/model.pt")
    assert not any(name.startswith("extra") for name in names)


def test_a_second_directory_decides_nothing(honest: Path, tmp_path: Path, marker: Path) -> None:
    """An evil archive around an honest one, and the other way: whatever is opened was checked."""
    evil = edited(honest, tmp_path / "evil.pt2", lambda v: v.update(guards_code=[_code(tmp_path)]) or None)
    for first, second in ((evil, honest), (honest, evil)):
        mixed = bytearray(first.read_bytes() + second.read_bytes())
        (tmp_path / "mixed.pt2").write_bytes(mixed)
        with contextlib.suppress(EdgespaError):
            open_program(str(tmp_path / "mixed.pt2"), (), None)
    inner = bytearray(evil.read_bytes())
    end = inner.rindex(b"PK\5\6")
    honest_content = honest.read_bytes()
    at = honest_content.rindex(b"PK\5\6")
    (start,) = struct.unpack_from("<I", honest_content, at + 16)
    # The directory of the honest one behind the evil one's: readers that look for the last and for the first differ.
    (tmp_path / "two.pt2").write_bytes(inner[:end] + honest_content[start:])
    with pytest.raises(ModelError):
        open_program(str(tmp_path / "two.pt2"), (), None)


def _code(folder: Path) -> str:
    return f"open({str(folder / 'ran')!r}, 'w') is None"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("aten.from_file.default", lambda m: [_text(m), argument("shared", as_bool=True), argument("size", as_int=27)]),
        ("aten._print.default", lambda m: [argument("s", as_string="hello")]),
        ("aten.save.default", lambda m: [argument("item", as_int=1), _text(m)]),
        ("aten.set_.source_Tensor", lambda m: [argument("self", as_tensor={"name": "p_conv_weight"})]),
        ("aten.resize_.default", lambda m: [argument("self", as_tensor={"name": "p_conv_weight"})]),
        ("aten.add.out", lambda m: [argument("self", as_tensor={"name": "p_conv_weight"})]),
        ("aten.manual_seed.default", lambda m: [argument("seed", as_int=1)]),
        ("c10d.barrier.default", lambda m: []),
        ("profiler._record_function_enter_new.default", lambda m: [argument("name", as_string="x")]),
        ("prim.device.default", lambda m: []),
        ("higher_order.inductor_compiled_code", lambda m: []),
        ("higher_order.call_torchbind", lambda m: []),
        ("aten.conv2d", lambda m: []),
        ("aten.conv2d.default.__call__", lambda m: []),
        ("image.read_file.default", lambda m: [_text(m)]),
    ],
)
def test_operators_that_do_more_than_compute(
    honest: Path, tmp_path: Path, marker: Path, target: str, arguments: Callable[[Path], list[Any]]
) -> None:
    path = tmp_path / "bad.pt2"
    refused(edited(honest, path, lambda v: insert(v, f"torch.ops.{target}", arguments(marker))), "the operator")


def _text(path: Path) -> Any:
    return argument("filename", as_string=str(path))


def test_an_operator_in_an_inner_graph(honest: Path, tmp_path: Path, marker: Path) -> None:
    def change(values: Any) -> None:
        inner = copy.deepcopy(values["graph_module"]["graph"])
        inner["nodes"][0]["target"] = "torch.ops.aten.from_file.default"
        graph = {"name": "inner", "graph": inner}
        insert(
            values, "torch.ops.higher_order.wrap_with_set_grad_enabled", [argument("", as_bool=False, as_graph=graph)]
        )

    refused(edited(honest, tmp_path / "bad.pt2", change), "from_file")


def test_statistics_that_would_be_written_into_weights(honest: Path, tmp_path: Path) -> None:
    """``batch_norm`` in training changes its running statistics, which its schema keeps quiet about."""

    def change(values: Any) -> None:
        norm = next(node for node in nodes(values) if "batch_norm" in node["target"])
        names = {"running_mean": "b_mean", "running_var": "b_var"}
        for each in norm["inputs"]:
            if each["name"] in names:
                each["arg"] = {"as_tensor": {"name": names[each["name"]]}}

    path = edited(honest, tmp_path / "bad.pt2", change)
    opened = open_program(str(path), (), None)
    state = opened.program.state()
    assert torch.equal(state["mean"], torch.zeros(4))
    assert torch.equal(state["var"], torch.ones(4))


def _guard(values: Any, folder: Path) -> None:
    values["guards_code"] = [_code(folder), f"L['x'].size()[0] == {_code(folder)}"]


def _renamed(old: str, new: str) -> Callable[[Any, Path], Any]:
    return lambda values, folder: json.loads(
        json.dumps(values).replace(json.dumps(old), json.dumps(new.replace("CODE", _code(folder))))
    )


def _tree(kind: str, context: Any) -> Callable[[Any, Path], None]:
    def change(values: Any, folder: Path) -> None:
        (signature,) = (
            entry["signature"] for entry in values["graph_module"]["module_call_graph"] if entry["fqn"] == ""
        )
        leaf = {"type": None, "context": None, "children_spec": []}
        spec = {"type": kind, "context": json.dumps(context), "children_spec": [leaf]}
        signature["out_spec"] = json.dumps([1, spec])
        (folder / "evil_module.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")

    return change


def _set(path: str, value: Any) -> Callable[[Any, Path], None]:
    def change(values: Any, folder: Path) -> None:
        place = values
        *above, last = path.split("/")
        for key in above:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value

    return change


FIRST = "graph_module/graph/nodes/0"
CODE = [
    (_renamed("x", "x=CODE"), True),
    (_renamed("x", "x\n  CODE"), True),
    (_renamed("conv2d", "conv2d=CODE;y"), True),
    (_renamed("conv.weight", 'conv"+CODE+"'), True),
    (_renamed("head.weight", "__class__"), True),
    (_tree("collections.defaultdict", {"default_factory_module": "evil_module", "default_factory_name": "x"}), True),
    (_tree("builtins.tuple", {"__enum__": True, "fqn": "evil_module:x", "name": "x"}), True),
    (_tree("builtins.dict", ["a'+CODE+'"]), True),
    (_tree("transformers.modeling_outputs.ImageClassifierOutput", ["logits"]), True),
    (_set(f"{FIRST}/inputs/0/arg", {"as_operator": "torch.os.system"}), True),
    (_set(f"{FIRST}/inputs/0/arg", {"as_custom_obj": {"name": "x", "class_fqn": "x"}}), True),
    (_set(f"{FIRST}/inputs/0/arg", {"as_string": "a');import os#"}), True),
    (_set(f"{FIRST}/inputs/0/something", "torch.os.system"), True),
    (_set("graph_module/graph/custom_obj_values", {"x": {"name": "x", "class_fqn": "y"}}), True),
    (_set(f"{FIRST}/metadata", {"source_fn_stack": "x,torch.os.system", "custom": "[", "from_node": "["}), False),
    (_set("graph_module/metadata", {"custom": "not json"}), False),
    (lambda values, folder: _guard(values, folder), False),
]


@pytest.mark.parametrize(("change", "is_refused"), CODE)
def test_text_that_would_become_code(
    honest: Path,
    tmp_path: Path,
    marker: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any, Path], Any],
    is_refused: bool,
) -> None:
    """Names, guards, trees, constants: text that torch writes into Python, or imports by. What serves no graph goes."""
    monkeypatch.syspath_prepend(tmp_path)
    path = edited(honest, tmp_path / "bad.pt2", lambda values: change(values, tmp_path))
    if is_refused:
        refused(path)
    else:
        opened = open_program(str(path), (), None)
        opened.program(torch.ones(2, 3, 6, 6))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))", True),
        ("FloorDiv(Add(Symbol('s0', integer=True), Integer(1)), Integer(2))", True),
        ("Pow(Symbol('s0', integer=True), Integer(2))", True),
        ("2*s0 + 1", True),
        ("Float('0.5', precision=53)", True),
        ("Pow(Integer(10), Pow(Integer(10), Integer(10)))", False),
        ("Pow(Integer(10), Integer(1000000000))", False),
        ("Pow(Pow(Pow(Integer(9), Integer(8)), Integer(8)), Integer(8))", False),
        ("10**10**10", False),
        ("LShift(Integer(1), Integer(10000000000))", False),
        ("Symbol('s0').func", False),
        ("Symbol(__import__('os'))", False),
        ("[s0 for s0 in (1,)]", False),
        ("lambda: s0", False),
        ("exec('1')", False),
        ("Integer('1' * 10)", False),
        ("s0; s1", False),
        ("", False),
        ("(" * 500 + "1" + ")" * 500, False),
        ("factorial(1000)", False),
        ("s0 # 1", False),
    ],
)
def test_size_expressions(text: str, plain: bool) -> None:
    assert is_plain_expression(text) is plain


def test_sizes_that_nothing_is_stored_for(honest: Path, tmp_path: Path) -> None:
    huge = 1 << 40

    def tensor(values: Any, **change: Any) -> None:
        values["config"]["conv.weight"]["tensor_meta"].update(change)

    for change in (
        {"sizes": [{"as_int": huge}], "strides": [{"as_int": 0}]},
        {"sizes": [{"as_int": 1 << 20}, {"as_int": 1 << 20}], "strides": [{"as_int": 0}, {"as_int": 0}]},
        {"sizes": [{"as_int": -4}], "strides": [{"as_int": 1}]},
        {"storage_offset": {"as_int": -1}},
    ):
        refused(edited(honest, tmp_path / "bad.pt2", lambda v, c=change: tensor(v, **c), WEIGHTS), "the tensor")
    with pytest.raises(ModelError):  # more than is stored, but little
        open_program(
            str(edited(honest, tmp_path / "bad.pt2", lambda v: tensor(v, storage_offset={"as_int": 99}), WEIGHTS)),
            (),
            None,
        )


def test_sizes_that_are_computed(honest: Path, tmp_path: Path) -> None:
    """A few words ask for any number of elements: before any is made, also where the shapes in the file say less."""
    ask = [argument("size", as_ints=[1 << 20, 1 << 20])]
    for shape in ((1 << 20, 1 << 20), (1, 1)):
        path = tmp_path / "bad.pt2"
        edited(honest, path, lambda v, s=shape: insert(v, "torch.ops.aten.ones.default", ask, shape=s))
        refused(path, "1,099,511,627,776 elements")


def test_zip_bombs(honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            content = bytes(1 << 22) if "weight_0" in info.filename else old.read(info.filename)
            new.writestr(info.filename, content)
    refused(path, "compressed")
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            content = b"[" * 200_000 if info.filename.endswith(PROGRAM) else old.read(info.filename)
            new.writestr(info.filename, content)
    with pytest.raises(ModelError):
        open_program(str(path), (), None)


class Fields(nn.Module):
    """Parameters that are called as the fields of a saved program are."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in self.names:
            self.register_parameter(name, nn.Parameter(torch.ones(3)))
        self.register_buffer("config", torch.ones(3))

    def forward(self, target: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            target = target * getattr(self, name) + token
        return target * self.config


def test_names_of_tensors_are_no_fields(tmp_path: Path) -> None:
    names = [*fields._TEXTS, *fields._REFUSED, *fields._NAMED, "nodes", "metadata"]
    net = Fields(name for name in names if not hasattr(nn.Module(), name) and name not in ("config", "T_destination"))
    assert {"token", "target", "custom_obj"} <= set(net.names)
    inputs = (torch.randn(2, 3), torch.randn(2, 3))
    path = tmp_path / "named.pt2"
    torch.export.save(torch.export.export(net, inputs), path)
    assert load_pt2(path).state_dict.keys() == net.state_dict().keys()
