"""On an emulated 64-bit Raspberry Pi with 512 MB: set up, profile, ship, check; the same values as here.

Its times mean nothing and are never looked at.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespa.adaptation.config import AdaptConfig
from edgespa.api.bundles import export_bundle
from edgespa.api.options import DataOptions
from edgespa.api.shipping import prepared
from edgespa.api.tasks import adapt_to_file
from edgespa.bundle import Manifest
from edgespa.data import load_data
from edgespa.device.board import Device
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.transport import Connection
from edgespa.device.measure.profile import profile
from edgespa.device.measure.settings import Settings
from edgespa.device.provision.setup import SetUp, set_up
from edgespa.device.shipment.back import roll_back
from edgespa.device.shipment.ship import ship
from edgespa.device.shipment.status import device_status
from edgespa.errors import DeviceError
from edgespa.exporting.config import ExportConfig

pytestmark = [pytest.mark.device, pytest.mark.slow]

VARIANTS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8", "ncnn-fp32")
FORMATS = ("onnx", "tflite", "ncnn")
# What a file answers to the recorded inputs, as raw bytes: by the run.py that lies beside it.
ANSWER = """
import base64, importlib.util, json, pathlib, sys
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
spec = importlib.util.spec_from_file_location("runner", folder / "run.py")
runner = importlib.util.module_from_spec(spec)
sys.modules["runner"] = runner
spec.loader.exec_module(runner)
manifest = runner.read_bundle(folder)
variant = runner.choose(manifest, name)
model = runner.open_model(folder, variant, 1, runner.import_runtime(variant["format"])[0])
output = runner.infer(model, runner.read_samples(folder, manifest).inputs)[0]
print(json.dumps([list(output.shape), base64.b64encode(output.astype("<f4").tobytes()).decode()]))
"""


def python(connection: Connection) -> list[str]:
    return runtime_python(connection, read_facts(connection))


def output_there(connection: Connection, folder: str, variant: str) -> np.ndarray:
    argv = [*python(connection), "-c", ANSWER, folder, variant]
    done = connection.ask("execute", {"argv": argv}, hold=True, timeout_s=600)
    assert done["status"] == 0, done["stderr"]
    return decoded(done["stdout"])


def output_here(folder: Path, variant: str) -> np.ndarray:
    # -B: what Python would keep of the runner beside it is no part of the bundle.
    command = [sys.executable, "-P", "-B", "-c", ANSWER, str(folder), variant]
    return decoded(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def decoded(text: str) -> np.ndarray:
    shape, content = json.loads(text.strip().splitlines()[-1])
    return np.frombuffer(base64.b64decode(content), "<f4").reshape(shape)


@pytest.fixture(scope="module")
def bundle(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A small real network: batch norms, a residual stream, a depthwise convolution; in five files."""
    folder = tmp_path_factory.mktemp("arm64") / "bundle"
    data = str(toy_folder / "colours.npz")
    manifest = export_bundle(
        f"{toy_folder / 'net.py'}:build",
        folder,
        # Left out for its speed on this machine it would not be tried on the other.
        ExportConfig(formats=FORMATS, precisions=("fp32", "int8"), int8_slowdown=1e9, int8_tolerance=0.1),
        input_shape=(1, 3, 8, 8),
        options=DataOptions(mean=(0.4,), std=(0.3,)),
        calibration=data,
    )
    assert {variant.name for variant in manifest.variants} == set(VARIANTS)
    return manifest, folder


@pytest.fixture(scope="module")
def shipped(connection: Connection, ready: SetUp, bundle: tuple[Manifest, Path]) -> str:
    """The folder of the bundle on the Pi."""
    with prepared(bundle[1], task="toy") as shipment:
        done = ship(connection, shipment, python)
    assert {check.name: check.status for check in done.checks} == dict.fromkeys(VARIANTS, "passed")
    assert done.emulated
    return done.folder


def test_it_is_a_pi(connection: Connection, pi: Any) -> None:
    facts = read_facts(connection)
    assert (facts.machine, facts.bits) == ("aarch64", 64)
    assert "Raspberry Pi 4" in (facts.cpu_model or "")
    assert facts.memory_kib == 512 * 1024


