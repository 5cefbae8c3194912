"""Shipping over a real sshd: what is in use changes whole or not at all, whatever happens on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.bundle import Signer, open_bundle, sign_bundle
from edgespa.device.board import load_device
from edgespa.device.fleet import on_each
from edgespa.device.link.payload import Payload
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.back import roll_back
from edgespa.device.shipment.ship import Shipment, ship, task_name
from edgespa.device.shipment.status import device_status
from edgespa.errors import ConfigError, DeviceError, EdgespaError, SignatureError, UnreachableError

BundleMaker = Callable[..., Path]


def python(connection: Connection) -> list[str]:
    return [sys.executable, "-I"]


def shipment(bundle: Path, task: str = "shapes", **options: Any) -> Shipment:
    with open_bundle(bundle, signers=options.get("signers")) as opened:
        return Shipment.of(opened, task=task, **options)


@pytest.fixture
def versions(tmp_path: Path, make_bundle: BundleMaker) -> Callable[[int], Path]:
    """Bundles that differ: each has a larger model file, of zeros beside its weights."""
    import onnx

    base = onnx.load_from_string(sibling("conftest").onnx_bytes())
    made: dict[int, Path] = {}

    def version(number: int, size: int = 40_000) -> Path:
        if number not in made:
            model = onnx.ModelProto()
            model.CopyFrom(base)
            model.graph.node.append(onnx.helper.make_node("Identity", ["spare"], ["unused"]))
            values = np.random.default_rng(number).standard_normal(size).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, "spare"))
            made[number] = make_bundle(tmp_path / f"v{number}", onnx=model.SerializeToString())
        return made[number]

    return version


def sibling(name: str) -> Any:
    """A file of this folder as a module: test folders are no packages."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"device_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where edgespa keeps things on the far side."""
    return tmp_path / "far" / "edgespa"


@pytest.fixture
def far(sshd: Any, home: Path) -> Iterator[Connection]:
    with connect(sshd.device(home=home)) as connection:
        yield connection


@pytest.fixture
def near(home: Path) -> Iterator[Connection]:
    """This machine as the device: the same calls without ssh, where ssh is not the point."""
    local = load_device("local")
    local = local.model_copy(update={"connection": local.connection.model_copy(update={"folder": str(home)})})
    with connect(local) as connection:
        yield connection


def in_use(home: Path, task: str = "shapes") -> str | None:
    link = home / "tasks" / task / "current"
    return os.readlink(link) if link.is_symlink() else None


def answers(home: Path, task: str = "shapes") -> str:
    """What the version in use says of itself when it is run as a user of the device would run it."""
    command = [sys.executable, "-I", str(home / "tasks" / task / "current" / "run.py"), "--selfcheck", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return str(json.loads(done.stdout)["selfcheck"][0]["status"])


def test_the_whole_way(far: Connection, home: Path, versions: Callable[..., Path]) -> None:
    first = ship(far, shipment(versions(1)), python)
    assert first.version.startswith("0001-")
    assert first.previous is None
    assert (first.signature, first.cleaned, first.removed) == ("absent", (), ())
    assert first.bytes_sent == shipment(versions(1)).size_bytes
    assert [check.status for check in first.checks] == ["passed"]
    assert in_use(home) == first.version
    assert answers(home) == "passed"
    second = ship(far, shipment(versions(2)), python)
    assert second.previous == first.version
    assert in_use(home) == second.version
    # run.py, the labels and the recorded inputs are there already.
    assert second.bytes_sent < first.bytes_sent - 20_000
    status = device_status(far)
    (task,) = status.tasks
    assert (task.task, task.current, task.health) == ("shapes", second.version, "ok")
    assert [each.version for each in task.versions] == [first.version, second.version]
    assert all(each.shipped for each in task.versions)


def test_the_same_again_sends_nothing_and_is_checked(
    near: Connection, home: Path, versions: Callable[..., Path]
) -> None:
    first = ship(near, shipment(versions(1)), python)
    again = ship(near, shipment(versions(1)), python)
    assert again.version == again.previous == first.version
    assert again.bytes_sent == 0
    assert [check.status for check in again.checks] == ["passed"]
    ship(near, shipment(versions(2)), python)
    back = ship(near, shipment(versions(1)), python)
    assert (back.version, back.bytes_sent) == (first.version, 0)
    assert in_use(home) == first.version


@pytest.mark.more
def test_the_last_n_are_kept_and_the_one_in_use_always(
    near: Connection, home: Path, versions: Callable[..., Path]
) -> None:
    names = [ship(near, shipment(versions(number)), python, keep=2).version for number in (1, 2, 3)]
    there = sorted(path.name for path in (home / "tasks/shapes").iterdir() if path.is_dir() and path.name[0] == "0")
    assert there == names[1:]
    roll_back(near, "shapes", python)
    fourth = ship(near, shipment(versions(4)), python, keep=1)
    assert fourth.removed == (names[1], names[2])
    assert not list((home / "tasks/shapes").glob(f"{names[1]}*"))
    # What only they had is gone from the cache, too.
    kept = {each.sha256 for each in shipment(versions(4)).files.values()}
    assert {path.name.partition(".")[0] for path in (home / "cache").iterdir()} == kept


@pytest.mark.more
def test_rolling_back_and_forth(near: Connection, home: Path, versions: Callable[..., Path]) -> None:
    names = [ship(near, shipment(versions(number)), python).version for number in (1, 2, 3)]
    assert roll_back(near, "shapes", python).version == names[1]
    assert in_use(home) == names[1]
    assert roll_back(near, "shapes", python).version == names[0]
    with pytest.raises(DeviceError, match="no version before"):
        roll_back(near, "shapes", python)
    assert roll_back(near, "shapes", python, to=names[2]).previous == names[0]
    assert roll_back(near, "shapes", python, to="2").version == names[1]
    with pytest.raises(DeviceError, match="no version '7'") as caught:
        roll_back(near, "shapes", python, to="7")
    assert names[0] in (caught.value.hint or "")
    with pytest.raises(DeviceError, match="no task 'birds'"):
        roll_back(near, "birds", python)


def test_a_version_that_fails_there_is_never_in_use(
    near: Connection, home: Path, versions: Callable[..., Path], bad_bundle: Path
) -> None:
    first = ship(near, shipment(versions(1)), python)
    with pytest.raises(DeviceError, match="fails its self-check there") as caught:
        ship(near, shipment(bad_bundle), python)
    assert "relative_error" in caught.value.message
    assert in_use(home) == first.version
    assert [each.version for each in device_status(near).tasks[0].versions] == [first.version]


@pytest.mark.usefixtures("no_onnxruntime")
def test_a_device_without_the_runtime(near: Connection, home: Path, versions: Callable[..., Path]) -> None:
    for options, why in ((["-I", "-S"], "No module named 'numpy'"), ([], "built for another numpy")):
        with pytest.raises(DeviceError, match=why) as caught:
            ship(near, shipment(versions(1)), lambda connection, own=tuple(options): [sys.executable, *own])
        assert caught.value.hint == "install the runtimes there: edgespa devices setup local"
        assert in_use(home) is None


@pytest.mark.more
def test_what_is_damaged_on_the_disk_is_seen_and_sent_again(
    near: Connection, home: Path, versions: Callable[..., Path]
) -> None:
    first = ship(near, shipment(versions(1)), python)
    second = ship(near, shipment(versions(2)), python)
    spoil(home / "tasks/shapes" / second.version / "model.onnx")
    (task,) = device_status(near).tasks
    assert task.health == "model.onnx has changed"
    again = ship(near, shipment(versions(2)), python)
    assert again.version == again.previous == second.version
    assert again.repaired == (second.version,)
    assert 0 < again.bytes_sent < 300_000
    assert device_status(near).tasks[0].healthy
    spoil(home / "tasks/shapes" / first.version / "model.onnx")
    with pytest.raises(DeviceError, match=r"is damaged: model\.onnx has changed"):
        roll_back(near, "shapes", python, to=first.version)
    assert in_use(home) == second.version


def spoil(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def test_the_self_check_of_what_is_in_use(near: Connection, home: Path, versions: Callable[..., Path]) -> None:
    ship(near, shipment(versions(1)), python)
    (task,) = device_status(near, python).tasks
    assert [check.status for check in task.checks] == ["passed"]
    (task,) = device_status(near, lambda connection: [sys.executable, "-I", "-S"]).tasks
    assert not task.healthy


class TestSigned:
    @pytest.fixture
    def key(self, tmp_path: Path) -> Path:
        path = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return path

    @pytest.fixture
    def signers(self, key: Path, tmp_path: Path) -> Path:
        path = tmp_path / "signers"
        path.write_text(f"me {key.with_suffix('.pub').read_text()}")
        return path

    def test_it_is_checked_there(
        self, far: Connection, versions: Callable[..., Path], key: Path, signers: Path
    ) -> None:
        sign_bundle(versions(1), Signer.open(key))
        assert ship(far, shipment(versions(1)), python).signature == "not checked"
        sign_bundle(versions(2), Signer.open(key))
        shipped = ship(far, shipment(versions(2), signers=signers), python)
        assert (shipped.signature, shipped.signed_by) == ("on the device", "me")

    def test_a_wrong_one_never_leaves(
        self, home: Path, versions: Callable[..., Path], key: Path, signers: Path, tmp_path: Path
    ) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
        sign_bundle(versions(1), Signer.open(tmp_path / "other"))
        with pytest.raises(SignatureError):
            shipment(versions(1), signers=signers)

    def test_one_that_changes_on_the_way_is_refused_there(
        self, near: Connection, home: Path, versions: Callable[..., Path], key: Path, signers: Path, tmp_path: Path
    ) -> None:
        sign_bundle(versions(1), Signer.open(key))
        good = shipment(versions(1), signers=signers)
        sign_bundle(versions(2), Signer.open(key))
        other = versions(2) / "manifest.json.sig"
        exchanged = {**good.files, "manifest.json.sig": Payload.of(other)}
        wrong = Shipment(good.task, good.manifest, exchanged, good.signed_by, good.signers)
        with pytest.raises(SignatureError, match="is not good there"):
            ship(near, wrong, python)
        assert in_use(home) is None
        assert device_status(near).tasks == ()

    def test_a_device_without_ssh_keygen(
        self, near: Connection, versions: Callable[..., Path], key: Path, signers: Path
    ) -> None:
        sign_bundle(versions(1), Signer.open(key))
        ask = near.ask

        def without(command: str, *arguments: Any, **options: Any) -> dict[str, Any]:
            if command == "check-signed":
                return {"status": "unable", "said": "there is no ssh-keygen"}
            return ask(command, *arguments, **options)

        near.ask = without  # type: ignore[method-assign]
        assert ship(near, shipment(versions(1), signers=signers), python).signature == "on the host"


def test_several_devices_at_once_and_one_that_is_away(sshd: Any, tmp_path: Path, versions: Callable[..., Path]) -> None:
    devices = [sshd.device(name, home=tmp_path / name) for name in ("left", "right")]
    away = sshd.device("away", port=1, host="127.0.0.1")
    ready = shipment(versions(1))
    outcomes = on_each([devices[0], away, devices[1]], lambda connection: ship(connection, ready, python))
    assert [each.device.name for each in outcomes] == ["left", "away", "right"]
    assert outcomes[0].result is not None
    assert isinstance(outcomes[1].error, UnreachableError)
    assert outcomes[2].result is not None
    assert in_use(tmp_path / "left") == in_use(tmp_path / "right") is not None


def test_this_machine_is_a_device_too(near: Connection, home: Path, versions: Callable[..., Path]) -> None:
    shipped = ship(near, shipment(versions(1)), python)
    assert (shipped.device, in_use(home)) == ("local", shipped.version)
    assert device_status(near, python).tasks[0].healthy


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-rf", "x" * 65, "ä"])
def test_names_that_are_no_folders(name: str) -> None:
    with pytest.raises(ConfigError):
        task_name(name)


def test_names_made_of_words() -> None:
    assert task_name("models.py: resnet 56", True) == "models.py-resnet-56"
    with pytest.raises(ConfigError):
        task_name("äöü", True)


def test_a_task_of_that_name_is_refused_by_the_agent_itself(near: Connection) -> None:
    for name in ("../x", "a/b", ""):
        with pytest.raises(EdgespaError):
            near.ask("discard", {"task": name, "keep": 0})
