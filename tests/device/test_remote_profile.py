"""Profiles over a real sshd: the whole way, and what happens when it is cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from waiting import wait_for

from edgespa.cli import profile as profile_command
from edgespa.device import connect
from edgespa.device.host import Conditions
from edgespa.device.measure.profile import profile
from edgespa.device.measure.saved import read_profiles, save_profile
from edgespa.device.measure.settings import Settings
from edgespa.device.measure.site import cool_down
from edgespa.errors import ConfigError, DeviceError, RefusedError, UnreachableError

pytestmark = pytest.mark.slow  # each starts a runtime several times


def runners(server: Any, folder: Path) -> list[int]:
    """Processes that run a runner below a folder."""
    return [pid for pid, words in server.started(folder).items() if "--bundle" in words]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(profile_command.command, [str(each) for each in arguments])


def test_the_whole_way(sshd: Any, full_bundle: Path) -> None:
    device = sshd.device("board")
    steps: list[str] = []
    with connect(device) as connection:
        first = profile(
            full_bundle,
            connection,
            Settings(threads=(1, 2), runs=40),
            progress=lambda done, total, text: steps.append(text),
        )
        again = profile(full_bundle, connection, Settings(runs=12))
    assert [(each.variant, each.threads) for each in first.results] == [
        (name, count) for name in ("onnx-fp32", "tflite-fp32") for count in (1, 2)
    ]
    assert first.device == "board"
    assert steps[0] == "full: sending"
    sizes = sum(path.stat().st_size for path in full_bundle.iterdir() if path.is_file())
    assert (first.bytes_sent, again.bytes_sent) == (sizes, 0)
    assert first.host.python == ".".join(map(str, sys.version_info[:3]))
    for result in first.results:
        (measured,) = result.rounds
        assert measured.before is not None
        assert measured.after is not None
        assert len(measured.pieces_ms) == 40
        assert measured.steady in (True, False)
        assert result.clean == (False if measured.doubts else None if measured.unknown else True)
        assert measured.usage is not None
        assert measured.usage.own_s > 0
    saved = save_profile(first, full_bundle)
    assert read_profiles(full_bundle) == (first,)
    assert saved.name.endswith("-board.json")
    assert sshd.folder.name not in saved.read_text()  # no paths are recorded


@pytest.mark.more
def test_what_was_measured_there_runs_there(sshd: Any, bundle: Path) -> None:
    device = sshd.device("there")
    with connect(device) as connection:
        profile(bundle, connection, Settings(runs=10))
        (folder,) = (Path(device.connection.folder) / "bundles").iterdir()
        assert sorted(os.listdir(folder)) == sorted(set(os.listdir(bundle)) - {"profiles"})
        (folder / "model.onnx").chmod(0o644)
        (folder / "model.onnx").write_bytes(b"rotten")
        assert profile(bundle, connection, Settings(runs=10)).bytes_sent > 0  # found, and sent again


@pytest.mark.more
def test_two_bundles_in_alternation(sshd: Any, full_bundle: Path, bundle: Path) -> None:
    with connect(sshd.device("pair")) as connection:
        found = profile(full_bundle, connection, Settings(runs=10, rounds=2), against=bundle)
    (ratio,) = found.ratios
    assert (ratio.variant, found.against) == ("onnx-fp32", "good")


@pytest.mark.more
def test_duration_samples_the_sensors(sshd: Any, bundle: Path) -> None:
    with connect(sshd.device("long")) as connection:
        (result,) = profile(bundle, connection, Settings(duration=2.5)).results
    (measured,) = result.rounds
    assert 2 <= len(measured.samples) <= 6
    times = [each.at_s for each in measured.samples]
    assert times == sorted(times)
    assert len(measured.pieces_ms) == 60
    assert measured.runs > 1000


@pytest.mark.more
def test_a_provider_that_is_not_there_is_told(sshd: Any, full_bundle: Path) -> None:
    with connect(sshd.device("gpu")) as connection:
        found = profile(full_bundle, connection, Settings(runs=10, providers=("cpu", "cuda")))
        assert [each.provider for each in found.results if each.variant == "onnx-fp32"] == ["CPUExecutionProvider"]
        assert ["CUDAExecutionProvider" in each.reason for each in found.skipped] == [True]
        with pytest.raises(DeviceError, match="no variant can run on gpu"):
            profile(full_bundle, connection, Settings(runs=10, providers=("cuda",)))
    with pytest.raises(ConfigError, match="no provider 'gpu'"):
        Settings(providers=("gpu",)).check()


@pytest.mark.more
def test_a_throttled_run_is_not_called_clean(sshd: Any, bundle: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    said = tmp_path / "bits"
    said.write_text("throttled=0x50000\n")
    (programs / "vcgencmd").write_text(f'#!/bin/sh\ntest "$1" = get_throttled && cat {said}\n')
    (programs / "vcgencmd").chmod(0o755)
    python = tmp_path / "python"  # a login shell's PATH, as a board has it
    python.write_text(f'#!/bin/sh\nPATH={programs}:$PATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    path = sshd.profile(tmp_path / "hot.toml", python=str(python), home=tmp_path / "home")
    good = invoke(bundle, "--device", path, "--runtime", "onnxruntime", "--runs", "10", "--json")
    (cool,) = json.loads(good.stdout)["results"]
    assert "it is throttled" not in cool["doubts"]
    assert not any(each.startswith("throttling") for each in cool["unknown"])  # this board says it
    said.write_text("throttled=0x50004\n")
    bad = invoke(bundle, "--device", path, "--runtime", "onnxruntime", "--runs", "10")
    assert bad.exit_code == 0
    assert "NOT CLEAN: hot: good: onnx-fp32, 1 thread: it is throttled" in bad.stderr
    (result,) = read_profiles(bundle)[-1].results
    assert result.clean is False
    assert "it is throttled" in result.doubts  # and what else the machine of the tests is doing


def test_cooling_down_waits_for_the_temperature(sshd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(sshd.device("cool")) as connection:
        warm = iter([50.0, 44.0, 41.5])
        state = {"load_average": None, "governor": None, "frequency_khz": None}
        monkeypatch.setattr("edgespa.device.measure.site._LOOK_S", 0.05)
        monkeypatch.setattr(connection, "ask", lambda command: {**state, "temperature_c": {"cpu": next(warm)}})
        assert cool_down(connection, {"cpu": 40.0}, 60) < 5
        assert next(warm, None) is None
        assert 0.3 <= cool_down(connection, {}, 0.3) < 2
    assert Conditions.of({**state, "temperature_c": {}}).temperature_c == {}


@pytest.mark.more
def test_a_profile_that_is_cut_leaves_nothing_running_and_can_be_repeated(own_sshd: Any, bundle: Path) -> None:
    device = own_sshd.device("cut")
    folder = Path(device.connection.folder)
    with connect(device) as connection:
        running = partial(runners, own_sshd, folder)
        cut = threading.Thread(target=lambda: (wait_for(running), time.sleep(0.5), own_sshd.cut()))
        cut.start()
        with pytest.raises(UnreachableError, match="the connection broke"):
            profile(bundle, connection, Settings(duration=60))
        cut.join()
        wait_for(lambda: not running())
        found = profile(bundle, connection, Settings(runs=10))  # the lock is free, the bundle is there
    assert found.bytes_sent == 0


def test_two_at_once_would_measure_each_other(sshd: Any, bundle: Path) -> None:
    device = sshd.device("twice")
    with (
        connect(device) as one,
        connect(device) as two,
        one.lock("measure", "one measures"),
        pytest.raises(RefusedError, match="one measures"),
    ):
        profile(bundle, two, Settings(runs=10))


def test_several_devices_and_one_that_is_away(sshd: Any, bundle: Path, tmp_path: Path) -> None:
    here = [sshd.profile(tmp_path / f"{name}.toml", home=tmp_path / name) for name in ("a", "b")]
    away = tmp_path / "away.toml"
    away.write_text('title = "away"\n[connection]\nhost = "127.0.0.1"\nport = 1\n')
    devices = [word for path in (here[0], away, here[1]) for word in ("--device", str(path))]
    result = invoke(bundle, *devices, "--runtime", "onnxruntime", "--runs", "10")
    assert isinstance(result.exception, DeviceError)
    assert "1 of 3 devices failed: away" in result.exception.message
    assert "away (127.0.0.1): nothing listens there" in result.stderr
    assert sorted(each.device for each in read_profiles(bundle)) == ["a", "b"]
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["variant", "threads", "a", "away", "b"] in rows
    assert max(map(len, result.stdout.splitlines())) <= 80
    plain = json.loads(invoke(bundle, *devices, "--runs", "10", "--json", "--no-save").stdout)
    assert [(each["device"], each["error"] is None) for each in plain] == [("a", True), ("away", False), ("b", True)]


@pytest.mark.law(1)
@pytest.mark.parametrize("local", [True, False])
def test_ctrl_c_ends_what_runs_there(sshd: Any, bundle: Path, tmp_path: Path, local: bool) -> None:
    home = tmp_path / "home"
    device = "local" if local else str(sshd.profile(tmp_path / "board.toml", home=home))
    command = [sys.executable, "-m", "edgespa", "profile", str(bundle), "--device", device, "--duration", "60"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    running = partial(runners, sshd, bundle if local else home)
    wait_for(running)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    wait_for(lambda: not running())
    assert not (bundle / "profiles").exists()
