"""Several runtimes of one file: each measured and proved for itself, and what is picked of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgespa as es
from edgespa.bundle import Pick, picked, read_manifest, verify_files
from edgespa.device.board import load_device
from edgespa.device.link.reach import connect
from edgespa.device.measure import profile as measuring
from edgespa.device.measure.profile import profile
from edgespa.device.measure.results import Check
from edgespa.device.measure.settings import Settings
from edgespa.device.measure.site import Site
from edgespa.device.runner import cores, runtimes
from edgespa.device.runner.bundle import RunnerError
from edgespa.errors import BundleError, ConfigError, DeviceError

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs edgespa[openvino]")


def _also(monkeypatch: pytest.MonkeyPatch, **arithmetics: tuple[str, ...]) -> None:
    """As a processor that has these, and no others, says it."""
    real = Site.list_variants

    def listed(self: Site) -> Any:
        return tuple(each.model_copy(update={"arithmetics": arithmetics}) for each in real(self))

    monkeypatch.setattr(Site, "list_variants", listed)


@needs_openvino
def test_each_file_in_each_runtime_and_the_fastest_that_is_right(
    full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _also(monkeypatch)
    settings = Settings(runtimes=("all",), runs=20)
    with connect(load_device("local")) as connection:
        found = profile(full_bundle, connection, settings)
    rows = {(each.variant, each.runtime): each for each in found.results}
    assert set(rows) == {
        ("onnx-fp32", "onnxruntime"), ("onnx-fp32", "openvino"), ("tflite-fp32", "ai_edge_litert"),
    }  # fmt: skip
    assert {each.arithmetic for each in found.results} == {"fp32"}
    assert {(each.variant, each.runtime): each.holds for each in found.proofs} == dict.fromkeys(rows, True)
    assert found.fastest == min(found.results, key=lambda each: each.p50_ms)
    assert rows["onnx-fp32", "openvino"].rounds[0].runtime.startswith("openvino 20")


@needs_openvino
def test_what_is_fast_and_wrong_is_not_picked(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _also(monkeypatch)
    real = Site.check

    def wrong(self: Site, options: Any, what: str) -> Check:
        found = real(self, options, what)
        return found.model_copy(update={"status": "failed", "failures": ("off",)}) if "openvino" in options else found

    monkeypatch.setattr(Site, "check", wrong)
    monkeypatch.setattr(
        "edgespa.device.measure.results.VariantProfile.of",
        _faster("openvino", by=1e6),
    )
    measured = es.profile(full_bundle, runtimes=("all",), pick="fastest", runs=10)
    fastest = measured.measured.fastest
    assert fastest is not None
    assert fastest.runtime != "openvino"
    assert [each.runtime for each in measured.measured.proofs if not each.holds] == ["openvino"]
    pick = read_manifest(full_bundle).pick
    assert pick is not None
    assert (pick.variant, pick.runtime, pick.device) == (fastest.variant, fastest.runtime, "local")
    verify_files(full_bundle)  # the seal is that of the new manifest


def test_each_file_in_the_numbers_that_the_processor_has(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _also(monkeypatch, ai_edge_litert=("fp16",))  # where the processor has it not, XNNPACK emulates it, slowly
    settings = Settings(runtimes=("onnxruntime", "ai_edge_litert"), runs=10, rounds=2)
    with connect(load_device("local")) as connection:
        found = profile(full_bundle, connection, settings)
    rows = [(each.variant, each.runtime, each.arithmetic) for each in found.results]
    litert = ("tflite-fp32", "ai_edge_litert")
    assert sorted(rows) == [("onnx-fp32", "onnxruntime", "fp32"), (*litert, "fp16"), (*litert, "fp32")]
    errors = {(each.variant, each.arithmetic): each.component_error or 0.0 for each in found.proofs if each.holds}
    assert errors["tflite-fp32", "fp32"] < 1e-5 < errors["tflite-fp32", "fp16"] < 0.1
    assert not found.skipped


def test_one_way_that_fails_stops_no_other(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _also(monkeypatch, onnxruntime=("fp16",))  # ONNX Runtime has none, and says so
    settings = Settings(variants=("onnx-fp32",), runtimes=("onnxruntime",), runs=10, rounds=2)
    with connect(load_device("local")) as connection:
        found = profile(full_bundle, connection, settings)
        assert [(each.variant, each.arithmetic) for each in found.results] == [("onnx-fp32", "fp32")]
        (skipped,) = [each for each in found.skipped if each.variant == "onnx-fp32"]
        assert "computed in fp32 here, not in fp16" in skipped.reason
        alone = Settings(runtimes=("onnxruntime",), arithmetics=("fp16",), runs=10)
        with pytest.raises(DeviceError, match=r"(?s)nothing could be measured: .*computed in fp32 here"):
            profile(full_bundle, connection, alone)


@pytest.mark.parametrize(
    ("flags", "also"),
    [
        ("fp asimd asimdhp asimddp", {"ncnn": ["fp16"], "openvino": ["fp16"], "ai_edge_litert": ["fp16"]}),
        ("fp asimd bf16", {"onnxruntime": ["bf16"]}),
        ("fpu avx2 avx512_bf16", {"openvino": ["bf16"]}),
        ("fpu avx512_bf16 avx512_fp16 amx_bf16", {"openvino": ["bf16"], "ai_edge_litert": ["fp16"]}),
        ("fp asimd", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_a_processor_has(flags: str, also: dict[str, list[str]]) -> None:
    found = {each.name: each.model.others(set(flags.split())) for each in runtimes.RUNTIMES}
    assert found.pop("trtexec") == ["fp16"]  # which is the GPU's
    assert {name: numbers for name, numbers in found.items() if numbers} == also


def test_what_is_there_for_a_file_in_which_numbers(monkeypatch: pytest.MonkeyPatch, full_bundle: Path) -> None:
    monkeypatch.setattr(runtimes, "processor_flags", lambda: {"asimd", "asimdhp"})
    rows = {
        each["name"]: each for each in runtimes.list_variants(json.loads((full_bundle / "manifest.json").read_text()))
    }
    assert rows["tflite-fp32"]["arithmetics"] == {"ai_edge_litert": ["fp16"]}
    assert "onnxruntime" not in rows["onnx-fp32"]["arithmetics"]


def _faster(runtime: str, by: float) -> Any:
    from edgespa.device.measure.results import VariantProfile

    real = VariantProfile.of.__func__

    def of(bundle: str, rounds: Any) -> Any:
        found = real(VariantProfile, bundle, rounds)
        return found.model_copy(update={"p50_ms": found.p50_ms / by}) if found.runtime == runtime else found

    return of


def test_what_was_fast_on_a_gpu_is_not_picked_by_a_proof_of_the_cpu(full_bundle: Path) -> None:
    with connect(load_device("local")) as connection:
        found = profile(full_bundle, connection, Settings(runtimes=("onnxruntime", "ai_edge_litert"), runs=10))
    own = found.results[0]
    gpu = own.model_copy(update={"provider": "CUDAExecutionProvider", "p50_ms": own.p50_ms / 1e6})
    both = found.model_copy(update={"results": (gpu, *found.results)})
    assert both.fastest == found.fastest
    assert both.fastest is not None


def test_runtimes_that_are_not_there_are_said(full_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="there is no runtime 'tensorrtx'"):
        es.profile(full_bundle, runtimes=("tensorrtx",))
    if importlib.util.find_spec("tflite_runtime") is None:
        with pytest.raises(DeviceError, match="none of the runtimes tflite_runtime is there for"):
            es.profile(full_bundle, runtimes=("tflite_runtime",), runs=10)


def test_nothing_is_picked_for_several_devices_or_in_a_packed_file(full_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="what is fastest on one device"):
        es.profile(full_bundle, device=("local", "pi-4b"), pick="fastest")
    with pytest.raises(ConfigError, match="a bundle that is a folder"):
        es.profile(full_bundle.with_suffix(".edgespa"), pick="fastest")


def run_py(bundle: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-P", str(bundle / "run.py"), *options, "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_is_picked_is_what_run_py_takes(full_bundle: Path) -> None:
    assert read_manifest(full_bundle).variants[0].name == "onnx-fp32"
    pick = Pick(device="pi-5", variant="tflite-fp32", runtime="ai_edge_litert", threads=2, latency_ms=2.0)
    picked(full_bundle, pick)
    assert read_manifest(full_bundle).pick == pick
    (full_bundle / "run.py").write_bytes(es_runner())
    found = run_py(full_bundle, "--bench", "--runs", "10")
    assert (found["variant"], found["threads"]) == ("tflite-fp32", 2)
    assert run_py(full_bundle, "--bench", "--runs", "10", "--threads", "1")["threads"] == 1
    assert run_py(full_bundle, "--selfcheck")["selfcheck"][0]["name"] == "tflite-fp32"
    # Who asks for something gets that; a bundle of before picks nothing.
    assert run_py(full_bundle, "--bench", "--runs", "10", "--variant", "onnx-fp32")["variant"] == "onnx-fp32"
    assert run_py(full_bundle, "--bench", "--runs", "10", "--runtime", "onnxruntime")["variant"] == "onnx-fp32"


def test_tuning_tries_threads_and_fast_cores(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And writes down what was fastest, with its cores, which run.py keeps to where there are such."""
    (core,) = list(os.sched_getaffinity(0))[-1:]
    real = measuring.read_facts
    fast = {"affinity": 2, "fast_cores": (core,)}
    monkeypatch.setattr(measuring, "read_facts", lambda connection: real(connection).model_copy(update=fast))
    real_measure = Site.measure

    def measured(self: Site, options: Any, what: str, **how: Any) -> Any:
        found = real_measure(self, options, what, **how)
        bound = "--cores" in options
        assert (found.cores, found.affinity) == ((str(core), 1) if bound else (None, found.affinity))
        return found.model_copy(update={"p50_ms": 0.001}) if bound else found

    monkeypatch.setattr(Site, "measure", measured)
    found = es.profile(full_bundle, tune=True, variants="onnx-fp32", runtimes="onnxruntime", runs=10, progress=False)
    rows = [(each.threads, each.cores) for each in found.measured.results]
    assert rows == [(1, None), (1, str(core)), (2, None)]
    pick = read_manifest(full_bundle).pick
    assert pick is not None
    assert (pick.threads, pick.cores, pick.latency_ms) == (1, str(core), 0.001)
    (full_bundle / "run.py").write_bytes(es_runner())
    run = run_py(full_bundle, "--bench", "--runs", "10")
    assert (run["cores"], run["affinity"]) == (str(core), 1)
    # Another machine, or less of it: the rest of the pick still holds.
    picked(full_bundle, pick.model_copy(update={"cores": "4000-4003"}))
    run = run_py(full_bundle, "--bench", "--runs", "10")
    assert (run["variant"], run["threads"], run["cores"]) == ("onnx-fp32", 1, None)
    with pytest.raises(ConfigError, match="tune tries numbers of threads itself"):
        es.profile(full_bundle, tune=True, threads=(1, 2))
    with pytest.raises(ConfigError, match="tune writes into one folder"):
        es.profile(full_bundle, tune=True, device=("local", "pi-4b"))


