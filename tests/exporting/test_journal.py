"""What was measured is not measured again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgespa.exporting.journal import Journal


def never() -> float:
    raise AssertionError("measured again")


def test_what_was_measured_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    path, values = tmp_path / "a" / "journal", {"a": 0.1 + 0.2, "b": math.inf, "\n'": 5e-324}
    journal = Journal(path)
    for what, value in values.items():
        assert journal.error(what, lambda value=value: value) == value
        assert journal.error(what, never) == value
    for what, value in values.items():
        assert Journal(path).error(what, never) == value


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_is_none(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for value in (1.0, 2.0):
        journal.error(f"{value}", lambda value=value: value)
    path.write_bytes(path.read_bytes()[:-cut])
    found = Journal(path)
    assert found.error("1.0", never) == 1
    assert cut == 1 or found.error("2.0", lambda: 3.0) == 3
    found.error("4.0", lambda: 4.0)
    assert Journal(path).error("4.0", never) == 4
    assert Journal(path).error("1.0", never) == 1


@pytest.mark.parametrize("junk", [b"\0\xff", b"[]", b'{"what": 1}', b'{"what": "a", "error": "x"}', b"7"])
def test_junk_is_none(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(junk + b"\n")
    assert Journal(path).error("a", lambda: 1.0) == 1
    assert Journal(path).error("a", never) == 1


def test_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "journal", None):
        journal = Journal(path)
        assert journal.error("a", lambda: 1.0) == 1
        assert journal.error("a", never) == 1
