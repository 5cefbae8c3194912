"""Jobs in processes of this machine: what fails, what is killed, devices, Ctrl-C, and what outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_for

from edgespa.errors import ConfigError, MissingExtraError
from edgespa.workers import Job, open_workers
from edgespa.workers.calling import carried_out, ended, threads_of

Jobs = Callable[..., Job]
SOON_S = 60.0


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_jobs_give_their_values_and_what_they_said(jobs: Jobs) -> None:
    with open_workers(jobs=2) as workers:
        assert workers.slots == 2
        for number in range(5):
            workers.submit(jobs("doubled", f"n{number}", number=number))
        assert len(workers.running) == 2
        found = [workers.next() for _ in range(5)]
        with pytest.raises(LookupError, match="no job is running"):
            workers.next()
        assert workers.running == ()
    assert sorted(each.value["value"] for each in found) == [0, 2, 4, 6, 8]
    assert {each.job.name: each.value["value"] for each in found}["n3"] == 6
    assert len({each.value["process"] for each in found}) <= 2
    first = next(each for each in found if each.job.name == "n1")
    assert first.where == f"process {first.value['process']}"
    assert [text for _, text in first.said] == ["this is 1"]
    assert first.value["threads"] == str(threads_of(2))
    assert all(each.failure is None and each.seconds < SOON_S for each in found)


def test_what_a_job_prints_is_no_answer(jobs: Jobs) -> None:
    with open_workers() as workers:
        workers.submit(jobs("printed", text='{"value": 3}\n'))
        workers.submit(jobs("doubled", number=1))
        assert workers.next().value == '{"value": 3}\n'
        assert workers.next().value["value"] == 2


@pytest.mark.parametrize(
    ("how", "message", "hint", "own", "kind"),
    [
        ("own", "it is not so", "make it so", True, "ConfigError"),
        ("file", "no-such-file: No such file or directory", None, True, "FileNotFoundError"),
        ("fault", "internal error: ZeroDivisionError: by nothing", None, False, "ZeroDivisionError"),
        ("memory", "out of memory", "use smaller batches, or fewer --jobs", True, "MemoryError"),
    ],
)
def test_a_job_that_fails_says_why_and_others_go_on(
    jobs: Jobs, how: str, message: str, hint: str | None, own: bool, kind: str
) -> None:
    with open_workers() as workers:
        workers.submit(jobs("failed", "bad", how=how))
        workers.submit(jobs("doubled", "good", number=4))
        bad, good = workers.next(), workers.next()
    assert bad.failure is not None
    assert (bad.failure.message, bad.failure.hint, bad.failure.own, bad.failure.kind) == (message, hint, own, kind)
    assert not bad.failure.stopped
    assert not bad.failure.lost
    assert ("Traceback" in bad.failure.traceback) == (how != "memory")
    assert bad.value is None
    assert good.value["value"] == 8


def test_a_job_that_leaves_was_stopped(jobs: Jobs) -> None:
    with open_workers() as workers:
        workers.submit(jobs("failed", how="exit"))
        failure = workers.next().failure
    assert failure is not None
    assert failure.stopped
    assert failure.message == "interrupted; it left"


def test_a_killed_process_is_told_and_replaced(jobs: Jobs) -> None:
    with open_workers() as workers:
        workers.submit(jobs("killed", "bad"))
        workers.submit(jobs("doubled", "good", number=2))
        bad, good = workers.next(), workers.next()
    assert bad.failure is not None
    assert bad.failure.lost
    assert not bad.failure.stopped
    assert "its worker process has ended" in bad.failure.message
    assert "on my way out" in bad.failure.traceback
    assert good.failure is None
    assert good.where != bad.where


def test_a_device_serves_one_job_at_a_time(jobs: Jobs, tmp_path: Path) -> None:
    def interval(name: str) -> tuple[float, float]:
        began = float((tmp_path / f"{name}.began.0").read_text().split()[0])
        return began, float((tmp_path / f"{name}.ended").read_text())

    with open_workers(jobs=2) as workers:
        for name, device in (("a", "board"), ("b", "board"), ("c", None)):
            workers.submit(jobs("waited", name, device, folder=str(tmp_path), label=name, seconds=0.6))
        assert {each.name for each in workers.running} == {"a", "c"}
        assert [each.name for each in workers.waiting] == ["b"]  # type: ignore[attr-defined]
        for _ in range(3):
            assert workers.next().failure is None
    a, b, c = interval("a"), interval("b"), interval("c")
    assert b[0] >= a[1]
    assert c[0] < a[1]
    assert a[0] < c[1]


def test_what_runs_is_asked_to_end_and_nothing_new_begins(jobs: Jobs, tmp_path: Path) -> None:
    def left() -> None:
        with open_workers() as workers:
            workers.submit(jobs("waited", folder=str(tmp_path), label="a", seconds=60))
            workers.submit(jobs("waited", folder=str(tmp_path), label="b", seconds=60))
            wait_for((tmp_path / "a.began.0").exists)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        left()
    assert (tmp_path / "a.saved").exists()
    assert not (tmp_path / "b.began.0").exists()


def test_stop_gives_what_came_of_what_ran(jobs: Jobs, tmp_path: Path) -> None:
    with open_workers() as workers:
        workers.submit(jobs("waited", "first", folder=str(tmp_path), label="a", seconds=60))
        wait_for((tmp_path / "a.began.0").exists)
        stopped = workers.stop()
        assert [each.job.name for each in stopped] == ["first"]
        assert stopped[0].failure is not None
        assert stopped[0].failure.stopped
        assert not stopped[0].failure.lost
        workers.submit(jobs("doubled", number=1))  # the same process goes on
        after = workers.next()
        assert after.where == stopped[0].where
        assert after.value["value"] == 2


SCRIPT = """
import sys
from edgespa.workers import Job, open_workers

