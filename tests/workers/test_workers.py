"""Where jobs run: in processes of this machine, and as tasks of a real Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgespa.errors import ConfigError
from edgespa.workers import Job, open_workers

SLOW = """
import os, pathlib, time
from torch import nn
def build():
    pathlib.Path({file!r}).with_suffix(".partial").write_text(str(os.getpid()))
    os.rename(pathlib.Path({file!r}).with_suffix(".partial"), {file!r})
    time.sleep({seconds})
    return nn.Conv2d(3, 4, 1)
"""
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="NO RAY HERE: pip install edgespa[ray]")


def plain(name: str, value: object, device: str | None = None) -> Job:
    return Job(name, "edgespa.system.plain:to_plain", {"value": value}, device)


def fails(name: str) -> Job:
    return Job(name, "edgespa.device.board:load_device", {"name_or_path": "no-such-board"})


@pytest.fixture
def slow(tmp_path: Path) -> Callable[[str, float], tuple[Job, Path]]:
    """A job that says its process in a file, and then takes so many seconds."""

    def job(name: str, seconds: float) -> tuple[Job, Path]:
        file = tmp_path / f"{name}.pid"
        (tmp_path / f"{name}.py").write_text(SLOW.format(file=str(file), seconds=seconds))
        model = f"{tmp_path / name}.py:build"
        return Job(name, "edgespa.api.verbs:inspect", {"model": model, "input_shape": [1, 3, 8, 8]}), file

    return job


def waited_for(file: Path) -> int:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(file.read_text())


def test_each_job_ends_with_its_value_or_why_not() -> None:
    with open_workers(jobs=2) as workers:
        assert workers.slots == 2
        for job in (plain("one", [1, {"a": None}]), fails("bad"), plain("two", "text")):
            workers.submit(job)
        found = {each.job.name: each for each in (workers.next() for _ in range(3))}
        with pytest.raises(LookupError):
            workers.next()
    assert (found["one"].value, found["two"].value) == ([1, {"a": None}], "text")
    failure = found["bad"].failure
    assert failure is not None
    assert failure.own
    assert "no-such-board" in failure.message
    assert failure.hint
    assert all(each.where.startswith("process ") for each in found.values())


def test_a_killed_process_fails_its_job_alone(slow: Callable[[str, float], tuple[Job, Path]]) -> None:
    job, file = slow("slow", 600)
    with open_workers(jobs=1) as workers:
        workers.submit(job)
        workers.submit(plain("after", 3))
        os.kill(waited_for(file), signal.SIGKILL)
        first, second = workers.next(), workers.next()
    assert first.failure is not None
    assert first.failure.lost
    assert "slow" in first.failure.message or first.job.name == "slow"
    assert second.value == 3


def test_a_device_serves_one_job_at_a_time(tmp_path: Path, slow: Callable[[str, float], tuple[Job, Path]]) -> None:
    job, file = slow("first", 3)
    with open_workers(jobs=3) as workers:
        workers.submit(Job(job.name, job.call, job.arguments, "board"))
        workers.submit(plain("same", 1, "board"))
        workers.submit(plain("other", 2))
        waited_for(file)
        order = [workers.next().job.name for _ in range(3)]
    assert order.index("first") < order.index("same")
    assert order[0] == "other"


def test_leaving_by_an_error_ends_what_runs(slow: Callable[[str, float], tuple[Job, Path]]) -> None:
    job, file = slow("slow", 600)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_workers(jobs=1) as workers:  # noqa: PT012
        workers.submit(job)
        pid = waited_for(file)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 90
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert threading.active_count() < 20


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("os:system", {"command": "true"}),
        ("edgespa.api.verbs.inspect", {}),
        ("edgespa:inspect", {}),
        ("edgespa.x:y; import os", {}),
        ("edgespa.api.verbs:inspect", {"model": object()}),
        ("edgespa.api.verbs:inspect", {"model": (1, 2)}),
        ("edgespa.api.verbs:inspect", {"model": float("nan")}),
    ],
)
def test_a_job_is_a_call_of_edgespa_with_plain_values(call: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the job 'x'"):
        Job("x", call, arguments)


def test_no_workers_are_no_wish() -> None:
    with pytest.raises(ConfigError, match="at least 1"), open_workers(jobs=0):
        pass


@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_same_jobs_on_a_cluster() -> None:
    with open_workers(ray="local", devices=["board"]) as workers:
        for job in (plain("one", [1, 2]), fails("bad"), plain("two", "text", "board")):
            workers.submit(job)
        found = {each.job.name: each for each in (workers.next() for _ in range(3))}
    assert (found["one"].value, found["two"].value) == ([1, 2], "text")
    assert found["bad"].failure is not None
    assert "no-such-board" in found["bad"].failure.message


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="127"), open_workers(ray="127.0.0.1:1"):
        pass
