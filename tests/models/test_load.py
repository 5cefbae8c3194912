"""Model specs, weights, digests, saved programs and base references."""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgespa.errors import EdgespaError, MissingExtraError, ModelError, WeightsError
from edgespa.models.load import load_model
from edgespa.models.reference import BaseReference, portable_spec, resolve_spec
from edgespa.models.saved import is_pt2, load_pt2
from edgespa.models.weights import state_digest
from edgespa.system.started import installing

NET = """
import torch
from torch import nn
from helper_of_net import WIDTH

def net():
    import late_helper_of_net
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Flatten())

def neat(width):
    return nn.Linear(width, 1)

def broken():
    raise ValueError("no luck today")

def stops():
    raise SystemExit(2)

def number():
    return 3

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

ready = nn.Linear(4, 2)
SIZE = 4
"""


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "helper_of_net.py").write_text("WIDTH = 4\n")
    (folder / "late_helper_of_net.py").write_text("")
    file = folder / "net.py"
    file.write_text(NET)
    return file


def _failure(kind: type[EdgespaError], *args: Any) -> EdgespaError:
    with pytest.raises(kind) as caught:
        load_model(*args)
    assert caught.value.hint or kind is MissingExtraError
    return caught.value


class TestFactories:
    def test_factory_of_a_file(self, net_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "net", raising=False)  # of another test, which had one of its own
        path_before = list(sys.path)
        model = load_model(f"{net_file}:net")
        assert not model.training
        assert model(torch.zeros(1, 3, 5, 5)).shape == (1, 36)
        assert sys.path == path_before
        assert "net" not in sys.modules

    def test_class_and_instance(self, net_file: Path) -> None:
        assert type(load_model(f"{net_file}:Small")).__name__ == "Small"
        assert isinstance(load_model(f"{net_file}:ready"), nn.Linear)

    def test_instance_of_a_module_is_copied(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("made_up_nets")
        module.shared = nn.Linear(2, 2).train()  # type: ignore[attr-defined]
        module.__spec__ = importlib.machinery.ModuleSpec("made_up_nets", None)
        monkeypatch.setitem(sys.modules, "made_up_nets", module)
        model = load_model("made_up_nets:shared")
        assert model is not module.shared
        assert module.shared.training

    def test_module_in_the_current_folder(self, net_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (net_file.parent / "nets_of_cwd.py").write_text(
            "from torch import nn\ndef one():\n    return nn.Linear(1, 1)\n"
        )
        monkeypatch.chdir(net_file.parent)
        assert isinstance(load_model("nets_of_cwd:one"), nn.Linear)

    def test_random_initialisation_is_repeatable_and_leaves_no_trace(self, net_file: Path) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = load_model(f"{net_file}:net")
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(6)
        assert state_digest(load_model(f"{net_file}:net").state_dict()) == state_digest(first.state_dict())

    def test_exception_names_file_factory_line_and_cause(self, net_file: Path) -> None:
        error = _failure(ModelError, f"{net_file}:broken")
        assert f"{net_file}:broken" in error.message
        assert "ValueError: no luck today" in error.message
        assert "net.py, line 14" in error.message
        assert isinstance(error.__cause__, ValueError)

    def test_sys_exit_is_no_exit(self, net_file: Path) -> None:
        assert "SystemExit" in _failure(ModelError, f"{net_file}:stops").message

    def test_wrong_name_lists_what_can_be_called_nearest_first(self, net_file: Path) -> None:
        error = _failure(ModelError, f"{net_file}:netz")
        assert "has no 'netz'" in error.message
        assert error.hint is not None
        listed = error.hint.partition("first: ")[2].split(", ")
        assert listed[0] == "net"
        assert set(listed) == {"net", "broken", "stops", "number", "Small"}

    def test_path_alone_lists_candidates(self, net_file: Path) -> None:
        error = _failure(ModelError, str(net_file))
        assert error.hint is not None
        assert "net" in error.hint
        assert "Small" in error.hint

    def test_not_a_module(self, net_file: Path) -> None:
        assert "returned a int" in _failure(ModelError, f"{net_file}:number").message
        assert "is a int, not a factory" in _failure(ModelError, f"{net_file}:SIZE").message

    def test_missing_file_suggests_the_nearest(self, net_file: Path) -> None:
        error = _failure(ModelError, f"{net_file.parent}/nett.py:net")
        assert error.hint == f"did you mean {net_file}?"

    def test_missing_folder_suggests_the_nearest(self, net_file: Path) -> None:
        error = _failure(ModelError, f"{net_file.parent.parent}/nest/net.py:net")
        assert error.hint == f"did you mean {net_file.parent}?"

    @pytest.mark.parametrize(
        ("text", "said", "hint"),
        [
            ("def f(:\n", "line 1", "correct"),
            ("import no_such_package_anywhere\n", "no_such_package_anywhere", "install 'no_such_package_anywhere'"),
        ],
    )
    def test_file_that_does_not_import(self, tmp_path: Path, text: str, said: str, hint: str) -> None:
        (tmp_path / "bad.py").write_text(text)
        modules = set(sys.modules)
        error = _failure(ModelError, f"{tmp_path}/bad.py:f")
        assert said in error.message
        assert error.hint is not None
        assert hint in error.hint
        assert not [name for name in set(sys.modules) - modules if name.startswith("_edgespa")]

    def test_malformed_specs(self, tmp_path: Path) -> None:
        assert "torchvision:NAME" in str(_failure(ModelError, "resnet18").hint)
        assert f"hf:{tmp_path}" in str(_failure(ModelError, str(tmp_path)).hint)
        assert "--weights a.safetensors" in str(_failure(ModelError, "a.safetensors").hint)
        assert _failure(ModelError, "torchvison:resnet18").hint == "did you mean torchvision:resnet18?"
        assert "no module named" in _failure(ModelError, "surely_not_installed.nets:one").message

    def test_random_is_not_for_factories(self, net_file: Path) -> None:
        assert "factory makes its own" in _failure(ModelError, f"{net_file}:net", "random").message


class TestWeights:
    @pytest.fixture
    def state(self, net_file: Path) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        state = load_model(f"{net_file}:net").state_dict()
        return {
            name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
            for name, value in state.items()
        }

    @pytest.mark.parametrize(
        "shape",
        [
            lambda state: state,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state},
            lambda state: {"state_dict": {"model": state}},
            lambda state: {f"module.{name}": value for name, value in state.items()},
            lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
            lambda state: {
                name: value.double() if value.is_floating_point() else value.int() for name, value in state.items()
            },
            lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        ],
    )
    def test_torch_files(self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor], shape: Any) -> None:
        torch.save(shape(state), tmp_path / "w.pth")
        loaded = load_model(f"{net_file}:net", str(tmp_path / "w.pth")).state_dict()
        for name, value in loaded.items():
            torch.testing.assert_close(value, state[name].to(value.dtype))

    def test_safetensors_bit_for_bit(self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        save_file(state, tmp_path / "w.safetensors")
        model = load_model(f"{net_file}:net", str(tmp_path / "w.safetensors"))
        assert state_digest(model.state_dict()) == state_digest(state)

    def test_half_precision_is_widened(self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        save_file(half, tmp_path / "w.safetensors")
        loaded = load_model(f"{net_file}:net", str(tmp_path / "w.safetensors")).state_dict()
        assert loaded["0.weight"].dtype == torch.float32
        assert torch.equal(loaded["0.weight"], half["0.weight"].float())

    def test_every_kind_of_misfit_is_counted(
        self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        wrong = dict(state)
        del wrong["0.bias"]
        wrong["1.weight"] = torch.zeros(7)
        wrong["1.bias"] = torch.zeros(4, dtype=torch.int8)
        wrong |= {f"extra.{index}": torch.zeros(1) for index in range(7)}
        save_file(wrong, tmp_path / "w.safetensors")
        message = _failure(WeightsError, f"{net_file}:net", str(tmp_path / "w.safetensors")).message
        assert "1 missing: 0.bias" in message
        assert "7 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more" in message
        assert "2 of wrong shape or kind: 1.weight 7 float instead of 4 float" in message
        assert "1.bias 4 integer instead of 4 float" in message

    @pytest.mark.parametrize("change", ["missing", "unexpected"])
    def test_one_name_off(self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor], change: str) -> None:
        if change == "missing":
            del state["1.running_var"]
        else:
            state["1.running"] = torch.zeros(4)
        save_file(state, tmp_path / "w.safetensors")
        assert (
            f"1 {change}: 1.running" in _failure(WeightsError, f"{net_file}:net", f"{tmp_path}/w.safetensors").message
        )

    def test_older_names_that_the_module_translates(self, tmp_path: Path) -> None:
        (tmp_path / "old.py").write_text(
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.fc = nn.Linear(2, 1)\n"
            "    def _load_from_state_dict(self, state, prefix, *rest):\n"
            "        for part in ('weight', 'bias'):\n"
            "            if f'{prefix}old.{part}' in state:\n"
            "                state[f'{prefix}fc.{part}'] = state.pop(f'{prefix}old.{part}')\n"
        )
        save_file({"old.weight": torch.ones(1, 2), "old.bias": torch.ones(1)}, tmp_path / "w.safetensors")
        model = load_model(f"{tmp_path}/old.py:Net", str(tmp_path / "w.safetensors"))
        assert torch.equal(model.state_dict()["fc.weight"], torch.ones(1, 2))

    def test_pickled_code_is_never_run(self, net_file: Path, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "exploded",))

        torch.save({"0.weight": Bomb()}, tmp_path / "w.pt")
        error = _failure(WeightsError, f"{net_file}:net", str(tmp_path / "w.pt"))
        assert "unpickles none" in error.message
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("keep", [0, 5, 60])
    def test_damaged_file(
        self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, keep: int
    ) -> None:
        path = tmp_path / f"w{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:keep])
        assert "not a whole" in _failure(WeightsError, f"{net_file}:net", str(path)).message

    def test_other_contents(self, net_file: Path, tmp_path: Path) -> None:
        spec, path = f"{net_file}:net", tmp_path / "w.pt"
        torch.save([1, 2], path)
        assert "holds a list" in _failure(WeightsError, spec, str(path)).message
        torch.save({"epoch": 3}, path)
        assert "no tensors: epoch" in _failure(WeightsError, spec, str(path)).message
        torch.save({}, path)
        assert "empty" in _failure(WeightsError, spec, str(path)).message
        assert "unknown kind" in _failure(WeightsError, spec, str(net_file)).message

    @pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning")
    @pytest.mark.parametrize("kind", ["nested", "sparse", "without values"])
    def test_tensors_that_are_not_plain(
        self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor], kind: str
    ) -> None:
        made = {
            "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "sparse": lambda: state["0.weight"].to_sparse(),
            "without values": lambda: state["0.weight"].to("meta"),
        }[kind]()
        torch.save({**state, "0.weight": made}, tmp_path / "w.pt")
        error = _failure(WeightsError, f"{net_file}:net", str(tmp_path / "w.pt"))
        assert "1 of wrong shape or kind: 0.weight " in error.message
        assert f"{kind} instead of" in error.message

    def test_a_name_without_an_end_is_cut(self, net_file: Path, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        torch.save({**state, "x" * 100_000: torch.ones(1)}, tmp_path / "w.pt")
        assert len(_failure(WeightsError, f"{net_file}:net", str(tmp_path / "w.pt")).message) < 400

    def test_missing_file(self, net_file: Path, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes(b"")
        error = _failure(WeightsError, f"{net_file}:net", str(tmp_path / "v.safetensors"))
        assert error.hint == f"did you mean {tmp_path / 'w.safetensors'}?"


class TestDigest:
    def test_by_hand(self) -> None:
        state = {"b": torch.tensor(2, dtype=torch.int64), "a": torch.tensor([[1.0, -2.0]])}
        expected = hashlib.sha256(
            json.dumps(["a", "float32", [1, 2]]).encode()
            + b"\n"
            + struct.pack("<2f", 1.0, -2.0)
            + json.dumps(["b", "int64", []]).encode()
            + b"\n"
            + struct.pack("<q", 2)
        )
        assert state_digest(state) == f"sha256:{expected.hexdigest()}"

    def test_strides_and_order_do_not_matter(self) -> None:
        value = torch.arange(24.0).reshape(2, 3, 4)
        strided = value.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        assert not strided.is_contiguous()
        one = {"x": value, "y": torch.ones(1)}
        other = {"y": torch.ones(2)[1:], "x": strided}
        assert state_digest(one) == state_digest(other)

    def test_gradients_and_parameters_do_not_matter(self) -> None:
        assert state_digest({"x": nn.Parameter(torch.ones(2))}) == state_digest({"x": torch.ones(2)})

    @pytest.mark.parametrize(
        "other",
        [
            {"y": torch.ones(2, 3)},
            {"x": torch.ones(3, 2)},
            {"x": torch.ones(2, 3, dtype=torch.float64)},
            {"x": torch.ones(2, 3, dtype=torch.int32)},
            {"x": torch.ones(2, 3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(1.0000001))},
            {"x": torch.ones(2, 3), "y": torch.zeros(0)},
            {"x": -torch.zeros(2, 3)},
        ],
    )
    def test_everything_else_matters(self, other: dict[str, torch.Tensor]) -> None:
        assert state_digest({"x": torch.ones(2, 3)}) != state_digest(other)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.complex64])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        value = torch.tensor([0, 1, 3]).to(dtype)
        assert state_digest({"x": value}) == state_digest({"x": value.repeat(2)[:3]})
        assert state_digest({"x": value}) != state_digest({"x": value.flip(0)})
        assert state_digest({"x": value[1]}) != state_digest({"x": value[1:2]})

    def test_lazy_conjugate(self) -> None:
        value = torch.tensor([1 + 2j])
        assert state_digest({"x": value.conj()}) == state_digest({"x": value.conj().resolve_conj()})

    def test_no_plain_bytes(self) -> None:
        for tensor in (torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
            with pytest.raises(ModelError, match="x: "):
                state_digest({"x": tensor})

    @given(st.lists(st.tuples(st.text(max_size=4), st.lists(st.floats(width=32), max_size=5)), max_size=4))
    def test_survives_a_safetensors_file_order(self, items: list[tuple[str, list[float]]]) -> None:
        state = {name: torch.tensor(values) for name, values in items}
        shuffled = list(state.items())
        random.Random(0).shuffle(shuffled)
        assert state_digest(state) == state_digest(dict(shuffled))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.full((4, 1, 1), 2.0))
        self.table = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x) * self.scale
        return y.reshape(y.shape[0], 4, -1).mean(2) + self.table


