"""Roll-outs, groups and health windows as a user types them; the devices are behind an sshd on this machine."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgespa.api.documents import problems
from edgespa.bundle import open_bundle
from edgespa.cli import main
from edgespa.cli._rollout import Duration, Share, in_words
from edgespa.device.agent.window import is_watched
from edgespa.device.board import load_device
from edgespa.device.link.reach import connect
from edgespa.device.shipment.results import WindowStatus
from edgespa.device.shipment.ship import Shipment, ship
from edgespa.device.shipment.windows import Watch

_spec = importlib.util.spec_from_file_location("tiny_rollout", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

WATCHED = ["--watch", "1s", "--health-every", "0.3", "--health-command", "test ! -e ../../../ill"]
NOW = "2026-12-02T10:00:00+00:00"


sshd = _tiny.sshd


@pytest.fixture(autouse=True)
def place(sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two bundles, a and b in the group kitchen, and one of it that is away."""
    for number in (1, 2):
        _tiny.write_bundle(tmp_path / f"v{number}", onnx=_tiny.onnx_bytes(), bound={"relative_error": number / 1e4})
    devices = tmp_path / "config/edgespa/devices"
    devices.mkdir(parents=True)
    for name in ("a", "b"):
        path = sshd.profile(devices / f"{name}.toml", home=tmp_path / "far" / name)
        path.write_text('tags = ["kitchen"]\n' + path.read_text())
    away = '[connection]\nhost = "127.0.0.1"\nport = 1\nssh_config = "/dev/null"\n'
    (devices / "away.toml").write_text(f'title = "away"\ntags = ["attic"]\n{away}')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for path in (tmp_path / "far").glob("*/tasks/*/window.json"):
        path.unlink()


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def uses(place: Path) -> dict[str, str | None]:
    links = {name: place / "far" / name / "tasks/shapes/current" for name in ("a", "b")}
    return {name: link.readlink().name[:4] if link.is_symlink() else None for name, link in links.items()}


def test_the_whole_way(place: Path) -> None:
    result = typed("ship", "v1", "--group", "kitchen")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["device", "state", "in", "use", "now"]
    assert [row[:4] for row in rows[2:4]] == [["a", "in", "use", "shapes"], ["b", "in", "use", "shapes"]]

    (place / "far/b/ill").touch()
    words = ("ship", "v2", "--group", "kitchen", "--device", "away", "--wave", "50%,100%", "--abort-above", "5%")
    result = typed(*words, *WATCHED, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, problems("ship", document)) == (1, [])
    assert {each["device"]: (each["state"], each["wave"]) for each in document} == {
        "away": ("unreachable", 1),  # those that are named come first
        "a": ("in use", 1),
        "b": ("not begun", None),
    }
    assert document[1]["in_use"]["shapes"].startswith("0002-")
    assert document[1]["shipped"][0]["window"]["state"] == "passed"
    assert "STOPPED: in wave 1 of 2: 1 of 2 (50%) are not well, and 5% may be" in result.stderr
    assert "NOT BEGUN: b" in result.stderr
    assert "nothing was done there" not in result.stderr  # it is said once

    result = typed("ship", "v2", "--group", "kitchen", "--wave", "1,100%", *WATCHED)
    assert result.exit_code == 1
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.split()[:4] for line in lines[2:4]] == [["a", "1", "had", "it"], ["b", "2", "rolled", "back"]]
    assert "0002-" in lines[2]
    assert "0001-" in lines[3]
    assert "wave 1 of 2: 1 had it" in result.stderr
    assert "the health command ended with status 1" in result.stderr
    assert uses(place) == {"a": "0002", "b": "0001"}

    result = typed("status", "--group", "kitchen")
    said = " ".join(result.output.split())
    assert "ROLLED BACK: b: shapes 0002-" in said
    assert "because the health command ended with status 1" in said
    assert "LAGS: a: shapes of the group kitchen is not in use: it has 0002-" in said  # the roll-out was stopped
    document = json.loads(typed("status", "--group", "kitchen", "--json").stdout)
    assert problems("status", document) == []
    windows = {each["device"]: each["status"]["tasks"][0]["window"]["state"] for each in document}
    assert windows == {"a": "passed", "b": "rolled back"}

    result = typed("ship", "--catch-up", "--group", "kitchen", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, problems("ship", document)) == (0, [])
    assert {each["device"]: each["state"] for each in document} == {"a": "in use", "b": "had it"}

    result = typed("rollback", "shapes", "--group", "kitchen", "--to", "2")
    assert result.exit_code == 0, result.output
    assert uses(place) == {"a": "0002", "b": "0002"}
    result = typed("ship", "--remove", "shapes", "--group", "kitchen", "--yes")
    assert result.exit_code == 0, result.output
    assert uses(place) == {"a": None, "b": None}
    result = typed("ship", "--catch-up", "--group", "kitchen")
    assert (result.exit_code, "nothing was shipped to the group kitchen" in result.output) == (1, True)


