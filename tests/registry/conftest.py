"""Registries on the loopback interface, and small real bundles and tasks."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _loaded(name: str, path: Path) -> Any:
    # Test folders are no packages: a helper beside a conftest is loaded by its path.
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_tiny = _loaded("tiny_bundles_of_registries", Path(__file__).parents[1] / "device" / "conftest.py")
servers = _loaded("registry_servers", Path(__file__).with_name("servers.py"))


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of registries, and credentials, are each test's own, and nobody waits before a try again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr("edgespa.registry.oci._WAIT_S", 0.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle, which may be changed."""
    return Path(_tiny.write_bundle(tmp_path / "good", onnx=_tiny.onnx_bytes(), extra={"a b.txt": b"two words"}))


def _needed() -> None:
    if servers.registry_program() is None:
        pytest.skip("REGISTRIES NOT TRIED: no docker-registry (on Debian: apt-get install docker-registry)")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A docker-registry that lets everybody in."""
    _needed()
    with servers.registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def closed_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One that asks for ann's password, which is "secret"."""
    _needed()
    with servers.registry(tmp_path_factory.mktemp("closed"), users=True) as running:
        yield running


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Path:
    """A folder with ``one.spa`` and ``two.spa``, of one base. Not to be changed."""
    import edgespa as es

    folder = tmp_path_factory.mktemp("tasks")
    for name, density in (("one", 0.5), ("two", 0.4)):
        es.prune(
            f"{toy_folder / 'net.py'}:build",
            input_shape=(1, 3, 8, 8),
            density=density,
            output=folder / f"{name}.spa",
            progress=False,
        )
    return folder


def write_credentials(folder: Path, host: str, user: str, password: str) -> None:
    """``config.json`` as docker and oras write it."""
    import base64

    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