def _rewrite(source: Path, target: Path, change: Any) -> None:
    """Copy a zip file; ``change(name, content)`` gives the new content, or None to leave the entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = change(info.filename.partition("/")[2], old.read(info.filename))
            if content is not None:
                new.writestr(info.filename, content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(_Net().eval(), (torch.ones(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


class TestSavedPrograms:
    def test_round_trip(self, saved: Path) -> None:
        torch.manual_seed(0)
        net = _Net().eval()
        x = torch.rand(3, 3, 6, 6)
        assert torch.equal(load_pt2(saved).module()(x), net(x))
        assert is_pt2(str(saved))
        assert not is_pt2("net.py:net")

    def test_is_not_a_module(self, saved: Path) -> None:
        assert "load_pt2" in str(_failure(ModelError, str(saved)).hint)

    def test_missing(self, saved: Path) -> None:
        with pytest.raises(ModelError, match="no such file") as caught:
            load_pt2(saved.with_name("met.pt2"))
        assert caught.value.hint == f"did you mean {saved}?"

    @pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
    def test_cut_off(self, saved: Path, tmp_path: Path, part: float) -> None:
        content = saved.read_bytes()
        (tmp_path / "cut.pt2").write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ModelError, match="not a whole saved program"):
            load_pt2(tmp_path / "cut.pt2")

    def test_flipped_byte(self, saved: Path, tmp_path: Path) -> None:
        content = bytearray(saved.read_bytes())
        at = content.index(torch.arange(4.0).numpy().tobytes())
        content[at + 3] ^= 0xFF
        (tmp_path / "flip.pt2").write_bytes(content)
        with pytest.raises(ModelError, match="damaged"):
            load_pt2(tmp_path / "flip.pt2")

    def test_zip_of_something_else(self, tmp_path: Path) -> None:
        torch.save({"x": torch.ones(1)}, tmp_path / "w.pt2")
        with pytest.raises(ModelError, match="without a program") as caught:
            load_pt2(tmp_path / "w.pt2")
        assert "--weights" in str(caught.value.hint)

    @pytest.mark.parametrize(
        ("entry", "old", "new"),
        [
            ("models/model.json", b"torch.ops.aten.conv2d.default", b"torch.os.system"),
            ("models/model.json", b"torch.ops.aten.conv2d.default", b"torch.ops.load_library.x"),
            ("models/model.json", b"torch.ops.aten.conv2d.default", b"torch.ops.aten.__class__"),
            ("models/model.json", b"Symbol('", b"__import__('os').system('true') or Symbol('"),
            ("models/model.json", b"Symbol('", b"exec(chr(112))+Symbol('"),
            ("models/model.json", b"Symbol('", b"s0.func+Symbol('"),
            ("data/constants/model_constants_config.json", b'"tensor_0"', b'"opaque_obj_0"'),
            ("data/weights/model_weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
        ],
    )
    def test_code_in_disguise_is_refused(self, saved: Path, tmp_path: Path, entry: str, old: bytes, new: bytes) -> None:
        def change(name: str, content: bytes) -> bytes:
            if name != entry:
                return content
            assert old in content
            return content.replace(old, new)

        _rewrite(saved, tmp_path / "bad.pt2", change)
        with pytest.raises(ModelError, match="could run code"):
            load_pt2(tmp_path / "bad.pt2")

    def test_pickles_are_never_loaded(self, saved: Path, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "exploded",))

        buffer = io.BytesIO()
        torch.save((Bomb(),), buffer)
        inputs = "data/sample_inputs/model.pt"
        _rewrite(saved, tmp_path / "bad.pt2", lambda name, old: buffer.getvalue() if name == inputs else old)
        assert load_pt2(tmp_path / "bad.pt2").example_inputs is None
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("name", ["data/aotinductor/model/a.so", "data/constants/opaque_obj_0", "data/weights/a"])
    def test_foreign_entries(self, saved: Path, tmp_path: Path, name: str) -> None:
        path = tmp_path / "bad.pt2"
        path.write_bytes(saved.read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"net/{name}", pickle.dumps(0))
        with pytest.raises(ModelError, match=f"entry {name}"):
            load_pt2(path)


class TestReferences:
    def test_specs_without_a_path(self, tmp_path: Path) -> None:
        for spec in ("torchvision:resnet18", "timm:vit_tiny", "hf:owner/name", "package.module:net", "random"):
            assert portable_spec(spec, tmp_path) == spec
            assert resolve_spec(spec, [tmp_path]) == spec

    def test_portable_and_resolved_are_inverse(self, net_file: Path, tmp_path: Path) -> None:
        spec = portable_spec(f"{net_file}:net", tmp_path / "out")
        assert spec == "../nets/net.py:net"
        (tmp_path / "out").mkdir()
        assert resolve_spec(spec, [tmp_path / "elsewhere", tmp_path / "out"]) == f"{net_file.resolve()}:net"

    def test_none_of_the_roots(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"a/net\.py.*b/net\.py") as caught:
            resolve_spec("net.py:net", [tmp_path / "a", tmp_path / "b"])
        assert "--base" in str(caught.value.hint)

    def _recorded(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> BaseReference:
        for folder in ("nets", "out"):
            (root / folder).mkdir(parents=True)
        (root / "nets/net.py").write_text("")
        (root / "nets/w.safetensors").write_bytes(b"")
        monkeypatch.chdir(root)
        reference = BaseReference.record("nets/net.py:net", "nets/w.safetensors", Path("out"))
        assert BaseReference.from_json(json.loads(json.dumps(reference.to_json()))) == reference
        return reference

    def test_found_from_anywhere_on_the_same_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "a"
        reference = self._recorded(root, monkeypatch)
        monkeypatch.chdir(tmp_path)
        assert reference.resolve(tmp_path) == (f"{root}/nets/net.py:net", f"{root}/nets/w.safetensors")

    def test_found_as_typed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = self._recorded(tmp_path / "a", monkeypatch)
        (tmp_path / "a").rename(tmp_path / "b")
        monkeypatch.chdir(tmp_path / "b")
        assert reference.resolve(tmp_path)[0] == f"{tmp_path}/b/nets/net.py:net"

    def test_found_when_the_whole_tree_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = self._recorded(tmp_path / "a", monkeypatch)
        (tmp_path / "a").rename(tmp_path / "b")
        monkeypatch.chdir(tmp_path)
        assert reference.resolve(tmp_path / "b/out")[0] == f"{tmp_path}/b/nets/net.py:net"

    def test_found_beside_the_task_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = self._recorded(tmp_path / "a", monkeypatch)
        (tmp_path / "a/nets").rename(tmp_path / "c")
        monkeypatch.chdir(tmp_path)
        assert reference.resolve(tmp_path / "c") == (f"{tmp_path}/c/net.py:net", f"{tmp_path}/c/w.safetensors")

    def test_found_nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = self._recorded(tmp_path / "a", monkeypatch)
        (tmp_path / "a/nets/net.py").unlink()
        with pytest.raises(ModelError, match=r"base nets/net\.py:net: not found") as caught:
            reference.resolve(tmp_path)
        assert "--base" in str(caught.value.hint)

    def test_transformers_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "vit").mkdir()
        monkeypatch.chdir(tmp_path)
        reference = BaseReference.record("hf:vit", None, tmp_path)
        (tmp_path / "moved").mkdir()
        (tmp_path / "vit").rename(tmp_path / "moved/vit")
        assert reference.resolve(tmp_path / "moved") == (f"hf:{tmp_path}/moved/vit", None)

    def test_damaged_json(self) -> None:
        good = BaseReference("a:b", "a:b", "a:b").to_json()
        for bad in ({**good, "spec": 3}, {**good, "more": "x"}, {"spec": "a:b"}):
            with pytest.raises(ModelError, match="base reference"):
                BaseReference.from_json(bad)


CLOSED = "http://127.0.0.1:9"


class TestLibraries:
    """With stand-ins for what is not installed here; the real libraries where they are."""

    @pytest.fixture
    def torchvision(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
        calls: list[dict[str, Any]] = []

        def get_model(name: str, **options: Any) -> nn.Module:
            calls.append({"name": name, **options})
            return nn.Sequential(nn.Linear(3, options.get("num_classes", 10)))

        class Entry:
            meta = {"categories": ["a", "b"]}  # noqa: RUF012
            url = f"{CLOSED}/resnet18-f37072fd.pth"

            def get_state_dict(self, **options: Any) -> dict[str, torch.Tensor]:
                calls.append(options)
                if seen.offline:
                    raise OSError("Name or service not known")
                return {"0.weight": torch.ones(2, 3), "0.bias": torch.zeros(2), **seen.more}

        kept = tmp_path / "checkpoints"
        kept.mkdir()
        (kept / "resnet18-f37072fd.pth").touch()
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        seen = SimpleNamespace(calls=calls, offline=False, more={}, kept=kept / "resnet18-f37072fd.pth")
        package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
        for module in (package, models):
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        values = {
            "get_model": get_model,
            "list_models": lambda module: ["googlenet", "resnet18", "resnet50"],
            "get_model_weights": lambda name: SimpleNamespace(DEFAULT=Entry()),
        }
        vars(models).update(values)
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        return seen

    def test_pretrained(self, torchvision: SimpleNamespace) -> None:
        model = load_model("torchvision:resnet18")
        assert torch.equal(model.state_dict()["0.weight"], torch.ones(2, 3))
        # The library's own builder would unpickle; the weights must come through the safe door.
        assert torchvision.calls[0]["weights_only"] is True
        assert torchvision.calls[1] == {"name": "resnet18", "weights": None, "num_classes": 2}

    def test_random_is_the_same_everywhere(self, torchvision: SimpleNamespace) -> None:
        first = load_model("torchvision:resnet18", "random").state_dict()
        torch.manual_seed(11)
        second = load_model("torchvision:resnet18", "random").state_dict()
        assert state_digest(first) == state_digest(second)
        assert first["0.weight"].std() > 0

    def test_file(self, torchvision: SimpleNamespace, tmp_path: Path) -> None:
        save_file({"0.weight": torch.ones(10, 3), "0.bias": torch.ones(10)}, tmp_path / "w.safetensors")
        model = load_model("torchvision:resnet18", str(tmp_path / "w.safetensors"))
        assert torch.equal(model.state_dict()["0.bias"], torch.ones(10))
        assert len(torchvision.calls) == 1

    def test_segmenters_and_networks_for_video(self, torchvision: SimpleNamespace) -> None:
        models: Any = sys.modules["torchvision.models"]
        parts = {
            "segmentation": "fcn_resnet50",
            "video": "r3d_18",
            "quantization": "quantized_resnet18",
            "optical_flow": "raft_small",
        }
        for part in parts:
            vars(models)[part] = ModuleType(part)
        plain = models.list_models
        models.list_models = lambda module: [parts[module.__name__]] if module.__name__ in parts else plain(module)
        load_model("torchvision:r3d_18", "random")
        assert torchvision.calls == [{"name": "r3d_18", "weights": None}]
        torchvision.calls.clear()
        torchvision.more = {"aux_classifier.weight": torch.ones(1)}  # serves training alone, and is not there
        load_model("torchvision:fcn_resnet50")
        wanted = {"weights": None, "weights_backbone": None, "aux_loss": False, "num_classes": 2}
        assert torchvision.calls[1] == {"name": "fcn_resnet50", **wanted}
        for name, words in (("quantized_resnet18", "rounded to int8 already"), ("raft_small", "two images")):
            assert words in _failure(ModelError, f"torchvision:{name}").message

    def test_auxiliary_heads_are_left_out(self, torchvision: SimpleNamespace) -> None:
        torchvision.more = {"aux1.fc.weight": torch.ones(1)}
        load_model("torchvision:googlenet")
        built = torchvision.calls[1]
        assert built["transform_input"]
        assert not built["aux_logits"]
        _failure(ModelError, "torchvision:resnet18")

    def test_no_download(self, torchvision: SimpleNamespace) -> None:
        torchvision.offline = True
        error = _failure(ModelError, "torchvision:resnet18")
        assert "Name or service not known" in error.message
        assert "--weights FILE" in str(error.hint)
        assert "--weights random" in str(error.hint)

    def test_what_is_not_here_and_not_to_be_had_is_told_at_once(self, torchvision: SimpleNamespace) -> None:
        torchvision.kept.unlink()
        began = time.monotonic()
        error = _failure(ModelError, "torchvision:resnet18")
        assert time.monotonic() - began < 5
        assert error.message.endswith("127.0.0.1:9 cannot be reached: Connection refused")
        assert f"it fetches {CLOSED}/resnet18-f37072fd.pth; without a network give --weights FILE" in str(error.hint)
        assert not [call for call in torchvision.calls if "weights_only" in call]

    def test_unknown_name(self, torchvision: SimpleNamespace) -> None:
        error = _failure(ModelError, "torchvision:resnet51")
        assert "resnet50" in str(error.hint)
        assert "write torchvision:NAME" in str(_failure(ModelError, "torchvision:").hint)

    def test_a_detector_has_no_weights_of_a_backbone_besides(self, torchvision: SimpleNamespace) -> None:
        models: Any = sys.modules["torchvision.models"]
        models.detection = ModuleType("torchvision.models.detection")
        models.list_models = lambda module: ["resnet18"] if module is models else ["ssd"]
        whole = {"weights_backbone": None, "progress": False}
        load_model("torchvision:ssd", "random")
        assert torchvision.calls == [{"name": "ssd", "weights": None, **whole}]
        load_model("torchvision:ssd")
        assert torchvision.calls[1]["weights"].url.endswith("resnet18-f37072fd.pth")
        assert torchvision.calls[1].items() > whole.items()
        torchvision.kept.unlink()
        assert "cannot be reached" in _failure(ModelError, "torchvision:ssd").message
        assert "ssd" in str(_failure(ModelError, "torchvision:sdd").hint)

    @pytest.mark.parametrize(
        ("spec", "package", "extra"),
        [("torchvision:x", "torchvision", "timm"), ("timm:x", "timm", "timm"), ("hf:x", "transformers", "models")],
    )
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, spec: str, package: str, extra: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        error = _failure(MissingExtraError, spec)
        assert error.hint == f"install it with: {installing(extra)}"

    def test_build_that_does_not_match_torch(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        error = _failure(ModelError, "timm:resnet18")
        assert "nms does not exist" in error.message
        assert "build of timm" in str(error.hint)
        (tmp_path / "own.py").write_text("import timm\nmake = timm.create_model\n")
        error = _failure(ModelError, f"{tmp_path / 'own.py'}:make")  # the code there is right
        assert "install the build of torchvision that belongs to torch 2" in str(error.hint)

    def test_nothing_is_unpickled_whatever_a_library_does(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Older timm loads ``timm:local-dir:FOLDER`` with everything that is pickled in it."""

        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "exploded",))

        torch.save({"x": Bomb()}, tmp_path / "pytorch_model.bin")
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

        def create_model(name: str, pretrained: bool) -> nn.Module:
            torch.load(Path(name.partition(":")[2]) / "pytorch_model.bin", weights_only=False)
            return nn.Linear(2, 2)

        module = ModuleType("timm")
        module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
        vars(module).update(create_model=create_model)
        monkeypatch.setitem(sys.modules, "timm", module)
        assert "weights" in _failure(ModelError, f"timm:local-dir:{tmp_path}").message
        assert not (tmp_path / "exploded").exists()
        assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

    def test_timm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[str, bool]] = []

        def create_model(name: str, pretrained: bool) -> nn.Module:
            calls.append((name, pretrained))
            if pretrained:
                raise RuntimeError("offline")
            return nn.Linear(2, 2)

        module = ModuleType("timm")
        module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
        values = {
            "is_model": lambda name: name == "resnet18",
            "list_models": lambda: ["resnet18"],
            "create_model": create_model,
        }
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, "timm", module)
        assert isinstance(load_model("timm:resnet18.a1_in1k", "random"), nn.Linear)
        assert "resnet18" in str(_failure(ModelError, "timm:resnet81", "random").hint)
        assert "--weights random" in str(_failure(ModelError, "timm:resnet18").hint)
        assert calls == [("resnet18.a1_in1k", False), ("resnet18", True)]


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="TRANSFORMERS ABSENT: hf: models are not tested")
    folder = tmp_path_factory.mktemp("hf") / "vit"
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=5,
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder


class TestTransformers:
    def test_gives_logits_and_can_be_traced(self, vit_folder: Path) -> None:
        model = load_model(f"hf:{vit_folder}")
        x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        assert model(x).shape == (2, 5)
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x))

    def test_weights(self, vit_folder: Path, tmp_path: Path) -> None:
        pretrained = load_model(f"hf:{vit_folder}").state_dict()
        untrained = load_model(f"hf:{vit_folder}", "random").state_dict()
        from_file = load_model(f"hf:{vit_folder}", str(vit_folder / "model.safetensors")).state_dict()
        save_file(pretrained, tmp_path / "own.safetensors")
        from_own = load_model(f"hf:{vit_folder}", str(tmp_path / "own.safetensors")).state_dict()
        assert state_digest(from_file) == state_digest(pretrained) == state_digest(from_own)
        assert state_digest(untrained) != state_digest(pretrained)

    def test_misfit(self, vit_folder: Path, tmp_path: Path) -> None:
        save_file({"classifier.weight": torch.zeros(7, 16), "x": torch.zeros(1)}, tmp_path / "w.safetensors")
        message = _failure(WeightsError, f"hf:{vit_folder}", str(tmp_path / "w.safetensors")).message
        assert "1 unexpected: x" in message
        assert "classifier.weight (7, 16) instead of (5, 16)" in message

    def test_a_configuration_of_more_than_there_is(self, vit_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(vit_folder, tmp_path / "huge")
        config = json.loads((tmp_path / "huge" / "config.json").read_text())
        config.update(hidden_size=1 << 16, intermediate_size=1 << 20, num_hidden_layers=64)
        (tmp_path / "huge" / "config.json").write_text(json.dumps(config))
        assert "parameters" in _failure(WeightsError, f"hf:{tmp_path / 'huge'}").message

    def test_missing_folder(self, vit_folder: Path) -> None:
        assert str(vit_folder) in str(_failure(ModelError, f"hf:{vit_folder.parent}/vitt").hint)
        assert "no config.json" in _failure(ModelError, f"hf:{vit_folder.parent}").message


class TestRealWeights:
    @pytest.mark.parametrize(("name", "parameters"), [("resnet20", 269_722), ("resnet56", 853_018)])
    def test_factory(self, data_dir: Path, name: str, parameters: int) -> None:
        model = load_model(f"{data_dir}/models.py:{name}")
        assert sum(value.numel() for value in model.parameters()) == parameters
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)

    def test_weights_of_another_depth(self, data_dir: Path) -> None:
        spec, weights = f"{data_dir}/models.py:resnet56", f"{data_dir}/resnet20_cifar10.safetensors"
        message = _failure(WeightsError, spec, weights).message
        assert "layer1.3.conv1.weight" in message

    def test_same_weights_same_digest(self, data_dir: Path) -> None:
        spec = f"{data_dir}/models.py:resnet20"
        plain = load_model(spec).state_dict()
        again = load_model(spec, f"{data_dir}/resnet20_cifar10.safetensors").state_dict()
        assert state_digest(plain) == state_digest(again)
