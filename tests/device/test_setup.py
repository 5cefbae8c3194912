"""Setting a device up, with small wheels made here: nothing is fetched from an index."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from edgespa_test_wheels import NUMPY, ONNXRUNTIME, wheel
from waiting import wait_for

from edgespa.device import connect, load_device, versions
from edgespa.device.board import Device
from edgespa.device.host import Facts
from edgespa.device.inventory import problems, take_inventory
from edgespa.device.provision.setup import set_up
from edgespa.device.provision.wheels import key_of, platforms_for, requirements_of, wanted_for
from edgespa.errors import ConfigError, DeviceError, UnreachableError


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    wheel(folder, "onnxruntime", "1.20", ONNXRUNTIME, ("numpy>=1.20",))
    wheel(folder, "numpy", "1.26", NUMPY)
    wheel(folder, "pillow", "10.1", "")
    return folder


def board(sshd: Any, name: str, **connection: Any) -> Device:
    """A device on loopback that wants ONNX Runtime only."""
    runtime = {"name": "onnxruntime", "providers": ("CPUExecutionProvider",), "oldest": "1.15"}
    values = sshd.device(name, **connection).model_dump()
    return Device.parse({**values, "runtimes": [runtime]}, name)


@pytest.mark.more
@pytest.mark.slow
def test_a_device_is_set_up_once_and_keeps_what_works(sshd: Any, wheels: Path) -> None:
    device = board(sshd, "fresh", python=sys.executable)
    home = Path(device.connection.folder)
    with connect(device) as connection:
        done = set_up(connection, wheels=wheels, offline=True)
        assert done.made
        assert [each.split("-py3")[0] for each in done.packages] == ["numpy-1.26", "onnxruntime-1.20", "pillow-10.1"]
        assert done.bytes_sent == sum(path.stat().st_size for path in wheels.iterdir())
        assert "3 packages" in done.summary()
        works = {each.provider: (each.works, each.error) for each in done.inventory.providers}
        assert works["CPUExecutionProvider"] == (True, None)
        assert works["CUDAExecutionProvider"] == (
            False,
            "RuntimeError: CUDA failure 209: no kernel image is available for execution on the device",
        )
        assert works["TensorrtExecutionProvider"][0] is False
        assert "signal 11" in str(works["TensorrtExecutionProvider"][1])
        link = home / "environment"
        assert link.resolve() == home / "environments" / done.key

        made = (link / "edgespa.json").stat().st_mtime_ns
        again = set_up(connection, wheels=wheels, offline=True)
        assert (again.made, again.bytes_sent) == (False, 0)
        assert [(each.provider, each.works) for each in again.inventory.providers] == [
            (each.provider, each.works) for each in done.inventory.providers
        ]
        assert (link / "edgespa.json").stat().st_mtime_ns == made
        assert "nothing was done" in again.summary()

        wheel(wheels, "onnxruntime", "1.22", "raise ImportError('built for another numpy')")
        with pytest.raises(DeviceError, match=r"nothing that was installed works.*built for another numpy") as caught:
            set_up(connection, wheels=wheels, offline=True)
        assert "as it was" in str(caught.value.hint)
        after = take_inventory(connection)
        assert after.environment == done.key
        assert [each.version for each in after.providers] == ["1.20"] * 3
        assert [path.name for path in (home / "environments").iterdir()] == [done.key]

        (wheels / "onnxruntime-1.22-py3-none-any.whl").unlink()
        rotten = next(home.glob("environment/lib/python3*/site-packages/onnxruntime.py"))
        rotten.write_text("!")
        again = set_up(connection, wheels=wheels, offline=True)
        assert again.made
        assert [each.works for each in again.inventory.providers] == [False, False, True]


@pytest.mark.more
@pytest.mark.slow
def test_a_set_up_that_is_cut_is_done_again(own_sshd: Any, wheels: Path) -> None:
    device = board(own_sshd, "cut", python=sys.executable)
    home = Path(device.connection.folder)
    with connect(device) as connection:
        cut = threading.Thread(
            target=lambda: (wait_for(lambda: list(home.glob("environments/.*/bin"))), own_sshd.cut())
        )
        cut.start()
        with pytest.raises(UnreachableError):
            set_up(connection, wheels=wheels, offline=True)
        cut.join()
        assert not (home / "environment").exists()
        (home / "environments/.0123.new/bin").mkdir(parents=True, exist_ok=True)  # of one that could not clean up
        assert set_up(connection, wheels=wheels, offline=True).made
    assert (home / "environment/bin/python").exists()
    assert not list(home.glob("environments/.*"))


def test_packages_that_do_not_fit(sshd: Any, wheels: Path) -> None:
    (wheels / "numpy-1.26-py3-none-any.whl").unlink()
    with (
        connect(board(sshd, "unfit", python=sys.executable)) as connection,
        pytest.raises(DeviceError, match=r"no packages that fit Python (.|\n)*numpy"),
    ):
        set_up(connection, wheels=wheels, offline=True)


def test_wrong_use(sshd: Any, tmp_path: Path) -> None:
    with connect(board(sshd, "usage")) as connection:
        with pytest.raises(DeviceError, match="is not a folder"):
            set_up(connection, wheels=tmp_path / "none")
        with pytest.raises(DeviceError, match="--offline needs --wheels"):
            set_up(connection, offline=True)
    with connect(load_device("local")) as connection, pytest.raises(DeviceError, match="own environment"):
        set_up(connection)


FACTS: dict[str, Any] = {
    "system": "Linux 6.6",
    "machine": "aarch64",
    "bits": 64,
    "cpu_model": None,
    "logical_cores": 4,
    "affinity": 4,
    "memory_kib": 1,
    "python": "3.11.2",
    "glibc": "2.36",
    "memory_available_kib": 1,
    "python_path": "/usr/bin/python3",
    "python_implementation": "CPython",
    "can_make_venv": True,
    "ssh_keygen": True,
    "folder": "/home/pi/.local/share/edgespa",
    "folder_writable": True,
    "free_bytes": 10**10,
}


def facts(**changes: Any) -> Facts:
    return Facts.parse({**FACTS, **changes}, "test")


def test_a_good_board_has_no_problems() -> None:
    assert problems(load_device("pi-4b"), facts()) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 32, "machine": "armv7l"}, "a 32-bit system (armv7l): there are no runtimes for it"),
        ({"bits": 32}, "its kernel is aarch64"),
        ({"glibc": None}, "not glibc"),
        ({"python_implementation": "PyPy"}, "CPython is needed"),
        ({"machine": "x86_64"}, "is it another device?"),
        ({"folder_writable": False}, "cannot be written"),
    ],
)
def test_what_cannot_be_set_up_is_refused(changes: dict[str, Any], words: str) -> None:
    found = problems(load_device("pi-4b"), facts(**changes))
    assert any(words in each for each in found)


class Pretending:
    """A connection to a machine of other facts."""

    def __init__(self, device: Device, found: Facts) -> None:
        self.device, self.where, self.found = device, device.name, found

    def ask(self, command: str, *_: Any, **__: Any) -> dict[str, Any]:
        assert command == "facts"
        return self.found.model_dump()


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"bits": 32, "machine": "armv7l"}, "32-bit system", "cannot be profiled"),
        ({"can_make_venv": False}, "ensurepip is missing", "apt-get install python3-venv (or python3.11-venv)"),
        ({"machine": "riscv64", "glibc": "2.39"}, "riscv64", ""),
    ],
)
def test_refusals_say_what_to_do(changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(DeviceError) as caught:
        set_up(Pretending(load_device("pi-4b"), facts(**changes)))  # type: ignore[arg-type]
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("3.8.10", ("onnxruntime==1.19.2", "tflite-runtime==2.13.0", "numpy<2", "pillow>=8")),
        ("3.9.2", ("onnxruntime==1.19.2", "ai-edge-litert==2.1.0", "pillow>=8")),
        ("3.10.12", ("onnxruntime==1.23.2", "ai-edge-litert==2.3.0", "pillow>=8")),
        ("3.13.1", ("onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "pillow>=8")),
    ],
)
def test_requirements_by_python(python: str, expected: tuple[str, ...]) -> None:
    assert requirements_of(wanted_for(load_device("pi-4b"), facts(python=python), None)) == expected


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    """What is put on devices is what this repository is tested with; what else there is of, is tried next."""
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for package in ("onnxruntime", "ai-edge-litert"):
        assert versions.tested_versions(package, (3, 11))[0] == pinned[package]
    (onnx, tflite) = wanted_for(load_device("pi-4b"), facts(python="3.10.1"), None)
    assert onnx.choices == ("onnxruntime==1.23.2", "onnxruntime==1.19.2", "onnxruntime>=1.15,<2,!=1.21.0")
    assert tflite.choices == ("ai-edge-litert==2.3.0", "ai-edge-litert==2.1.0", "ai-edge-litert>=2.0,<3")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("onnxruntime==1.20.1",), ("onnxruntime==1.20.1", "ai-edge-litert==2.3.0", "pillow>=8")),
        (("onnxruntime >= 1.30, <1.32",), ("onnxruntime>=1.30,<1.32", "ai-edge-litert==2.3.0", "pillow>=8")),
        (("onnxruntime", "ai_edge_litert"), ("onnxruntime>=1.15,<2,!=1.21.0", "ai-edge-litert>=2.0,<3", "pillow>=8")),
        (("tflite-runtime==2.14.0",), ("onnxruntime==1.31.1", "tflite-runtime==2.14.0", "numpy<2", "pillow>=8")),
    ],
)
def test_other_versions_can_be_asked_for(asked: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert requirements_of(wanted_for(load_device("pi-4b"), facts(), None, asked)) == expected


@pytest.mark.parametrize("asked", ["torch==2", "onnxruntime; import os", "--index-url=x", "onnxruntime==", "a b", ""])
def test_only_versions_of_runtimes_can_be_asked_for(asked: str) -> None:
    with pytest.raises(ConfigError, match="is no requirement on a runtime"):
        wanted_for(load_device("pi-4b"), facts(), None, (asked,))


def test_a_gpu_build_is_taken_only_from_the_users_own_wheels(tmp_path: Path) -> None:
    jetson = load_device("jetson-orin-nano")
    assert wanted_for(jetson, facts(), tmp_path)[0].package == "onnxruntime"
    (tmp_path / "onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl").touch()
    assert wanted_for(jetson, facts(), tmp_path)[0].choices == ("onnxruntime-gpu>=1.11,<2",)
    assert wanted_for(load_device("pi-4b"), facts(), tmp_path)[0].package == "onnxruntime"


def test_platforms_by_c_library() -> None:
    found = platforms_for(facts(glibc="2.19"))
    assert found == (
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    )


def test_another_python_is_another_environment() -> None:
    keys = {key_of(facts(python=version), ("onnxruntime",), None) for version in ("3.11.2", "3.11.9", "3.13.0")}
    assert len(keys) == 2


def test_the_probes_networks_give_what_they_should() -> None:
    """Both constants in their real runtimes, and the ONNX one taken apart."""
    from edgespa.device.agent import probe

    assert probe.try_provider("onnxruntime", "CPUExecutionProvider")["works"] is True
    assert probe.try_provider("ai_edge_litert", "CPU")["works"] is True
    failing = probe.try_provider("onnxruntime", "AzureExecutionProvider")
    assert failing["works"] is False
    import zlib

    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(zlib.decompress(base64.b64decode(probe.ONNX)))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "GlobalAveragePool"]
    weight = numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(weight, np.ones((3, 2, 3, 3)))


def test_the_probe_as_a_program() -> None:
    path = Path(__file__).parents[2] / "edgespa/device/agent/probe.py"

    def ask(*words: str) -> Any:
        command = [sys.executable, "-c", path.read_text(), *words]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    rows = {row["runtime"]: row["version"] for row in ask()["installed"]}
    assert {"onnxruntime", "ai_edge_litert"} <= set(rows)
    listed = ask("onnxruntime")
    assert (listed["version"], listed["error"]) == (rows["onnxruntime"], None)
    assert "CPUExecutionProvider" in listed["providers"]
    assert signal.SIGSEGV == 11  # the number in a message above
