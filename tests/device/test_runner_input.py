"""What run.py makes of an input: images, arrays, pixels for files that normalise by themselves, and its answers."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgespa.bundle import BundleWriter, Manifest, TensorSpec, external, limits, read_manifest
from edgespa.bundle.files import seal_of
from edgespa.config import Preprocess
from edgespa.device import runner, runner_source
from edgespa.device.assemble import PARTS
from edgespa.pixels import boxes, picture, placement, values

STAND_ALONE = (external, limits, boxes, picture, placement, values)

HOW = Preprocess(height=8, width=8, channels=3, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
SOURCE = runner_source().decode()


def run(bundle: Path, *options: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *prefix, str(bundle / "run.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=bundle.parent, check=False)


def answer(bundle: Path, *options: str | Path, status: int = 0) -> dict[str, Any]:
    done = run(bundle, *options, "--json")
    assert done.returncode == status, done.stderr
    return dict(json.loads(done.stdout))


def interpreter(minor: int) -> str:
    """Python 3.minor, on the path or from pyenv; skips where there is none."""
    name = f"python3.{minor}"
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [str(path) for path in sorted(root.glob(f"3.{minor}.*/bin/{name}"))] or [shutil.which(name)]
    if found[0] is None:
        pytest.skip(f"PYTHON 3.{minor} WAS NOT TRIED: not installed")
    return str(found[0])


def test_the_parts_are_joined_whole() -> None:
    """Each name of each part is defined once, after what it needs; nothing is left that imports edgespa."""
    tree = ast.parse(SOURCE)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(set(defined)) == len(defined)
    parts = {path.stem: path for path in (Path(runner.__file__).parent).glob("*.py") if path.name != "__init__.py"}
    parts |= {Path(part.__file__).stem: Path(part.__file__) for part in STAND_ALONE}
    assert sorted(parts) == sorted(PARTS)
    expected = [
        node.name
        for part in PARTS
        for node in ast.parse(parts[part].read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert defined == expected
    constants = [
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for name in ast.walk(node.targets[0])
        if isinstance(name, ast.Name)
    ]
    assert len({*defined, *constants}) == len(defined) + len(constants)
    assert set(runner.__all__) <= {*defined, *constants}
    assert "edgespa.device" not in SOURCE
    assert max(map(len, SOURCE.splitlines())) <= 120


class TestPythons:
    """Boards have old Pythons: Debian 10 and JetPack 5 have 3.7 and 3.8; the oldest that is promised is 3.8."""

    @pytest.mark.parametrize("minor", [8, 9, 10, 11, 12, 13])
    def test_the_grammar(self, minor: int) -> None:
        ast.parse(SOURCE, feature_version=(3, minor))

    VERMIN = (sys.executable, "-c", "import vermin; vermin.main()", "--no-tips", "-t=3.8-")

    def test_the_library_too(self, tmp_path: Path) -> None:
        (tmp_path / "run.py").write_text(SOURCE)
        command = [*self.VERMIN, str(tmp_path / "run.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "Minimum required versions: 3.8" in done.stdout

    @pytest.mark.parametrize("minor", [8, 9, 10, 11, 12, 13])
    def test_the_interpreter_itself(self, bundle: Path, tmp_path: Path, minor: int) -> None:
        """With an empty numpy: all that runs before the first array."""
        (tmp_path / "numpy.py").touch()
        command = [interpreter(minor), "-W", "error", bundle / "run.py"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        for options, words in (("--help", "usage: run.py"), ("--json", '"name": "onnx-fp32"')):
            done = subprocess.run([*command, options], capture_output=True, text=True, check=False, env=environment)
            assert (done.returncode, words in done.stdout) == (0, True), done.stderr

    def test_the_check_can_fail(self, tmp_path: Path) -> None:
        (tmp_path / "new.py").write_text("'a'.removeprefix('b')\n")
        assert (
            subprocess.run([*self.VERMIN, str(tmp_path / "new.py")], capture_output=True, check=False).returncode == 1
        )
        with pytest.raises(SyntaxError):
            ast.parse("match x:\n    case 1: pass\n", feature_version=(3, 8))


class TestAnswers:
    def test_classes_by_hand(self) -> None:
        top = runner.interpret(np.array([0.0, np.log(3.0)]), "classes", ["a"], 5)["top"]
        assert [(row["index"], row["label"]) for row in top] == [(1, "1"), (0, "a")]
        assert [row["probability"] for row in top] == pytest.approx([0.75, 0.25])

    def test_probabilities_are_not_squashed_again(self) -> None:
        top = runner.interpret(np.array([0.9, 0.1, 0.0], np.float32), "classes", [], 2)["top"]
        assert [row["probability"] for row in top] == pytest.approx([0.9, 0.1])

    def test_large_scores_do_not_overflow(self) -> None:
        (row,) = runner.interpret(np.array([1e4, -1e4]), "classes", [], 1)["top"]
        assert row["probability"] == 1
        rows = runner.interpret(np.array([1e4, -1e4]), "multi-label", [], 2)["top"]
        assert [row["probability"] for row in rows] == [1, 0]

    def test_labels_of_which_any_may_be(self) -> None:
        rows = runner.interpret(np.array([0.0, np.log(9.0), -np.log(3.0)]), "multi-label", ["x", "y", "z"], 5)["top"]
        assert [(row["label"], row["present"]) for row in rows] == [("y", True), ("x", True), ("z", False)]
        assert [row["probability"] for row in rows] == pytest.approx([0.9, 0.5, 0.25])

    def test_numbers(self) -> None:
        rows = runner.interpret(np.array([-1.5, 2.0]), "regression", ["width"], 1)["values"]
        assert [(row["label"], row["value"]) for row in rows] == [("width", -1.5), ("1", 2.0)]

    def test_no_answer_from_what_is_not_finite(self) -> None:
        with pytest.raises(runner.RunnerError, match="not finite"):
            runner.interpret(np.array([np.nan]), "classes", [], 1)


@pytest.fixture
def kind_of_bundle(bundle: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The good bundle with another meaning of its outputs."""

    def make(learns: str) -> Path:
        values = json.loads((bundle / "manifest.json").read_text())
        values["learns"] = learns
        values["seal"] = seal_of(values)
        (bundle / "manifest.json").write_text(json.dumps(values))
        return bundle

    return make