@pytest.mark.parametrize(
    ("state", "asked", "words"),
    [
        ({"power_mode": "15W"}, {"power_mode": "MAXN"}, "its power mode is 15W, and MAXN is asked for"),
        (
            {"power_mode": None},
            {"power_mode": "MAXN"},
            "it says no power mode, as a Jetson does, and MAXN is asked for",
        ),
        ({"fixed_clocks": False}, {"fixed_clocks": True}, "the clocks of its cores are not held"),
        ({"fixed_clocks": None}, {"fixed_clocks": True}, "the clocks of its cores cannot be read"),
        ({"power_mode": "MAXN", "fixed_clocks": True}, {"power_mode": "maxn", "fixed_clocks": True}, None),
        ({"power_mode": "15W", "fixed_clocks": False}, {}, None),
    ],
)
def test_a_device_in_another_state_is_not_measured(
    full_bundle: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], asked: dict[str, Any], words: str | None
) -> None:
    real, measured = measuring.Conditions.of, []
    monkeypatch.setattr(measuring.Conditions, "of", lambda answer: real(answer).model_copy(update=state))
    real_measure = Site.measure
    monkeypatch.setattr(Site, "measure", lambda *args, **how: (measured.append(args), real_measure(*args, **how))[1])
    how: dict[str, Any] = {"variants": "onnx-fp32", "runtimes": "onnxruntime", "runs": 10, "progress": False, **asked}
    if words is None:
        assert es.profile(full_bundle, **how).measured.results
        return
    with pytest.raises(DeviceError, match=words):
        es.profile(full_bundle, **how)
    assert measured == []


