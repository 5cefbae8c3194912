"""The cache of converted files: nothing wrong ever comes out."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgespa.exporting import cache as cache_module
from edgespa.exporting.cache import Cache, key_of, program_parts
from edgespa.exporting.converter import Form
from edgespa.exporting.versions import Target
from edgespa.system.sources import own_sources
from edgespa.tasks.base import Base


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(store: Cache, key: str, content: bytes, folder: Path) -> None:
    path = folder / "in"
    path.write_bytes(content)
    store.store(key, path, {"n": 1})


def test_what_is_stored_comes_back(store: Cache, tmp_path: Path) -> None:
    key, out = key_of("a"), tmp_path / "out"
    assert store.restore(key, out) is None
    assert not out.exists()
    put(store, key, b"line\nline\n\0", tmp_path)
    assert store.restore(key, out) == {"n": 1}
    assert out.read_bytes() == b"line\nline\n\0"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "header"])
def test_a_damaged_entry_is_none_and_goes(store: Cache, tmp_path: Path, damage: str) -> None:
    key, out = key_of("a"), tmp_path / "out"
    put(store, key, bytes(1000), tmp_path)
    (entry,) = (tmp_path / "cache").glob("??/*")
    content = bytearray(entry.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    spoiled = {"truncate": content[:-3], "flip": content, "empty": b"", "header": b"{}\n" + bytes(1000)}[damage]
    entry.write_bytes(bytes(spoiled))
    assert store.restore(key, out) is None
    assert not out.exists()
    assert not entry.exists()


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    store = Cache(tmp_path / "cache", limit=3500)
    keys = [key_of(index) for index in range(4)]
    for age, key in enumerate(keys[:3]):
        put(store, key, bytes(1000), tmp_path)
        os.utime(store._path(key), (1000 + age, 1000 + age))
    assert store.restore(keys[0], tmp_path / "out") is not None  # used again: now the newest
    put(store, keys[3], bytes(1000), tmp_path)
    assert [store.restore(key, tmp_path / "out") is not None for key in keys] == [True, False, True, True]
    put(store, key_of("big"), bytes(5000), tmp_path)
    assert store.restore(key_of("big"), tmp_path / "out") is None


def _write_many(folder: str, here: str) -> None:
    for _ in range(30):
        put(Cache(Path(folder)), key_of("same"), bytes(range(256)) * 400, Path(here))


@pytest.mark.more
def test_two_writers_leave_one_whole_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    writers = [
        context.Process(target=_write_many, args=(str(tmp_path / "cache"), str(tmp_path / name)))
        for name in ("one", "two")
    ]
    for each in writers:
        each.start()
    seen = 0
    store = Cache(tmp_path / "cache")
    while any(each.is_alive() for each in writers):
        seen += store.restore(key_of("same"), tmp_path / "out") is not None
        time.sleep(0.001)
    for each in writers:
        each.join()
        assert each.exitcode == 0
    assert store.restore(key_of("same"), tmp_path / "out") == {"n": 1}
    assert (tmp_path / "out").read_bytes() == bytes(range(256)) * 400
    assert len(list((tmp_path / "cache").glob("??/*"))) == 1


def test_a_key_is_of_everything(toy_base: Base) -> None:
    toy_program = toy_base.program
    parts = program_parts(toy_program)
    base = key_of("fp32", Form(), *parts)
    assert key_of("fp32", Form(), *program_parts(toy_program.copy())) == base
    state = toy_program.state()
    name = next(iter(state))
    changed = toy_program.with_state({name: state[name] + 1e-7})
    others = [
        key_of("fp32", Form(batch=2), *parts),
        key_of("fp32", Form(target=Target(17, 8)), *parts),
        key_of("int8", Form(), *parts),
        key_of("fp32", Form(), *program_parts(changed)),
    ]
    assert len({base, *others}) == 5


def test_a_key_depends_on_the_code_and_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of("a", np.zeros(3))
    monkeypatch.setattr(cache_module.metadata, "version", lambda name: f"{name} 99")
    assert key_of("a", np.zeros(3)) != before
    monkeypatch.undo()
    for changed in ("exporting", "runner"):
        monkeypatch.undo()

        def sources(*part: str, changed: str = changed) -> list[str]:
            return [*own_sources(*part), *(["changed"] if changed in part else [])]

        monkeypatch.setattr(cache_module, "own_sources", sources)
        assert key_of("a", np.zeros(3)) != before


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path))
    monkeypatch.setenv("EDGESPA_CACHE_BYTES", "123")
    assert Cache.of_user() == Cache(tmp_path / "export", 123)
    monkeypatch.setenv("EDGESPA_CACHE", "off")
    assert Cache.of_user().folder is None
    monkeypatch.delenv("EDGESPA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert Cache.of_user().folder == tmp_path / "x" / "edgespa" / "export"


def test_no_folder_keeps_nothing_and_one_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    nothing = Cache(None)
    put(nothing, key_of("a"), b"x", tmp_path)
    assert nothing.restore(key_of("a"), tmp_path / "out") is None
    (tmp_path / "file").write_bytes(b"")
    put(Cache(tmp_path / "file" / "below"), key_of("a"), b"x", tmp_path)
