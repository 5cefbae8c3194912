"""Roll-outs on devices behind a real sshd: some go back, some are away, the host is killed; and who has what then."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

import edgespa as es
from edgespa.api.device_results import Shipping
from edgespa.device.agent.window import is_watched
from edgespa.errors import ConfigError

# Test folders are no packages: what several files need is in one of them.
_spec = importlib.util.spec_from_file_location("edgespa_test_rollout", Path(__file__).with_name("test_ship.py"))
assert _spec is not None
assert _spec.loader is not None
_common = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _common
_spec.loader.exec_module(_common)
versions, in_use = _common.versions, _common.in_use
Versions = Callable[..., Path]

WELL = "test ! -e ../../../ill"
"""A health command that fails where there is a file ``ill`` in edgespa's folder."""
WATCHED: dict[str, Any] = {"watch_s": 1.0, "health_every_s": 0.3, "health_command": WELL}


class Kitchen:
    """Devices of a group, whose profiles are the user's; they are all this machine, each in a folder of its own."""

    def __init__(self, sshd: Any, place: Path, count: int) -> None:
        self.sshd, self.place = sshd, place
        self.names = [f"k{number:02d}" for number in range(1, count + 1)]
        self.profiles = place / "config/edgespa/devices"
        self.profiles.mkdir(parents=True)
        for name in self.names:
            self.there(name)

    def there(self, name: str, **connection: object) -> None:
        path = self.sshd.profile(self.profiles / f"{name}.toml", home=self.home(name), **connection)
        path.write_text('tags = ["kitchen"]\n' + path.read_text())

    def away(self, name: str) -> None:
        self.there(name, host="127.0.0.1", port=1)

    def home(self, name: str) -> Path:
        return self.place / "far" / name

    def ill(self, *names: str) -> None:
        for name in names:
            (self.home(name) / "ill").touch()

    def well(self, *names: str) -> None:
        for name in names:
            (self.home(name) / "ill").unlink()

    def uses(self) -> dict[str, str | None]:
        """The number of the version in use on each."""
        found = {name: in_use(self.home(name)) for name in self.names}
        return {name: None if version is None else version[:4].lstrip("0") for name, version in found.items()}


@pytest.fixture
def kitchen(start_sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Kitchen]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with start_sshd("MaxStartups 200") as server:  # more at once are sent away by chance
        made: list[Kitchen] = []

        def make(count: int) -> Kitchen:
            made.append(Kitchen(server, tmp_path, count))
            return made[0]

        yield make
        for each in made:  # what still watches when a test has ended is ended too
            for path in (each.place / "far").glob("*/tasks/*/window.json"):
                path.unlink()
            for home in map(each.home, each.names):
                wait_for(lambda home=home: not is_watched(home, "shapes"), "a process watches on")


def states(done: Shipping) -> list[str]:
    return [each.state for each in done.places]


@pytest.mark.more  # as tests/cli/test_rollout.py has it, typed
def test_from_the_first_wave_to_the_device_that_was_away(kitchen: Any, versions: Versions) -> None:
    fleet = kitchen(3)
    fleet.away("k03")
    first = es.ship(versions(1), group="kitchen")
    assert (states(first), first.stopped) == (["in use", "in use", "unreachable"], None)
    assert list(first.errors) == ["k03"]

    fleet.ill("k02")
    again: dict[str, Any] = {"group": "kitchen", "waves": "1,100%", **WATCHED}
    second = es.ship(versions(2), **again, abort_above=0.5)
    assert states(second) == ["in use", "rolled back", "unreachable"]
    assert [each.wave for each in second.places] == [1, 2, 2]
    assert second.stopped == "stopped in wave 2 of 2: 2 of 2 (100%) are not well, and 50% may be"
    assert fleet.uses() == {"k01": "2", "k02": "1", "k03": None}
    seen = {each.device: (each.in_use.get("shapes") or "")[:4] for each in second.places}
    assert seen == {"k01": "0002", "k02": "0001", "k03": ""}
    assert "the health command ended with status 1; 0001-" in str(second.errors["k02"])
    assert [(each.device, each.window.state) for each in second.shipped if each.window] == [("k01", "passed")]
    # What a stopped roll-out brought is not what the group is to have.
    lags = {each.device: [lag.task for lag in each.lags] for each in es.status(group="kitchen").devices}
    assert lags == {"k01": ["shapes"], "k02": []}

    fleet.well("k02")
    third = es.ship(versions(2), **again, abort_above=0.5)
    assert states(third) == ["had it", "in use", "unreachable"]
    assert third.stopped is None
    assert {each.device for each in third.shipped} == {"k02"}
    assert [(each.in_use.get("shapes") or "")[:4] for each in third.places] == ["0002", "0002", ""]

    fleet.there("k03")
    (lag,) = es.status("k03").devices[0].lags
    assert (lag.group, lag.why) == ("kitchen", "it has none in use")
    late = es.catch_up("kitchen")
    assert states(late) == ["had it", "had it", "in use"]
    assert late.errors == {}
    (shipped,) = late.shipped
    assert shipped.window is not None  # as the group had it
    assert (shipped.device, shipped.window.state, shipped.window.watch_s) == ("k03", "passed", 1.0)
    assert not es.status("k03").devices[0].lags


