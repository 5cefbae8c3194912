"""``edgespa devices`` as a user types it; what connects is tried in tests/device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgespa.cli import devices
from edgespa.errors import ConfigError, DeviceError, UnreachableError


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(devices.command, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edgespa/devices"
    folder.mkdir(parents=True)
    return folder


def test_list(own: Path) -> None:
    (own / "kitchen.toml").write_text('extends = "pi-4b"\n')
    (own / "bad.toml").write_text("nonsense")
    result = invoke("list")
    assert result.exit_code == 0
    assert "kitchen" in result.stdout
    assert "Raspberry Pi Zero 2 W" in result.stdout
    assert "UNREADABLE" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = {row["name"]: row for row in json.loads(invoke("list", "--json").stdout)}
    assert rows["pi-5"]["device"]["cores"] == 4
    assert rows["bad"]["problem"]


def test_show() -> None:
    result = invoke("show", "pi-4b")
    assert "4 at 1,800 MHz" in result.stdout
    assert "Published latencies" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert json.loads(invoke("show", "pi-4b", "--json").stdout)["bandwidth_gb_s"] == 12.8


def test_what_show_prints_is_a_profile(own: Path) -> None:
    (own / "copy.toml").write_text(invoke("show", "pi-5", "--toml").stdout)
    result = json.loads(invoke("show", "copy", "--json").stdout)
    assert {**result, "name": "pi-5"} == json.loads(invoke("show", "pi-5", "--json").stdout)


def test_check_this_machine() -> None:
    result = invoke("check", "local")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert any(row[:1] == ["onnxruntime"] and row[2:4] == ["CPUExecutionProvider", "yes"] for row in rows)
    assert any(row[:1] == ["ai_edge_litert"] and row[2:4] == ["CPU", "yes"] for row in rows)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_mistakes(own: Path) -> None:
    unknown = invoke("show", "pi4")
    assert isinstance(unknown.exception, DeviceError)
    assert "pi-4b" in str(unknown.exception.hint)
    (own / "away.toml").write_text('extends = "pi-5"\n[connection]\nhost = "127.0.0.1"\nport = 1\n')
    for command in ("check", "setup"):
        assert isinstance(invoke(command, "away").exception, UnreachableError)
    assert isinstance(invoke("show", "no/such.toml").exception, ConfigError)
    assert isinstance(invoke("setup", "local").exception, DeviceError)
    assert invoke("show").exit_code == 2
