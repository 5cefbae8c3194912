"""Bundles of some kilobytes that ask for gigabytes, or for ever: refused, or ended, before they get them.

Each is sealed as its maker would seal it, and goes in by the doors that there are: `verify` and the bundle's run.py.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, load_from_string, numpy_helper
from waiting import wait_for

from edgespa.bundle import open_bundle, pack, read_manifest
from edgespa.bundle.files import seal_of
from edgespa.bundle.paths import is_unlisted
from edgespa.cli import card, verify
from edgespa.device import runner_source
from edgespa.device.measure.answers import run_selfcheck
from edgespa.device.measure.saved import read_profiles
from edgespa.errors import BundleError, DeviceError

_spec = importlib.util.spec_from_file_location("tiny_resources", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

PEAK_MIB = 700
"""Of a process that refuses: Python, numpy and a runtime have about 100."""

MEASURED = (
    "import resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, done.returncode)\n"
)


def reseal(bundle: Path, change: Callable[[dict[str, Any]], None] = lambda values: None) -> Path:
    """Write the manifest anew, as whoever made the bundle can: sizes and digests of all files, and the seal."""
    import hashlib

    path = bundle / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    files = [each for each in sorted(bundle.rglob("*")) if each.is_file()]
    names = [each.relative_to(bundle).as_posix() for each in files]
    values["files"] = [
        {"path": name, "size_bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for name, file in zip(names, files, strict=True)
        if not is_unlisted(name)
    ]
    for variant in values["variants"]:
        variant["size_bytes"] = (bundle / variant["file"]).stat().st_size
    change(values)
    values["seal"] = seal_of(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return bundle


def run_py(bundle: Path, *options: str, peak: float = PEAK_MIB) -> tuple[int, str]:
    """What the bundle's run.py says, as its user runs it; fails if it has taken too much."""
    command = [sys.executable, "-c", MEASURED, sys.executable, str(bundle / "run.py"), "--selfcheck", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    used, status = done.stdout.split()[-2:]
    assert int(used) < peak, done.stdout + done.stderr
    return int(status), done.stdout + done.stderr


def verified(bundle: Path, *options: str) -> str:
    """What `verify` says; it must not pass."""
    result = CliRunner().invoke(verify.command, [str(bundle), *options])
    assert isinstance(result.exception, BundleError | DeviceError), result.output
    return result.exception.message


# ---- recorded arrays


def _npz(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _array(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0))
    return stream.getvalue()


def _header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": kind})
    return stream.getvalue()


def _noise_of_many(members: dict[str, bytes]) -> None:
    del members["input_0.npy"]
    members["noise_0.npy"] = _array(np.array([1, 3, 100_000, 100_000]))


def _noise_of_many_samples(members: dict[str, bytes]) -> None:
    del members["input_0.npy"]
    members["noise_pixels_0.npy"] = _array(np.array([100_000_000, 3, 8, 8]))


def _noise_whose_product_is_small(members: dict[str, bytes]) -> None:
    del members["input_0.npy"]
    members["noise_0.npy"] = _array(np.array([-100_000, 3, -800, 800]))


def _an_array_that_is_announced(members: dict[str, bytes]) -> None:
    members["input_0.npy"] = _header((10_000_000, 3, 8, 8))


def _more_than_is_announced(members: dict[str, bytes]) -> None:
    members["output_0.npy"] = _header((11, 3)) + bytes(200 << 20)


def _a_bomb(members: dict[str, bytes]) -> None:
    members["output_0.npy"] = _header((300 << 20, 3), "<i1") + bytes(8 << 20)


def _many_scales(members: dict[str, bytes]) -> None:
    members["scale_0_1.npy"] = _header((900 << 20,), "<i1") + bytes(8 << 20)


def _an_array_of_another_name(members: dict[str, bytes]) -> None:
    members["other.npy"] = _header((900 << 20,), "<i1") + bytes(8 << 20)


def _inputs_that_are_not_in_the_manifest(members: dict[str, bytes]) -> None:
    members.update({f"input_{i}.npy": members["input_0.npy"] for i in range(1, 99)})


def _objects(members: dict[str, bytes]) -> None:
    members["output_0.npy"] = _header((11, 3), "|O") + b"cos\nsystem\n"


def _a_long_header(members: dict[str, bytes]) -> None:
    members["output_0.npy"] = b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535


def _a_header_of_gigabytes(members: dict[str, bytes]) -> None:
    members["output_0.npy"] = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(8 << 20)


ARRAYS = [
    _noise_of_many,
    _noise_of_many_samples,
    _noise_whose_product_is_small,
    _an_array_that_is_announced,
    _a_bomb,
    _many_scales,
    _an_array_of_another_name,
    _inputs_that_are_not_in_the_manifest,
    _objects,
    _a_long_header,
    _a_header_of_gigabytes,
]


@pytest.mark.law(3)
@pytest.mark.parametrize("change", ARRAYS)
def test_recorded_arrays_are_bounded_by_the_manifest(bundle: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    _npz(bundle / "selfcheck.npz", change)
    reseal(bundle)
    status, said = run_py(bundle)
    assert status == 1
    assert "selfcheck.npz" in said
    assert "Traceback" not in said
    (check,) = run_selfcheck(bundle)
    assert (check.status, "selfcheck.npz" in check.failures[0]) == ("failed", True)


def test_what_is_more_than_announced_is_not_unpacked(bundle: Path) -> None:
    _npz(bundle / "selfcheck.npz", _more_than_is_announced)
    run_py(reseal(bundle), peak=230)


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_packing_that_numpy_does_not_use_is_refused(bundle: Path, packing: int) -> None:
    _npz(bundle / "selfcheck.npz", lambda members: None, packing)
    status, said = run_py(reseal(bundle))
    assert (status, "packed in a way" in said) == (1, True)


def test_arrays_as_numpy_writes_them_are_read(bundle: Path) -> None:
    """By columns, stored, compressed, as noise, whole numbers of the other order of bytes."""
    with np.load(bundle / "selfcheck.npz") as arrays:
        images, logits = arrays["input_0"], arrays["output_0"]
    for save in (np.savez, np.savez_compressed):
        save(bundle / "selfcheck.npz", input_0=np.asfortranarray(images.astype(">f4")), output_0=logits)
        assert [check.status for check in run_selfcheck(reseal(bundle))] == ["passed"]
    from edgespa.device.runner import noise

    made = _tiny.linear_program(noise(0, (6, 3, 8, 8)))
    np.savez(bundle / "selfcheck.npz", noise_0=np.array([6, 3, 8, 8]), output_0=made, every_0=np.array([1]))
    assert [check.status for check in run_selfcheck(reseal(bundle))] == ["passed"]


# ---- sizes in the manifest


def _large_input(values: dict[str, Any]) -> None:
    values["inputs"][0]["shape"] = ["batch", 3, 100_000, 100_000]


def _large_output_of_a_file(values: dict[str, Any]) -> None:
    values["variants"][0]["outputs"][0]["shape"] = [1, 10**19]


def _many_outputs(values: dict[str, Any]) -> None:
    values["outputs"] = values["outputs"] * 20_000
    values["variants"][0]["outputs"] = values["outputs"]


def _many_variants(values: dict[str, Any]) -> None:
    (one,) = values["variants"]
    values["variants"] = [{**one, "name": f"v{i}"} for i in range(3000)]


def _large_picture(values: dict[str, Any]) -> None:
    values["preprocessing"].update(height=31_623, width=31_623)


def _large_pixels_of_a_file(values: dict[str, Any]) -> None:
    values["variants"][0]["preprocess"] = {**values["preprocessing"], "height": 10**9, "width": 1}


def _many_dimensions(values: dict[str, Any]) -> None:
    values["inputs"][0]["shape"] = [1] * 100_000


def _sets_without_end(values: dict[str, Any]) -> None:
    values["sets"] = [{"axes": [[0, 1]]}] * 100_000


def _a_number_of_many_digits(values: dict[str, Any]) -> None:
    values["compaction"]["macs"] = int("9" * 4000)


SIZES = [
    _large_input,
    _large_output_of_a_file,
    _many_outputs,
    _many_variants,
    _large_picture,
    _large_pixels_of_a_file,
    _many_dimensions,
    _sets_without_end,
    _a_number_of_many_digits,
]


@pytest.mark.law(3)
@pytest.mark.parametrize("change", SIZES)
def test_sizes_in_a_manifest_are_bounded(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    reseal(bundle, change)
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    assert len(caught.value.message) < 600
    if change is not _sets_without_end:  # which the runner makes nothing of but for one set at a time
        status, said = run_py(bundle)
        assert (status, "Traceback" in said) == (1, False)


def test_a_large_manifest_is_not_read(bundle: Path) -> None:
    reseal(bundle, lambda values: values.update(provenance={"x": [[]] * (3 << 20)}))
    with pytest.raises(BundleError, match="larger than 4 MiB"):
        read_manifest(bundle)
    assert run_py(bundle)[0] == 1


def test_a_picture_as_large_as_they_come_is_accepted(bundle: Path) -> None:
    def large(values: dict[str, Any]) -> None:
        values["inputs"][0]["shape"] = ["batch", 4, 4096, 4096]

    reseal(bundle, large)
    read_manifest(bundle)


def test_a_batch_of_a_file_times_a_sample_of_the_program_is_bounded(bundle: Path) -> None:
    """Each is within its bounds; together they are 51 GB."""

    def large(values: dict[str, Any]) -> None:
        values["variants"][0]["inputs"][0]["shape"] = [60_000_000, 1, 1, 1]

    reseal(bundle, large)
    read_manifest(bundle)
    status, said = run_py(bundle)
    assert (status, "a batch of 60,000,000 samples" in said) == (1, True)
    command = [sys.executable, str(bundle / "run.py"), "--bench"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "inputs of 1.15e+10 numbers" in done.stderr) == (1, True)


# ---- model files


def _appended(nodes: list[Any], initializers: list[Any] = (), sparse: list[Any] = ()) -> bytes:  # type: ignore[assignment]
    """The linear model with nodes whose result "extra", one number, is added to its output."""
    model = load_from_string(_tiny.onnx_bytes())
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["plain", "extra"], ["logits"])])
    model.graph.initializer.extend(initializers)
    model.graph.sparse_initializer.extend(sparse)
    return bytes(model.SerializeToString())


