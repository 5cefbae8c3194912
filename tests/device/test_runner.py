from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgespa.bundle import sha256_file
from edgespa.config import Preprocess
from edgespa.device import runner, runner_source


def run(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # From another folder: the runner must find its files beside itself.
    command = [sys.executable, str(bundle / "run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=bundle.parent, check=False)


def answer(bundle: Path, *options: str, status: int = 0) -> dict[str, Any]:
    done = run(bundle, *options, "--json")
    assert done.returncode == status, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return dict(json.loads(done.stdout))


def test_needs_nothing_but_numpy_and_pillow() -> None:
    allowed = sys.stdlib_module_names | {"numpy", "PIL"}
    for node in ast.walk(ast.parse(runner_source().decode())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        assert all(name.split(".")[0] in allowed for name in names), ast.unparse(node)


def test_annotations_are_not_evaluated() -> None:
    # Python 3.8 cannot subscript dict or list: the future import keeps annotations as text.
    assert "from __future__ import annotations" in runner_source().decode()


def test_without_arguments_lists_the_variants(full_bundle: Path) -> None:
    done = run(full_bundle)
    assert done.returncode == 0
    assert "usage: run.py" in done.stdout
    rows = answer(full_bundle)["variants"]
    assert [row["name"] for row in rows] == ["onnx-fp32", "tflite-fp32"]
    assert rows[0]["runtime"].startswith("onnxruntime 1.")
    assert rows[1]["runtime"].startswith("ai_edge_litert 2.")


def test_selfcheck_of_both_formats(full_bundle: Path) -> None:
    checks = answer(full_bundle, "--selfcheck", "--variant", "all")["selfcheck"]
    assert [(check["name"], check["status"], check["count"]) for check in checks] == [
        ("onnx-fp32", "passed", 11),
        ("tflite-fp32", "passed", 11),
    ]
    for check in checks:
        assert 0 <= check["relative_error"] < 1e-6
        assert check["cosine"] == pytest.approx(1)
        assert check["top1_agreement"] == 1


def test_selfcheck_fails_on_another_weight(bad_bundle: Path) -> None:
    check = answer(bad_bundle, "--selfcheck", status=1)["selfcheck"][0]
    assert check["status"] == "failed"
    assert check["max_abs_error"] > 0.1
    assert any("relative_error" in each and "is above 0.0001" in each for each in check["failures"])
    lines = run(bad_bundle, "--selfcheck").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["selfcheck:", "name", "onnx-fp32", "onnx-fp32:"]
    assert (lines[2].split()[1], lines[3]) == ("failed", f"onnx-fp32: {check['failures'][0]}")


def test_selfcheck_of_a_broken_file_fails_and_the_others_run(make_bundle: Any, tmp_path: Path, bundle: Path) -> None:
    mixed = make_bundle(tmp_path / "mixed", onnx=(bundle / "model.onnx").read_bytes(), tflite=b"not a model at all")
    checks = answer(mixed, "--selfcheck", "--variant", "all", status=1)["selfcheck"]
    assert [check["status"] for check in checks] == ["passed", "failed"]
    assert "cannot load model.tflite" in checks[1]["failures"][0]


def test_selfcheck_without_recorded_outputs_is_not_a_pass(make_bundle: Any, tmp_path: Path, bundle: Path) -> None:
    bare = make_bundle(tmp_path / "bare", onnx=(bundle / "model.onnx").read_bytes(), selfcheck=False)
    check = answer(bare, "--selfcheck", status=1)["selfcheck"][0]
    assert check["status"] == "not run"
    assert "selfcheck.npz" in check["failures"][0]


def test_a_runtime_that_does_not_import_is_not_installed(no_onnxruntime: None, full_bundle: Path) -> None:
    rows = answer(full_bundle)["variants"]
    assert rows[0]["runtime"] is None
    assert "built for another numpy" in rows[0]["reason"]
    # The default is the first that can run.
    assert answer(full_bundle, "--selfcheck")["selfcheck"][0]["name"] == "tflite-fp32"
    checks = answer(full_bundle, "--selfcheck", "--variant", "all")["selfcheck"]
    assert [check["status"] for check in checks] == ["not run", "passed"]
    done = run(full_bundle, "--bench", "--variant", "onnx-fp32")
    assert done.returncode == 1
    assert "error: no runtime for onnx files" in done.stderr


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32"])
def test_bench(full_bundle: Path, name: str) -> None:
    result = answer(full_bundle, "--bench", "--variant", name, "--runs", "130", "--threads", "2")
    file = full_bundle / result["file"]
    assert result["variant"] == name
    assert (result["runs"], result["warmup_runs"], result["threads"], result["batch"]) == (130, 10, 2, 1)
    assert result["size_bytes"] == file.stat().st_size
    assert result["sha256"] == sha256_file(file)
    assert 0 < result["min_ms"] <= result["p50_ms"] <= result["p90_ms"] <= result["p95_ms"]
    assert result["p99_ms"] is None
    assert result["load_ms"] > 0
    assert result["first_run_ms"] > 0
    assert 0 < result["peak_import_kib"] <= result["peak_load_kib"] <= result["peak_run_kib"]
    assert "CPU" in result["provider"]


def test_bench_stops_after_the_seconds_but_not_before_ten_runs(bundle: Path) -> None:
    assert answer(bundle, "--bench", "--seconds", "1e-9")["runs"] == 10
    assert answer(bundle, "--bench", "--seconds", "60", "--runs", "12")["runs"] == 12
    assert answer(bundle, "--bench")["runs"] == 200


@pytest.mark.parametrize("options", [("--warmup", "9"), ("--threads", "0"), ("--runs", "x"), ("--seconds", "0")])
def test_wrong_usage(bundle: Path, options: tuple[str, ...]) -> None:
    done = run(bundle, "--bench", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr


def test_an_unknown_variant_is_answered_with_those_there_are(bundle: Path) -> None:
    done = run(bundle, "--bench", "--variant", "onnx-int8")
    assert done.returncode == 1
    assert "there is no variant 'onnx-int8'; there are: onnx-fp32" in done.stderr


def test_another_schema_version_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 2}))
    done = run(bundle)
    assert done.returncode == 1
    assert "schema version 2" in done.stderr


# The percentiles of 1..n by nearest rank are known by hand.
@pytest.mark.parametrize(
    ("runs", "p90", "p95", "p99"), [(10, 9, None, None), (129, 117, None, None), (130, 117, 124, None)]
)
def test_percentiles(runs: int, p90: float, p95: float | None, p99: float | None) -> None:
    figures = runner.summarise([float(value) for value in range(runs, 0, -1)])
    assert (figures["p90_ms"], figures["p95_ms"], figures["p99_ms"]) == (p90, p95, p99)
    assert figures["p50_ms"] == figures["mean_ms"] == (runs + 1) / 2
    assert figures["min_ms"] == 1


@pytest.mark.parametrize(("runs", "p99"), [(661, None), (662, 656), (1000, 990)])
def test_p99_needs_662_runs(runs: int, p99: float | None) -> None:
    assert runner.summarise([float(value) for value in range(1, runs + 1)])["p99_ms"] == p99


def test_compare_by_hand() -> None:
    reference = np.array([[3.0, 0.0], [0.0, -4.0]], np.float32)
    output = np.array([[3.0, 0.0], [1.0, -4.0]], np.float32)
    figures = runner.compare([output], [reference])
    assert figures["max_abs_error"] == 1
    assert figures["relative_error"] == 0.25
    assert figures["cosine"] == pytest.approx(25 / (5 * 26**0.5))
    assert figures["top1_agreement"] == 1
    swapped = runner.compare([reference[:, ::-1]], [reference])
    assert swapped["top1_agreement"] == 0


def test_compare_takes_the_worst_output() -> None:
    good, bad = np.ones((2, 3)), np.full((2, 3), -2.0)
    figures = runner.compare([good, bad], [good, -bad])
    assert (figures["max_abs_error"], figures["relative_error"]) == (4, 2)
    assert figures["cosine"] == pytest.approx(-1)


def test_compare_of_zeros() -> None:
    zeros, ones = np.zeros((1, 2)), np.ones((1, 2))
    assert runner.compare([zeros], [zeros])["cosine"] == 1
    assert runner.compare([ones], [zeros])["cosine"] == 0
    assert runner.compare([ones], [zeros])["relative_error"] == 1


def test_outputs_that_are_not_finite_fail_whatever_the_bound() -> None:
    metrics = runner.compare([np.array([[np.nan, 1.0]])], [np.array([[0.0, 1.0]])])
    assert runner.exceeded(metrics, {}) == ["the outputs are not finite"]
    json.dumps(metrics, allow_nan=False)


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(runner.RunnerError, match=r"output 0 has shape \(1, 2\), expected \(1, 3\)"):
        runner.compare([np.zeros((1, 2))], [np.zeros((1, 3))])


def test_bounds_have_their_direction() -> None:
    metrics = {"max_abs_error": 0.2, "relative_error": 0.1, "cosine": 0.9, "top1_agreement": 0.8, "finite": True}
    assert runner.exceeded(metrics, {key: metrics[key] for key in list(metrics)[:4]}) == []
    tight = {"max_abs_error": 0.1, "relative_error": 0.05, "cosine": 0.99, "top1_agreement": 0.9}
    assert [each.split()[0] for each in runner.exceeded(metrics, tight)] == list(tight)
    assert runner.exceeded({**metrics, "top1_agreement": None}, {"top1_agreement": 0.5}) != []


class Interpreter:
    """A LiteRT stand-in with quantised inputs and outputs, listed in another order than the manifest's."""

    def __init__(self, model_path: str, num_threads: int) -> None:
        self.tensors: dict[int, np.ndarray] = {}

    def allocate_tensors(self) -> None: ...

    def get_signature_list(self) -> dict[str, Any]:
        return {}

    def get_input_details(self) -> list[dict[str, Any]]:
        return [
            {"name": "second", "index": 1, "dtype": np.float32, "quantization": (0.0, 0)},
            {"name": "first", "index": 0, "dtype": np.int8, "quantization": (0.5, -3)},
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"name": "whatever", "index": 2, "dtype": np.uint8, "quantization": (0.25, 100)}]

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        self.tensors[index] = value

    def invoke(self) -> None:
        self.tensors[2] = (self.tensors[0].astype(np.int64) + 100).astype(np.uint8)

    def get_tensor(self, index: int) -> np.ndarray:
        return self.tensors[index]


def _stub_model(batch: int) -> Any:
    spec = {"shape": [batch, 2], "dtype": "int8", "layout": "other"}
    variant = {
        "inputs": [{"name": "first", **spec}, {"name": "second", **spec}],
        "outputs": [{"name": "out", **spec}],
        "format": "tflite",
        "file": "none",
        "name": "stub",
    }
    return runner.open_model(Path("."), variant, 1, sys.modules[__name__])


def test_quantised_tensors_are_converted_by_the_files_own_scale() -> None:
    model = _stub_model(1)
    feed = model.feed([np.array([[1.0, -1000.0]], np.float32), np.array([[5.0, 6.0]], np.float32)])
    assert feed[0].dtype == np.int8
    assert feed[0].tolist() == [[-1, -128]]  # 1 / 0.5 - 3; and clipped, not wrapped
    assert feed[1].tolist() == [[5.0, 6.0]]
    outputs = model.results(model.run(feed))
    assert outputs[0].tolist() == [[(-1 + 100 - 100) * 0.25, (-128 + 100 + 256 - 100) * 0.25]]


def test_a_fixed_batch_is_filled_and_the_filling_dropped() -> None:
    model = _stub_model(4)
    first = np.arange(12, dtype=np.float32).reshape(6, 2)
    (output,) = runner.infer(model, [first, first])
    assert output.shape == (6, 2)
    np.testing.assert_allclose(output, (first / 0.5 - 3) * 0.25)


def test_tensors_that_cannot_be_matched_are_refused() -> None:
    variant = {"inputs": [{"name": "x"}, {"name": "y"}], "outputs": [{"name": "z"}], "format": "tflite"}
    with pytest.raises(runner.RunnerError, match="the file's inputs are first, second"):
        runner.open_model(Path("."), {**variant, "file": "f", "name": "n"}, 1, sys.modules[__name__])


def test_layouts_go_there_and_back() -> None:
    array = np.arange(24).reshape(1, 2, 3, 4)
    there = runner.to_file_layout(array, {"layout": "NHWC"})
    assert there.shape == (1, 3, 4, 2)
    assert there[0, 1, 2, 1] == array[0, 1, 1, 2]
    np.testing.assert_array_equal(runner.to_program_layout(there, {"layout": "NHWC"}), array)


HOW = {"height": 4, "width": 6, "channels": 3, "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0]}


def test_preprocess_by_hand(tmp_path: Path) -> None:
    Image.new("RGB", (9, 5), (255, 51, 0)).save(tmp_path / "a.png")
    array = runner.preprocess(tmp_path / "a.png", HOW)
    assert array.shape == (1, 3, 4, 6)
    assert array.dtype == np.float32
    for channel, value in enumerate((1.0, -0.05, 0.0)):
        np.testing.assert_allclose(array[0, channel], value, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "CMYK"])
def test_pixels_are_those_of_the_training_data(tmp_path: Path, mode: str, channels: int) -> None:
    from edgespa.data import load_data, prepare

    pixels = np.random.default_rng(0).integers(0, 256, (11, 13, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert(mode) if mode == "RGBA" else image.convert("RGB").convert(mode)
    path = tmp_path / "images" / ("a.tif" if mode == "CMYK" else "a.png")
    path.parent.mkdir()
    image.save(path)
    how = Preprocess(height=4, width=6, channels=channels, mean=(0.5, 0.25, 0.0, 0.1)[:channels], std=(0.3,) * channels)
    prepared = prepare(load_data(str(path.parent), labelled=False), how)
    ((batch, _),) = list(prepared.batches(1, shuffle_seed=None))
    np.testing.assert_allclose(runner.preprocess(path, how.model_dump()), batch.numpy(), atol=1e-6)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(runner.RunnerError, match="more than 8 bits"):
        runner.preprocess(tmp_path / "a.png", HOW)


def test_classify(full_bundle: Path, tmp_path: Path, run_program: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    normalised = (pixels / 255 - np.array([0.5, 0.25, 0.0])) / np.array([0.5, 1.0, 2.0])
    logits = run_program(normalised.transpose(2, 0, 1)[None].astype(np.float32))[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    for name in ("onnx-fp32", "tflite-fp32"):
        top = answer(full_bundle, "--input", str(tmp_path / "a.png"), "--variant", name, "--top", "9")["top"]
        assert [each["index"] for each in top] == np.argsort(-expected).tolist()
        assert [each["label"] for each in top] == [("round", "square", "star")[each["index"]] for each in top]
        np.testing.assert_allclose([each["probability"] for each in top], np.sort(expected)[::-1], rtol=1e-4)
    first = run(full_bundle, "--input", str(tmp_path / "a.png"), "--top", "1")
    lines = first.stdout.splitlines()
    assert lines[1].split()[:2] == ["runtime:", "onnxruntime"]
    assert lines[3:5] == ["top:", f"  index  label{' ' * (len(top[0]['label']) - 5)}  probability"]
    assert lines[5].split()[:2] == [str(top[0]["index"]), top[0]["label"]]
    assert len(lines) == 6


def test_an_image_that_is_none_is_a_clear_error(bundle: Path) -> None:
    done = run(bundle, "--input", str(bundle / "labels.txt"))
    assert done.returncode == 1
    assert "cannot read the image" in done.stderr
