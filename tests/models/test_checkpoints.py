"""Checkpoints as training tools leave them are understood, or answered with what to type; nothing of them is run."""

from __future__ import annotations

import argparse
import collections
import enum
import logging
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgespa.errors import ModelError, WeightsError
from edgespa.models.load import load_model
from edgespa.models.reference import BaseReference
from edgespa.models.saved import load_pt2
from edgespa.models.weights import fit_weights, read_weights
from edgespa.system.quiet import NOTE

State = dict[str, Tensor]


class Config(dict):  # type: ignore[type-arg]
    """As tools have, a mapping by attributes."""


class Steps(list):  # type: ignore[type-arg]
    """Likewise, a list."""


class Phase(enum.Enum):
    TRAIN = "train"


class Run:
    """Any object of a tool's own."""

    def __init__(self) -> None:
        self.best = np.float64(0.9)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def state(net: nn.Module) -> State:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }


def assert_taken(net: nn.Module, path: Path | str, state: State) -> None:
    fit_weights(net, read_weights(path), str(path))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


BESIDE: dict[str, Any] = {
    "argparse": {"args": argparse.Namespace(lr=0.1, out=PurePosixPath("out"))},
    "numpy scalars": {"best_acc1": np.float64(76.1), "epoch": np.int64(3), "history": np.arange(4.0)},
    "objects": {"run": Run(), "phase": Phase.TRAIN, "seen": {1, 2}},
    "containers": {"counts": collections.Counter("ab"), "none": None, "when": (1, "b", 2.5)},
    "mappings and lists of a tool": {
        "cfg": Config(a=Config(b=1)),
        "log": collections.defaultdict(list, {"a": [1]}),
        "queue": Steps([1, 2]),
    },
    "an optimiser": {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("beside", list(BESIDE))
@pytest.mark.parametrize("key", ["state_dict", "model", "net", "params", "my_own_key"])
def test_what_lies_beside_the_tensors(
    net: nn.Module, state: State, tmp_path: Path, beside: str, key: str, old: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save({key: state, **BESIDE[beside]}, path, _use_new_zipfile_serialization=not old)
    assert_taken(net, path, state)


def test_entries_of_a_state_dict_that_are_no_tensors(
    net: nn.Module, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({**state, "epoch": 3, "args": argparse.Namespace()}, tmp_path / "w.pt")
    with caplog.at_level(NOTE, "edgespa"):
        assert_taken(net, tmp_path / "w.pt", state)
    assert "left out what is no tensor: epoch, args" in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "encoder.body.", "_orig_mod.module.", "net.m.x."])
def test_a_prefix_of_all_names(net: nn.Module, state: State, tmp_path: Path, prefix: str) -> None:
    save_file(under(prefix, state), tmp_path / "w.safetensors")
    assert_taken(net, tmp_path / "w.safetensors", state)


def test_a_prefix_that_only_the_model_has(net: nn.Module, state: State, tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net

    save_file(state, tmp_path / "w.safetensors")
    assert_taken(Wrapped(), tmp_path / "w.safetensors", under("model.", state))


def test_a_part_of_a_larger_model_is_asked_for(net: nn.Module, state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({**under("backbone.", state), "head.weight": torch.ones(1), "loss.w": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"below 'backbone\.', beside 2 others") as caught:
        fit_weights(net, read_weights(path), str(path))
    said = str(caught.value.hint).partition("--weights ")[2]
    assert said == f"{path}:backbone"
    assert_taken(net, said, state)


def test_counters_of_thop(net: nn.Module, state: State, tmp_path: Path) -> None:
    counters = {f"{name}{kind}": torch.zeros(1) for name in ("", "0.", "3.") for kind in ("total_ops", "total_params")}
    torch.save({"state_dict": under("module.", {**state, **counters})}, tmp_path / "w.pth")
    assert_taken(net, tmp_path / "w.pth", state)


@pytest.mark.parametrize("ema", ["state_dict_ema", "ema", "model_ema", "ema_state_dict", "swa_state_dict"])
@pytest.mark.parametrize("plain", ["state_dict", "model"])
def test_averaged_weights_beside_plain_ones(
    net: nn.Module, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture, plain: str, ema: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save({ema: other(state), plain: state, "epoch": 3}, path)
    with caplog.at_level(NOTE, "edgespa"):
        assert_taken(net, path, state)
    assert f"those under {plain} are taken, not {ema} (--weights {path}:{ema})" in caplog.text
    assert_taken(net, f"{path}:{ema}", other(state))
    torch.save({ema: other(state), "epoch": 3}, path)
    assert_taken(net, path, other(state))


def test_as_torchvision_and_lightning_write_them(
    net: nn.Module, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.pth"
    named = {"state": {name: {"exp_avg": value} for name, value in state.items()}}
    averaged = {"n_averaged": torch.tensor(3), **under("module.", other(state))}
    torch.save({"model": state, "optimizer": named, "model_ema": averaged, "args": argparse.Namespace()}, path)
    assert_taken(net, path, state)
    assert_taken(net, f"{path}:model_ema", other(state))
    caplog.clear()
    content = {
        "state_dict": {**under("net.", state), "criterion.weight": torch.ones(3)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": Config(lr=0.1),
        "optimizer_states": [named],
    }
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"below 'net\.', beside 1 others") as caught:
        fit_weights(net, read_weights(path), str(path))
    assert_taken(net, str(caught.value.hint).partition("--weights ")[2], state)
    assert caplog.messages == []
    assert_taken(net, f"{path}:state_dict.net", state)
    with pytest.raises(WeightsError, match="below 'net"):
        fit_weights(net, read_weights(f"{path}:state_dict"), f"{path}:state_dict")


def test_a_part_of_a_file_is_found_again_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    Path("net.py").write_text("")
    Path("w.pth").write_bytes(b"")
    reference = BaseReference.record("net.py:build", "w.pth:ema", Path("sub"))
    assert reference.weights_relative == "../w.pth:ema"
    monkeypatch.chdir("sub")
    assert reference.resolve(Path.cwd())[1] == f"{tmp_path}/work/w.pth:ema"
    (tmp_path / "work").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert reference.resolve(tmp_path / "moved" / "sub")[1] == f"{tmp_path}/moved/w.pth:ema"


def test_which_of_several_is_asked_for(net: nn.Module, state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"gen": state, "disc": other(state)}, path)
    with pytest.raises(WeightsError, match="more than one state dict: gen, disc") as caught:
        read_weights(path)
    assert_taken(net, str(caught.value.hint).partition("--weights ")[2], state)
    assert_taken(net, f"{path}:disc", other(state))
    with pytest.raises(WeightsError, match="there is no 'no' in it") as caught:
        read_weights(f"{path}:no")
    assert "gen, disc" in str(caught.value.hint)


def test_a_pickled_model_is_refused_and_told_why(net: nn.Module, tmp_path: Path) -> None:
    for content in (net, {"model": net, "epoch": 1}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match="unpickles none") as caught:
            read_weights(tmp_path / "w.pt")
        assert "state_dict()" in str(caught.value.hint)


class _Bomb:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


@pytest.mark.parametrize("old", [False, True])
def test_nothing_beside_the_tensors_is_run(net: nn.Module, state: State, tmp_path: Path, old: bool) -> None:
    import os
    import subprocess

    marker = tmp_path / "ran"
    bombs = (
        _Bomb(os.system, f"touch {marker}"),
        _Bomb(subprocess.call, ["touch", str(marker)]),
        _Bomb(exec, f"open({str(marker)!r}, 'w')"),
        _Bomb(Path.touch, marker),
        _Bomb(eval, f"open({str(marker)!r}, 'w')"),
        _Bomb(logging.FileHandler, str(marker)),
    )
    for bomb in bombs:
        for content in ({"state_dict": state, "args": bomb}, {**state, "0.weight": bomb}, bomb):
            torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
            try:
                read_weights(tmp_path / "w.pth")
            except WeightsError as error:
                assert "unpickles none" in error.message  # noqa: PT017 - that it is read is right, too
            assert not marker.exists()


def test_numbers_beside_a_state_dict_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "state_dict": nn.Linear(2, 3).state_dict(), "best_acc1": torch.tensor(71.5)}, path)
    assert set(read_weights(path)) == {"weight", "bias"}


def test_a_pickled_model_is_refused_with_what_makes_weights_of_it(tmp_path: Path) -> None:
    path = tmp_path / "yolo.pt"
    torch.save({"epoch": -1, "model": nn.Conv2d(3, 4, 1), "ema": None}, path)
    with pytest.raises(WeightsError, match="a whole model, pickled, under 'model'") as caught:
        read_weights(path)
    lines = [line.strip() for line in str(caught.value.hint).splitlines()[1:]]
    assert len(lines) == 3
    exec("\n".join(lines).replace("'yolo.safetensors'", repr(str(tmp_path / "yolo.safetensors"))), {})
    assert set(read_weights(tmp_path / "yolo.safetensors")) == {"weight", "bias"}
    torch.save(nn.Conv2d(3, 4, 1), path)
    with pytest.raises(WeightsError, match="a whole model, pickled: "):
        read_weights(path)


@pytest.mark.parametrize("script", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(2, 3, 3, 3))])
def test_weights_of_torchscript_without_its_code(net: nn.Module, state: State, tmp_path: Path, script: Any) -> None:
    path = tmp_path / "scripted.pt"
    net.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(script(net.eval()), path)
    damaged = tmp_path / "code.pt"  # code that is no program: it is not even parsed
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b"?" if "/code/" in entry.filename else old.read(entry))
    for each in (path, damaged):
        found = read_weights(each)
        assert found.keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_torchscript_as_a_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 3)), path)
        torch.jit.save(torch.jit.freeze(torch.jit.script(nn.Linear(2, 3).eval())), tmp_path / "frozen.pt")
    with pytest.raises(ModelError) as refused:
        load_model(str(path))
    assert f"MODEL --weights {path}" in str(refused.value.hint)
    program = tmp_path / "scripted.pt2"
    program.write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="a TorchScript program"):
        load_pt2(program)
    with pytest.raises(WeightsError, match="a frozen one"):
        read_weights(tmp_path / "frozen.pt")


