"""What share of a machine a measured process gets: from file trees as the boards have them to what is said of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.agent import read_conditions, watched
from edgespa.device.agent.share import ClockWatch, busy_seconds, core_of, quota
from edgespa.device.agent.system import System
from edgespa.device.host import Clock, Conditions, Usage
from edgespa.device.measure.judge import doubts, spread, stalls, unknowns

PI = {"max_khz": 1_800_000, "limit_khz": 1_800_000}


def put(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def system(root: Path, **changes: Any) -> System:
    return System(root / "proc", root / "sys", root / "etc", lambda argv: None, root / "dev", **changes)


def conditions(root: Path, **changes: Any) -> Conditions:
    return Conditions.of(read_conditions(system(root, **changes)))


def state(**changes: Any) -> Conditions:
    values: dict[str, Any] = {"load_average": None, "governor": None, "frequency_khz": None, "temperature_c": {}}
    return Conditions.model_validate({**values, **changes})


def usage(**changes: Any) -> Usage:
    return Usage.model_validate({"seconds": 10, "own_s": 10, "others_s": 0, "stolen_s": 0, "cores": 4, **changes})


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        # A governor that holds 600 of 1800 MHz.
        (
            {**PI, "khz": (600_000,) * 8, "governor": "powersave", "driver": "cpufreq-dt"},
            "its clock was 600 of 1800 MHz while it ran (governor powersave)",
        ),
        (
            {**PI, "khz": (1_000_000,) * 8, "governor": "userspace"},
            "its clock was 1000 of 1800 MHz while it ran (governor userspace)",
        ),
        # One that takes a while is no matter, and one moment of another core neither.
        ({**PI, "khz": (600_000, 600_000, *[1_800_000] * 8), "governor": "ondemand"}, None),
        ({**PI, "khz": (*[1_800_000] * 5, 600_000, 1_800_000), "governor": "schedutil"}, None),
        # It falls behind in the end.
        ({**PI, "khz": (*[1_800_000] * 4, *[900_000] * 6)}, "its clock was 900 of 1800 MHz while it ran"),
        # A limit that came and went between two looks at the sensors; what it explains is said once.
        ({**PI, "khz": (1_200_000,) * 4, "limit_khz": 1_200_000}, "its clock was limited to 1200 of 1800 MHz"),
        # No sample at all: the governor alone.
        ({**PI, "khz": (), "governor": "powersave"}, "its governor is powersave, which holds the lowest clock"),
        # A laptop: its highest clock is one of moments, and its powersave chooses by need.
        ({"max_khz": 4_700_000, "khz": (3_400_000,) * 4, "boosts": True, "governor": "powersave",
          "driver": "intel_pstate"}, None),
        ({"max_khz": 4_700_000, "base_khz": 2_400_000, "khz": (2_300_000,) * 4, "boosts": True}, None),
        (
            {"max_khz": 4_700_000, "base_khz": 2_400_000, "khz": (800_000,) * 4, "boosts": True},
            "its clock was 800 of 4700 MHz while it ran",
        ),
    ],
)  # fmt: skip
def test_the_clock_while_it_runs(clock: dict[str, Any], words: str | None) -> None:
    found = doubts([state(), state()], clock=Clock.model_validate(clock))
    assert found == ((words,) if words else ())


@pytest.mark.parametrize(
    ("changes", "threads", "words"),
    [
        ({"cores": 1}, 4, "4 threads on 1 core that it may use"),
        ({"cores": 4}, 4, None),
        # Others that take a core that is needed, or so many that memory and clocks suffer.
        ({"others_s": 5.0}, 4, "other programs used 0.5 of the 4 cores that it may use"),
        ({"others_s": 5.0}, 1, None),
        ({"others_s": 25.0}, 1, "other programs used 2.5 of the 4 cores that it may use"),
        ({"others_s": 5.0, "cores": 1}, 1, "other programs used 0.5 of the 1 cores that it may use"),
        ({"others_s": 1.0, "cores": 1}, 1, None),
        ({"stolen_s": 3.0}, 1, "the hypervisor gave 30% of a core's time to others"),
        ({"others_s": None, "stolen_s": None, "cores": None}, 4, None),
    ],
)
def test_the_cores_that_it_may_use(changes: dict[str, Any], threads: int, words: str | None) -> None:
    assert doubts([state(), state()], threads=threads, usage=usage(**changes)) == ((words,) if words else ())


def test_a_quota_that_held_it_is_told() -> None:
    before = state(quota={"periods": 5.0, "held_ms": 100.0, "cores": 0.5})
    after = state(quota={"periods": 40.0, "held_ms": 1834.0, "cores": 0.5})
    assert doubts([before, after]) == ("a quota of 0.5 cores held it 35 times, for 1,734 ms",)
    assert doubts([after, after]) == ()


@pytest.mark.parametrize(
    ("load", "cores", "threads", "words"),
    [
        # A machine with two cores and six other programs: "steady yes, clean yes" was said of it.
        (6.6, 2, 1, "6.6 programs wanted the 2 cores that it may use, just before"),
        (6.6, 2, 4, "6.6 programs wanted the 2 cores that it may use, just before"),
        (2.8, 2, 1, None),
        (4.1, 2, 4, None),  # an earlier run of ours, of four threads
        (6.6, 8, 1, None),
        (None, 2, 1, None),
        (6.6, None, 1, None),
    ],
)
def test_programs_that_wait_for_the_cores(
    load: float | None, cores: int | None, threads: int, words: str | None
) -> None:
    before = state(load_average=None if load is None else (load, 1.0, 1.0))
    after = state(load_average=(9.0, 1.0, 1.0))  # ours too
    found = doubts([before, after], threads=threads, usage=usage(cores=cores, others_s=0.0))
    assert (words in found) == (words is not None)
    assert any("just before" in each for each in found) == (words is not None)


def test_times_that_are_far_apart_are_told() -> None:
    wanted = "its times are far apart: one run in ten took 23.3 times the median or longer"
    assert spread(1.8, 41.9, 200) == wanted
    assert spread(1.8, 3.5, 200) is None
    assert spread(1.8, 41.9, 12) is None


def test_a_mean_far_above_the_median_is_told() -> None:
    """Whatever held it: a quota that cannot be read, a hypervisor that does not say so."""
    assert stalls(3.70, 0.75, 200) == "some runs waited for something: the mean is 4.9 times the median"
    assert stalls(0.80, 0.75, 200) is None
    assert stalls(3.70, 0.75, 12) is None


@pytest.mark.parametrize("mount", ["", "unified/"])
def test_quotas_of_version_2_at_every_level(tmp_path: Path, mount: str) -> None:
    put(tmp_path / "proc/self/cgroup", "0::/user.slice/user-1000.slice/session-4.scope")
    root = tmp_path / f"sys/fs/cgroup/{mount}"
    put(root / "cpu.stat", "usage_usec 9")
    put(root / "user.slice/cpu.stat", "usage_usec 9\nnr_periods 50\nnr_throttled 35\nthrottled_usec 1200000")
    put(root / "user.slice/cpu.max", "50000 100000")
    put(root / "user.slice/user-1000.slice/cpu.max", "max 100000")
    put(root / "user.slice/user-1000.slice/session-4.scope/cpu.stat", "nr_throttled 2\nthrottled_usec 800")
    assert quota(system(tmp_path)) == {"periods": 37, "held_ms": 1200.8, "cores": 0.5}


@pytest.mark.parametrize("name", ["cpu", "cpu,cpuacct"])
def test_quotas_of_version_1_and_in_a_container(tmp_path: Path, name: str) -> None:
    # In a container the path is the host's, and the container's own group is the root of what is mounted.
    put(tmp_path / "proc/self/cgroup", f"4:{name}:/docker/0123\n3:cpuset:/docker/0123\n0::/")
    root = tmp_path / f"sys/fs/cgroup/{name}"
    put(root / "cpu.stat", "nr_periods 80\nnr_throttled 7\nthrottled_time 35000000")
    put(root / "cpu.cfs_quota_us", 150000)
    put(root / "cpu.cfs_period_us", 100000)
    put(tmp_path / "sys/fs/cgroup/cpuset/cpu.stat", "nr_throttled 99")  # another hierarchy
    assert quota(system(tmp_path)) == {"periods": 7, "held_ms": 35.0, "cores": 1.5}
    put(root / "cpu.cfs_quota_us", -1)
    assert quota(system(tmp_path)) == {"periods": 7, "held_ms": 35.0}


def test_no_control_groups_are_no_quota_that_is_known(tmp_path: Path) -> None:
    put(tmp_path / "proc/self/cgroup", "0::/")
    assert quota(system(tmp_path)) is None
    assert conditions(tmp_path).unread["quotas"] == "its control groups are not shown"


def test_only_the_cores_that_may_be_used_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    rows = ["cpu 9 9 9 9 9 9 9 9 9 9"] + [f"cpu{n} {100 * n} 10 20 999 999 3 2 {n} 0 0" for n in range(4)] + ["intr 1"]
    put(tmp_path / "proc/stat", "\n".join(rows))
    ticks = os.sysconf("SC_CLK_TCK")
    assert busy_seconds(system(tmp_path)) == ((135 + 235) / ticks, 3 / ticks)
    assert busy_seconds(system(tmp_path / "none")) is None


def test_the_clock_is_that_of_the_core_it_is_on(tmp_path: Path) -> None:
    fields = " ".join(["0"] * 49)
    put(tmp_path / "proc/77/stat", "77 (a ) b) S " + " ".join(["0"] * 35) + " 5 " + fields)
    for core, khz in ((0, 600_000), (5, 2_400_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        for name, value in (("scaling_cur_freq", khz), ("scaling_max_freq", khz), ("cpuinfo_max_freq", 2_400_000)):
            put(folder / name, value)
        put(folder / "scaling_governor", "userspace")
    assert core_of(system(tmp_path), 77) == 5
    watch = ClockWatch(system(tmp_path), every_s=1.0)
    assert watch.look(77, 0.0) == pytest.approx(0.05)
    for at_s in range(1, 600):
        watch.look(77, at_s)
    found = Clock.parse(watch.found() or {}, "test")
    assert set(found.khz) == {2_400_000}
    assert 100 < len(found.khz) <= 241  # thinned out
    assert (found.max_khz, found.governor, found.boosts) == (2_400_000, "userspace", False)
    assert ClockWatch(system(tmp_path / "none")).found() is None


@pytest.mark.parametrize(
    ("device", "usable", "words"),
    [
        ("vcio", False, "vcgencmd may not be asked: add its user to group video (sudo usermod -aG video USER)"),
        ("vchiq", False, "vcgencmd may not be asked: add its user to group video (sudo usermod -aG video USER)"),
        ("vcio", True, "vcgencmd is not there, or fails"),
        (None, True, "vcgencmd is not there, or fails"),
    ],
)
def test_a_raspberry_pi_that_may_not_be_asked(tmp_path: Path, device: str | None, usable: bool, words: str) -> None:
    put(tmp_path / "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\x00")
    put(tmp_path / "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
    if device:
        put(tmp_path / f"dev/{device}", "")
    found = conditions(tmp_path, may_use=lambda path: usable)
    assert found.unread["throttling"] == words
    said = unknowns([found, found], clock=Clock(khz=(1,)), usage=usage())
    assert f"throttling: {words}" in said


def test_what_says_all_of_it_is_called_clean_and_a_virtual_machine_is_not(tmp_path: Path) -> None:
    for name, value in (("scaling_cur_freq", 5), ("scaling_max_freq", 5), ("cpuinfo_max_freq", 5)):
        put(tmp_path / f"sys/devices/system/cpu/cpu0/cpufreq/{name}", value)
    put(tmp_path / "sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0")
    put(tmp_path / "sys/fs/cgroup/cpu.stat", "usage_usec 1")
    put(tmp_path / "proc/stat", "cpu0 1 1 1 1 1 1 1 1")
    whole = conditions(tmp_path)
    assert whole.unread == {}
    assert unknowns([whole, whole], clock=Clock(khz=(5,)), usage=usage()) == ()
    virtual = conditions(tmp_path / "virtual")
    found = unknowns([virtual, virtual], clock=None, usage=usage(others_s=None))
    assert [each.split(":")[0] for each in found] == [
        "its clock",
        "throttling",
        "quotas",
        "the work of other programs",
    ]
    assert "its clock: there is no cpufreq (a virtual machine?)" in found


def test_a_process_is_watched_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, with this machine's own figures but for a clock that is held."""
    fake = system(tmp_path)
    fake.proc = Path("/proc")
    for core in range(os.cpu_count() or 1):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        for name, value in (("scaling_cur_freq", 600), ("scaling_max_freq", 1800), ("cpuinfo_max_freq", 1800)):
            put(folder / name, value)
    monkeypatch.setattr(watched, "System", lambda: fake)
    read, write = os.pipe()
    program = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    try:
        with os.fdopen(read, "rb") as stream:
            done = watched.execute(tmp_path, {"argv": [sys.executable, "-c", program]}, stream)
    finally:
        os.close(write)
    clock, used = Clock.parse(done["clock"], "clock"), Usage.parse(done["usage"], "usage")
    assert (done["status"], done["killed"]) == (0, None)
    assert set(clock.khz) == {600}
    assert used.own_s >= 0.3
    assert used.others_s is not None
    assert doubts([], clock=clock) == ("its clock was 1 of 2 MHz while it ran",)
