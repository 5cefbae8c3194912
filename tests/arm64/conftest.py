"""The emulated Raspberry Pi, set up once for all tests of this folder; they skip, loudly, where it is not there."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgespa.device.board import Device, load_device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.provision.setup import SetUp, set_up

FOLDER = "EDGESPA_ARM64"
"""Names the folder that build.sh was given: make test-arm64 sets it."""

# Test folders are no packages: a helper beside a conftest is loaded by its path.
_spec = importlib.util.spec_from_file_location("edgespa_test_pi", Path(__file__).with_name("pi.py"))
assert _spec is not None
assert _spec.loader is not None
pi_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = pi_module
_spec.loader.exec_module(pi_module)


@pytest.fixture(scope="session")
def pi() -> Iterator[Any]:
    """It runs, with an empty home folder."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip("EMULATED PI ABSENT: nothing runs on arm64; make test-arm64 builds it and sets EDGESPA_ARM64")
    try:
        with pi_module.running_pi(Path(folder)) as running:
            yield running
    except pi_module.CannotStartError as error:
        pytest.fail(f"{error}")


@pytest.fixture(scope="session")
def profile_path(pi: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device profile for it, as a user would write one."""
    path = tmp_path_factory.mktemp("devices") / "emulated-pi.toml"
    path.write_text(pi.profile)
    return path


@pytest.fixture(scope="session")
def device(profile_path: Path) -> Device:
    return load_device(str(profile_path))


@pytest.fixture(scope="session")
def connection(device: Device) -> Iterator[Connection]:
    with connect(device) as opened:
        yield opened


@pytest.fixture(scope="session")
def ready(connection: Connection) -> SetUp:
    """What `edgespa devices setup` did there."""
    return set_up(connection, runtimes=("ncnn",))