def test_set_up_puts_runtimes_there_that_compute(ready: SetUp, connection: Connection) -> None:
    working = {each.runtime for each in ready.inventory.providers if each.works}
    assert working == {"onnxruntime", "ai_edge_litert", "ncnn"}
    again = set_up(connection, runtimes=("ncnn",))
    assert (again.made, again.bytes_sent) == (False, 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_values_are_those_of_this_machine(
    connection: Connection, shipped: str, bundle: tuple[Manifest, Path], variant: str
) -> None:
    there, here = output_there(connection, shipped, variant), output_here(bundle[1], variant)
    assert here.std() > 0.01
    if variant.endswith("int8"):
        assert np.array_equal(there, here)
    else:
        assert np.abs(there - here).max() <= 1e-6 * np.abs(here).max()


def test_half_precision_is_what_the_processor_has(connection: Connection, shipped: str) -> None:
    """A Pi 4 has none: it is not offered, and asked for nevertheless it is refused."""

    def run(*options: str) -> Any:
        argv = [*python(connection), f"{shipped}/run.py", *options, "--json"]
        return connection.ask("execute", {"argv": argv}, hold=True, timeout_s=600)

    rows = json.loads(run()["stdout"])["variants"]
    assert {row["name"]: row["arithmetics"] for row in rows} == {name: {} for name in VARIANTS}
    for variant, words in (
        ("tflite-fp32", "this processor has no half precision"),
        ("ncnn-fp32", "computed in fp32 here, not in fp16"),
        ("onnx-fp32", "computed in fp32 here, not in fp16"),
    ):
        refused = run("--selfcheck", "--variant", variant, "--arithmetic", "fp16")
        assert refused["status"] == 1
        assert words in refused["stdout"]


def test_a_profile_says_that_it_is_emulated(
    connection: Connection, shipped: str, bundle: tuple[Manifest, Path]
) -> None:
    result = profile(bundle[1], connection, Settings(variants=("onnx-fp32", "tflite-int8"), runs=20))
    assert result.emulated
    assert result.device == "emulated-pi"
    assert {each.variant for each in result.results} == {"onnx-fp32", "tflite-int8"}
    assert "Raspberry Pi" in (result.host.cpu_model or "")
    assert all((each.peak_kib or 0) < 512 * 1024 for each in result.results)


def test_the_command_line_marks_it(
    profile_path: Path, shipped: str, bundle: tuple[Manifest, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "edgespa", "profile", str(bundle[1]), "--device", str(profile_path)]
    done = subprocess.run(
        [*command, "--variant", "tflite-int8", "--runs", "10"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "emulated" in done.stdout + done.stderr


def test_the_memory_is_limited(connection: Connection, pi: Any, ready: SetUp) -> None:
    if pi.limit.startswith("not limited"):
        pytest.skip(f"MEMORY NOT LIMITED: {pi.limit}")
    argv = [*python(connection), "-c", "import numpy as np; print(np.ones(600 << 17).sum())"]
    done = connection.ask("execute", {"argv": argv}, hold=True, timeout_s=300)
    assert done["status"] != 0
    # And it is still there.
    assert connection.run(["uname", "-m"]).stdout.strip() == b"aarch64"


@pytest.fixture(scope="module")
def tasks(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("tasks")

    def make(adapter: str) -> Path:
        path = folder / f"{adapter}.spa"
        if not path.exists():
            adapt_to_file(
                f"{toy_folder / 'net.py'}:build",
                str(toy_folder / "colours.npz"),
                path,
                AdaptConfig(adapter=adapter, rank=2, density=0.5, epochs=1, batch_size=32, round_to=1, lr=0.1),
                input_shape=(1, 3, 8, 8),
            )
        return path

    return make


class TestOneBase:
    """Two tasks on one base: the second sends kilobytes."""

    def test_they_share_it(self, connection: Connection, ready: SetUp, tasks: Callable[[str], Path]) -> None:
        with prepared(tasks("splora")) as first:
            with pytest.raises(DeviceError, match="does not have the base") as caught:
                ship(connection, first, python)
            assert "--with-base" in (caught.value.hint or "")
            done = ship(connection, first, python, send_base=True)
            weights = first.needs
        assert weights is not None
        assert [check.status for check in done.checks] == ["passed"]
        assert done.checks[0].relative_error is not None
        assert done.checks[0].relative_error <= 1e-5
        with prepared(tasks("lora")) as second:
            done = ship(connection, second, python)
        assert [check.status for check in done.checks] == ["passed"]
        assert done.bytes_sent < 30_000
        status = {task.task: task for task in device_status(connection, python).tasks}
        assert all(status[name].healthy for name in ("splora", "lora"))

    def test_and_can_be_rolled_back(self, connection: Connection, tasks: Callable[[str], Path]) -> None:
        # A later version of the task: the same name, other weights.
        with prepared(tasks("ssf"), task="splora") as shipment:
            done = ship(connection, shipment, python, send_base=True)
        assert done.previous is not None
        back = roll_back(connection, "splora", python)
        assert back.version == done.previous
        assert [check.status for check in back.checks] == ["passed"]


def test_a_real_network(connection: Connection, ready: SetUp, data_dir: Path, tmp_path: Path) -> None:
    """ResNet-20 with trained weights on real images."""
    data = f"{data_dir / 'fashion'}:test"
    load_data(data)
    manifest = export_bundle(
        f"{data_dir / 'models.py'}:resnet20",
        tmp_path / "resnet20",
        ExportConfig(formats=("tflite", "onnx"), precisions=("int8", "fp32"), int8_slowdown=1e9, int8_tolerance=0.2),
        input_shape=(1, 3, 32, 32),
        options=DataOptions(mean=(0.4,), std=(0.3,), limit=64),
        calibration=data,
    )
    with prepared(tmp_path / "resnet20", task="resnet20") as shipment:
        done = ship(connection, shipment, python)
    assert all(check.status == "passed" for check in done.checks)
    for variant in manifest.variants:
        there = output_there(connection, done.folder, variant.name)
        here = output_here(tmp_path / "resnet20", variant.name)
        if variant.name == "tflite-int8":
            assert np.array_equal(there, here), variant.name
        elif variant.name == "onnx-int8":
            # ONNX Runtime adds two quantised tensors in floating point, on Arm with fused multiply-adds: one value in
            # about 400,000 lies between two steps and is rounded the other way, and what follows rounds its neighbours
            # otherwise. Most images have no such value; in the others it is within what rounding to int8 does anyway.
            far = np.abs(there - here).max(1)
            assert np.mean(far == 0) > 0.5, variant.name
            assert far.mean() <= 0.01 * np.abs(here).max(), variant.name
            noise = np.abs(here - output_here(tmp_path / "resnet20", "onnx-fp32")).max()
            assert far.max() <= noise <= 0.2 * np.abs(here).max(), variant.name
            assert (there.argmax(1) == here.argmax(1)).all()
        else:
            assert np.abs(there - here).max() <= 1e-6 * np.abs(here).max(), variant.name


def test_the_device_is_known_to_be_emulated(device: Device) -> None:
    assert device.emulated
    assert device.title.startswith("emulated")
