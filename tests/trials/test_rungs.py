"""Which trials go on, what is rejected, and what a sampler is told; and digests of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgespa.objectives.measures import ACCURACY, ERROR
from edgespa.trials.digests import absolute, content_of, digest_of
from edgespa.trials.record import Search, Trial
from edgespa.trials.rungs import going_on, merit, on_front, over_budget, point_of, told

ALL = ("quality", "latency", "bytes")


def trial(number: int = 0, **values: Any) -> Trial:
    return Trial(number=number, wave=0, digest=f"{number:016x}", recipe={"rank": 4}, **values)


def cut(number: int, error: float, latency_ms: float, size_bytes: int = 1) -> Trial:
    return trial(number, stage="cut", error=error, latency_ms=latency_ms, size_bytes=size_bytes)


def test_what_is_over_a_budget_is_rejected_with_the_figures() -> None:
    slow = cut(0, 0.1, 2.5, 1000)
    assert over_budget(slow, 2.4, None) == "too slow by the latency table: 2.5 ms, and 2.4 are asked for"
    assert over_budget(slow, 2.5, 1000) is None
    assert over_budget(slow, None, 999) == "too large: 1,000 bytes, and 999 are asked for"
    assert over_budget(trial(), 1.0, 1) is None  # nothing is known


def test_the_best_third_goes_on_by_all_goals() -> None:
    trials = [cut(0, 0.5, 1), cut(1, 0.1, 3), cut(2, 0.6, 2), cut(3, 0.7, 4), cut(4, 0.3, 2), cut(5, 0.9, 9)]
    assert going_on(trials, ALL, None) == [0, 4]  # 1 is on the front too, and at its end
    assert going_on(trials, ("quality",), None) == [1, 4]
    assert going_on(trials, ("latency",), None) == [0, 2]


def test_quality_is_of_the_last_stage_and_has_a_direction() -> None:
    done = trial(stage="file", error=0.2, few=0.5, quality=0.8)
    assert merit(done, ACCURACY) == -0.8
    assert merit(done, ERROR) == 0.8
    assert merit(done.model_copy(update={"stage": "few"}), ACCURACY) == -0.5
    assert merit(done.model_copy(update={"stage": "cut"}), ACCURACY) == 0.2
    assert merit(trial(), ACCURACY) is None


def test_what_was_measured_counts_before_what_was_foretold() -> None:
    done = trial(stage="file", quality=0.8, latency_ms=2.0, measured_ms=3.0, size_bytes=7)
    assert point_of(done, ALL, ACCURACY) == (-0.8, 3.0, 7.0)
    other = trial(1, stage="file", quality=0.7, latency_ms=2.5, size_bytes=7)
    assert on_front([done, other], ALL, ACCURACY) == [0, 1]


def test_whatever_came_further_is_told_to_be_better() -> None:
    far = [
        trial(state="rejected", stage="cut", error=0.01, latency_ms=1, size_bytes=1),
        trial(state="stopped", stage="cut", error=5.0, latency_ms=1, size_bytes=1),
        trial(state="stopped", stage="cut", error=0.1, latency_ms=1, size_bytes=1),
        trial(state="stopped", stage="few", few=0.1, latency_ms=1, size_bytes=1),
        trial(state="stopped", stage="few", few=0.9, latency_ms=1, size_bytes=1),
        trial(state="complete", stage="file", quality=0.2, latency_ms=1, size_bytes=1),
        trial(state="complete", stage="file", quality=0.7, latency_ms=1, size_bytes=1),
    ]
    values = [told(each, ALL, ACCURACY) for each in far]
    qualities = [each[0] for each in values if each is not None]
    assert len(qualities) == len(far)
    assert qualities == sorted(set(qualities))
    assert told(trial(state="failed"), ALL, ACCURACY) is None
    assert told(far[-1], ("bytes",), ACCURACY) == (1.0,)


def test_a_digest_is_of_values_not_of_their_order() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) == "0855bfc20eb6cfaa"
    assert digest_of({"a": 1}) != digest_of({"a": 1.5}) != digest_of({"a": "1.5"})


def test_a_spec_is_known_by_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("one")
    one = content_of("net.py:build")
    assert one == content_of("net.py") == content_of(str(tmp_path / "net.py"))
    Path("net.py").write_text("two")
    assert content_of("net.py:build") not in (one, None)
    Path("photos").mkdir()
    before = content_of("photos")
    (tmp_path / "photos" / "a.png").write_bytes(b"12")
    assert content_of("photos:train") != before
    assert content_of("timm:resnet18") is None
    assert absolute("net.py:build") == f"{tmp_path}/net.py:build"
    assert absolute("photos") == f"{tmp_path}/photos"
    assert absolute("timm:resnet18") == "timm:resnet18"
    assert absolute("no\0file") == "no\0file"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = Search(
        model="net.py:build", data="d", validation="v", goals=ALL, sampler="grid", bracket=3, identity="0" * 16,
        space={"rank": [4, 8]}, trials=(trial(state="complete", front=2), trial(1, front=1), trial(2, state="failed")),
    )  # fmt: skip
    found.write(tmp_path / "search.json")
    again = Search.read(tmp_path / "search.json")
    assert again == found
    assert [each.number for each in again.front] == [1, 0]
    assert again.counts() == {"complete": 1, "failed": 1, "waiting": 1}
    assert type(again.trials[0].recipe["rank"]) is int
