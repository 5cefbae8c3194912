"""Files of jobs on nodes that do not see them: packed, fetched once, checked, brought back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.errors import ConfigError, DataError
from edgespa.models.elsewhere import Elsewhere, final_folder, named, recorded_as
from edgespa.models.reference import BaseReference
from edgespa.workers import Job, carried, node
from edgespa.workers.sending import Sending

Jobs = Callable[..., Job]


class Store:
    """An object store; what is taken is counted."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.taken: list[int] = []

    def put(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept) - 1

    def get(self, ref: int) -> Any:
        self.taken.append(ref)
        return self.kept[ref]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nodes"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The user's folder, which a test hides by another name."""
    folder = tmp_path / "there"
    (folder / "photos" / "a").mkdir(parents=True)
    (folder / "photos" / "a" / "1.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "photos" / "empty.bin").write_bytes(b"")
    (folder / "one.bin").write_bytes(b"one")
    (folder / "out").mkdir()
    return folder


@pytest.fixture
def job(there: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Job:
    import importlib.util

    spec = importlib.util.spec_from_file_location("edgespa.jobs_of_tests", Path(__file__).with_name("jobs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edgespa.jobs_of_tests", module)
    spec.loader.exec_module(module)
    found = jobs(
        "copied", source=f"{there / 'photos'}:x", folder=str(there / "out"), deep={"at": [str(there / "out/sub")]}
    )
    return Job(
        found.name, found.call, found.arguments, None, (f"{there / 'photos'}:x",), str(there / "out"),
        ("made", "sub", "done"),
    )  # fmt: skip


def hidden(there: Path) -> Path:
    return there.rename(there.with_name("hidden"))


def back(there: Path) -> None:
    there.with_name("hidden").rename(there)


def on_node(job: Job, sending: Sending, store: Store, needs: Any = None, *, hide: bool = True) -> dict[str, Any]:
    travel = sending.of(job, needs)
    assert travel is not None
    there = Path(str(job.folder)).parent
    if hide:
        hidden(there)
    try:
        return node.on_node(job.call, dict(job.arguments), travel, store.get)
    finally:
        if hide:
            back(there)


def test_pieces_are_the_files_again(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "PIECE", 1000)
    one = carried.look(str(there / "photos"))
    assert one is not None
    pieces = list(one.pieces())
    assert {len(each) for each in pieces[:-1]} == {1000}
    assert [name for name, _, _ in one.contents()] == ["photos/a/1.bin", "photos/empty.bin"]
    carried.unpack(one.contents(), pieces, tmp_path / "copy")
    for name, _, sha256 in one.contents():
        assert hashlib.sha256((tmp_path / "copy" / name).read_bytes()).hexdigest() == sha256
    with pytest.raises(DataError, match="has not arrived whole"):
        carried.unpack(one.contents(), pieces[:-1], tmp_path / "short")
    with pytest.raises(DataError, match="has arrived damaged"):
        carried.unpack(one.contents(), [b"x" * len(each) for each in pieces], tmp_path / "other")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\\b", "a\0"])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no name of a file of a job"):
        carried.unpack([(name, 1, "")], [b"x"], tmp_path / "copy")
    assert not (tmp_path / "x").exists()


def test_what_a_spec_names(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there / "net.py").write_text(
        "import part\nfrom pathlib import Path\nW = Path(__file__).parent / 'w.bin'\nNO = '../no'\n"
    )
    (there / "part.py").write_text("V = 'photos/a/1.bin'\n")
    (there / "w.bin").write_bytes(b"w")
    (there / "secret.bin").write_bytes(b"s")
    code = carried.look(f"{there / 'net.py'}:build")
    assert code is not None
    assert [name for name, _, _ in code.files] == ["net.py", "part.py", "photos/a/1.bin", "w.bin"]
    assert code.at(Path("/c")) == "/c/net.py:build"
    (there / "m.onnx").write_bytes(b"m")
    (there / "m.onnx.data").write_bytes(b"d")
    model = carried.look(str(there / "m.onnx"))
    assert model is not None
    assert [name for name, _, _ in model.files] == ["m.onnx", "m.onnx.data"]
    assert carried.look("torchvision:resnet18") is None
    assert carried.look(str(there / "none")) is None
    folder = carried.look(f"hf:{there / 'photos'}")
    assert folder is not None
    assert folder.at(Path("/c")) == "hf:/c/photos"
    assert carried.may_be_carried(["a.zip", "/b:c", None, "/b:c", 3, "hf:/d", "hf:e"]) == ("/b:c", "hf:/d")
    monkeypatch.setattr(carried, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="is not carried to nodes"):
        carried.look(str(there / "photos"))
    monkeypatch.setattr(carried, "MOST_FILES", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        carried.look(str(there / "photos"))


def test_a_node_that_sees_all_copies_nothing(job: Job, there: Path, store: Store, cache: Path) -> None:
    sending = Sending(store)
    answer = on_node(job, sending, store, hide=False)
    assert answer["failure"] is None
    assert "files" not in answer
    assert (there / "out" / "made" / "1.bin").is_file()
    assert not store.kept
    assert not cache.exists()
    assert (there / "out" / node.MARK).is_file()
    sending.close()
    assert not (there / "out" / node.MARK).exists()


def test_a_node_that_sees_nothing(job: Job, there: Path, store: Store, cache: Path) -> None:
    (there / "out" / "sub").mkdir()
    (there / "out" / "sub" / "state").write_text("begun")
    (there / "out" / "sub" / "old").write_text("old")
    (there / "out" / "private").write_text("nobody's")
    sending = Sending(store)
    asked = on_node(job, sending, store)
    assert asked == {"needs": {"reads": [f"{there / 'photos'}:x"], "sent": True}}
    assert not store.kept
    answer = on_node(job, sending, store, asked["needs"])
    assert answer["failure"] is None, answer["failure"]
    assert answer["value"]["source"].startswith(str(cache))
    assert answer["value"]["source"].endswith("/files/photos:x")
    assert answer["value"]["folder"].startswith(str(cache))
    assert answer["value"]["sub"] == f"{answer['value']['folder']}/sub"
    assert answer["value"]["state"] == "begun"
    assert answer["value"]["private"] is False
    assert [name for name, _, _ in answer["files"]] == ["made/1.bin", "made/empty.bin", "sub/new", "done"]
    assert answer["gone"] == ["sub/old"]
    assert not list(cache.glob(".job*")), "nothing of the job is left on the node"
    sending.take(job, answer)
    assert (there / "out/made/1.bin").read_bytes() == (there / "photos/a/1.bin").read_bytes()
    assert (there / "out/made/1.bin").stat().st_mode & 0o777 == 0o600
    assert not (there / "out/sub/old").exists()
    # The next job finds the copy, and the store is told of nothing twice.
    put, taken = len(store.kept), len(store.taken)
    again = on_node(job, sending, store, asked["needs"])
    assert again["failure"] is None
    assert len(store.kept) == put + 1, "only what lies in the folder"
    assert store.taken[taken:] == [put]


def test_what_cannot_be_read_is_said(job: Job, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(spec: str) -> Any:
        raise PermissionError(13, "Permission denied", spec)

    monkeypatch.setattr("edgespa.workers.sending.look", refused)
    with pytest.raises(DataError, match="photos:x: Permission denied"):
        Sending(store).of(job)


def test_the_same_content_at_the_same_path_is_taken(job: Job, there: Path, store: Store, cache: Path) -> None:
    sending = Sending(store)
    needs = {"reads": list(job.reads), "sent": False}
    travel = sending.of(job, needs)
    assert travel is not None
    os.utime(there / "photos/a/1.bin", (1, 1))  # as a copy of one's own on the node has
    answer = node.on_node(job.call, dict(job.arguments), travel, store.get)
    assert answer["value"]["source"] == job.reads[0]
    (there / "photos/a/1.bin").write_bytes(bytes(256 * 40))  # and another content
    answer = node.on_node(job.call, dict(job.arguments), travel, store.get)
    assert answer["value"]["source"].startswith(str(cache))
    assert (there / "out/made/1.bin").read_bytes() == bytes(range(256)) * 40


def test_a_copy_that_is_not_whole_is_fetched_again(job: Job, there: Path, store: Store, cache: Path) -> None:
    sending, needs = Sending(store), {"reads": list(job.reads), "sent": True}
    on_node(job, sending, store, needs)
    (place,) = (each for each in cache.iterdir() if carried.is_digest(each.name))
    copy = place / "files/photos/a/1.bin"
    copy.write_bytes(b"half")
    assert on_node(job, sending, store, needs)["failure"] is None
    assert copy.stat().st_size == 256 * 40
    (place / "contents.json").write_text("[]")
    assert on_node(job, sending, store, needs)["failure"] is None
    assert json.loads((place / "contents.json").read_text())[0][0] == "photos/a/1.bin"
    # What a killed job left beside is no copy, and goes.
    shutil.rmtree(place)
    left = cache / f".{place.name[:60]}.tmp-01234567"
    left.mkdir()
    assert on_node(job, sending, store, needs)["failure"] is None
    assert not left.exists()


def test_damage_and_no_room(job: Job, there: Path, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sending, needs = Sending(store), {"reads": list(job.reads), "sent": True}
    sending.of(job, needs)
    (place,) = (at for at, each in enumerate(store.kept) if isinstance(each, bytes))
    good = store.kept[place]
    store.kept[place] = bytes(len(good))
    answer = on_node(job, sending, store, needs)
    assert "has arrived damaged" in answer["failure"]["message"]
    assert not [each for each in cache.iterdir() if carried.is_digest(each.name)]
    store.kept[place] = good
    full = type("Usage", (), {"free": 1 << 20})
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: full)
        answer = on_node(job, sending, store, needs)
    assert "has 1 MiB left" in answer["failure"]["message"]
    assert "EDGESPA_CACHE" in answer["failure"]["hint"]

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/node/file")

    with monkeypatch.context() as patched:
        patched.setattr(node, "unpack", no_space)
        answer = on_node(job, sending, store, needs)
    assert answer["failure"]["message"] == "/node/file: No space left on device"
    monkeypatch.setenv("EDGESPA_CACHE", "off")
    assert "keeps no copies" in on_node(job, sending, store, needs)["failure"]["message"]


def test_others_cannot_write_the_copies(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        node._cache()


def test_what_no_job_uses_is_removed(job: Job, store: Store, cache: Path) -> None:
    old, young = cache / ("0" * 64), cache / ("1" * 64)
    for each in (old, young):
        each.mkdir(parents=True)
    os.utime(old, (1, 1))
    cache.chmod(0o700)
    on_node(job, Sending(store), store, {"reads": list(job.reads), "sent": True})
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("name", ["other", "made/../../x", "/x", "madeup"])
def test_a_node_sends_only_what_the_job_writes(job: Job, there: Path, store: Store, name: str) -> None:
    with pytest.raises(DataError, match=r"a node sent|no name of a file"):
        Sending(store).take(job, {"files": [(name, 0o644, b"x")], "gone": []})
    with pytest.raises(DataError, match=r"a node sent|no name of a file"):
        Sending(store).take(job, {"files": [], "gone": [name]})
    assert not (there / "x").exists()


def test_what_is_recorded_is_of_the_originals(tmp_path: Path, there: Path) -> None:
    (there / "net.py").write_text("")
    (there / "w.safetensors").write_text("")
    typed = [f"{there / 'net.py'}:build", str(there / "w.safetensors")]
    usual = BaseReference.record(typed[0], typed[1], there / "out" / "tasks")
    work = tmp_path / "node" / "work"
    net, weights = f"{tmp_path}/c/net.py:build", f"{tmp_path}/c/w.safetensors"
    copies = {net: (typed[0], typed[0]), weights: (typed[1], typed[1])}
    with recorded_as(Elsewhere(copies, work, there / "out")):
        assert BaseReference.record(net, weights, work / "tasks") == usual
        assert named(f"{tmp_path}/c/net.py:build") == typed[0]
        assert final_folder(tmp_path) == tmp_path
    assert named(f"{tmp_path}/c/net.py:build") != typed[0]


TASKS = """
version = 1
[base]
model = "net.py:build"
input-shape = "1,3,8,8"
[defaults]
density = 0.5
epochs = 1
precision = "fp32"
format = "onnx"
[tasks.colours]
data = "colours.npz"
eval-data = "colours.npz"
"""


@pytest.fixture
def blind_node(tmp_path: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A cluster whose only core is of a node that sees none of the user's files."""
    pytest.importorskip("ray", reason="RAY ABSENT: pip install 'edgespa[ray]'; jobs on a cluster are not tested")
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("NO MOUNT NAMESPACES: files are hidden from a node by one of its own")
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    user = tmp_path / "user"
    user.mkdir()
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    start = [
        sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={found.address}", "--num-cpus=1", "--block"
    ]  # fmt: skip
    hide = f"mount -t tmpfs none {user} && exec " + " ".join(start)
    environment = {**os.environ, "EDGESPA_CACHE": str(tmp_path / "of-node"), "XDG_STATE_HOME": str(tmp_path / "state")}
    blind = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", hide], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        ray.init(address=found.address, log_to_driver=False)
        while ray.cluster_resources().get("CPU", 0) < 1:
            assert blind.poll() is None
            time.sleep(0.1)
        ray.shutdown()
        yield found.address, user
    finally:
        ray.shutdown()
        blind.terminate()
        blind.wait()
        found.shutdown()


@pytest.mark.more
def test_a_sweep_on_a_node_that_sees_nothing(
    blind_node: tuple[str, Path], toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgespa as es
    from edgespa.tasks.task import Task

    address, user = blind_node
    for name in ("net.py", "colours.npz"):
        shutil.copyfile(toy_folder / name, user / name)
    (user / "tasks.toml").write_text(TASKS)
    out = user / "out"
    cores = len(os.sched_getaffinity(0))
    first = es.sweep(user / "tasks.toml", output=out, jobs=cores, trust=True, progress=False)  # of one thread, as there
    assert first.done, first
    local = Task.load(out / "tasks/colours.spa")
    here = {each.name: each.read_bytes() for each in (out / "bundles/colours").iterdir() if each.suffix == ".onnx"}
    shutil.rmtree(out)
    found = es.sweep(user / "tasks.toml", output=out, ray=address, trust=True, progress=False)
    assert found.done, found
    copies = {each.name for each in (tmp_path / "of-node/nodes").glob("*/files/*")}
    assert copies == {"net.py", "colours.npz"}
    task = Task.load(out / "tasks/colours.spa")
    same = {"created": local.header.created}
    assert task.header.model_copy(update=same) == local.header
    bundle = {each.name: each.read_bytes() for each in (out / "bundles/colours").iterdir() if each.suffix == ".onnx"}
    assert bundle.keys() == here.keys()
    again = es.sweep(user / "tasks.toml", output=out, trust=True, progress=False)
    assert {each.state for each in again.all} == {"unchanged"}
    assert not (out / node.MARK).exists()
