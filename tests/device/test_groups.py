"""Groups of devices by the tags of their profiles, and what each group is to have, remembered here."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgespa.bundle import open_bundle
from edgespa.device.board import load_device
from edgespa.device.groups import chosen, devices_in, group_names
from edgespa.device.shipment.reading import read_status
from edgespa.device.shipment.results import TaskStatus, VersionStatus, WindowStatus
from edgespa.device.shipment.ship import Shipment
from edgespa.device.shipment.wanted import (
    copy_of,
    groups_folder,
    known_groups,
    lag_of,
    opened,
    want,
    want_no_more,
    wanted_of,
    wanted_on,
    went_back_from,
)
from edgespa.device.shipment.windows import Watch
from edgespa.errors import BundleError, ConfigError, DeviceError

# Test folders are no packages: what several files need is in one of them.
_spec = importlib.util.spec_from_file_location("edgespa_test_groups", Path(__file__).with_name("conftest.py"))
assert _spec is not None
assert _spec.loader is not None
_beside = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_beside)
EARLY, LATE = "2026-12-01T10:00:00+00:00", "2026-12-02T10:00:00+00:00"


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three devices of the user's."""
    folder = tmp_path / "config/edgespa/devices"
    folder.mkdir(parents=True)
    for name, tags in (("a", '"kitchen"'), ("b", '"kitchen", "canary"'), ("c", "")):
        (folder / f"{name}.toml").write_text(f'extends = "local"\ntags = [{tags}]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@pytest.fixture
def full_other(tmp_path: Path, make_bundle: Callable[..., Path]) -> Path:
    """Another bundle of the same task."""
    own = _beside.onnx_bytes()
    return make_bundle(tmp_path / "other", onnx=own, bound={"relative_error": 2e-4})


def shipment(path: Path, task: str = "shapes") -> Shipment:
    with open_bundle(path) as found:
        return Shipment.of(found, task=task)


def test_devices_by_their_tags() -> None:
    assert group_names() == ("canary", "kitchen")
    assert [each.name for each in devices_in("kitchen")] == ["a", "b"]
    assert [each.name for each in chosen(["c", "b"], ["kitchen", "canary"])] == ["c", "b", "a"]
    assert chosen([], []) == []
    with pytest.raises(DeviceError, match="there is no group 'kitchn'") as caught:
        devices_in("kitchn")
    assert "nearest: kitchen" in (caught.value.hint or "")
    with pytest.raises(DeviceError) as caught:
        devices_in("garden")
    assert "known: canary, kitchen" in (caught.value.hint or "")
    assert 'tags = ["garden"]' in (caught.value.hint or "")


def test_a_profile_that_cannot_be_read_is_not_left_out_silently(profiles: Path) -> None:
    (profiles / "d.toml").write_text('extends = "local"\ntags = ["kitchen"]\nodd = 1\n')
    with pytest.raises(ConfigError, match="it may be of the group kitchen"):
        devices_in("kitchen")
    assert [each.name for each in devices_in("canary")] == ["b"]
    (profiles / "d.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it may be of the group canary"):
        devices_in("canary")


@pytest.mark.parametrize("tag", ["", "a b", "../up", "-x", 7])
def test_what_is_no_tag(profiles: Path, tag: object) -> None:
    written = f'"{tag}"' if isinstance(tag, str) else str(tag)
    (profiles / "a.toml").write_text(f'extends = "local"\ntags = [{written}]\n')
    with pytest.raises(ConfigError, match="tags"):
        load_device("a")


def test_what_a_group_is_to_have_is_kept_with_a_copy(bundle: Path, full_other: Path) -> None:
    one, other = shipment(bundle), shipment(full_other)
    watch = Watch(600, every_s=5, health="true", max_latency_ms=20)
    want("kitchen", one, EARLY, 3, watch)
    want("kitchen", shipment(bundle, "more"), EARLY, 2, None)
    assert known_groups() == ("kitchen",)
    more, shapes = wanted_of("kitchen")
    assert (more.task, more.keep, more.window) == ("more", 2, None)
    assert (shapes.task, shapes.digest, shapes.window) == ("shapes", one.digest, watch)
    with opened(shapes) as found:
        assert (found.digest, found.task, sorted(found.files)) == (one.digest, "shapes", sorted(one.files))
        assert all(copy_of(one.digest) in each.path.parents for each in found.files.values())
    # What nobody is to have any more is not kept.
    want("canary", one, LATE, 3, None)
    want("kitchen", other, LATE, 3, None)
    assert copy_of(one.digest).is_dir()
    want_no_more("kitchen", "more")
    want_no_more("kitchen", "never")
    assert copy_of(one.digest).is_dir()
    want_no_more("canary", "shapes")
    assert not copy_of(one.digest).exists()
    assert [each.digest for each in wanted_of("kitchen")] == [other.digest]
    assert wanted_of("nobody") == ()


def test_of_two_groups_the_later_one_counts(bundle: Path, full_other: Path) -> None:
    want("kitchen", shipment(bundle), EARLY, 3, None)
    want("canary", shipment(full_other), LATE, 3, None)
    device = load_device("b")
    ((group, row),) = wanted_on(device)
    assert (group, row.digest) == ("canary", shipment(full_other).digest)
    ((group, row),) = wanted_on(device, ["kitchen"])
    assert (group, row.digest) == ("kitchen", shipment(bundle).digest)
    want("kitchen", shipment(bundle), "2026-12-03T10:00:00+00:00", 3, None)
    assert wanted_on(device)[0][0] == "kitchen"
    assert wanted_on(load_device("c")) == ()


def test_a_copy_that_is_not_what_it_was(bundle: Path) -> None:
    want("kitchen", shipment(bundle), EARLY, 3, None)
    (row,) = wanted_of("kitchen")
    (copy_of(row.digest) / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError), opened(row):
        pass
    shutil.rmtree(copy_of(row.digest))
    with pytest.raises(BundleError, match="is gone") as caught, opened(row):
        pass
    assert caught.value.hint == "ship it to the group again, from its bundle or task file"
    # Another bundle in its place, whole in itself.
    want("kitchen", shipment(bundle), EARLY, 3, None)
    (row,) = wanted_of("kitchen")
    wrong = row.model_copy(update={"digest": "0" * 64})
    shutil.copytree(copy_of(row.digest), copy_of(wrong.digest))
    with pytest.raises(BundleError, match="has changed"), opened(wrong):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"tasks": [{"task": "../x"}]}', "[" * 100_000])