@pytest.mark.parametrize(("learns", "key"), [("classes", "top"), ("multi-label", "top"), ("regression", "values")])
def test_what_is_learnt_decides(
    kind_of_bundle: Callable[[str], Path],
    run_program: Callable[[np.ndarray], np.ndarray],
    tmp_path: Path,
    learns: str,
    key: str,
) -> None:
    bundle = kind_of_bundle(learns)
    images = np.random.default_rng(2).standard_normal((4, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "one.npy", images[0])
    np.save(tmp_path / "four.npy", images)
    one = answer(bundle, "--input", tmp_path / "one.npy")
    scores = run_program(images[:1])[0]
    expected = runner.interpret(scores, learns, ["round", "square", "star"], 5)[key]
    assert [row["label"] for row in one[key]] == [row["label"] for row in expected]
    figure = "value" if learns == "regression" else "probability"
    np.testing.assert_allclose([row[figure] for row in one[key]], [row[figure] for row in expected], rtol=1e-4)
    four = answer(bundle, "--input", tmp_path / "four.npy", "--top", "1")[key]
    assert [row["sample"] for row in four] == sorted(row["sample"] for row in four)
    assert {row["sample"] for row in four} == {0, 1, 2, 3}
    text = run(bundle, "--input", tmp_path / "one.npy").stdout
    assert text.splitlines()[4].split()[:2] == ["index", "label"]


def test_arrays_that_do_not_fit_are_told(bundle: Path, tmp_path: Path) -> None:
    wrong = {
        "shape.npy": np.zeros((1, 8, 8, 3), np.float32),
        "type.npy": np.zeros((1, 3, 8, 8), np.uint8),
        "empty.npy": np.zeros((0, 3, 8, 8), np.float32),
    }
    for name, array in wrong.items():
        np.save(tmp_path / name, array)
        done = run(bundle, "--input", tmp_path / name)
        assert done.returncode == 1
        assert "input image is float32 of batch x 3 x 8 x 8" in done.stderr
    np.savez(tmp_path / "keys.npz", a=np.zeros(3), b=np.zeros(3))
    done = run(bundle, "--input", tmp_path / "keys.npz")
    assert done.returncode == 1
    assert "keys.npz holds a, b: its arrays are to be called input_0, or image" in done.stderr
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    for name in ("text.npy", "pickle.npy", "none.npy"):
        done = run(bundle, "--input", tmp_path / name)
        assert (done.returncode, "cannot read" in done.stderr) == (1, True), name
        assert "Traceback" not in done.stderr
    good = np.zeros((1, 3, 8, 8), np.float64)
    for name in ("input_0", "image", "sensor"):
        np.savez(tmp_path / f"{name}.npz", **{name: good})
        assert len(answer(bundle, "--input", tmp_path / f"{name}.npz")["top"]) == 3


def test_arrays_are_told_by_number_or_by_the_name_of_the_input(tmp_path: Path) -> None:
    specs = [{"name": name, "shape": ["batch", size], "dtype": "float32"} for name, size in (("left", 2), ("right", 3))]
    left, right = np.zeros((1, 2), np.float32), np.ones((1, 3), np.float32)
    np.savez(tmp_path / "named.npz", right=right, left=left, labels=np.zeros(1))
    np.savez(tmp_path / "numbered.npz", input_1=right, input_0=left, left=right)
    for name in ("named", "numbered"):
        assert [each.shape for each in runner.read_arrays(tmp_path / f"{name}.npz", specs)] == [(1, 2), (1, 3)]
    np.savez(tmp_path / "half.npz", left=left)
    with pytest.raises(runner.RunnerError, match=r"half\.npz holds left: .* input_0, input_1, or left, right"):
        runner.read_arrays(tmp_path / "half.npz", specs)


def test_an_image_without_pillow_is_told(bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 5)).save(tmp_path / "a.jpg")
    (tmp_path / "PIL.py").write_text("raise ImportError('none here')\n")
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, bundle / "run.py", "--input", tmp_path / "a.jpg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install pillow" in done.stderr
    assert ".npy" in done.stderr


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_file_goes_the_way_of_the_training_data(
    bundle: Path, tmp_path: Path, run_program: Callable[[np.ndarray], np.ndarray], suffix: str
) -> None:
    from edgespa.data import load_data, prepare

    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (33, 21, 3), dtype=np.uint8)).save(path)
    ((batch, _),) = list(prepare(load_data(str(path.parent), labelled=False), HOW).batches(1))
    expected = runner.interpret(run_program(batch.numpy())[0], "classes", ["round", "square", "star"], 3)["top"]
    found = answer(bundle, "--input", path)["top"]
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    np.testing.assert_allclose(
        [row["probability"] for row in found], [row["probability"] for row in expected], rtol=1e-4
    )


