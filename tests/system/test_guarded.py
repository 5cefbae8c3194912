"""What a killed process leaves: no program, no folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from edgespa.system.guarded import private_folder, run_guarded

MARK = "import sys, time, pathlib; pathlib.Path({path!r}).write_text('on'); time.sleep(60)"


def alive(word: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line:
                found.append(int(name))
    return found


def test_a_program_is_run_to_its_end() -> None:
    done = run_guarded([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], timeout_s=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "err\n")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGTERM, signal.SIGILL])
def test_how_it_ended_is_told(number: int) -> None:
    done = run_guarded([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"], timeout_s=60)
    assert done.returncode == -number


def test_what_is_not_there_is_said() -> None:
    done = run_guarded(["/no/such/program"], timeout_s=60)
    assert done.returncode == 1
    assert "cannot be run: No such file" in done.stderr


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    # One that starts another, which outlives it unless somebody ends it.
    other = MARK.format(path=str(marker))
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {other!r}]); time.sleep(60)"
    with pytest.raises(TimeoutError, match="has not ended after 2 s"):
        run_guarded([sys.executable, "-c", code], timeout_s=2)
    wait_for(lambda: not alive(str(marker)))


def test_what_it_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    other = MARK.format(path=str(marker))
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {other!r}])"
    assert run_guarded([sys.executable, "-c", code], timeout_s=60).returncode == 0
    wait_for(lambda: not alive(str(marker)))


def test_a_folder_for_nobody_else() -> None:
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
    assert not folder.exists()


def test_a_folder_is_removed_whatever_is_raised() -> None:
    with pytest.raises(KeyError), private_folder() as folder:
        raise KeyError
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_is_ended_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Killed, its terminal closed, or Ctrl-C: no program and no folder."""
    marker = tmp_path / "started"
    inner = MARK.format(path=str(marker))
    code = (
        "import sys\nfrom edgespa.system.guarded import private_folder, run_guarded\n"
        f"with private_folder() as folder:\n    (folder / 'x').write_text('x')\n    print(folder, flush=True)\n"
        f"    run_guarded([sys.executable, '-c', {inner!r}], timeout_s=60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    with process.stdout:
        folder = Path(process.stdout.readline().strip())
    wait_for(marker.exists)
    assert folder.is_dir()
    os.killpg(process.pid, number)  # a terminal tells all of its processes
    process.wait()
    wait_for(lambda: not folder.exists())
    wait_for(lambda: not alive(str(marker)))
