"""Keeping converters off the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from edgespa.system.quiet import first_line, quiet


def chatter() -> None:
    sys.stdout.write("from python\n")
    sys.stderr.write("an error\n")
    os.write(1, b"from C\n")
    os.write(2, b"from C too\n")
    warnings.warn("a warning", stacklevel=1)


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_logged_nothing_is_seen_and_the_streams_come_back(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    caplog.set_level(logging.DEBUG, "edgespa.system.quiet")
    before = [os.fstat(descriptor).st_ino for descriptor in (1, 2)]
    sys.stdout.write("before\n")

    def work() -> None:
        with quiet("tool"):
            chatter()
            if fails:
                raise ValueError("no luck")

    if fails:
        with pytest.raises(ValueError, match="no luck"):
            work()
    else:
        work()
    sys.stdout.write("after\n")
    sys.stdout.flush()
    os.write(2, b"after too\n")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert err == "after too\n"
    assert [os.fstat(descriptor).st_ino for descriptor in (1, 2)] == before
    (record,) = (each for each in caplog.records if each.name == "edgespa.system.quiet")
    text = record.getMessage()
    assert text.startswith("tool:")
    assert all(line in text for line in ("from python", "an error", "from C\n", "from C too"))


def test_no_descriptor_is_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        with quiet("tool"), quiet("inner"):
            os.write(1, b"x")
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
    assert capfd.readouterr().out == ""


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n  one\ntwo")) == "ValueError: one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 999))) < 250
