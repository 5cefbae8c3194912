"""What a device's profile of somebody else may have ssh do here: connect, and nothing besides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgespa.cli._shell import main
from edgespa.device import connect, load_device
from edgespa.device.board import user_folder
from edgespa.errors import ConfigError

HARM = (
    "ProxyCommand touch {marker}; nc %h %p",
    'proxycommand="touch {marker}"',
    "\tProxyCommand\ttouch {marker}",
    '"ProxyCommand" touch {marker}',
    "=ProxyCommand touch {marker}",
    "KnownHostsCommand /usr/bin/touch {marker}",
    "PermitLocalCommand yes",
    "LocalCommand touch {marker}",
    "PKCS11Provider {marker}",
    "SecurityKeyProvider {marker}",
    "XAuthLocation {marker}",
    "Include {marker}",
    "SendEnv *",
    "UpdateHostKeys yes",
    "RemoteForward 9999 localhost:22",
    "ControlPath {marker}",
    "Host other\n  Match exec 'touch {marker}'",
    "HostName `touch${{IFS}}{marker}`",
    "User x;touch${{IFS}}{marker}",
    "ProxyJump -oProxyCommand=touch${{IFS}}{marker}",
    "ProxyJump a,$(touch${{IFS}}{marker})",
    "Port 22\r\nProxyCommand touch {marker}",
    "# a comment\n\n  ProxyCommand touch {marker}",
)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a profile with a configuration was unpacked."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


def write(folder: Path, lines: str) -> Path:
    (folder / "ssh").write_text(f"Host board\n{lines}\nHost *\n  Port 1\n")
    path = folder / "board.toml"
    path.write_text('title = "a board"\n[connection]\nhost = "board"\nssh_config = "ssh"\n')
    return path


@pytest.mark.parametrize("lines", HARM)
def test_a_configuration_that_runs_or_hands_over_something_is_refused(theirs: Path, lines: str) -> None:
    """By its profile's path; among the user's own it is the user's."""
    marker = theirs / "marker"
    profile = write(theirs, lines.format(marker=marker))
    with pytest.raises(ConfigError, match="does more than say how a host is reached") as caught:
        connect(load_device(str(profile)))
    assert str(user_folder()) in str(caught.value.hint)
    assert not marker.exists()
    own = user_folder()
    own.mkdir(parents=True)
    for path in (profile, theirs / "ssh"):
        shutil.copy(path, own / path.name)
    connect(load_device("board")).close()
    connect(load_device(str(own / "board.toml"))).close()


@pytest.mark.parametrize("command", [["devices", "check"], ["status"], ["rollback", "birds"]])
def test_no_command_runs_it(theirs: Path, command: list[str]) -> None:
    marker = theirs / "marker"
    profile = write(theirs, f"ProxyCommand touch {marker}")
    option = [] if command[0] == "devices" else ["--device"]
    result = CliRunner().invoke(main, [*command, *option, str(profile)])
    assert result.exit_code == 1
    assert "ProxyCommand" in result.output + result.stderr
    assert not marker.exists()
    shown = CliRunner().invoke(main, ["devices", "show", str(profile)])
    assert shown.exit_code == 0  # looking runs nothing


@pytest.mark.parametrize("name", ["host", "user"])
@pytest.mark.parametrize("value", ["`touch x`", "$(x)", "a;b", "a|b", "a&b", "a>b", "'a", "a{b", "a\\\\b", "a b", "-a"])
def test_names_that_mean_something_to_a_shell(theirs: Path, name: str, value: str) -> None:
    """OpenSSH before 9.6 puts them into a shell's command line, of a proxy that the user's own configuration has."""
    path = theirs / "board.toml"
    path.write_text(f'title = "a board"\n[connection]\n{name} = "{value}"\n')
    with pytest.raises(ConfigError, match=f"connection.{name}"):
        load_device(str(path))


def test_what_only_says_how_a_host_is_reached_is_taken(sshd: Any, theirs: Path) -> None:
    jump = sshd.config.read_text().replace("Host loop", "Host jump")
    alias = f"  HostKeyAlias [127.0.0.1]:{sshd.port}\n"
    far = sshd.config.read_text().replace("Host loop", "Host board") + alias
    profile = write(theirs, f"{far}  ProxyJump jump\n  Compression=yes\n{jump}")
    with connect(load_device(str(profile)).model_copy()) as connection:
        assert connection.ask("tasks", {})["tasks"] == []
