"""TensorRT by its program trtexec. No GPU is at hand: a program in its place, and what it is known to write."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgespa as es
from edgespa.bundle import read_manifest
from edgespa.device.agent import probe
from edgespa.device.board import Runtime as BoardRuntime
from edgespa.device.board import load_device
from edgespa.device.link.reach import connect
from edgespa.device.measure.profile import profile
from edgespa.device.measure.settings import Settings
from edgespa.device.runner import engines, in_trtexec, measure, runtimes, trtexec
from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.layers import operator_times
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.runtimes import import_runtime, is_there, serves
from edgespa.device.runner.trtexec import (
    GET_TRTEXEC,
    Trtexec,
    tensorrt_version,
)
from edgespa.errors import ConfigError, DeviceError
from edgespa.exporting.elsewhere import ways_beside

VERSIONS = ("8201", "8502", "8601", "100300")
OLD, NEW = "8601", "100300"
STAND_IN = Path(__file__).with_name("trtexec_stand_in.py")
(OWN,) = (each for each in runtimes.RUNTIMES if each.name == "trtexec")


def spec(name: str, *shape: int | str, dtype: str = "float32", layout: str = "other") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype, "layout": layout}


VARIANT: dict[str, Any] = {
    "name": "onnx-fp32", "file": "model.onnx", "format": "onnx", "precision": "fp32", "preprocess": None, "parts": [],
    "inputs": [spec("x", "batch", 2)], "outputs": [spec("z", "batch", 1), spec("y", "batch", 2)],
}  # fmt: skip
WEIGHT = np.array([[1.0005, 2], [0.5, -1]], np.float32)


def model_bytes(quantised: int | None = None, batch: str | int = "batch") -> bytes:
    """Y = x @ WEIGHT, and z, the sum of that; or of x in int8 with the zero at a level."""
    nodes = [helper.make_node("MatMul", ["x" if quantised is None else "d", "w"], ["y"])]
    given = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.array([1]), "axes")]
    if quantised is not None:
        given.append(numpy_helper.from_array(np.float32(1 / 64), "scale"))
        given.append(numpy_helper.from_array(np.array(quantised, np.int8), "zero"))
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            *nodes,
        ]
    nodes.append(helper.make_node("ReduceSum", ["y", "axes"], ["z"], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name, size in (("y", 2), ("z", 1))],
        given,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


Calls = Callable[[], list[list[str]]]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the program, and a folder with a model."""
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGESPA_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "calls"))
    monkeypatch.setenv("STAND_IN_VERSION", NEW)
    (tmp_path / "model.onnx").write_bytes(model_bytes())
    return tmp_path


@pytest.fixture
def calls(board: Path) -> Calls:
    """The options of each call so far, asked for help left out."""
    return lambda: [json.loads(line) for line in (board / "calls").read_text().splitlines()]


def opened(board: Path, **asked: Any) -> Any:
    return open_model(board, {**VARIANT, **asked}, 1, Trtexec())


def built(calls: Calls) -> list[list[str]]:
    return [each for each in calls() if each[0].startswith("--onnx=")]


def engines_in(board: Path) -> list[str]:
    return sorted(path.name for path in (board / "engines").rglob("*") if path.is_file())


# Where it is


