"""Versions that do not hang on one copy of a file, repair by digest, and what a power cut finds."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.agent import cache, copies, tasks, versions

NOTHING = io.BytesIO()


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": digest_of(content), "size_bytes": len(content)}


def receive(root: Path, content: bytes) -> None:
    request = {"files": [{"sha256": digest_of(content), "size_bytes": len(content), "offset": 0}]}
    if not (root / "cache" / digest_of(content)).is_file():
        cache.receive(root, request, io.BytesIO(content))


def send(root: Path, number: int, task: str = "birds", base: bytes | None = None) -> dict[str, Any]:
    """Stage a version with one file of its own and one that all have."""
    files = {"model.onnx": b"model %d" % number, "labels.txt": b"the same in all"}
    needs = [] if base is None else [{"base_sha256": digest_of(base), "base_size_bytes": len(base)}]
    rows = [entry(name, content) for name, content in files.items()]
    manifest = json.dumps({"files": rows, "variants": [{"weights": each} for each in needs]}).encode()
    files["manifest.json"] = manifest
    if base is not None:
        files["base.safetensors"] = base
    for content in files.values():
        receive(root, content)
    entries = [entry(name, content) for name, content in files.items()]
    return tasks.stage(root, {"task": task, "digest": digest_of(manifest), "files": entries}, NOTHING)


def use(root: Path, version: str, task: str = "birds") -> None:
    record = {"created": "2026-11-30T02:00:00+00:00", "digest": "0" * 64, "signed_by": None}
    tasks.switch(root, {"task": task, "version": version, "record": record}, NOTHING)


def shipped(root: Path, number: int, **options: Any) -> Path:
    staged = send(root, number, **options)
    use(root, staged["version"], options.get("task", "birds"))
    return Path(staged["folder"])


def spoil(path: Path) -> None:
    """Change a file where it lies: in everything that shares it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")