@pytest.mark.more
def test_what_went_back_is_not_caught_up_with(kitchen: Any, versions: Versions) -> None:
    fleet = kitchen(2)
    es.ship(versions(1), group="kitchen")
    fleet.ill("k02")
    done = es.ship(versions(2), group="kitchen", **WATCHED)
    assert (states(done), done.stopped) == (["in use", "rolled back"], None)  # nobody asked for it to be stopped
    (lag,) = es.status("k02").devices[0].lags
    assert lag.why == "it went back from it by itself: the health command ended with status 1"
    fleet.well("k02")
    late = es.catch_up(device=["k02"])
    assert states(late) == ["failed"]
    assert "has gone back by itself" in str(late.errors["k02"])
    assert fleet.uses() == {"k01": "2", "k02": "1"}
    assert late.notes == ("k02: shapes is left as it is: it went back from it by itself: the health command ended with "
                          "status 1",)  # fmt: skip
    es.remove("shapes", group="kitchen")
    with pytest.raises(ConfigError, match="nothing was shipped to the group kitchen"):
        es.catch_up("kitchen")
    assert fleet.uses() == {"k01": None, "k02": None}


@pytest.mark.more
def test_the_whole_wave_is_taken_back(kitchen: Any, versions: Versions) -> None:
    fleet = kitchen(3)
    es.ship(versions(1), device=["k01", "k03"])
    fleet.ill("k03")
    done = es.ship(versions(2), group="kitchen", waves="100%", take_back=True, **WATCHED)
    assert states(done) == ["taken back", "in use", "rolled back"]
    assert fleet.uses() == {"k01": "1", "k02": "1", "k03": "1"}
    assert [(each.in_use["shapes"] or "")[:4] for each in done.places] == ["0001", "0001", "0001"]
    assert "there was none before it" in str(done.errors["k02"])  # it had nothing to go back to
    assert done.shipped == () or {each.device for each in done.shipped} == {"k02"}
    assert not es.status(group="kitchen").devices[0].lags


@contextlib.contextmanager
def typed(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own, as from a shell; what is left of it is ended."""
    command = [sys.executable, "-m", "edgespa", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert process.stdout is not None
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_the_host_is_killed_in_the_middle_of_a_wave(kitchen: Any, versions: Versions) -> None:
    """A bad version that has passed its self-check is gone back from within its window; the rest goes on."""
    fleet = kitchen(3)
    es.ship(versions(1), device="k02")
    window = ["--watch", "60s", "--health-every", "0.5s", "--health-command", WELL]
    with typed("ship", versions(2), "--group", "kitchen", "--wave", "2,100%", *window) as process:
        wait_for(lambda: list(fleet.uses().values())[:2] == ["1", "2"], "the first wave has not begun")
        process.kill()
        process.wait()
    fleet.sshd.cut()
    assert fleet.uses() == {"k01": "1", "k02": "2", "k03": None}
    fleet.ill("k02")
    file = fleet.home("k02") / "tasks/shapes/window.json"
    wait_for(lambda: json.loads(file.read_text())["state"] == "rolled back", "it did not go back")
    assert fleet.uses() == {"k01": "1", "k02": "1", "k03": None}
    state = json.loads(file.read_text())
    assert state["reason"] == "the health command ended with status 1"
    assert state["done_s"] < 60  # within its window, with nobody connected
    assert _common.answers(fleet.home("k02")) == "passed"
    assert is_watched(fleet.home("k01"), "shapes")

    # The same again: what is in use is not sent once more, what is in its window is followed.
    path = fleet.home("k01") / "tasks/shapes/window.json"
    shorter = path.with_name("shorter")  # by a rename: half of a plan is a damaged one, for which a device goes back
    shorter.write_text(json.dumps({**json.loads(path.read_text()), "watch_s": 1.0, "every_s": 0.3}))
    shorter.replace(path)
    fleet.well("k02")
    done = es.ship(versions(2), group="kitchen", waves="2,100%", **WATCHED)
    assert states(done) == ["in use", "in use", "in use"]
    assert {each.device for each in done.shipped} == {"k02", "k03"}
    assert fleet.uses() == {"k01": "1", "k02": "2", "k03": "1"}
    assert list((fleet.home("k01") / "tasks/shapes").glob("0002-*")) == []


@pytest.mark.more
def test_twenty_devices_of_which_three_are_bad_and_two_dead(kitchen: Any, versions: Versions) -> None:
    fleet = kitchen(20)
    es.ship(versions(1), group="kitchen")
    bad, dead = ["k06", "k11", "k14"], ["k08", "k16"]
    fleet.ill(*bad)
    for name in dead:
        fleet.away(name)
    told: list[str] = []
    from edgespa.api.shell import adding

    with adding(stage=told.append):
        done = es.ship(versions(2), group="kitchen", waves="1,25%,100%", abort_above=0.05, **WATCHED)
    assert told == [
        "wave 1 of 3: 1 in use",
        "wave 2 of 3: 4 in use",
        "wave 3 of 3: 10 in use, 3 rolled back, 2 unreachable",
    ] or (done.stopped is not None and told[:2] == ["wave 1 of 3: 1 in use", "wave 2 of 3: 4 in use"])
    by_name = {each.device: each.state for each in done.places}
    assert all(by_name[name] == "unreachable" for name in dead)
    assert done.stopped is not None
    uses = fleet.uses()
    for name, state in by_name.items():
        assert uses[name] == ("2" if state == "in use" else "1"), name
        if name in bad:
            assert state in ("rolled back", "not begun")