def test_ways_to_tune() -> None:
    assert Settings(threads=(2, 1, 2)).ways(4, (2, 3)) == [(2, None), (1, None)]
    tune = Settings(tune=True)
    assert tune.ways(4) == [(1, None), (2, None), (4, None)]
    assert tune.ways(6, (4, 5)) == [(1, None), (3, None), (6, None), (1, "4-5"), (2, "4-5")]
    assert tune.ways(None) == [(1, None)]


def test_cores_in_words() -> None:
    assert cores.cores_text([5, 4, 7, 6, 1]) == "1,4-7"
    assert cores.cores_of("1,4-7") == [1, 4, 5, 6, 7]
    for text in ("", "a", "-1", "3-", "7-4", "1,,2", "0-99999", "1 2"):
        with pytest.raises(ValueError, match="names no cores"):
            cores.cores_of(text)
    with pytest.raises(RunnerError, match="may not use the cores 4000"):
        cores.bind_to("4000")


def test_cores_by_hand(full_bundle: Path) -> None:
    (full_bundle / "run.py").write_bytes(es_runner())
    core = str(min(os.sched_getaffinity(0)))
    assert run_py(full_bundle, "--bench", "--runs", "10", "--cores", core)["affinity"] == 1
    for wrong, words in (("x", "names no cores"), ("4000", "may not use the cores 4000")):
        command = [sys.executable, "-P", str(full_bundle / "run.py"), "--bench", "--cores", wrong]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def es_runner() -> bytes:
    from edgespa.device import runner_source

    return runner_source()