def same(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


def test_a_version_shares_no_file_with_the_one_before(tmp_path: Path) -> None:
    folders = [shipped(tmp_path, number) for number in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(folders):
        assert not same(before / "labels.txt", after / "labels.txt")
    assert same(folders[0] / "labels.txt", folders[2] / "labels.txt")  # two copies, not four
    spoil(folders[3] / "labels.txt")
    assert versions.problems(folders[3]) == ["labels.txt has changed"]
    assert versions.problems(folders[2]) == []


def test_a_base_is_there_twice_at_most(tmp_path: Path) -> None:
    base = b"base" * 1000
    found = [shipped(tmp_path, number, task=task, base=base) for number in (1, 2, 3) for task in ("a", "b", "c")]
    assert len({(folder / "base.safetensors").stat().st_ino for folder in found}) == 2
    assert all(versions.problems(folder) == [] for folder in found)


def test_without_space_it_is_shared_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shipped(tmp_path, 1)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copies, "copy_whole", full)
    staged = send(tmp_path, 2)
    assert staged["shared"] == ["labels.txt"]
    assert same(first / "labels.txt", Path(staged["folder"]) / "labels.txt")


def test_going_back_repairs_what_was_damaged(tmp_path: Path) -> None:
    first, second = shipped(tmp_path, 1), shipped(tmp_path, 2)
    spoil(first / "labels.txt")
    (first / "model.onnx").unlink()
    os.mkfifo(first / "model.onnx")
    found = tasks.examine(tmp_path, {"task": "birds", "version": first.name}, NOTHING)
    assert (found["problems"], found["repaired"]) == ([], ["model.onnx", "labels.txt"])
    assert versions.problems(second) == []


def test_what_has_no_good_copy_is_said(tmp_path: Path) -> None:
    first, _ = shipped(tmp_path, 1), shipped(tmp_path, 2)
    spoil(first / "model.onnx")  # in the cache too: it is one file
    found = tasks.examine(tmp_path, {"task": "birds", "version": first.name}, NOTHING)
    assert (found["problems"], found["repaired"]) == (["model.onnx has changed"], [])


def test_the_same_again_repairs_all_versions_that_had_it(tmp_path: Path) -> None:
    first, second, third = (shipped(tmp_path, number) for number in (1, 2, 3))
    for folder in (first, second, third):
        spoil(folder / "labels.txt")
    staged = send(tmp_path, 3)
    assert staged["damaged"] == [digest_of(b"the same in all")]
    again = send(tmp_path, 3)
    assert again["version"] == third.name
    assert sorted(again["repaired"]) == [first.name, second.name, third.name]
    assert [versions.problems(folder) for folder in (first, second, third)] == [[], [], []]


def test_a_base_is_repaired_in_every_task_that_has_it(tmp_path: Path) -> None:
    base = b"base" * 1000
    birds, cats = (shipped(tmp_path, 1, task=task, base=base) for task in ("birds", "cats"))
    spoil(birds / "base.safetensors")
    assert versions.problems(cats) == ["base.safetensors has changed"]
    assert send(tmp_path, 1, task="birds", base=base)["damaged"] == [digest_of(base)]
    again = send(tmp_path, 1, task="birds", base=base)
    assert again["repaired"] == [birds.name, f"cats/{cats.name}"]
    assert versions.problems(birds) == versions.problems(cats) == []


@pytest.mark.parametrize("name", ["manifest.json", "labels.txt", "model.onnx"])
@pytest.mark.parametrize("content", [None, b"", b"other"])
def test_a_stored_file_is_not_trusted_for_being_there(tmp_path: Path, name: str, content: bytes | None) -> None:
    only = shipped(tmp_path, 1)
    (only / name).unlink()
    if content is not None:
        (only / name).write_bytes(content)
    staged = send(tmp_path, 1)
    assert (staged["version"], staged["repaired"]) == (only.name, [only.name])
    assert versions.problems(only) == []


def test_a_damaged_copy_in_the_cache_is_replaced_by_the_other(tmp_path: Path) -> None:
    shipped(tmp_path, 1), shipped(tmp_path, 2)
    first = tmp_path / "cache" / digest_of(b"the same in all")
    assert copies.second_path(first).is_file()
    spoil(first)
    staged = send(tmp_path, 3)
    assert staged["damaged"] == []
    assert versions.problems(Path(staged["folder"])) == []


def test_a_signature_that_came_later_is_taken(tmp_path: Path) -> None:
    only = shipped(tmp_path, 1)
    receive(tmp_path, b"signature")
    manifest = (only / "manifest.json").read_bytes()
    entries = [*versions.entries_of(only), entry("manifest.json.sig", b"signature")]
    staged = tasks.stage(tmp_path, {"task": "birds", "digest": digest_of(manifest), "files": entries}, NOTHING)
    assert staged["version"] == only.name
    assert (only / "manifest.json.sig").read_bytes() == b"signature"


def test_removing_versions_frees_both_copies(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        shipped(tmp_path, number)
    done = tasks.remove(tmp_path, {"task": "birds"}, NOTHING)
    assert len(done["versions"]) == 3
    assert os.listdir(tmp_path / "tasks") == os.listdir(tmp_path / "cache") == []
    assert not tasks.remove(tmp_path, {"task": "birds"}, NOTHING)["removed"]


def test_an_odd_task_can_be_removed_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("x")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tasks/file").write_text("x")
    (tmp_path / "tasks/.old.9.new").mkdir()
    shipped(tmp_path, 1)
    (tmp_path / "tasks/birds/current").unlink()
    (tmp_path / "tasks/birds/current").mkdir()
    for name in ("link", "file", "birds"):
        assert tasks.remove(tmp_path, {"task": name}, NOTHING)["removed"]
    assert os.listdir(tmp_path / "tasks") == []
    assert (tmp_path / "elsewhere/kept").is_file()


class Durable:
    """What a power cut would find: a file's content once it was flushed, a folder's names once it was.

    A new name in a folder that was not flushed is not there; a file that was not flushed is empty.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.flushed: set[tuple[int, int]] = set()
        self.names: dict[tuple[int, int], set[str]] = {}
        self.at_switch: list[str] = []
        real_fsync, real_replace = os.fsync, os.replace

        def fsync(descriptor: int) -> None:
            state = os.fstat(descriptor)
            key = (state.st_dev, state.st_ino)
            self.flushed.add(key)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if os.path.isdir(path):
                self.names[key] = set(os.listdir(path))
            real_fsync(descriptor)

        def replace(source: Any, target: Any) -> None:
            if os.path.basename(os.fspath(target)) == "current":
                self.at_switch = self.lost(Path(target).parent / os.readlink(source))
            real_replace(source, target)

        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)

    def lost(self, version: Path) -> list[str]:
        """What of a version would be gone."""
        found = []
        root = version.parents[2]
        for path in [version, *version.rglob("*"), *list(version.parents)[:2], version.with_suffix(".json")]:
            parent, state = path.parent.stat(), path.stat()
            if path.name not in self.names.get((parent.st_dev, parent.st_ino), set()):
                found.append(f"{path.relative_to(root)}: no such name")
            if path.is_file() and (state.st_dev, state.st_ino) not in self.flushed:
                found.append(f"{path.relative_to(root)}: empty")
        return found


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Durable:
    return Durable(monkeypatch)


@pytest.mark.parametrize("links", [True, False])
def test_a_power_cut_after_the_switch_finds_all_of_it(
    tmp_path: Path, power: Durable, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    root = tmp_path / "new" / "edgespa"
    for number in (1, 2):
        shipped(root, number)
        assert power.at_switch == []


def test_a_file_that_a_power_cut_has_emptied_is_said_and_mended(tmp_path: Path) -> None:
    first, second = shipped(tmp_path, 1), shipped(tmp_path, 2)
    for path in (second / "labels.txt", second / "model.onnx", Path(f"{second}.json")):
        path.chmod(0o644)
        os.truncate(path, 0)
    answer = versions.tasks(tmp_path, {"check": True}, NOTHING)
    row = answer["tasks"][0]["versions"][1]
    assert row["problems"] == ["model.onnx has changed: 0 of 7 bytes", "labels.txt has changed: 0 of 15 bytes"]
    assert row["odd"] == ["its record cannot be read: it is empty"]
    # Neither is it taken for an unfinished one and thrown away, nor is the one to go back to.
    os.truncate(Path(f"{first}.json"), 0)
    assert tasks.tidy(first.parent) == []
    assert versions.problems(first) == []
    assert sorted(send(tmp_path, 2)["damaged"]) == sorted([digest_of(b"model 2"), *_labels(tmp_path)])
    assert send(tmp_path, 2)["version"] == second.name
    assert versions.problems(second) == []


def _labels(root: Path) -> list[str]:
    """Its digest, if the copy that was emptied is the one that is looked for first."""
    digest = digest_of(b"the same in all")
    return [] if (root / "cache" / digest).is_file() else [digest]


@pytest.mark.parametrize("what", ["tasks/birds/{}", "tasks/birds/{}.json", "tasks/birds/.{}.link", "cache/{}"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_whatever_lies_in_the_way_is_replaced(tmp_path: Path, what: str, kind: str) -> None:
    only = shipped(tmp_path, 1)
    path = tmp_path / what.format(digest_of(b"model 1") if what.startswith("cache") else only.name)
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if kind == "pipe":
        os.mkfifo(path)  # whoever opens it waits for ever
    elif kind == "folder":
        (path / "in it").mkdir(parents=True)
    else:
        path.symlink_to(tmp_path / "nowhere")
    again = shipped(tmp_path, 1)
    assert again.name == only.name
    assert versions.problems(again) == []
    assert versions.record_of(again.parent, again.name)[1] is None


def test_old_transfers_go(tmp_path: Path) -> None:
    shipped(tmp_path, 1)
    for name in ("0" * 64 + ".part", "2" * 64 + ".copy", "." + "4" * 64 + ".77.tmp"):
        (tmp_path / "cache" / name).write_bytes(b"x")
        os.utime(tmp_path / "cache" / name, (1, 1))
    kept = {"1" * 64, "3" * 64 + ".part"}  # a base that no task has now, and what comes at the moment
    for name in kept:
        (tmp_path / "cache" / name).write_bytes(b"x")
    os.utime(tmp_path / "cache" / ("1" * 64), (1, 1))
    tasks.discard(tmp_path, {"task": "birds", "keep": 3}, NOTHING)
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.stat().st_nlink == 1} == kept