def test_it_is_found_and_asked_for_its_version(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_there(OWN)
    for version, name in ((OLD, "trtexec 8.6.1"), (NEW, "trtexec 10.3.0")):
        monkeypatch.setenv("STAND_IN_VERSION", version)
        found, told = import_runtime("onnx", "trtexec")
        assert (told, found.path) == (name, str(board / "bin" / "trtexec"))
    assert import_runtime("onnx")[1].startswith("onnxruntime ")  # nobody gets it who did not ask for it
    monkeypatch.setenv("STAND_IN_VERSION", "7203")
    with pytest.raises(RunnerError, match=r"is of TensorRT 7\.2\.3: it takes 8\.0 or newer"):
        import_runtime("onnx", "trtexec")


def test_it_is_where_jetpack_has_it_and_never_where_one_happens_to_be(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(board / "bin")
    for path in (".", "", "bin"):
        monkeypatch.setenv("PATH", path)
        assert (is_there(OWN), probe.trtexec_path()) == (False, None)
    assert probe.TRTEXEC_PLACES == trtexec.TRTEXEC_PLACES
    for module in (trtexec, probe):
        monkeypatch.setattr(module, "TRTEXEC_PLACES", (str(board / "bin"),))
    assert is_there(OWN)
    assert probe.trtexec_path() == str(board / "bin" / "trtexec")


def test_where_it_is_not_how_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RunnerError, match=r"no runtime for onnx files .trtexec: neither on PATH .* apt install libnvinf"
    ):
        import_runtime("onnx", "trtexec")
    with pytest.raises(RunnerError, match="trtexec runs no variant here: it comes with JetPack"):
        runtimes.choose({"variants": [VARIANT]}, None, "trtexec")
    (tmp_path / "trtexec").write_text("#!/bin/sh\necho 'libnvinfer.so.10: no such file' >&2\nexit 127\n")
    (tmp_path / "trtexec").chmod(0o755)
    with pytest.raises(RunnerError, match=r"does not say which TensorRT it is of: libnvinfer\.so\.10: no such file"):
        import_runtime("onnx", "trtexec")


def test_the_probe_tries_it(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"runtime": "trtexec", "version": "?"} in probe.list_installed()
    assert probe.list_providers("trtexec") == {"version": "10.3.0", "providers": ["TensorRT"], "error": None}
    found = probe.try_provider("trtexec", "TensorRT")
    assert (found["works"], found["error"]) == (True, None)
    monkeypatch.setenv("STAND_IN_FAIL", "build")
    failed = probe.try_provider("trtexec", "TensorRT")
    assert not failed["works"]
    assert "Could not find any implementation" in failed["error"]


# Engines


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("asked", "numbers", "flags"),
    [
        ({}, "fp32", {"--noTF32"}),
        ({"arithmetic": "fp16"}, "fp16", {"--fp16"}),
        ({"precision": "fp16"}, "fp16", {"--fp16"}),
        ({"precision": "int8"}, "int8", {"--fp16", "--int8"}),
    ],
)
def test_each_version_is_asked_in_its_own_words(
    version: str, asked: dict[str, str], numbers: str, flags: set[str], board: Path, calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("STAND_IN_VERSION", version)
    monkeypatch.setattr(in_trtexec.TrtexecModel, "run", lambda self, feed: [])
    model = opened(board, **asked)
    (options,) = built(calls)
    told = tensorrt_version(version)
    assert model.engine.name == f"trtexec-{'.'.join(map(str, told))}-{numbers}.engine"
    assert {"--noTF32", "--fp16", "--int8"} & set(options) == flags
    assert ("--skipInference" in options, "--buildOnly" in options) == (told >= (8, 6), told < (8, 6))
    assert ("--memPoolSize=workspace:1024" in options) == (told >= (8, 4))
    assert ("--workspace=1024" in options) == (told < (8, 4))
    assert "--shapes=x:1x2" in options
    assert model.arithmetic() == asked.get("arithmetic", "fp32")


def test_since_tensorrt_11_the_file_says_what_is_computed_in(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_VERSION", "110000")
    monkeypatch.setattr(in_trtexec.TrtexecModel, "run", lambda self, feed: [])
    with pytest.raises(RunnerError, match="computes in the types of the file"):
        opened(board, arithmetic="fp16")
    assert not {"--fp16", "--int8"} & set(opened(board, precision="int8")._how())


def test_an_engine_outlives_a_process_and_is_of_one_file(board: Path, calls: Calls) -> None:
    inputs = [np.array([[1, 2], [3, 4], [-1, 0.5]], np.float32)]
    for _ in range(2):
        found = infer(opened(board), inputs)
        np.testing.assert_allclose(found[1], inputs[0] @ WEIGHT, rtol=1e-5)
        np.testing.assert_allclose(found[0], (inputs[0] @ WEIGHT).sum(1, keepdims=True), rtol=1e-5)
    assert len(built(calls)) == 1
    (board / "model.onnx").write_bytes(model_bytes(batch=1))
    fixed = {"inputs": [spec("x", 1, 2)], "outputs": [spec("y", 1, 2)]}
    np.testing.assert_allclose(infer(opened(board, **fixed), inputs)[0], inputs[0] @ WEIGHT, rtol=1e-5)
    assert len(built(calls)) == 2
    # Sizes are said of what is free: twice a load and three samples, and a build; the other file has them itself.
    assert len([each for each in calls() if "--shapes=x:1x2" in each]) == 2 * 4 + 1
    assert engines_in(board) == ["trtexec-10.3.0-fp32.engine"] * 2 + ["trtexec-10.3.0.timing"]
    # What was timed for one model is there for the next.
    assert (board / "engines" / "trtexec-10.3.0.timing").read_text() == "timed\n" * 2


def test_a_file_in_other_numbers_has_an_engine_of_its_own(board: Path, calls: Calls) -> None:
    inputs = [np.array([[1, 2]], np.float32)]
    exact, half = infer(opened(board), inputs)[1], infer(opened(board, arithmetic="fp16"), inputs)[1]
    assert exact[0, 0] != half[0, 0]
    assert half[0, 0] == np.float16(exact[0, 0])
    (board / "model.onnx").write_bytes(model_bytes(quantised=0))
    np.testing.assert_allclose(infer(opened(board, precision="int8"), inputs)[1], inputs[0] @ WEIGHT, atol=0.1)
    assert [each for each in engines_in(board) if "int8" in each or "fp16" in each] == [
        "trtexec-10.3.0-fp16.engine", "trtexec-10.3.0-int8.engine",
    ]  # fmt: skip


def test_another_version_builds_its_own_and_takes_the_old_ones_place(
    board: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (OLD, NEW, NEW):
        monkeypatch.setenv("STAND_IN_VERSION", version)
        opened(board)
    assert len(built(calls)) == 2
    names = [each for each in engines_in(board) if each.endswith(".engine")]
    assert names == ["trtexec-10.3.0-fp32.engine"]


@pytest.mark.parametrize("damage", [b"", b"nothing of the kind", None])
def test_a_damaged_engine_is_built_anew(damage: bytes | None, board: Path, calls: Calls) -> None:
    engine = opened(board).engine
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-9] if damage is None else damage)
    before = engines.engines_of(board / "model.onnx", VARIANT, "trtexec")
    opened(board)
    assert engine.read_bytes() == whole
    assert len(built(calls)) == 2
    assert engines.engines_of(board / "model.onnx", VARIANT, "trtexec") != before  # so its time counts as building
    assert engines.engines_of(board / "model.onnx", VARIANT, "onnxruntime") is None


def test_where_nobody_has_a_home_an_engine_is_kept_as_long_as_the_model(
    board: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPA_ENGINES", "~nobody-of-that-name/engines")
    model = opened(board)
    assert len(infer(model, [np.ones((1, 2), np.float32)])) == 2
    folder = model.folder
    assert model.engine.is_file()
    assert oct(folder.stat().st_mode)[-2:] == "00"
    del model
    assert not folder.exists()
    opened(board)
    assert len(built(calls)) == 2
    assert not (board / "engines").exists()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("build", r"Error Code 10: Internal Error|Could not find any implementation for node"),
        ("silent", "trtexec has built no engine, and does not say why"),
        ("hang", r"it has not ended after 0\.\d* s"),
        ("large", "it wrote more than 8 MiB into one file"),
    ],
)
def test_a_build_that_fails_leaves_nothing(how: str, why: str, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Trtexec()
    monkeypatch.setenv("STAND_IN_FAIL", how)
    if how == "hang":
        monkeypatch.setattr(in_trtexec, "BUILD_S", 0.75)
    if how == "large":
        monkeypatch.setattr(in_trtexec, "ENGINE_BYTES", 8 << 20)
    with pytest.raises(RunnerError, match=why):
        open_model(board, VARIANT, 1, runtime)
    assert engines_in(board) == []


def test_a_build_needs_its_space(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_trtexec.shutil, "disk_usage", lambda path: argparse.Namespace(free=10))
    with pytest.raises(RunnerError, match="0 MiB are free, and an engine may take"):
        opened(board)


def test_levels_that_it_does_not_take_and_those_that_it_does(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (OLD, NEW):
        monkeypatch.setenv("STAND_IN_VERSION", version)
        (board / "model.onnx").write_bytes(model_bytes(quantised=3))
        with pytest.raises(RunnerError, match=r"zero point must be 0.*: it takes .* --int8-scheme symmetric"):
            opened(board, precision="int8")
        (board / "model.onnx").write_bytes(model_bytes(quantised=0))
        assert opened(board, precision="int8").arithmetic() == "fp32"


_OPEN = """
import sys
from pathlib import Path
from edgespa.device.runner.models import open_model
from edgespa.device.runner.trtexec import Trtexec
open_model(Path(sys.argv[1]), {variant!r}, 1, Trtexec())
"""


def test_what_is_killed_in_the_middle_leaves_no_half_engine(
    board: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "STAND_IN_FAIL": "slow"}
    command = [sys.executable, "-c", _OPEN.format(variant=VARIANT), str(board)]
    with subprocess.Popen(command, env=environment) as child:
        end = time.monotonic() + 60
        while not _parts(board) or not _parts(board)[0].stat().st_size:
            assert time.monotonic() < end
            assert child.poll() is None
            time.sleep(0.02)
        program = _children(child.pid)
        assert len(program) == 1
        child.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while Path(f"/proc/{program[0]}").exists() and _state(program[0]) != "Z":  # it ends with who started it
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not [name for name in engines_in(board) if name.endswith(".engine")]
    assert len(_parts(board)) == 1
    opened(board)
    assert _parts(board) == []
    assert [name for name in engines_in(board) if name.endswith(".engine")] == ["trtexec-10.3.0-fp32.engine"]


def _parts(board: Path) -> list[Path]:
    return list((board / "engines").rglob("*.part"))


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# What is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"base": "b"}}, "trtexec cannot be given weights from outside"),
        ({"arithmetic": "bf16"}, "trtexec has no arithmetic bf16: fp32 or fp16"),
        ({"inputs": [spec("x,y", 1, 2)]}, "takes no tensor of the name 'x,y'"),
        ({"outputs": [spec("it's", 1, 2)]}, "takes no tensor of the name"),
        ({"outputs": [spec("y", 1, 2, dtype="int8")]}, "output y cannot be read"),
        ({"outputs": [spec("other", 1, 2)]}, "trtexec gives no output other"),
    ],
)
def test_what_it_cannot_take(change: dict[str, Any], words: str, board: Path) -> None:
    with pytest.raises(RunnerError, match=words):
        opened(board, **change)


