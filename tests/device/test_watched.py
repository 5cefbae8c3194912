"""Processes that are watched: each way in which one ends is told as what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.agent import watched
from edgespa.device.agent.protocol import AgentError
from edgespa.device.agent.share import few_processes
from edgespa.device.agent.system import System
from edgespa.device.endings import ending_of
from edgespa.device.measure.answers import Ended, decode
from edgespa.errors import DeviceError


def execute(code: str, **request: Any) -> dict[str, Any]:
    """Run a program of Python's, with a connection that stays."""
    read, write = os.pipe()
    try:
        with os.fdopen(read, "rb") as stream:
            return watched.execute(Path("/"), {"argv": [sys.executable, "-c", code], **request}, stream)
    finally:
        os.close(write)


@pytest.mark.parametrize("fallback", [False, True])
def test_what_ends_by_itself(fallback: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fallback:  # Python 3.8, or Linux before 5.3
        monkeypatch.setattr(watched, "_end_of", lambda child: None)
    done = execute("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (done["status"], done["stdout"], done["stderr"], done["killed"]) == (3, "out\n", "err\n", None)


def test_no_thread_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    done = execute("print(1)", timeout_s=30, stall_s=30, sample_s=0.05)
    assert (done["status"], done["stdout"]) == (0, "1\n")


def test_what_hangs_is_ended_and_what_computes_is_not() -> None:
    hung = execute("import time; time.sleep(60)", stall_s=0.6)
    assert (hung["status"], hung["killed"].split(";")[0]) == (-9, "it has done nothing for 1 s")
    busy = "import time\nend = time.process_time() + 1.2\nwhile time.process_time() < end: pass\nprint('done')"
    assert execute(busy, stall_s=0.6)["stdout"] == "done\n"
    # What its children compute counts.
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert execute(nested, stall_s=0.6)["stdout"] == "done\n"


def test_what_takes_too_long_or_loses_its_connection_is_ended() -> None:
    assert execute("while True: pass", timeout_s=0.3)["killed"] == "it took too long"
    read, write = os.pipe()
    threading.Timer(0.3, os.close, [write]).start()
    with os.fdopen(read, "rb") as stream:
        done = watched.execute(Path("/"), {"argv": ["sleep", "60"]}, stream)
    assert done["killed"] == "the connection ended"


def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    execute(f"import subprocess; p = subprocess.Popen(['sleep', '60']); open({str(mark)!r}, 'w').write(str(p.pid))")
    end = time.monotonic() + 20
    while Path(f"/proc/{mark.read_text()}").exists() and "Z" not in _state(mark.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(("number", "kind"), [(11, "processes"), (12, "memory"), (2, "no-program")])
def test_what_cannot_be_started(number: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fails)
    with pytest.raises(AgentError) as caught:
        execute("pass")
    assert caught.value.kind == kind


def test_the_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "LD_PRELOAD",
        "VIRTUAL_ENV",
        "OMP_NUM_THREADS",
        "LC_TIME",
        "QEMU_CPU",
    ):
        monkeypatch.setenv(name, "x")
    found = watched.small_environment()
    assert found["PATH"] == os.environ["PATH"]
    assert found["LC_TIME"] == "x"
    assert {key for key, value in found.items() if value == "x"} == {"LC_TIME", "QEMU_CPU"}


def test_few_processes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    system = System(tmp_path / "proc", tmp_path / "sys")
    (tmp_path / "proc/self").mkdir(parents=True)
    group = tmp_path / "sys/fs/cgroup/user.slice/session.scope"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/session.scope\n")
    assert few_processes(system) is None
    (group / "pids.max").write_text("max\n")
    (group.parent / "pids.max").write_text("33\n")
    assert few_processes(system) == 33
    (group.parent / "pids.max").write_text("9000\n")
    assert few_processes(system) is None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 64))
    assert few_processes(system) == 64


@pytest.mark.parametrize(
    ("status", "said", "killed", "how", "hint"),
    [
        (0 - 4, "", None, "ended by signal 4 (SIGILL): it was built for processors that have more", "another version"),
        (132, "Illegal instruction", None, "ended by signal 4 (SIGILL)", "another version"),
        (-7, "", None, "(SIGBUS)", "another version"),
        (-9, "", None, "(SIGKILL): most likely for want of memory", "add swap"),
        (137, "", None, "(SIGKILL): most likely for want of memory", "add swap"),
        (1, "MemoryError", None, "ended with status 1: it is out of memory", "add swap"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", None, "it is out of memory", "swap"),
        (-2, "OpenBLAS blas_thread_init: pthread_create failed", None, "no more processes or threads", "ulimit -u"),
        (1, "RuntimeError: can't start new thread", None, "no more processes or threads", "ulimit -u"),
        (-9, "", "it has done nothing for 60 s; its user may have 33 processes and threads only",
         "it has done nothing for 60 s; its user may have 33", "TasksMax"),
        (-9, "", "it took too long", "it took too long", None),
        (1, "OSError: [Errno 28] No space left on device", None, "its disk is full", "free some space"),
        (3, "something else", None, "ended with status 3", None),
        (255, "", None, "ended with status 255", None),
    ],
)  # fmt: skip
def test_how_a_process_ended(status: int, said: str, killed: str | None, how: str, hint: str | None) -> None:
    found = ending_of(status, said, killed)
    assert how in found.how
    assert (hint is None and found.hint is None) or str(hint) in str(found.hint)
    if killed is None:
        with pytest.raises(DeviceError) as caught:
            decode(Ended(status, "", said, "python run.py"), "variant", "x: onnx-fp32")
        assert "broke" not in caught.value.message
        assert caught.value.hint
