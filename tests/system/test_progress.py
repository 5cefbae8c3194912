"""How far long work is: the bar at any width, lines where nobody looks, and what is logged meanwhile."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from edgespa.system import progress
from edgespa.system.progress import _Lines, _Pace, bar

TEXT = "epoch 3 of 10  density 0.40  loss 1.234  validation accuracy 88.0%  123.4M MACs"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Log(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


@pytest.mark.parametrize("columns", [40, 50, 80, 100, 101, 130, 200])
def test_the_bar_says_the_epoch_and_one_time_left(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_PACE_S", 0.0)
    with bar("adapt") as report:
        report(1, 10, TEXT)
        report(3, 10, TEXT)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    rows = [row for row in re.split(r"[\r\n]+", plain) if row.strip()]
    assert all(len(row) <= columns for row in rows)
    last = rows[-1]
    assert "30%" in last
    assert "epoch 3 of 10" in last
    assert last.count("left") == 1
    assert ("123.4M MACs" in last) == (columns > 110)


def test_a_warning_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgespa.cli._shell import _set_up_logging, main

    class Real(io.TextIOWrapper):
        """With bytes below, to which a program could write past the bar."""

        def isatty(self) -> bool:
            return True

    below = io.BytesIO()
    screen = Real(below, encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    with main.make_context("edgespa", [], resilient_parsing=True) as ctx:
        _set_up_logging(ctx, 0)
        with bar("adapt") as report:
            report(3, 10, TEXT)
            logging.getLogger("edgespa.test").warning("something is odd")
            report(4, 10, TEXT)
    before = below.getvalue().decode().partition("WARNING: something is odd")[0]
    line = re.split(r"[\r\n]", before)[-1]
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) == ""


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    with bar("adapt", lines=True) as report:
        report(3, 10, TEXT)
        assert log.written.wait(30)
        log.written.clear()
        assert log.written.wait(30)  # also where nothing is reported for long
    assert log.getvalue().splitlines()[-1] == f"adapt: 30%  0:00  {TEXT}"
    assert not any(each.name == "edgespa progress" for each in threading.enumerate())


QUIET_WORK = """
import os, sys, time
from edgespa.system import progress
from edgespa.system.quiet import quiet

progress.EVERY_S = 0.01
with progress.bar("export", lines=True) as report, quiet("tool"):
    report(1, 4, "which layers")
    os.write(2, b"noise of a tool")
    print("more of it", file=sys.stderr)
    with quiet("another"):
        report(2, 4, "at last")
        time.sleep(1)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_what_keeps_tools_quiet_does_not_hide_it(terminal: bool) -> None:
    near, far = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", QUIET_WORK], stderr=far, env=environment) as process:
        os.close(far)
        seen = b""
        while True:
            try:
                block = os.read(near, 4096)
            except OSError:  # a terminal whose program has ended
                break
            if not block:
                break
            seen += block
    os.close(near)
    assert process.returncode == 0
    assert b"50%" in seen
    assert b"at last" in seen
    assert b"noise" not in seen
    assert b"more of it" not in seen


@pytest.mark.parametrize(("enabled", "lines"), [(True, False), (False, True), (False, False)])
def test_nothing_unasked(enabled: bool, lines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    with bar("adapt", enabled=enabled, lines=lines) as report:
        report(3, 10, TEXT)
        assert not log.written.wait(0.02)


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_closed_stderr_does_not_end_the_work(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed if stream else None)
        with _Lines("adapt", 0.001) as report:
            report(1, 2, "")
            threading.Event().wait(0.01)


def test_lines_say_what_is_known() -> None:
    lines = _Lines("export", 30)
    assert lines.line(61) == "export:  1:01"
    lines(0, None, "export")
    assert lines.line(3661) == "export:  1:01:01"
    lines(1, 4, "onnx-fp32")
    assert lines.line(90) == "export: 25%  1:30  onnx-fp32"
    lines(2, 4)
    assert lines.line(90) == "export: 50%  1:30  onnx-fp32"


def test_the_pace_does_not_count_getting_ready() -> None:
    pace = _Pace()
    assert pace.left(0, None, 0) == ""
    assert pace.left(1, 101, 100) == ""
    assert pace.left(11, 101, 110) == "1:30 left"
    assert pace.left(101, 101, 200) == ""
    assert pace.left(5, 10, 300) == ""  # other work
    assert pace.left(6, 10, 310) == "0:40 left"
    assert pace.left(0, 10, 320) == ""  # the same once more
