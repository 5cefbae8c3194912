"""State dicts of numpy arrays, by pickle and by torch.save, become tensors; whoever means harm gets an error."""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgespa.errors import ModelError, WeightsError
from edgespa.models.load import load_model
from edgespa.models.plain_pickles import is_plain_pickle
from edgespa.models.weights import fit_weights, read_weights

PROTOCOLS = (2, 3, 4, 5)
Write = Callable[[Any, Path], None]


def _pickled(protocol: int) -> Write:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


WAYS: dict[str, Write] = {
    **{f"pickle {protocol}": _pickled(protocol) for protocol in PROTOCOLS},
    "torch": lambda content, path: torch.save(content, path),
    "torch, older": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "3.weight": (2, 4), "3.bias": (2,)}
    norm = {f"1.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}
    found = {name: rng.random(shape, dtype=np.float32) for name, shape in {**shapes, **norm}.items()}
    return {**found, "1.num_batches_tracked": np.array(7)}


def assert_same(found: dict[str, torch.Tensor], arrays: dict[str, Any]) -> None:
    assert found.keys() == arrays.keys()
    for name, tensor in found.items():
        assert tuple(tensor.shape) == arrays[name].shape, name
        assert np.array_equal(tensor.numpy(), arrays[name]), name
        assert tensor.is_contiguous()


@pytest.mark.parametrize("way", list(WAYS))
def test_as_detectron2_writes_them(net: nn.Module, arrays: dict[str, Any], tmp_path: Path, way: str) -> None:
    path = tmp_path / "model_final.pkl"
    WAYS[way]({"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}, path)
    assert_same(read_weights(path), arrays)
    fit_weights(net, read_weights(path), str(path))
    assert torch.equal(net.state_dict()["0.weight"], torch.from_numpy(arrays["0.weight"]))
    net.load_state_dict(read_weights(path))
    read_weights(path)["0.weight"].add_(1)  # it can be written to
    for content in (
        arrays,
        collections.OrderedDict(arrays),
        {"state_dict": {f"module.{k}": arrays[k] for k in arrays}},
    ):
        WAYS[way](content, tmp_path / "w.pth")
        fit_weights(net, read_weights(tmp_path / "w.pth"), "w")


@pytest.mark.parametrize("way", list(WAYS))
def test_every_kind_of_number_and_every_order(tmp_path: Path, way: str) -> None:
    base = np.arange(24).reshape(2, 3, 4)
    arrays = {
        **{kind: base.astype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")},
        **{f"of other machines {kind}": base.astype(kind) for kind in (">f4", ">i8", ">f2")},
        "by columns": np.asfortranarray(base.astype("f4")),
        "a part": base.astype("f4")[:, ::2],
        "a number": np.array(3.5),
        "empty": np.zeros((0, 3), "f4"),
    }
    WAYS[way](arrays, tmp_path / "w.pkl")
    found = read_weights(tmp_path / "w.pkl")
    assert_same(found, arrays)
    assert found["of other machines >f4"].dtype is torch.float32
    assert found["f2"].dtype is torch.float16
    assert found["?"].dtype is torch.bool
    assert found["empty"].dtype is torch.float32


@pytest.mark.parametrize("way", list(WAYS))
def test_arrays_beside_state_dicts_are_records(arrays: dict[str, Any], tmp_path: Path, way: str) -> None:
    path = tmp_path / "w.pth"
    beside = {"history": np.arange(9.0), "best": np.float64(0.9), "classes": np.array(["cat", "dog"], object)}
    WAYS[way]({"model": arrays, "iteration": 9, **beside}, path)
    assert_same(read_weights(path), arrays)
    WAYS[way]({"model": arrays, "model_ema": {k: v + 1 for k, v in arrays.items()}, **beside}, path)
    assert_same(read_weights(path), arrays)
    assert np.array_equal(read_weights(f"{path}:model_ema")["3.bias"].numpy(), arrays["3.bias"] + 1)


@pytest.mark.parametrize("way", ["torch", "torch, older"])
def test_beside_tensors_arrays_are_records(tmp_path: Path, way: str) -> None:
    path = tmp_path / "w.pth"
    WAYS[way]({"state_dict": {"weight": torch.ones(2)}, "anchors": {"a": np.ones(3)}}, path)
    assert list(read_weights(path)) == ["weight"]


def test_one_that_is_there_twice_is_made_once(tmp_path: Path) -> None:
    shared = np.ones((300, 1000), np.float32)
    content = {"model": {f"{n}": shared for n in range(500)}}  # 600 MB, if each were its own
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, 4))
    found = read_weights(tmp_path / "w.pkl")
    assert len(found) == 500
    assert len({each.data_ptr() for each in found.values()}) == 1


class Tool:
    """Of somebody's package."""

    def __init__(self) -> None:
        self.lr = 0.1


class Bomb:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


@pytest.mark.parametrize("way", list(WAYS))
def test_nothing_beside_them_is_run_or_made(arrays: dict[str, Any], tmp_path: Path, way: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.pkl"
    bombs = (
        Bomb(os.system, f"touch {marker}"),
        Bomb(exec, f"open({str(marker)!r}, 'w')"),
        Bomb(Path.touch, marker),
        Bomb(np.load, str(marker)),
        Bomb(np.memmap, str(marker), "u1", "w+", 0, (4,)),
    )
    for bomb in bombs:
        for content in ({"model": arrays, "args": bomb, "cfg": Tool()}, {"model": {**arrays, "x": bomb}}):
            WAYS[way](content, path)
            if way.startswith("torch") and bomb.what[0] in (os.system, Path.touch):  # torch leaves the whole file
                with pytest.raises(WeightsError, match="unpickles none"):
                    read_weights(path)
            else:
                assert_same(read_weights(path), arrays)
        WAYS[way](bomb, path)
        with pytest.raises(WeightsError, match="unpickles none"):
            read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("way", list(WAYS))
def test_arrays_of_objects_are_not_made(tmp_path: Path, way: str) -> None:
    marker = tmp_path / "ran"
    objects = np.array([Bomb(os.system, f"touch {marker}"), 1], object)
    records = np.zeros(3, [("a", "f4"), ("b", "i2")])
    for array in (objects, records, np.array(["a", "b"]), np.zeros(2, "c8"), np.zeros(2, "M8[s]")):
        WAYS[way]({"model": {"weight": array}}, tmp_path / "w.pkl")
        with pytest.raises(WeightsError) as caught:
            read_weights(tmp_path / "w.pkl")
        assert caught.value.hint
    assert not marker.exists()


class Raw:
    """Pickled as an array whose state may be anything."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        made = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        return made, (np.ndarray, (0,), b"b"), self.state


class Buffered:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return np._core.numeric._frombuffer, self.arguments  # type: ignore[attr-defined]


F4 = np.dtype("f4")
LIES: list[tuple[Any, str]] = [
    (Raw(1, (4, 4), F4, False, b"1234"), "it would be 4x4 of f4, and has 4 bytes"),
    (Raw(1, (1 << 40, 1 << 40), F4, False, b"1234"), "and has 4 bytes"),
    (Raw(1, (1 << 62, 4), F4, False, b"1234"), "its sizes are none"),
    (Raw(1, (-1,), F4, False, b"1"), "its sizes are none"),
    (Raw(1, (True,), F4, False, b"1234"), "its sizes are none"),
    (Raw(1, ("1",), F4, False, b"1234"), "its sizes are none"),
    (Raw(1, [1], F4, False, b"1234"), "its sizes are none"),
    (Raw(1, (1,) * 33, F4, False, b"1234"), "its sizes are none"),
    (Raw(1, (0, 4), F4, False, b"1234"), "and has 4 bytes"),
    (Raw(1, (1,), np.dtype("O"), False, [Bomb(os.system, "exit 3")]), "these entries are no tensors|unpickles none"),
    (Raw(1, (1,), F4, False, [1.0]), "these entries are no tensors|unpickles none"),
    (Raw(1, (1,), "f4", False, b"1234"), "these entries are no tensors|unpickles none"),
    (Raw("x"), "these entries are no tensors|unpickles none"),
]


@pytest.mark.parametrize("at", range(len(LIES)))
@pytest.mark.parametrize("way", list(WAYS))
def test_arrays_that_lie(tmp_path: Path, at: int, way: str) -> None:
    lie, words = LIES[at]
    WAYS[way]({"model": {"0.weight": lie}}, tmp_path / "w.pkl")
    with pytest.raises(WeightsError, match=words) as caught:
        read_weights(tmp_path / "w.pkl")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("arguments", [(b"1234", F4, (9,), "C"), (b"1234",), (b"1234", F4, None, "C"), ()])
def test_bytes_that_lie(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"w": Buffered(*arguments)}}, 5))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "w.pkl")


def test_the_bytes_of_one_for_many(tmp_path: Path) -> None:
    """A megabyte that is said to be of a million arrays."""
    data = bytes(1 << 20)
    content = {"model": {f"{n}": Raw(1, (1 << 20,), np.dtype("u1"), False, data) for n in range(200)}}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, 4))
    assert (tmp_path / "w.pkl").stat().st_size < 2 << 20
    with pytest.raises(WeightsError, match="the bytes of others, over and over"):
        read_weights(tmp_path / "w.pkl")
    # The same by what makes bytes in protocol 2.
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    encode = b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R0"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + text + b"q\0" + encode * 100 + b"}.")
    with pytest.raises(WeightsError, match="it makes more than it has"):
        read_weights(tmp_path / "w.pkl")


def raw(*pieces: bytes) -> bytes:
    return b"\x80\x04" + b"".join(pieces)


WRONG = {
    "cut off": (raw(b"}\x8c\x05mod"), "not a whole pickle"),
    "no end": (raw(b"}"), "not a whole pickle"),
    "nothing there": (raw(b"."), "not a whole pickle"),
    "no mark": (raw(b"}t."), "not a whole pickle"),
    "a memo that is empty": (raw(b"h\5."), "not a whole pickle"),
    "a memo far away": (raw(b"}r\xff\xff\xff\x7f."), "the state dict is empty"),
    "bytes without an end": (raw(b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f."), "not a whole pickle"),
    "more bytes than there are": (raw(b"\x8e\0\0\0\0\1\0\0\0."), "not a whole pickle"),
    "an extension": (raw(b"\x82\1."), "unpickles none"),
    "an object from elsewhere": (raw(b"NQ."), "unpickles none"),
    "a number of many digits": (raw(b"L", b"9" * 100_000, b"L\n."), "not a whole pickle"),
    "a list": (raw(b"]."), "holds a list"),
    "in itself": (raw(b"}\x94\x8c\5modelh\0s."), "these entries are no tensors|without an end"),
    "endless": (raw(b"]" * 1_000_002, b"."), "a pickle of more than 1,000,000 instructions"),
    "deep": (raw(b"}", b"\x8c\1a}" * 20_000, b"s" * 20_000, b"."), "without an end|no tensors|empty"),
    "a frame that lies": (raw(b"\x95\xff\xff\xff\xff\0\0\0\0}."), "not a whole pickle|empty"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_damaged_and_hostile_pickles(tmp_path: Path, name: str) -> None:
    content, words = WRONG[name]
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_weights(tmp_path / "w.pkl")
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_of_chance(arrays: dict[str, Any], tmp_path: Path, protocol: int) -> None:
    """Whatever is changed in a good one: tensors, or an error of ours."""
    whole = pickletools.optimize(pickle.dumps({"model": arrays, "epoch": 3}, protocol))
    path, rng = tmp_path / "w.pkl", np.random.default_rng(protocol)
    taken = 0
    for _ in range(300):
        content = bytearray(whole)
        for at in rng.integers(2, len(content), rng.integers(1, 6)):
            content[at] = rng.integers(256)
        path.write_bytes(content[: rng.integers(2, len(content)) if rng.random() < 0.2 else None])
        try:
            taken += bool(read_weights(path))
        except WeightsError as error:
            assert error.hint  # noqa: PT017 - that it is read is right, too
    assert taken


def test_mappings_in_circles_of_torch_too(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    circle: dict[str, Any] = {"z": {"weight": torch.ones(3)}}
    circle["model"] = circle
    torch.save(circle, path)
    with pytest.raises(WeightsError, match="a mapping in itself, without an end"):
        read_weights(path)
    alone: dict[str, Any] = {}
    alone["model"] = alone
    torch.save(alone, path)
    with pytest.raises(WeightsError):
        read_weights(path)
    many: Any = {"a": torch.tensor(1)}
    for _ in range(60):  # 2 ** 60 ways to the end of it
        many = {"a": many, "b": many, "c": 1}
    torch.save({0: many}, path)
    with pytest.raises(WeightsError):
        read_weights(path)


def test_what_else_is_pickled_is_told(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(net.state_dict()))
    with pytest.raises(WeightsError, match=r"tensors that were pickled without torch\.save") as caught:
        read_weights(path)
    lines = [line.strip() for line in str(caught.value.hint).splitlines()[1:]]
    exec("\n".join(lines).replace("'net.pth'", repr(str(tmp_path / "net.pth"))), {})
    assert read_weights(tmp_path / "net.pth").keys() == net.state_dict().keys()
    path.write_bytes(pickle.dumps({"model": Tool()}))
    with pytest.raises(WeightsError, match="a whole model, pickled, under 'model'") as caught:
        read_weights(path)
    assert f"pickle.loads(pathlib.Path({str(path)!r}).read_bytes())['model']" in str(caught.value.hint)
    with pytest.raises(ModelError) as refused:
        load_model(str(path))
    assert "pickle.loads" in str(refused.value.hint)
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(3)}}))
    with pytest.raises(ModelError) as refused:
        load_model(str(path))
    assert f"MODEL --weights {path}" in str(refused.value.hint)


def test_files_of_torch_are_told_apart(tmp_path: Path) -> None:
    for protocol in (2, 4):
        for new in (True, False):
            torch.save(
                {"w": torch.ones(2)}, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=new
            )
            assert not is_plain_pickle(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(3))
    assert is_plain_pickle(tmp_path / "w.pth")