def test_a_pick_counts_for_nothing_where_its_runtime_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = {
        "variants": [{"name": "onnx-fp32", "format": "onnx"}, {"name": "tflite-fp32", "format": "tflite"}],
        "pick": {"variant": "tflite-fp32", "runtime": "ai_edge_litert", "arithmetic": "fp32"},
    }

    def there(*names: str) -> Any:
        def imported(kind: str, name: str | None = None) -> tuple[Any, str]:
            known = {"onnxruntime": "onnx", "ai_edge_litert": "tflite"}
            if not any(known[each] == kind and name in (None, each) for each in names):
                raise RunnerError("absent")
            return object(), "it 1"

        return imported

    monkeypatch.setattr(runtimes, "import_runtime", there("onnxruntime", "ai_edge_litert"))
    assert runtimes.choose(manifest, None)["picked"] == "ai_edge_litert"
    assert "picked" not in runtimes.choose(manifest, "tflite-fp32")
    monkeypatch.setattr(runtimes, "import_runtime", there("onnxruntime"))
    assert runtimes.choose(manifest, None) == manifest["variants"][0]


def test_a_signed_bundle_is_not_changed_behind_its_signature(full_bundle: Path) -> None:
    (full_bundle / "manifest.json.sig").write_bytes(b"signed")
    before = (full_bundle / "manifest.json").read_bytes()
    pick = Pick(device="pi-5", variant="tflite-fp32", runtime="ai_edge_litert", latency_ms=2.0)
    with pytest.raises(BundleError, match="is signed"):
        picked(full_bundle, pick)
    assert (full_bundle / "manifest.json").read_bytes() == before
    (full_bundle / "manifest.json.sig").unlink()
    with pytest.raises(BundleError, match="it picks 'onnx-int8', and there is no such variant"):
        picked(full_bundle, pick.model_copy(update={"variant": "onnx-int8"}))
    assert (full_bundle / "manifest.json").read_bytes() == before


@needs_openvino
def test_verify_in_another_runtime(full_bundle: Path) -> None:
    found = es.verify(full_bundle, runtimes=("openvino",))
    assert found.passed
    ran = [(each.name, str(each.runtime).split(" ")[0], each.arithmetic) for each in found.variants]
    assert ("onnx-fp32", "openvino", "fp32") in ran
    assert ("tflite-fp32", "ai_edge_litert", "fp32") in ran
    with pytest.raises(DeviceError, match="tflite_runtime: no variant can be run there"):
        es.verify(full_bundle, runtimes=("tflite_runtime",))