def test_what_is_written_of_a_group_and_is_odd(text: str) -> None:
    groups_folder().mkdir(parents=True)
    (groups_folder() / "kitchen.json").write_text(text)
    with pytest.raises(ConfigError, match=r"kitchen\.json"):
        wanted_of("kitchen")


def task(digest: str | None, window: WindowStatus | None = None) -> TaskStatus:
    found = VersionStatus(
        version=f"0001-{(digest or '0' * 8)[:8]}",
        digest=digest,
        size_bytes=1,
        base_bytes=0,
        finished=True,
        shipped=None,
        signed_by=None,
    )
    return TaskStatus(task="shapes", current=found.version, health="ok", versions=(found,), window=window)


def test_what_a_device_lacks(bundle: Path) -> None:
    want("kitchen", shipment(bundle), EARLY, 3, None)
    (row,) = wanted_of("kitchen")
    assert lag_of("kitchen", row, task(row.digest)) is None
    lag = lag_of("kitchen", row, task("f" * 64))
    assert lag is not None
    assert (lag.group, lag.task, lag.digest, lag.why) == (
        "kitchen",
        "shapes",
        row.digest,
        "it has 0001-ffffffff in use",
    )
    none = lag_of("kitchen", row, None)
    assert none is not None
    assert none.why == "it has none in use"
    window = WindowStatus(
        state="rolled back",
        version=f"0002-{row.digest[:8]}",
        watch_s=9,
        left_s=1,
        rounds=2,
        begun=EARLY,
        reason="the health command ended with status 1",
    )
    back = task("f" * 64, window)
    lag = lag_of("kitchen", row, back)
    assert lag is not None
    assert lag.why == "it went back from it by itself: the health command ended with status 1"
    assert went_back_from(row, back)
    for other in ({"state": "replaced"}, {"version": "0002-00000000"}):
        assert not went_back_from(row, task("f" * 64, window.model_copy(update=other)))


def test_a_window_of_what_is_not_in_use_is_over() -> None:
    """The power may go between the switch and what is written of it."""
    window = {"state": "watching", "version": "0002-00000000", "watch_s": 60.0, "done_s": 9.0, "begun": EARLY}
    names = ("0001-00000000", "0002-00000000")
    there = [{"version": name, "finished": True} for name in names]
    row: dict[str, Any] = {"task": "shapes", "versions": there, "window": window}
    row["current"] = row["link"] = names[0]
    answer: dict[str, Any] = {"tasks": [row], "unfinished": [], "odd": [], "storage": {}, "pull": None}
    answer.update(free_bytes=1 << 40, cached_bytes=0, folder="/far")
    (found,) = read_status("a", "a", answer).tasks
    assert found.window is not None
    assert found.window.state == "replaced"
    row["current"] = row["link"] = names[1]
    (found,) = read_status("a", "a", answer).tasks
    assert found.window is not None
    assert found.window.state == "watching"
    for odd in ({"state": "odd"}, {"version": "../x"}, {"watch_s": "9"}, {"watch_s": True}, {"begun": "now\n"}):
        row["window"] = {**window, **odd}
        (found,) = read_status("a", "a", answer).tasks
        assert found.window is None
