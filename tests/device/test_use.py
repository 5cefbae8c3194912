"""A program that imports run.py: what it may give, and what happens when the version in use changes under it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgespa.bundle import open_bundle
from edgespa.device import runner
from edgespa.device.board import load_device
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.shipment.ship import Shipment, ship
from edgespa.device.shipment.status import device_status

Maker = Callable[..., Path]


@pytest.fixture
def model_bytes(bundle: Path) -> bytes:
    return (bundle / "model.onnx").read_bytes()


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (17, 9, 3), dtype=np.uint8)).save(path)
    return path


def link(folder: Path, where: Path) -> None:
    """As a shipment does it: one rename."""
    beside = where.with_name("next")
    beside.symlink_to(folder)
    beside.replace(where)


def best(result: runner.Result) -> str:
    return str(result["top"][0]["label"])


def test_a_path_a_picture_and_pixels_are_the_same(bundle: Path, photograph: Path) -> None:
    model = runner.Model(bundle)
    assert (model.size, model.labels, model.learns, model.variant) == (
        (8, 8),
        ["round", "square", "star"],
        "classes",
        "onnx-fp32",
    )
    opened = Image.open(photograph)
    pixels = np.asarray(opened)
    wanted = model(str(photograph)).answer
    for image in (photograph, opened, pixels, [runner.preprocess(photograph, model._opened.how)]):
        assert model(image).answer == wanted
    assert model(photograph).size == (17, 9)
    assert model(pixels[:, :, :1]).answer == model(pixels[:, :, 0]).answer != wanted
    assert len(runner.Model(bundle, top=1)(photograph)["top"]) == 1
    assert model(photograph).outputs[0].shape == (3,)
    assert model.draw(photograph, model(photograph)).size == (9, 17)
    json.dumps(wanted, allow_nan=False)


def test_a_photograph_that_lies_on_its_side(bundle: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    model = runner.Model(bundle)
    assert model(tmp_path / "turned.png").answer == model(image.rotate(-90, expand=True)).answer
    assert model(tmp_path / "turned.png").size == (12, 8)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 2), np.uint8), "is no image"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (np.zeros((1, 3, 8, 8), np.uint8), "is no image"),
        (None, "a NoneType is no image"),
        ("nothing.png", "cannot read the image nothing.png"),
        ([], "the program has 1 inputs"),
        ([np.zeros((3, 8, 9), np.float32)], "input image is float32 of batch x 3 x 8 x 8"),
        ([np.zeros((2, 3, 8, 8), np.float32)], "2 samples"),
    ],
    ids=str,
)
def test_what_is_no_image_is_told(bundle: Path, image: Any, words: str) -> None:
    model = runner.Model(bundle)
    with pytest.raises(runner.RunnerError, match=words):
        model(image)
    assert len(model(np.zeros((8, 8, 3), np.uint8))["top"]) == 3


def test_a_folder_that_is_none_is_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(runner.RunnerError, match="cannot read"):
        runner.Model(tmp_path / "nowhere")
    with pytest.raises(runner.RunnerError, match="there is no variant 'x'; there are: onnx-fp32"):
        runner.Model(bundle, variant="x")
    (bundle / "model.onnx").write_bytes(b"cut off")
    with pytest.raises(runner.RunnerError, match=r"model\.onnx has changed"):
        runner.Model(bundle)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "far" / "edgespa"


@pytest.fixture
def near(home: Path) -> Iterator[Connection]:
    local = load_device("local")
    local = local.model_copy(update={"connection": local.connection.model_copy(update={"folder": str(home)})})
    with connect(local) as connection:
        yield connection


def send(near: Connection, bundle: Path, keep: int = 3) -> str:
    with open_bundle(bundle) as opened:
        return ship(near, Shipment.of(opened, task="shapes"), lambda _: [sys.executable, "-I"], keep=keep).version


def test_a_new_version_while_a_loop_runs(
    near: Connection, home: Path, make_bundle: Maker, model_bytes: bytes, tmp_path: Path
) -> None:
    """No call fails, though the old version is removed at once; results are the new version's after the rename."""
    bundles = [
        make_bundle(tmp_path / f"v{i}", onnx=model_bytes, classes=[f"{i}{name}" for name in "abc"]) for i in range(3)
    ]
    send(near, bundles[0])
    model = runner.Model(home / "tasks" / "shapes" / "current")
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    seen: list[str] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.002):
            try:
                seen.append(best(model(image)))
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        for bundle in bundles[1:]:
            send(near, bundle, keep=1)
            assert best(model(image))[0] == bundle.name[1]
    finally:
        stop.set()
        thread.join()
    assert not failed
    versions = [label[0] for label in seen]
    assert versions == sorted(versions)
    assert set(versions) == {"0", "1", "2"}
    assert len({label[1] for label in seen}) == 1
    (task,) = device_status(near).tasks
    assert task.health == "ok"