def _sizes(name: str, *sizes: int) -> Any:
    return numpy_helper.from_array(np.array(sizes, np.int64), name)


def _constant_of_shape(side: int = 100_000) -> bytes:
    nodes = [helper.make_node("ConstantOfShape", ["sizes"], ["large"])]
    nodes.append(helper.make_node("ReduceSum", ["large"], ["extra"], keepdims=0))
    return _appended(nodes, [_sizes("sizes", side, side)])


def _expanded() -> bytes:
    # Of the input, so that nothing is folded when it is loaded.
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "sizes"], ["large"]),
        helper.make_node("Exp", ["large"], ["larger"]),
        helper.make_node("ReduceMin", ["larger"], ["extra"], keepdims=0),
    ]
    return _appended(nodes, [_sizes("sizes", 100_000, 100_000)])


def _tiled() -> bytes:
    nodes = [
        helper.make_node("Tile", ["image", "times"], ["large"]),
        helper.make_node("ReduceMin", ["large"], ["extra"], keepdims=0),
    ]
    return _appended(nodes, [_sizes("times", 1, 1, 10_000, 10_000)])


def _sparse() -> bytes:
    values = numpy_helper.from_array(np.array([1.0], np.float32), "wide")
    wide = helper.make_sparse_tensor(values, _sizes("places", 0), [100_000, 100_000])
    nodes = [helper.make_node("ReduceMax", ["wide"], ["extra"], keepdims=0)]
    return _appended(nodes, sparse=[wide])