def main():
    with open_workers(jobs=2) as workers:
        for name in "ab":
            workers.submit(Job(name, "edgespa.jobs_of_tests:waited", {{
                "folder": {folder!r}, "label": name, "seconds": 60, "child": name == "a"}}))
        while workers.running:
            workers.next()

try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
"""


def begun(jobs: Jobs, folder: Path) -> subprocess.Popen[bytes]:
    """A program of its own that has two jobs."""
    program = subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(SCRIPT.format(folder=str(folder)))], start_new_session=True
    )
    wait_for(lambda: (folder / "a.began.0").exists() and (folder / "b.began.0").exists())
    return program


def test_ctrl_c_in_a_terminal_ends_all_and_lets_jobs_save(jobs: Jobs, tmp_path: Path) -> None:
    program = begun(jobs, tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(SOON_S) == 130
    assert (tmp_path / "a.saved").exists()
    assert (tmp_path / "b.saved").exists()


def test_ctrl_c_once_more_ends_what_does_not_listen(jobs: Jobs, tmp_path: Path) -> None:
    script = SCRIPT.replace("waited", "stubborn").replace(', "label": name, "seconds": 60, "child": name == "a"', "")
    program = subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(script.format(folder=str(tmp_path)))], start_new_session=True
    )
    wait_for((tmp_path / "began").exists)
    program.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert program.poll() is None
    program.send_signal(signal.SIGINT)
    assert program.wait(SOON_S) == 130


def test_nothing_outlives_who_started_it(jobs: Jobs, tmp_path: Path) -> None:
    program = begun(jobs, tmp_path)
    program.kill()
    program.wait()
    left = [int((tmp_path / f"{name}.began.0").read_text().split()[1]) for name in "ab"]
    left.append(int((tmp_path / "a.child").read_text()))
    wait_for(lambda: not any(is_alive(each) for each in left))
    assert not (tmp_path / "a.saved").exists()


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    [
        ("os:system", {}, "no function of edgespa"),
        ("edgespa:adapt", {}, "no function of edgespa"),
        ("edgespa.a:b.c", {}, "no function of edgespa"),
        ("edgespa.a:b", {"path": Path("a")}, "JSON has no form for"),
        ("edgespa.a:b", {"value": float("nan")}, "JSON has no form for"),
        ("edgespa.a:b", {"value": (1, 2)}, "JSON changes"),
        ("edgespa.a:b", {1: 2}, "JSON changes"),
    ],
)
def test_a_job_is_a_function_of_edgespa_with_plain_values(call: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Job("it", call, arguments)


def test_a_function_that_is_not_there_is_a_fault() -> None:
    job = Job("it", "edgespa.system.files:nothing_of_this_name", {})
    found = ended(job, carried_out(job.call, job.arguments), "here")
    assert found.failure is not None
    assert not found.failure.own
    assert found.where == "here"


@pytest.mark.parametrize(
    ("asked", "jobs", "threads"),
    [("", 1, 4), ("", 2, 2), ("", 3, 1), ("", 9, 1), ("1", 1, 1), ("3", 1, 3), ("3", 2, 2)],
)
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, asked: str, jobs: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads_of(jobs) == threads


def test_what_cannot_be_opened_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="jobs must be at least 1, not 0"), open_workers(jobs=0):
        pass
    for address in ("here", "host", "host:port", "http://a:1", "a b:3", "a:123456"):
        with pytest.raises(ConfigError, match="no address of a Ray cluster"), open_workers(ray=address):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray is not installed") as absent, open_workers(ray="auto"):
        pass
    assert absent.value.hint is not None
    assert "[ray]" in absent.value.hint
