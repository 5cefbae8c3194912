"""Task files of unknown origin: a task that says the same, or `TaskFileError`; also from one who can seal."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from edgespa.adapters.adapted import AdaptedProgram
from edgespa.adapters.kinds import kind_named
from edgespa.config import Preprocess
from edgespa.errors import BaseMismatchError, EdgespaError, TaskFileError
from edgespa.models.load import load_model
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks import sealed
from edgespa.tasks.base import Base
from edgespa.tasks.folder import Entry
from edgespa.tasks.inspection import describe_task
from edgespa.tasks.task import Task

KINDS = ("splora", "lora", "mixing", "ssf", "repadapter", "splopa", "convpass")
SCALE = max(1, settings().max_examples // 100)


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count * SCALE,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def original(toy_base: Base, toy_folder: Path) -> bytes:
    """A small real task file: pruned, with half of the units."""
    return prune(toy_base, PruneConfig(density=0.5), toy_folder).to_bytes()


def load(content: bytes, tmp_path: Path) -> Task | None:
    path = tmp_path / "x.spa"
    path.write_bytes(content)
    try:
        return Task.load(path)
    except TaskFileError as error:
        return expect(error, str(path))


def expect(error: TaskFileError, words: str) -> None:
    assert words in error.message


def same(one: Task, other: Task) -> bool:
    first, second = one.factors.flat(), other.factors.flat()
    return (
        one.header == other.header
        and one.kept.keys() == other.kept.keys()
        and all(np.array_equal(mask, other.kept[name]) for name, mask in one.kept.items())
        and first.keys() == second.keys()
        and all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    )


@examples(300)
@given(data=st.data())
def test_fuzz_task_file_bytes(original: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        # Half of the changes in the header, which is a small part of the file.
        at = data.draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 2000)))
        size = data.draw(st.sampled_from([1, 2, 8, 64]))
        kind = data.draw(st.sampled_from(["flip", "cut", "end", "double", "insert"]))
        if kind == "flip" and at < len(content):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + size]
        elif kind == "end":
            del content[at:]
        elif kind == "double":
            content[at:at] = content[at : at + size]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    found = load(bytes(content), tmp_path)
    if found is not None:
        before = load(original, tmp_path)
        assert before is not None
        assert same(found, before)


@examples(100)
@given(content=st.binary(max_size=300), head=st.integers(0, 400))
def test_fuzz_task_file_of_anything(tmp_path: Path, content: bytes, head: int) -> None:
    assert load(content, tmp_path) is None
    assert load(head.to_bytes(8, "little") + content, tmp_path) is None


numbers = st.sampled_from([-1, 0, 1, 7, 2**31, 2**63, 1e300, 0.5, True, None])
odd = numbers | st.sampled_from(["", "..", "x", [], {}, [1], ["1,3,8,8"], {"a": 1}, "\0", "/etc/passwd", "splora"])


@st.composite
def headers(draw: st.DrawFn, values: Any) -> Any:
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 2))):
        place, key = values, draw(st.sampled_from([*sorted(values), "new"]))
        while isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from(sorted(place)))
        if draw(st.integers(0, 4)) or key not in place:
            place[key] = copy.deepcopy(draw(odd))
        else:
            del place[key]
    return values


DTYPES = [torch.uint8, torch.int8, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool]


@st.composite
def tensors(draw: st.DrawFn, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = dict(found)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(found) or ["x"]))
        kind = draw(st.sampled_from(["drop", "shape", "type", "new", "swap", "rename"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        if kind == "drop":
            found.pop(name, None)
        elif kind == "new":
            prefix = draw(st.sampled_from(["", "kept/", "adapter/", "tensor/", "shared/", "scale/adapter/", "seal/"]))
            found[prefix + draw(st.sampled_from(["", "conv1.weight", "conv1.weight/up", "x/y/z"]))] = torch.ones(shape)
        elif kind == "swap":
            other = draw(st.sampled_from(sorted(found) or ["x"]))
            if name in found and other in found:
                found[name], found[other] = found[other], found[name]
        elif kind == "rename" and name in found:
            found[name + "x"] = found.pop(name)
        else:
            found[name] = torch.zeros(shape, dtype=draw(st.sampled_from(DTYPES)))
    return found


@examples(300)
@given(data=st.data())
def test_fuzz_task_file_of_one_who_can_seal(
    original: bytes, toy_base: Base, tmp_path: Path, data: st.DataObject
) -> None:
    """A file that loads can also be refused later, on its base, but only in words."""
    (tmp_path / "o.spa").write_bytes(original)
    text, found = sealed.read(tmp_path / "o.spa", "edgespa")
    header = data.draw(st.just(json.loads(text)) | headers(json.loads(text)))
    task = load(sealed.to_bytes("edgespa", json.dumps(header), data.draw(tensors(found))), tmp_path)
    if task is None:
        return
    try:
        assert isinstance(task.adapted(toy_base), AdaptedProgram)
        again = load(task.to_bytes(), tmp_path)
        assert again is not None
        assert same(again, task)
    except EdgespaError as error:
        expect_words(error)


SIZES = [-1, 0, 1, 2, 5, 8, 255, 2**16, 2**31, 2**33, 2**53, 2**63, 10**30, -(2**40), 1e300, -0.0, 0.5, True]
TEXTS = [
    "", " ", "a\nb", "a\u2028b", "\0", "\ud800", "\udcff", "a\x1b[2J", "../x", "/etc/passwd", "1,3,0,8", "1,3,8,8:bool",
    "9" * 40, "1," * 2000 + "1", "x" * 3000, "http.server:test", "os:system", "net.py:build", "timm:local-dir:/",
    "hf:..", "conv1", "NaN", "a.pt2", "\u202etxt", "%s%n{0}", "猫",
]  # fmt: skip


@st.composite
def one_leaf_off(draw: st.DrawFn, values: Any) -> Any:
    """A header in which one or two numbers, texts, lists or keys are of their kind and odd."""
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 2))):
        place: Any = values
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            if isinstance(inner, list):
                item = inner[0] if inner else draw(st.sampled_from([1, "x"]))
                place[key] = draw(st.sampled_from([[], inner * 2, [*inner, item], inner[1:], [item] * 1000]))
            elif isinstance(inner, str) or (inner is None and draw(st.booleans())):
                place[key] = draw(st.sampled_from(TEXTS) | st.text(st.characters(codec=None), max_size=8))
            elif isinstance(inner, dict):
                place[key] = {**inner, draw(st.sampled_from(TEXTS)): draw(st.sampled_from([*SIZES, *TEXTS]))}
            else:
                place[key] = draw(st.sampled_from(SIZES) | st.integers() | st.floats())
            break
    return values


@pytest.fixture(scope="module")
def full(toy_base: Base, toy_folder: Path) -> bytes:
    """A task file with everything that a header can have, on a base that needs no trust."""
    torch.export.save(
        torch.export.export(
            load_model(toy_base.spec), (torch.ones(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
        ),
        toy_folder / "net.pt2",
    )
    base = Base.open(str(toy_folder / "net.pt2"), None).with_outputs(4)
    task = prune(base, PruneConfig(density=0.5), toy_folder)
    image = Preprocess(height=8, width=8, channels=3, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
    head = {name: tensor for name, tensor in base.program.state().items() if name.startswith("fc.")}
    header = task.header.model_copy(
        update={
            "classes": ("a", "b", "c", "d"), "outputs": 4, "preprocess": image, "inputs": ("1,3,8,8",),
            "metrics": {"test_accuracy": 0.5, "test_images": 10, "validation_r2": 0.1},
            "provenance": {"learns": "classes", "data": {"name": "x"}, "seed": 1, "history": [{"epoch": 1}]},
        }
    )  # fmt: skip
    return dataclasses.replace(task, header=header, tensors=head).to_bytes()


@pytest.fixture
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for in the very same words is the same base."""
    real, known = Base.open, dict[str, Base]()

    def opened(*given: Any, **keywords: Any) -> Base:
        key = repr((given, keywords))
        if key not in known:
            known[key] = real(*given, **keywords)
        return known[key]

    monkeypatch.setattr(Base, "open", opened)