def _endless() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["sum", "sum"], ["sums"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["start"], keepdims=0),
        helper.make_node("Loop", ["trips", "yes", "start"], ["extra"], body=body),
    ]
    trips = numpy_helper.from_array(np.array(2**62, np.int64), "trips")
    return _appended(nodes, [trips, numpy_helper.from_array(np.array(True), "yes")])


@pytest.mark.law(1)
@pytest.mark.parametrize("make", [_constant_of_shape, _expanded, _tiled, _sparse])
def test_a_file_does_not_get_all_the_memory_there_is(bundle: Path, make: Callable[[], bytes]) -> None:
    (bundle / "model.onnx").write_bytes(make())
    reseal(bundle)
    status, _ = run_py(bundle, peak=2500)
    assert status != 0
    assert "model.onnx" in verified(bundle) or "onnx-fp32" in verified(bundle) or "signal" in verified(bundle)


def test_a_file_gets_what_it_needs(bundle: Path) -> None:
    """Hundreds of times as much as its inputs take, and --memory gives it more, or less."""
    (bundle / "model.onnx").write_bytes(_constant_of_shape(8000))  # 256 MB
    reseal(bundle)
    assert run_py(bundle)[0] == 0
    assert run_py(bundle, "--memory", "200")[0] != 0
    result = CliRunner().invoke(verify.command, [str(bundle), "--memory", "200"])
    assert isinstance(result.exception, BundleError)
    assert "--memory MIB" in str(result.exception.hint)


