"""Profiles that are interrupted: what was measured is kept, the same command goes on, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespa.cli._shell import main
from edgespa.device import connect, load_device
from edgespa.device.measure.profile import profile
from edgespa.device.measure.results import Measurement
from edgespa.device.measure.saved import Journal, journal_folder, read_profiles
from edgespa.device.measure.settings import Settings
from edgespa.device.measure.site import Site
from edgespa.errors import DeviceError

STATE = {"load_average": None, "governor": None, "frequency_khz": None, "temperature_c": {}}


def measurement(**changes: Any) -> Measurement:
    values: dict[str, Any] = {name: 1 for name, field in Measurement.model_fields.items() if field.is_required()}
    words = ("variant", "file", "sha256", "runtime", "provider", "python", "machine")
    values |= {**dict.fromkeys(words, "x"), "before": STATE, "after": STATE}
    return Measurement.model_validate({**values, **changes})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Measurements that take no time; what was measured, in order. ``stop`` in a name ends the run there."""
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "cache"))
    done: list[str] = []

    def measure(site: Site, options: Any, what: str, **_: Any) -> Measurement:
        if len(done) == int(os.environ.get("STOP_AT", "1000")):
            raise KeyboardInterrupt if os.environ.get("STOP_BY") == "ctrl-c" else DeviceError("it broke")
        done.append(what)
        return measurement(variant=options[1], threads=int(options[3]), p50_ms=float(len(done)))

    monkeypatch.setattr(Site, "measure", measure)
    return done


def run(bundle: Path, settings: Settings, *, against: Path | None = None, fresh: bool = False) -> Any:
    journal = Journal(journal_folder(), fresh=fresh)
    with connect(load_device("local")) as connection:
        found = profile(bundle, connection, settings, against=against, journal=journal)
    journal.forget()
    return found


SETTINGS = Settings(threads=(1, 2), rounds=3, runs=10)


def stop(monkeypatch: pytest.MonkeyPatch, at: int | None) -> None:
    monkeypatch.setenv("STOP_AT", str(1000 if at is None else at))


def test_what_was_measured_is_taken_over(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stop(monkeypatch, 4)
    with pytest.raises(DeviceError, match="it broke"):
        run(bundle, SETTINGS)
    stop(monkeypatch, None)
    found = run(bundle, SETTINGS)
    assert len(measured) == 6  # and not 4 + 6
    assert [len(each.rounds) for each in found.results] == [3, 3]
    assert sorted(each.p50_ms for result in found.results for each in result.rounds) == [1, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "cache/profiles").iterdir())
    run(bundle, SETTINGS)
    assert len(measured) == 12  # a whole one is not taken for an interrupted one


@pytest.mark.more
def test_only_the_same_question_is_gone_on_with(
    bundle: Path, full_bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def left(after: int) -> int:
        stop(monkeypatch, len(measured) + after)
        with pytest.raises(DeviceError):
            run(bundle, SETTINGS)
        stop(monkeypatch, None)
        return len(measured)

    before = left(3)
    run(bundle, Settings(threads=(1, 2), rounds=3, runs=11))
    assert len(measured) == before + 6
    before = len(measured)
    run(bundle, SETTINGS, fresh=True)
    assert len(measured) == before + 6
    before = left(3)
    (path,) = (tmp_path / "cache/profiles").iterdir()
    os.utime(path, (1, 1))  # of long ago
    run(bundle, SETTINGS)
    assert len(measured) == before + 6
    before = left(3)
    path.write_text(path.read_text()[:-40])  # cut while it was written
    run(bundle, SETTINGS)
    assert len(measured) == before + 4
    before = left(2)
    (path,) = (tmp_path / "cache/profiles").iterdir()
    path.write_text("{}\n[]\nnonsense\n\x00\n" + path.read_text())
    run(bundle, SETTINGS)
    assert len(measured) == before + 4


def test_what_is_compared_is_measured_side_by_side(
    bundle: Path, full_bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(variants=("onnx-fp32",), rounds=2, runs=10)
    stop(monkeypatch, 3)  # one side of the second pair
    with pytest.raises(DeviceError):
        run(bundle, settings, against=full_bundle)
    stop(monkeypatch, None)
    found = run(bundle, settings, against=full_bundle)
    assert len(measured) == 3 + 2
    (ratio,) = found.ratios
    assert {ratio.low, ratio.high} <= {1 / 2, 2 / 1, 4 / 5, 5 / 4}


def test_a_journal_that_cannot_be_written_costs_nothing(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk here."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "file"))
    assert len(run(bundle, SETTINGS).results) == 2
    assert sum("cannot be kept" in each.message for each in caplog.records) == 1
    monkeypatch.setenv("EDGESPA_CACHE", "off")
    assert len(run(bundle, SETTINGS).results) == 2
    assert len(measured) == 12


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        main,
        [
            "profile",
            *map(str, arguments),
            "--runtime",
            "onnxruntime",
            "--threads",
            "1",
            "--threads",
            "2",
            "--runs",
            "10",
        ],
    )


@pytest.mark.parametrize("how", ["ctrl-c", "error"])
def test_the_command_says_what_is_kept(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("STOP_BY", how)
    stop(monkeypatch, 1)
    first = invoke(bundle)
    assert first.exit_code == (130 if how == "ctrl-c" else 1)
    assert "measurements kept: local: 1; the same command goes on with the rest" in first.stderr
    assert read_profiles(bundle) == ()
    stop(monkeypatch, None)
    second = invoke(bundle)
    assert second.exit_code == 0
    assert "1 of 2 measurements of an interrupted run are taken over; --again measures all anew" in second.stderr
    assert len(measured) == 2
    third = invoke(bundle, "--again")
    assert "taken over" not in third.stderr
    assert len(read_profiles(bundle)) == 2


def test_a_full_disk_when_it_is_saved_costs_nothing(
    bundle: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DeviceError("cannot save the profile: No space left on device", "--no-save")

    with monkeypatch.context() as filled:
        filled.setattr("edgespa.api.profiling.save_profile", full)
        first = invoke(bundle)
    assert first.exit_code == 1
    assert "p50" in first.stdout  # shown before it is saved
    assert invoke(bundle).exit_code == 0
    assert len(measured) == 2
    assert len(read_profiles(bundle)) == 1


@pytest.mark.law(1)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_killed_in_the_middle_and_gone_on_with(sshd: Any, bundle: Path, tmp_path: Path, number: int) -> None:
    """The whole command, over a connection: nothing runs there afterwards, and the rest alone is measured."""
    path = sshd.profile(tmp_path / "board.toml", home=tmp_path / "home")
    command = [
        sys.executable,
        "-m",
        "edgespa",
        "profile",
        str(bundle),
        "--device",
        str(path),
        "--runtime",
        "onnxruntime",
        "--seconds",
        "0.2",
    ]
    command += ["--rounds", "4"]
    environment = {**os.environ, "EDGESPA_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while not _lines(tmp_path / "cache/profiles"):
        assert time.monotonic() < end, process.communicate(timeout=5)
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    kept = _lines(tmp_path / "cache/profiles")
    if number == signal.SIGHUP:
        assert f"measurements kept: board: {kept}" in said
    while any(any(word.endswith("run.py") for word in words) for words in sshd.started(tmp_path / "home").values()):
        assert time.monotonic() < end + 30, "something runs there"
        time.sleep(0.02)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True)
    assert f"{kept} of 4 measurements of an interrupted run are taken over" in done.stderr
    assert [len(each["rounds"]) for each in json.loads(done.stdout)["results"]] == [4]


def _lines(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.glob("*.jsonl"))
