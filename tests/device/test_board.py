from __future__ import annotations

from pathlib import Path

import pytest

from edgespa.device.board import (
    Device,
    Reach,
    Reference,
    Runtime,
    list_devices,
    load_device,
    profile_text,
    shipped_devices,
    user_folder,
)
from edgespa.device.measure.estimate import NETWORKS
from edgespa.errors import ConfigError, DeviceError

BOARDS = (
    "jetson-agx-orin", "jetson-nano", "jetson-orin-nano", "jetson-xavier-nx",
    "pi-3b-plus", "pi-4b", "pi-5", "pi-zero-2w", "local",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    user_folder().mkdir(parents=True)
    return user_folder()


def test_the_boards_that_come_with_edgespa() -> None:
    assert tuple(device.name for device in shipped_devices()) == BOARDS
    for device in shipped_devices():
        assert device.runtimes
        assert device.round_to == (16 if device.is_local else 8)
        if not device.is_local:
            assert device.machine == "aarch64"
            assert device.source
            assert {device.cores, device.clock_mhz, device.bandwidth_gb_s, *device.memory_mib} - {None}


def test_figures_by_hand() -> None:
    pi = load_device("pi-4b")
    assert (pi.cores, pi.clock_mhz, pi.isa) == (4, 1800, ("armv8-a", "neon"))
    rows = {(row.network, row.precision, row.threads): row.latency_ms for row in pi.references}
    assert rows["mobilenet-v2", "fp32", 1] == 93
    assert rows["resnet-50", "int8", 4] == 197
    assert load_device("jetson-orin-nano").runtimes[0].providers[0] == "TensorrtExecutionProvider"
    assert load_device("pi-4b").host == "pi-4b"  # an alias in ~/.ssh/config


def test_what_is_published_of_int8(own: Path) -> None:
    assert load_device("pi-4b").int8_ratio() == pytest.approx((424 / 534 + 197 / 263) / 2)
    assert load_device("jetson-xavier-nx").int8_ratio() is None
    (own / "mine.toml").write_text('title = "Mine"')
    assert load_device("mine").int8_ratio() is None


def test_a_profile_of_ones_own(own: Path) -> None:
    (own / "kitchen.toml").write_text(
        'extends = "pi-4b"\nclock_mhz = 1500\n[connection]\nhost = "10.0.0.4"\nuser = "pi"\n'
    )
    found = load_device("kitchen")
    assert (found.name, found.clock_mhz, found.cores, found.host) == ("kitchen", 1500, 4, "10.0.0.4")
    assert found.references == load_device("pi-4b").references
    assert found.connection.python == "python3"
    (own / "cellar.toml").write_text('extends = "kitchen"\n[connection]\nhost = "10.0.0.5"\n')
    assert (load_device("cellar").connection.user, load_device("cellar").host) == ("pi", "10.0.0.5")
    assert profile_text("kitchen").startswith("extends")
    assert profile_text("pi-4b").startswith("title")


def test_ones_own_takes_the_place_of_one_that_comes_with_edgespa(own: Path) -> None:
    (own / "pi-5.toml").write_text('extends = "pi-5"\n[connection]\nhost = "10.0.0.9"\n')
    assert (load_device("pi-5").host, load_device("pi-5").cores) == ("10.0.0.9", 4)
    row = next(each for each in list_devices() if each.name == "pi-5")
    assert row.path == own / "pi-5.toml"


def test_by_path(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('extends = "pi-5"\n[connection]\nssh_config = "keys/config"\n')
    found = load_device(str(tmp_path / "lab.toml"))
    assert found.name == "lab"
    assert found.connection.ssh_config == str(tmp_path / "keys/config")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("titel = 'x'", "titel: is not known", "did you mean 'title'?"),
        ("title = 'x'\n[connection]\nhots = 'y'", "connection.hots", "did you mean 'host'?"),
        ("title = ", "lab.toml", "devices show"),
        ("extends = 'pi-9'", "there is no device 'pi-9'", "pi-"),
        ("extends = ['pi-5']", "extends: it is the name of one device", "extends"),
        ("title = 'x'\n[connection]\nhost = '-oProxyCommand=evil'", "connection.host", ""),
        ("title = 'x'\n[connection]\nuser = '-x'", "connection.user", ""),
        ("title = 'x'\n[connection]\nport = 99999", "connection.port", ""),
        ("title = 'x'\n[[references]]\nnetwork = 'resnet-50'\nlatency_ms = 1.0", "references_source", ""),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "lab.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_device(str(tmp_path / "lab.toml"))
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_profiles_that_extend_each_other(own: Path) -> None:
    (own / "a.toml").write_text('extends = "b"\n')
    (own / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(ConfigError, match="it extends itself"):
        load_device("a")


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(DeviceError) as caught:
        load_device("pi4")
    assert "pi-4b" in str(caught.value.hint)
    with pytest.raises(DeviceError) as caught:
        load_device("toaster")
    assert "known: " in str(caught.value.hint)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_device("nowhere/x.toml")


def test_a_damaged_file_does_not_hide_the_others(own: Path) -> None:
    (own / "bad.toml").write_bytes(b"\xff\xfe")
    rows = {each.name: each for each in list_devices()}
    assert rows["bad"].device is None
    assert "UTF-8" in str(rows["bad"].problem)
    assert rows["pi-5"].device is not None


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/reference/device.md").read_text(encoding="utf-8")
    keys = {*Device.model_fields, *Runtime.model_fields, *Reference.model_fields, *Reach.model_fields}
    assert {key for key in keys if f"`{key}`" not in text and f"[{key}]" not in text} == set()
    assert all(name in text for name in NETWORKS)


def test_local_is_this_machine(own: Path) -> None:
    (own / "local.toml").write_text('extends = "local"\n[connection]\nhost = "elsewhere"\n')
    with pytest.raises(ConfigError, match="'local' is this machine"):
        load_device("local")