@pytest.mark.usefixtures("opened_once")
@examples(200)
@given(data=st.data())
def test_fuzz_sizes_numbers_and_texts_of_a_header(
    full: bytes, toy_folder: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Sealed anew, so only what it says is odd: it opens, and can be listed and shown, or is refused in words."""
    path = tmp_path / "x.spa"
    path.write_bytes(full)
    text, found = sealed.read(path, "edgespa")
    header = data.draw(one_leaf_off(json.loads(text)))
    try:
        content = sealed.to_bytes("edgespa", json.dumps(header), found)
    except (ValueError, UnicodeError):
        return
    task = load(content, tmp_path)
    if task is None:
        return
    assert len("\n".join(task.header.classes).splitlines()) == len(task.header.classes)
    assert not task.header.classes or len(task.header.classes) == (task.header.outputs or 4)
    json.dumps(task.header.model_dump(mode="json"), allow_nan=False).encode()
    Entry.of(task, path)
    task.to_bytes()
    if task.header.base != json.loads(text)["base"] and not data.draw(st.integers(0, 9)):
        return
    try:
        base = task.find_base(toy_folder)
        describe_task(task, task.fit(base), path)
    except EdgespaError as error:
        expect_words(error)
        error.message.encode()


def test_the_full_header_is_taken(full: bytes, toy_folder: Path, tmp_path: Path) -> None:
    task = load(full, tmp_path)
    assert task is not None
    assert describe_task(task, task.open_base(toy_folder), tmp_path / "x.spa")["task"]["classes"] == list("abcd")


def expect_words(error: EdgespaError) -> None:
    assert error.message


@examples(60)
@given(data=st.data())
def test_fuzz_adapter_options(toy_base: Base, original: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Adapters of any kind with any factors and options."""
    (tmp_path / "o.spa").write_bytes(original)
    text, found = sealed.read(tmp_path / "o.spa", "edgespa")
    kind = data.draw(
        st.sampled_from(["splora", "lora", "mixing", "ssf", "repadapter", "splopa", "convpass", "unknown"])
    )
    names = st.sampled_from(["rank", "kernel", "alpha", "size", "dim", "scale", "blocks", "x"])
    options = data.draw(st.dictionaries(names, odd, max_size=2))
    header = {**json.loads(text), "adapter": {"kind": kind, "options": options, "store": "fp32"}}
    mixing = ["change", "compress", "rows_in", "columns_in", "expand", "rows"]
    factor = st.sampled_from(["up", "down", "scale", "shift", "x", *mixing])
    shape = st.lists(st.integers(0, 24), min_size=1, max_size=4)
    for name, size in data.draw(st.dictionaries(factor, shape, max_size=3)).items():
        found[f"adapter/conv2.weight/{name}"] = torch.ones(size)
    task = load(sealed.to_bytes("edgespa", json.dumps(header), found), tmp_path)
    if task is None:
        return
    try:
        task.program(toy_base)
    except EdgespaError as error:
        expect_words(error)


def test_the_kinds_above_are_those_there_are() -> None:
    for kind in KINDS:
        assert kind_named(kind)


def test_the_fuzzing_can_fail(original: bytes, tmp_path: Path) -> None:
    """The original is taken, and a seal of one who knows how is too."""
    before = load(original, tmp_path)
    assert before is not None
    text, found = sealed.read(tmp_path / "x.spa", "edgespa")
    again = load(sealed.to_bytes("edgespa", text, found), tmp_path)
    assert again is not None
    assert same(before, again)
    assert load(save(found, {"edgespa": text}), tmp_path) is None  # without a seal


def test_another_base_is_refused(original: bytes, toy_folder: Path, tmp_path: Path) -> None:
    task = load(original, tmp_path)
    assert task is not None
    with pytest.raises(BaseMismatchError):
        task.open_base(toy_folder, f"{toy_folder / 'net.py'}:other")