def scripted(pickle: bytes, path: Path) -> Path:
    """A TorchScript file with such a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "data.pkl": pickle,
            "constants.pkl": b"\x80\x02).",
            "code/a.py": b"",
            "version": b"3",
        }.items():
            archive.writestr(f"net/{name}", content)
    return path


def test_torchscript_of_one_who_means_harm(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "net.pt"
    command = f"touch {marker}".encode()
    call = b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R."
    circle = b"\x80\x02c__torch__\nA\n)\x81q\x00}q\x01X\x01\x00\x00\x00ah\x00sb."
    # each module has the one before twice, thirty times over
    many = b"\x80\x02c__torch__\nA\nq\x00)\x81q\x01"
    for _ in range(30):
        many += b"h\x00)\x81}(X\x01\x00\x00\x00ah\x01X\x01\x00\x00\x00bh\x01ubq\x01"
    for pickle, words in (
        (call, "unpickles none"),
        (circle, "without an end"),
        (many + b".", "without an end"),
        (b"?", "whole"),
    ):
        with pytest.raises(WeightsError, match=words):
            read_weights(scripted(pickle, path))
    assert not marker.exists()


def test_a_pickled_model_as_a_model_is_told(net: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": net}, tmp_path / "yolo.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "yolo.pt"))
    assert "safetensors.torch.save_model" in str(caught.value.hint)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module._checkpoint_wrapped_module"])
def test_what_tools_put_around_some_modules(net: nn.Module, state: State, tmp_path: Path, wrapper: str) -> None:
    wrapped = {
        f"module.{name.replace('.', f'.{wrapper}.', 1)}" if name[0] in "03" else name: value
        for name, value in state.items()
    }
    names = {name if name.startswith("module.") else f"module.{name}": value for name, value in wrapped.items()}
    torch.save(names, tmp_path / "w.pyth")
    assert_taken(net, tmp_path / "w.pyth", state)


def test_averaged_weights_below_a_prefix_come_last(
    net: nn.Module, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": {**under("ema_model.", other(state)), **under("model.", state)}}, path)
    with pytest.raises(WeightsError, match="hold more than the model") as caught:
        fit_weights(net, read_weights(path), str(path))
    assert_taken(net, str(caught.value.hint).partition("--weights ")[2], state)
    torch.save({"ema": {"module": state, "updates": 3}}, path)
    with caplog.at_level(NOTE, "edgespa"):
        assert_taken(net, path, state)
    assert "those under ema are taken, which are averaged; there are no others" in caplog.text