def test_whole_numbers_are_32_bits_wide_before_tensorrt_10(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "row"], ["y"])],
        "table",
        [helper.make_tensor_value_info("row", TensorProto.INT64, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.float32([5, 7, 9]), "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), board / "model.onnx")
    own = {"inputs": [spec("row", "batch", 2, dtype="int64")], "outputs": [spec("y", "batch", 2)]}
    for version in (OLD, NEW):
        monkeypatch.setenv("STAND_IN_VERSION", version)
        np.testing.assert_array_equal(infer(opened(board, **own), [np.array([[2, 0], [1, 1]])])[0], [[9, 5], [7, 7]])


# Measuring


def bench(board: Path, **asked: Any) -> dict[str, Any]:
    options = argparse.Namespace(
        **{"runtime": "trtexec", "threads": 1, "warmup": 10, "runs": 30, "seconds": None, "by_layer": False,
           "cores": None, **asked}
    )  # fmt: skip
    done: list[int] = []
    found = measure.bench(board, VARIANT, [spec("x", "batch", 2)], options, lambda: done.append(1))
    assert done == [1]
    return found


def test_its_own_times_in_the_form_of_all_runtimes(board: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = bench(board), bench(board)
    assert first["build_ms"] > first["load_ms"] > 0
    assert second["build_ms"] is None
    assert len(built(calls)) == 1
    for found in (first, second):
        assert (found["runtime"], found["provider"], found["arithmetic"]) == ("trtexec 10.3.0", "TensorRT", "fp32")
        assert (found["runs"], found["batch"], found["warmup_runs"]) == (30, 1, 10)
        assert found["first_run_ms"] == pytest.approx(18.375)
        assert (found["min_ms"], found["p50_ms"]) == (pytest.approx(2.375), pytest.approx(2.575))
        assert found["compute_ms"] == pytest.approx(2.2)
        assert found["pieces_ms"][:2] == pytest.approx([2.775, 2.375])  # of the twelfth run and the next
        assert (len(found["pieces_ms"]), found["p95_ms"], found["major_faults"]) == (30, None, None)
        assert found["peak_import_kib"] is found["peak_load_kib"] is None
        assert found["peak_run_kib"] > 10_000
    options = calls()[-1]
    assert {"--exposeDMA", "--useSpinWait", "--warmUp=0", "--iterations=41", "--duration=0"} <= set(options)


def test_for_as_long_as_is_asked_for(board: Path, calls: Calls) -> None:
    found = bench(board, runs=None, seconds=2.5)
    assert {"--iterations=21", "--duration=3"} <= set(calls()[-1])
    assert found["runs"] == 3000 / 2 / 10 - 11
    assert bench(board, runs=12, seconds=2.5)["runs"] == 12


def test_fewer_times_than_were_asked_for_are_no_measurement(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_trtexec, "read_times", lambda path: [(1.0, 1.0)] * 40)
    with pytest.raises(RunnerError, match="was asked for 41 runs, and tells of 40"):
        bench(board)


@pytest.mark.parametrize("version", [OLD, NEW, "8201"])
def test_what_each_layer_of_an_engine_takes(version: str, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_VERSION", version)
    rows = operator_times(board / "model.onnx", VARIANT, Trtexec(), 1)
    assert rows is not None
    mean = 1.5 if version == "8201" else 1.0  # the median came later
    assert [(row["name"], row["op"], row["us"] / mean) for row in rows] == [
        ('Conv_0 + "Relu"_1', "TensorRT", 500.0),
        ("Reformatting CopyNode for Output Tensor 0 to Gemm_3", "TensorRT", 125.0),
    ]


def test_the_limit_of_memory_is_not_set_for_it(board: Path, full_bundle: Path) -> None:
    """A GPU's memory is mapped in ways of its own; limits of the runner go on to what it starts."""
    script = board / "bin" / "trtexec"
    script.rename(board / "bin" / "real")
    limits = board / "limits"
    script.write_text(
        f"#!/bin/sh\nulimit -d >> {shlex.quote(str(limits))}\nulimit -c >> {shlex.quote(str(limits))}\n"
        f'exec {shlex.quote(str(board / "bin" / "real"))} "$@"\n'
    )
    script.chmod(0o755)
    command = [sys.executable, "-P", str(full_bundle / "run.py"), "--bundle", str(full_bundle), "--json"]
    from edgespa.device.assemble import runner_source

    (full_bundle / "run.py").write_bytes(runner_source())
    done = subprocess.run(
        [*command, "--selfcheck", "--variant", "onnx-fp32", "--runtime", "trtexec"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (check,) = json.loads(done.stdout)["selfcheck"]
    assert (check["status"], check["runtime"], check["arithmetic"]) == ("passed", "trtexec 10.3.0", "fp32")
    assert 0 < check["component_error"] < 1e-5  # six digits are enough
    assert set(limits.read_text().split()) == {"unlimited", "0"}


# On a device


def measured(bundle: Path, **asked: Any) -> Any:
    with connect(load_device("local")) as connection:
        return profile(bundle, connection, Settings(**{"runs": 20, "variants": ("onnx-fp32",), **asked}))


def test_it_is_measured_and_proved_and_never_picked(
    board: Path, full_bundle: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_MS", "1e-05")
    found = es.profile(
        full_bundle, variants=("onnx-fp32",), runtimes=("onnxruntime", "trtexec"), threads=(1, 2), runs=20,
        pick="fastest", save=False,
    ).measured  # fmt: skip
    own = [each for each in found.results if each.runtime == "trtexec"]
    assert [(each.arithmetic, each.threads) for each in own] == [("fp32", 1), ("fp16", 1)]  # it takes no threads
    assert own[0].rounds[0].build_ms is not None
    assert own[0].rounds[0].compute_ms is not None
    proofs = {(each.runtime, each.arithmetic): each.holds for each in found.proofs}
    assert proofs == {("onnxruntime", "fp32"): True, ("trtexec", "fp32"): True, ("trtexec", "fp16"): True}
    assert min(each.p50_ms for each in found.results if each.runtime == "onnxruntime") > 0
    assert found.fastest is not None
    assert found.fastest.runtime == "onnxruntime"
    pick = read_manifest(full_bundle).pick
    assert pick is not None
    assert pick.runtime == "onnxruntime"
    with pytest.raises(DeviceError, match="in trtexec: started for each run, it serves no program"):
        es.profile(
            full_bundle, variants=("onnx-fp32",), runtimes=("trtexec",), arithmetics=("fp32",), runs=10, pick="fastest",
            save=False,
        )  # fmt: skip
    assert len(built(calls)) == 2


def test_it_needs_no_other_runtime_of_its_files(
    board: Path, full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgespa.device.measure.site import Site

    real = Site.list_variants
    absent = {"runtime": None, "reason": "no runtime for onnx files"}
    monkeypatch.setattr(
        Site, "list_variants", lambda self: tuple(each.model_copy(update=absent) for each in real(self))
    )
    found = measured(full_bundle, runtimes=("trtexec",), arithmetics=("fp32",))
    assert [(each.variant, each.runtime) for each in found.results] == [("onnx-fp32", "trtexec")]


def test_a_way_that_does_not_build_is_said_and_stops_no_other(
    board: Path, full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAIL", "build")
    found = measured(full_bundle, runtimes=("onnxruntime", "trtexec"), arithmetics=("fp32",))
    assert [each.runtime for each in found.results] == ["onnxruntime"]
    (skipped,) = found.skipped
    assert "Could not find any implementation for node" in skipped.reason


def test_where_it_is_absent_a_profile_says_how_to_get_it(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_there(OWN):
        pytest.skip("it is here")
    with pytest.raises(DeviceError, match="none of the runtimes trtexec is there") as caught:
        measured(full_bundle, runtimes=("trtexec",), variants=None)
    assert caught.value.hint == GET_TRTEXEC
    asked = measured(full_bundle, runtimes=("onnxruntime", "trtexec"))
    assert [(each.variant, each.reason) for each in asked.skipped] == [
        ("onnx-fp32", f"trtexec is not there: {GET_TRTEXEC}")
    ]
    assert not measured(full_bundle, runtimes=("all",)).skipped  # of a machine that is no Jetson nobody expects it
    gpu = BoardRuntime(name="onnxruntime-gpu", providers=("TensorrtExecutionProvider",), oldest="1.11")
    jetson = load_device("local").model_copy(update={"runtimes": (gpu,)})
    with connect(jetson) as connection:
        found = profile(full_bundle, connection, Settings(runs=10, variants=("onnx-fp32",), runtimes=("all",)))
    assert [each.reason for each in found.skipped] == [f"trtexec is not there: {GET_TRTEXEC}"]


def test_nothing_is_built_where_a_bundle_is_made(board: Path) -> None:
    assert "trtexec" not in [name for name, _ in ways_beside("onnx", "fp32", "onnxruntime 1.31.1")]
    assert [each.name for each in runtimes.RUNTIMES if not serves(each.name)] == ["trtexec"]


def test_it_is_not_sent_to_devices() -> None:
    from edgespa.device.provision.wheels import _asked

    with pytest.raises(ConfigError, match="trtexec is not sent to devices: it is a program of TensorRT") as caught:
        _asked(["trtexec"])
    assert "sudo apt install libnvinfer-bin" in str(caught.value.hint)