@pytest.fixture
def endless(bundle: Path) -> Path:
    (bundle / "model.onnx").write_bytes(_endless())
    return reseal(bundle)


def test_a_file_that_never_ends_is_ended(endless: Path) -> None:
    began = time.monotonic()
    assert "has not ended after 2 s" in verified(endless, "--timeout", "2")
    status, said = run_py(endless, "--timeout", "2")
    assert (status, "has not ended after 2 s" in said) == (1, True)
    assert time.monotonic() - began < 60


def started(word: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found += [int(name)] if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes() else []
            except OSError:
                continue
    return found


@pytest.mark.law(1)
@pytest.mark.parametrize("number", [9, 15, 1, 2])
def test_verify_that_is_ended_leaves_nothing(endless: Path, tmp_path: Path, number: int) -> None:
    """Killed, terminated, its terminal closed, Ctrl-C: no process that runs the file, no folder of the archive."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    pack(endless, tmp_path / "b.tar")
    command = [sys.executable, "-m", "edgespa", "verify", str(tmp_path / "b.tar")]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: any(pid != process.pid for pid in started("--bundle\0" + str(temporary))))
    assert list(temporary.iterdir())
    os.killpg(process.pid, number)
    process.wait()
    wait_for(lambda: not started(str(temporary)))
    wait_for(lambda: not list(temporary.rglob("*")))


# ---- other doors


def test_sets_of_many_entries_are_compared_within_bounds() -> None:
    from edgespa.device.runner import reordered

    random = np.random.default_rng(0)
    ours = random.standard_normal((1, 6000, 85)).astype(np.float32)
    (same,) = reordered([ours], [ours[:, ::-1]], [[0, 1]])  # unbounded: 6000 x 6000 x 85 numbers, 24 GB
    assert np.array_equal(same, ours)


def test_tensors_that_are_announced_without_values(tmp_path: Path) -> None:
    from edgespa.device.runner import RunnerError, read_tensors

    for shape, good in (([10**12], False), ([0, 10**6], True)):
        head = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        (tmp_path / "x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
        if good:
            assert read_tensors(tmp_path / "x.safetensors")["x"].shape == (0, 10**6)
        else:
            with pytest.raises(RunnerError):
                read_tensors(tmp_path / "x.safetensors")


def test_folders_without_end_are_an_error_in_words(bundle: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(bundle)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    try:
        with pytest.raises(BundleError), open_bundle(bundle):
            pass
    finally:
        subprocess.run(["rm", "-rf", str(bundle / "d")], check=True)


def test_a_profile_of_gigabytes_is_left_out(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bundle / "profiles").mkdir()
    with (bundle / "profiles" / "large.json").open("wb") as file:
        file.truncate(8 << 30)  # it takes no space on the disk
    began = time.monotonic()
    assert read_profiles(bundle) == ()
    assert "large.json is left out" in caplog.text
    assert CliRunner().invoke(card.command, [str(bundle)]).exit_code == 0
    assert time.monotonic() - began < 30  # minutes, if it were read


def test_the_runner_of_a_bundle_has_all_of_this(bundle: Path) -> None:
    assert (bundle / "run.py").read_bytes() == runner_source()


def test_a_file_that_never_ends_is_not_measured(endless: Path) -> None:
    command = [sys.executable, str(endless / "run.py"), "--bench", "--timeout", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "has not ended after 2 s" in done.stderr) == (1, True)


def test_the_time_of_a_measurement_is_not_limited(bundle: Path) -> None:
    command = [sys.executable, str(bundle / "run.py"), "--bench", "--timeout", "2", "--seconds", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