# ---- files that take pixels


def pixel_model(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """uint8 [N, 8, 8, 3] -> normalised inside -> the linear layer of the other files."""
    constants = {
        "by": np.float32(255),
        "mean": np.float32(HOW.mean),
        "std": np.float32(HOW.std),
        "weight": weight,
        "bias": bias,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "by"], ["unit"]),
            helper.make_node("Sub", ["unit", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["normal"]),
            helper.make_node("Transpose", ["normal"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Flatten", ["nchw"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
        ],
        "pixels",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def pixel_bundle(bundle: Path, tmp_path: Path, run_program: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A bundle whose only file normalises by itself; its recorded inputs are those of real pixels."""
    manifest = read_manifest(bundle)
    zero = np.zeros((1, 3, 8, 8), np.float32)
    bias = run_program(zero)[0]
    eye = np.eye(192, dtype=np.float32).reshape(192, 3, 8, 8)
    weight = (run_program(eye) - bias).T
    pixels = np.random.default_rng(9).integers(0, 256, (6, 3, 8, 8)).astype(np.float32)
    images = (pixels / 255 - np.float32(HOW.mean)[:, None, None]) / np.float32(HOW.std)[:, None, None]
    with BundleWriter(tmp_path / "pixels") as writer:
        content = pixel_model(np.ascontiguousarray(weight), bias)
        (writer.path / "model.onnx").write_bytes(content)
        (writer.path / "run.py").write_text(SOURCE)
        (writer.path / "labels.txt").write_text("round\nsquare\nstar\n")
        np.savez(writer.path / "selfcheck.npz", input_0=images, output_0=run_program(images))
        variant = manifest.variants[0].model_copy(
            update={
                "inputs": (TensorSpec(name="pixels", shape=("batch", 8, 8, 3), dtype="uint8", layout="NHWC"),),
                "size_bytes": len(content),
                "preprocess": HOW,
            }
        )
        values = {**manifest.model_dump(), "variants": [variant.model_dump()], "files": (), "seal": None}
        writer.commit(Manifest.model_validate(values))
    return tmp_path / "pixels"


def test_a_file_that_normalises_by_itself(pixel_bundle: Path, bundle: Path, tmp_path: Path) -> None:
    (check,) = answer(pixel_bundle, "--selfcheck")["selfcheck"]
    assert (check["status"], check["count"]) == ("passed", 6)
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (17, 9, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    plain, inside = (answer(each, "--input", tmp_path / "a.png")["top"] for each in (bundle, pixel_bundle))
    assert [row["label"] for row in plain] == [row["label"] for row in inside]
    for one, other in zip(plain, inside, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)
    assert answer(pixel_bundle, "--bench", "--runs", "10")["runs"] == 10


@pytest.mark.parametrize("mean", [0.0, 0.485, -3.0])
@pytest.mark.parametrize("std", [1 / 255, 0.2, 30.0])
def test_every_pixel_comes_back(mean: float, std: float) -> None:
    pixels = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
    normalised = (pixels / np.float32(255) - np.float32(mean)) / np.float32(std)
    back = runner.to_pixels(normalised.astype(np.float32), {"mean": [mean], "std": [std]})
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)
    assert runner.to_pixels(np.float32([[[[1e9, -1e9]]]]), {"mean": [mean], "std": [std]}).ravel().tolist() == [255, 0]


# ---- damage that only run.py is there to see


def test_a_changed_file_fails_where_nothing_but_run_py_is(full_bundle: Path) -> None:
    content = bytearray((full_bundle / "model.onnx").read_bytes())
    content[-3] ^= 64
    (full_bundle / "model.onnx").write_bytes(content)
    checks = answer(full_bundle, "--selfcheck", "--variant", "all", status=1)["selfcheck"]
    assert [check["status"] for check in checks] == ["failed", "passed"]
    assert "model.onnx has changed" in checks[0]["failures"][0]
    (full_bundle / "selfcheck.npz").unlink()
    checks = answer(full_bundle, "--selfcheck", "--variant", "all", status=1)["selfcheck"]
    assert [check["failures"][-1] for check in checks] == ["selfcheck.npz is missing"] * 2


def test_an_edited_manifest_is_refused(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"relative_error": 0.0001', '"relative_error": 0.5'))
    done = run(bundle, "--selfcheck")
    assert (done.returncode, "was edited" in done.stderr) == (1, True)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd"])
def test_a_file_outside_is_not_opened(bundle: Path, name: str) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    values["variants"][0]["file"] = name
    values["seal"] = seal_of(values)
    (bundle / "manifest.json").write_text(json.dumps(values))
    done = run(bundle, "--bench")
    assert (done.returncode, "is not a file of this bundle" in done.stderr) == (1, True)


def test_another_bundle_can_be_named(bundle: Path, bad_bundle: Path) -> None:
    assert run(bundle, "--selfcheck").returncode == 0
    assert run(bundle, "--selfcheck", "--bundle", bad_bundle).returncode == 1