def test_what_does_not_open_is_not_used_and_said_once(
    make_bundle: Maker, bundle: Path, bad_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = tmp_path / "current"
    link(bundle, current)
    model = runner.Model(current)
    image = np.zeros((8, 8, 3), np.uint8)
    wanted = model(image).answer
    broken = make_bundle(tmp_path / "broken", onnx=b"no model")
    edited = shutil.copytree(bundle, tmp_path / "edited")
    (edited / "manifest.json").write_text("{}")
    for target in (broken, tmp_path / "gone", edited):
        link(target, current)
        with caplog.at_level(logging.WARNING, logger="edgespa.run"):
            caplog.clear()
            for _ in range(3):
                assert model(image).answer == wanted
        assert len(caplog.records) == 1, target
        assert "the one before is" in caplog.text
        assert model.folder == bundle
    link(bad_bundle, current)  # its digests are right, its weights are others
    model(image)
    assert model.folder == bad_bundle
    link(bundle, current)
    assert model(image).answer == wanted
    assert model.folder == bundle
    current.unlink()
    assert model(image).answer == wanted


def test_a_folder_that_is_replaced_is_noticed(make_bundle: Maker, bundle: Path, model_bytes: bytes) -> None:
    model = runner.Model(bundle)
    image = np.zeros((8, 8, 3), np.uint8)
    assert best(model(image)) in ("round", "square", "star")
    shutil.rmtree(bundle)
    make_bundle(bundle, onnx=model_bytes, classes="xyz")
    assert best(model(image)) in "xyz"


def test_calls_from_several_threads_are_made_one_after_the_other(bundle: Path) -> None:
    model = runner.Model(bundle)
    images = np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), dtype=np.uint8)
    wanted = [model(image).answer for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert [result.answer for result in pool.map(model, list(images) * 10)] == wanted * 10


def test_a_look_costs_little(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two calls the manifest is not read."""
    model = runner.Model(bundle)
    monkeypatch.setattr(runner.Model, "_open", None)
    for _ in range(3):
        model(np.zeros((8, 8, 3), np.uint8))


def test_importing_leaves_nothing_in_the_version(bundle: Path, tmp_path: Path) -> None:
    """Also where Python keeps bytecode, as it does by default; a second import is as good as the first."""
    current = tmp_path / "current"
    current.symlink_to(bundle)
    before = sorted(path.name for path in bundle.iterdir())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import run, json\n"
        "import numpy as np\n"
        "assert 'PIL' not in sys.modules\n"
        "model = run.Model()\n"
        "print(json.dumps([str(model.folder), str(model._folder), model(np.zeros((9, 9, 3), np.uint8)).answer]))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for _ in range(2):
        command = [sys.executable, "-c", code, str(current)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        folder, given, answer = json.loads(done.stdout)
        assert (Path(folder), Path(given)) == (bundle, current)
        assert len(answer["top"]) == 3
        assert sorted(path.name for path in bundle.iterdir()) == before
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "other.pyc").touch()  # what is not ours is not touched
    subprocess.run([sys.executable, "-c", code, str(bundle)], check=True, env=environment, capture_output=True)
    assert [path.name for path in (bundle / "__pycache__").iterdir()] == ["other.pyc"]