def test_in_its_window_it_says_until_when(place: Path) -> None:
    """What a device is at after a host has gone, and what ends it."""
    profile = place / "config/edgespa/devices/local.toml"
    profile.write_text(f'extends = "local"\n[connection]\nfolder = "{place / "far/a"}"\n')
    typed("ship", "v1", "--device", "local")
    python = [sys.executable, "-I"]
    with connect(load_device("local")) as connection, open_bundle(place / "v2") as bundle:
        ship(connection, Shipment.of(bundle), lambda _: python, watch=Watch(600, every_s=300))
    assert is_watched(place / "far/a", "shapes")
    result = typed("status", "--device", "local")
    assert result.exit_code == 0
    assert "in its health window until about 20" in " ".join(result.stdout.split())
    # Another version without one ends it, and that is said.
    result = typed("ship", "v1", "--device", "local")
    assert "was in its health window, which has ended; this one is not watched" in " ".join(result.output.split())
    result = typed("status", "--device", "local")
    assert "health window" not in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ship", "v1"], 2, "Missing option '--device' or '--group'"),
        (["rollback", "shapes"], 2, "Missing option '--device' or '--group'"),
        (["ship", "v1", "--group", "kitchn"], 1, "there is no group 'kitchn'"),
        (["ship", "v1", "--group", "kitchen", "--wave", "10%,5%"], 1, "no more devices than the one before"),
        (["ship", "v1", "--group", "kitchen", "--wave", "all"], 1, "is no number of devices"),
        (["ship", "v1", "--group", "kitchen", "--abort-above", "5"], 2, "is no share"),
        (["ship", "v1", "--group", "kitchen", "--watch", "soon"], 2, "'soon' is no time; write 30s, 10m or 2h"),
        (["ship", "v1", "--group", "kitchen", "--watch", "0"], 1, "a health window of 0 s"),
        (["ship", "v1", "--group", "kitchen", "--watch", "30d"], 1, "from 1 s to 7 days"),
        (["ship", "v1", "--group", "kitchen", "--health-command", "true"], 2, "--watch"),
        (["ship", "--catch-up", "v1"], 2, "leave v1 out"),
        (["ship", "--catch-up"], 1, "nothing was shipped to a group from here"),
        (["ship", "v1", "--to", "depot", "--unsigned", "--wave", "1"], 2, "--to connects to none"),
        (["devices", "pull", "a", "http://x", "--unsigned", "--max-latency", "3"], 1, "of a health window"),
    ],
)
def test_obvious_mistakes(place: Path, words: list[str], code: int, said: str) -> None:
    result = typed(*words)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
    assert not (place / "far").exists()
    assert not (place / "depot").exists()


def test_times_and_shares() -> None:
    times, share = Duration(), Share()
    texts = ("90", "90s", "1.5m", "2h", "1d", " 5 m ", 7)
    assert [times.convert(each, None, None) for each in texts] == [90, 90, 90, 7200, 86400, 300, 7]
    for text in ("", "m", "-1m", "1w", "1m30s", "1e3", "٣m"):
        with pytest.raises(click.BadParameter):
            times.convert(text, None, None)
    assert share.convert("5%", None, None) == share.convert(0.05, None, None) == 0.05


def test_windows_in_words() -> None:
    row: dict[str, Any] = {"version": "0002-00000000", "watch_s": 9.0, "left_s": 0.0, "rounds": 2, "begun": NOW}
    back = WindowStatus(state="rolled back", to="0001-00000000", reason="it is slow", **row)
    assert in_words(back) == "rolled back to 0001-00000000, because it is slow"
    first = WindowStatus(state="rolled back", reason="it is slow", **row)
    assert in_words(first) == "rolled back and nothing is in use, as before, because it is slow"
    assert in_words(WindowStatus(state="passed", **row)) == "its health window has passed"
    assert "ended by another version" in in_words(WindowStatus(state="replaced", **row))


def test_a_device_is_set_up_to_pull_with_a_window(place: Path) -> None:
    words = ["devices", "pull", "a", "http://127.0.0.1:1", "--unsigned", "--no-pull", "--watch", "10m"]
    result = typed(*words, "--health-command", "true", "--max-latency", "20")
    assert result.exit_code == 0, result.output
    assert "is watched there for 600 s" in " ".join(result.stdout.split())
    config = json.loads((place / "far/a/pull/config.json").read_text())
    assert config["watch"] == {"watch_s": 600, "every_s": 30, "health": "true", "health_s": 60, "max_latency_ms": 20}
    document = json.loads(typed(*words[:6], "--json").stdout)
    assert problems("devices pull", document) == []
    assert document["watch_s"] is None
