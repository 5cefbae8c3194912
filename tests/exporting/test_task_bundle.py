"""Many tasks on one base: what a device makes of base, task file, recipe and graph is the task's program."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction, Manifest, verify_files
from edgespa.config import Preprocess
from edgespa.data import ImageData
from edgespa.device import runner
from edgespa.exporting import recipe as recipe_module
from edgespa.exporting.config import Origin
from edgespa.exporting.converter import Form
from edgespa.exporting.recipe import LIMIT, TASK, Made, base_file, write_recipe
from edgespa.exporting.said import read_said
from edgespa.exporting.skeleton import skeleton
from edgespa.exporting.task_bundle import write_task_bundle
from edgespa.models.interface import in_float32, with_plain_outputs
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

QUICK: dict[str, Any] = {"rank": 3, "density": 0.5, "epochs": 1, "batch_size": 32, "prune_steps": 2, "round_to": 1}
SPLOPA = {"adapter": "splopa", "rank": None}
KINDS: Mapping[str, dict[str, Any]] = {
    "splora": {},
    "splora on every tap": {"kernel": "full"},
    "splora as products": {"rank": 12, "density": 0.25},
    "lora": {"adapter": "lora"},
    "lora as products": {"adapter": "lora", "rank": 12, "density": 0.25},
    "mixing": {"adapter": "mixing", "rank": 2, "density": 0.8},
    "mixing as changes": {"adapter": "mixing", "rank": 12, "density": 0.25},
    "ssf": {"adapter": "ssf", "rank": None},
    "repadapter": {"adapter": "repadapter", "rank": 4, "adapter_settings": {"groups": 2}},
    "repadapter in one group": {"adapter": "repadapter", "rank": 2, "adapter_settings": {"groups": 1}},
    "splopa": {**SPLOPA, "adapter_settings": {"block": 4, "prototypes": 2}},
    "splopa on every tap": {**SPLOPA, "adapter_settings": {"block": 8, "prototypes": 2}, "kernel": "full"},
    "splopa with masks": {**SPLOPA, "adapter_settings": {"block": 4, "prototypes": 2, "mask": "magnitude"}},
    "convpass": {"adapter": "convpass", "rank": None, "adapter_settings": {"dim": 4}},
    "full": {"adapter": "full", "rank": None},
    "full with norms": {"adapter": "full", "rank": None, "norms": "add"},
    "splora with norms": {"norms": "add"},
}


@pytest.fixture(scope="module")
def make(toy_base: Base, toy_data: ImageData, toy_preprocess: Preprocess, toy_folder: Path) -> Callable[..., Task]:
    """A task on the toy network whose adapters are far from where they began."""

    def build(**changes: Any) -> Task:
        values = {key: value for key, value in {**QUICK, "lr": 0.2, **changes}.items() if value is not None}
        return adapt(toy_base, toy_data, toy_preprocess, AdaptConfig.parse(values, "test"), toy_folder)

    return build


def written(folder: Path, task: Task, base: Base) -> tuple[Made, dict[str, np.ndarray], Any]:
    """The recipe of a task in a folder, what follows from it, and the program."""
    folder.mkdir(exist_ok=True)
    content = base_file(base)
    (folder / runner.BASE).write_bytes(content)
    (folder / TASK).write_bytes(gzip.compress(task.to_bytes()))
    fit = task.fit(base)
    program = with_plain_outputs(in_float32(task.program(fit)))
    sha256 = hashlib.sha256(content).hexdigest()
    made = write_recipe(folder, task, fit, program, tuple(program.state()), sha256, len(content))
    variant = {"name": "onnx-fp32", "weights": made.weights.model_dump()}
    return made, runner.materialise(folder, variant), program


def assert_same(found: Mapping[str, np.ndarray], program: Any) -> None:
    state = program.state()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        wanted = tensor.numpy()
        assert found[name].shape == wanted.shape, name
        assert found[name].dtype == wanted.dtype, name
        assert np.abs(found[name] - wanted).max(initial=0) <= LIMIT * np.abs(wanted).max(initial=0), name


@pytest.mark.law(2)
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_makes_what_torch_merges(toy_base: Base, make: Callable[..., Task], tmp_path: Path, kind: str) -> None:
    task = make(**KINDS[kind])
    # Vacuous unless channels went and adapters moved the weights.
    assert any(not mask.all() for mask in task.kept.values())
    assert any("up" not in factors for factors in task.adapters.values()) or "as products" not in kind
    for store in ("fp32", "fp16", "int8") if task.adapters else ("fp32",):
        made, found, program = written(tmp_path / store, task.stored_as(store), toy_base)
        assert made.whole == ()
        assert made.error <= LIMIT
        assert_same(found, program)
    sliced = {name: t for name, t in toy_base.program.state().items() if name in task.adapters}
    assert all(not np.array_equal(found[name], t.numpy()) for name, t in sliced.items())


def test_slices_of_a_base_are_exact_and_cost_next_to_nothing(toy_base: Base, toy_folder: Path, tmp_path: Path) -> None:
    task = prune(toy_base, PruneConfig(density=0.5, round_to=1), toy_folder)
    made, found, program = written(tmp_path, task, toy_base)
    assert (made.whole, made.error) == ((), 0.0)
    for name, tensor in program.state().items():
        assert np.array_equal(found[name], tensor.numpy()), name
    assert (tmp_path / made.weights.recipe).stat().st_size < 600


def test_what_has_no_words_in_a_recipe_is_stored_whole(
    toy_base: Base, make: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    monkeypatch.setattr(recipe_module, "_change", lambda adapter: None)
    made, found, program = written(tmp_path, task, toy_base)
    assert set(made.whole) == set(task.adapters)
    assert made.weights.rest == "rest.safetensors"
    assert_same(found, program)


def test_what_a_recipe_makes_wrong_is_stored_whole(
    toy_base: Base, make: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make()
    monkeypatch.setattr(
        recipe_module, "_change", lambda adapter: {"kind": "low-rank", "kernel": "centre", "scale": 1.1}
    )
    made, found, program = written(tmp_path, task, toy_base)
    assert set(made.whole) == set(task.adapters)
    assert_same(found, program)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_bases_of_other_types(toy_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    (tmp_path / "other.py").write_text(
        (toy_folder / "net.py").read_text() + f"\n\ndef cast():\n    return build().to({dtype})\n"
    )
    base = Base.open(f"{tmp_path / 'other.py'}:cast", (1, 3, 8, 8))
    task = prune(base, PruneConfig(density=0.5), tmp_path)
    made, found, program = written(tmp_path / "out", task, base)
    assert made.whole == ()
    assert_same(found, program)


def bundle_of(task: Task, base: Base, folder: Path) -> tuple[Manifest, Path]:
    path, file = folder / "colours.spa", folder / "the-base"
    task.save(path)
    file.write_bytes(base_file(base))
    fit = task.fit(base)
    figures = task.header.figures
    origin = Origin(
        task="colours",
        base=BaseEntry(spec="net.py:build", digest=base.digest),
        compaction=Compaction(
            parameters=figures.parameters,
            macs=figures.macs,
            base_parameters=figures.base_parameters,
            base_macs=figures.base_macs,
        ),
        preprocess=task.header.preprocess,
        classes=task.header.classes,
    )
    manifest, _ = write_task_bundle(path, task, fit, file, task.program(fit), origin, folder / "bundle")
    (folder / "bundle" / runner.BASE).symlink_to(file)
    return manifest, folder / "bundle"


@pytest.fixture(scope="module")
def bundle(
    toy_base: Base, make: Callable[..., Task], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Manifest, Path]:
    return bundle_of(make(), toy_base, tmp_path_factory.mktemp("task-bundle"))


def run(folder: Path, *options: str) -> Any:
    command = [sys.executable, "-I", str(folder / "run.py"), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_the_bundle_checks_itself_with_nothing_but_numpy_and_a_runtime(bundle: tuple[Manifest, Path]) -> None:
    manifest, folder = bundle
    (check,) = run(folder, "--selfcheck")["selfcheck"]
    assert check["status"] == "passed"
    assert check["relative_error"] <= 1e-5
    assert check["count"] == 8
    variant = manifest.variant("onnx-fp32")
    assert variant.weights is not None
    listed = {entry.path: entry.size_bytes for entry in manifest.files}
    assert runner.BASE not in listed
    # Nothing of it is the base: graph, recipe and recorded outputs of this network together are below 4 KiB.
    assert listed["model.onnx.gz"] + listed["recipe.json.gz"] + listed["selfcheck.npz"] < 4096


def test_it_is_a_bundle_like_any_other(bundle: tuple[Manifest, Path]) -> None:
    manifest, folder = bundle
    (folder / runner.BASE).rename(folder.parent / "aside")
    try:
        assert verify_files(folder) == manifest
        (check,) = run(folder, "--selfcheck")["selfcheck"]
        assert check["status"] == "failed"
        assert "base.safetensors, the base that the weights are made of, is missing" in check["failures"]
        assert "base.safetensors" in run(folder, "--bench")
    finally:
        (folder.parent / "aside").rename(folder / runner.BASE)
    measured = run(folder, "--bench", "--runs", "10")
    assert measured["runs"] == 10


def test_it_says_what_it_is(bundle: tuple[Manifest, Path]) -> None:
    manifest, folder = bundle
    said = read_said(folder / manifest.variants[0].file)
    assert said["task"] == manifest.task
    assert said["base_digest"] == manifest.base.digest


def test_another_base_is_noticed(bundle: tuple[Manifest, Path], tmp_path: Path) -> None:
    _, folder = bundle
    content = bytearray((folder / runner.BASE).read_bytes())
    content[-1] ^= 1
    own = folder / runner.BASE
    target = own.readlink()
    own.unlink()
    own.write_bytes(content)
    try:
        (check,) = run(folder, "--selfcheck")["selfcheck"]
        assert check["failures"] == ["base.safetensors is not the base that this task was made on"]
    finally:
        own.unlink()
        own.symlink_to(target)


def test_no_weight_is_left_in_the_graph_and_its_names_are_the_programs(
    toy_base: Base, make: Callable[..., Task]
) -> None:
    import onnx

    task = make()
    program = with_plain_outputs(task.program(toy_base))
    content, names = skeleton(program, Form())
    assert set(names) == set(program.state())
    model = onnx.load_from_string(content)
    inside = [each for each in model.graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(int(np.prod(each.dims)) for each in inside) < 64
    assert [each.name for each in model.graph.input] == ["input"]


def test_an_older_opset(toy_base: Base, make: Callable[..., Task]) -> None:
    import onnx

    from edgespa.exporting.versions import target_of

    content, _ = skeleton(with_plain_outputs(make().program(toy_base)), Form(target_of("1.12")))
    model = onnx.load_from_string(content)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


RUNTIMES = Path(__file__).resolve().parents[2] / ".runtimes"


@pytest.mark.parametrize(
    ("runtime", "said"), [("onnxruntime-1.19", ""), ("onnxruntime-1.10", "it takes 1.12 or newer; ship the bundle")]
)
def test_on_python_3_8_with_old_runtimes(bundle: tuple[Manifest, Path], runtime: str, said: str) -> None:
    python = RUNTIMES / runtime / "bin" / "python"
    if not python.exists():
        pytest.skip(f"RUNTIME ABSENT: {runtime}; make runtimes")
    command = [str(python), str(bundle[1] / "run.py"), "--selfcheck", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (check,) = json.loads(done.stdout)["selfcheck"]
    assert check["status"] == ("failed" if said else "passed"), check
    assert said in " ".join(check["failures"])


def test_noise_is_the_same_everywhere() -> None:
    array = runner.noise(0, (2, 3))
    assert array.dtype == np.float32
    again = hashlib.shake_256(b"edgespa noise 0").digest(6)
    assert np.array_equal(
        array.ravel(), (np.frombuffer(again, np.uint8).astype("f") - np.float32(127.5)) / np.float32(73.9)
    )
    many = runner.noise(1, (1000, 100))
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01
