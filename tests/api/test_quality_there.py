"""`edgespa verify --device --eval-data`: a data set through a device's runtime, over a real sshd on loopback."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import edgespa as es
from edgespa.api import quality_there as module
from edgespa.bundle import open_bundle
from edgespa.cli import main
from edgespa.device.agent import answers
from edgespa.device.agent.protocol import AgentError
from edgespa.device.link.payload import Payload
from edgespa.device.measure.answering import Answering, Asked
from edgespa.errors import ConfigError, DeviceError

_spec = importlib.util.spec_from_file_location("tiny_quality", Path(__file__).parents[1] / "device" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
CLASSES = _tiny.CLASSES


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with _tiny.sshd_module.running_sshd() as running:
        yield running


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = _tiny.write_bundle(tmp_path_factory.mktemp("b") / "bundle", onnx=_tiny.onnx_bytes())
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 images of noise, of two sizes, in folders of classes; two of them the same picture, of different classes."""
    root = tmp_path_factory.mktemp("data") / "noise"
    random = np.random.default_rng(5)
    for number in range(70):
        folder = root / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        size = (8, 8) if number % 2 else (11, 9)
        pixels = np.zeros((8, 8, 3)) if number < 2 else random.integers(0, 256, (*size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 16 * 192)
    monkeypatch.setattr(module, "_PORTION", 3)
    monkeypatch.setenv("EDGESPA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def board(server: Any, tmp_path: Path) -> Path:
    profile: Path = server.profile(tmp_path / "board.toml", folder=str(tmp_path / "far"))
    return profile


def test_figures_are_those_of_the_host_to_the_last_digit(bundle: Path, data: Path, board: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = es.verify(
        bundle,
        device=str(board),
        eval_data=data,
        progress=lambda done, total, text: told.append(f"{done} of {total} {text}"),
    )
    there = found.there
    assert there is not None
    (row,) = there.rows
    whole = es.evaluate(bundle, eval_data=data, progress=False).details.subjects[0]
    assert row.values == row.here == dict(whole.values)
    assert 0 < row.values["accuracy"] < 1
    assert (there.count, there.taken_over, row.error, row.arithmetic) == (70, 0, None, "fp32")
    assert row.runtime.startswith("onnxruntime ")
    assert [check.status for check in found.variants] == ["passed"]
    assert "3 of 5 board: batches" in told
    # Pixels were sent, in a byte each, and stay there by their digest: another time none is sent.
    assert 70 * 192 * 0.5 < there.bytes_sent < 70 * 192 * 1.4
    again = es.verify(bundle, device=str(board), eval_data=data, progress=False).there
    assert again is not None
    assert (again.bytes_sent, again.rows[0].values) == (0, row.values)
    assert list((tmp_path / "far/evaluations").iterdir()) == []
    assert list((tmp_path / "cache/evaluations").iterdir()) == []


def test_as_it_is_typed(bundle: Path, data: Path, board: Path) -> None:
    line = ["verify", str(bundle), "--device", str(board), "--eval-data", str(data), "--eval-limit", "30"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert "30 samples of " in result.stdout
    figures = [
        each.split()[-1]
        for each in result.stdout.splitlines()
        if each.split()[:2] == ["onnx-fp32", "board"] or each.split()[:1] == ["here"]
    ]
    assert len(figures) == 2
    assert figures[0] == figures[1]
    assert max(map(len, result.stdout.replace(str(bundle), "b").splitlines())) <= 80
    document = json.loads(CliRunner().invoke(main, [*line, "--json"]).stdout)
    from edgespa.api.documents import problems

    assert problems("verify", document) == []
    assert document["there"]["count"] == 30
    # Without data it is the self-check, there.
    result = CliRunner().invoke(main, line[:4])
    assert result.exit_code == 0, result.output
    assert "onnx-fp32   passed" in result.stdout


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(bundle: Path, data: Path, board: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom edgespa.api import quality_there as module\nfrom edgespa.cli import main\n"
        "module._BATCH_BYTES, module._PORTION = 16 * 192, 1\nmain(sys.argv[1:])\n"
    )
    line = ["verify", str(bundle), "--device", str(board), "--eval-data", str(data), "--json"]
    process = subprocess.Popen(
        [sys.executable, str(script), *line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    kept = tmp_path / "cache/evaluations"
    end = time.monotonic() + 90
    while time.monotonic() < end:
        rows = sum(len(path.read_text().splitlines()) for path in kept.glob("*.jsonl")) if kept.is_dir() else 0
        if rows >= 2:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert rows >= 2
    done = subprocess.run([sys.executable, str(script), *line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)["there"]
    assert 1 <= there["taken_over"] < 5
    whole = es.evaluate(bundle, eval_data=data, progress=False).details.subjects[0]
    assert there["rows"][0]["values"] == there["rows"][0]["here"] == dict(whole.values)


@pytest.mark.more
@pytest.mark.slow
def test_cut_connections_do_not_end_it(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespa.device.measure.answering._WAIT_S", 0.1)
    with _tiny.sshd_module.running_sshd() as own:
        profile = own.profile(tmp_path / "cut.toml", folder=str(tmp_path / "far"))
        cuts: list[int] = []

        def told(done: float, total: float | None, text: str) -> None:
            if text == "cut: batches" and done == 3 and not cuts:
                cuts.append(int(done))
                threading.Timer(0.3, own.cut).start()

        there = es.verify(bundle, device=str(profile), eval_data=data, progress=told).there
    assert there is not None
    assert cuts == [3]
    assert there.rows[0].values == there.rows[0].here


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense\n",
        b'{"arrays": []}\n',
        b'{"arrays": [["<f4", [1, 3]]]}\n' + bytes(12),
        b'{"arrays": [["<f4", [2, 3]], ["<f4", [2, 3]]]}\n' + bytes(48),
        b'{"arrays": [["|O", [2, 3]]]}\n' + bytes(48),
        b'{"arrays": [["<f4", [2, 99999999999]]]}\n',
        b'{"arrays": [["<f4", [2, 3]]]}\n' + bytes(20),
    ],
)
def test_what_a_device_says_is_not_trusted(bundle: Path, content: bytes) -> None:
    batch = module.Batch(0, torch.zeros(2, 3, 8, 8), None, Payload(Path("b"), "0" * 64, 1))
    with open_bundle(bundle) as opened:
        work = object.__new__(module._Work)
        work.opened = opened
        good = work._outputs(b'{"arrays": [["<f4", [2, 3]]]}\n' + bytes(24), batch)
        assert tuple(good.shape) == (2, 3)
        with pytest.raises(DeviceError, match=r"odd|it gives"):
            work._outputs(content, batch)


class _Says:
    """A device that answers as it is told."""

    where = "it"

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def ask(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"piece": "!", "sizes_bytes": [3]},
        {"piece": _packed(b"abc"), "sizes_bytes": [30]},
        {"piece": _packed(b"abc"), "sizes_bytes": [3, 3]},
        {"piece": _packed(b"abc"), "sizes_bytes": [0]},
        {"piece": _packed(b""), "sizes_bytes": [3]},
        {"piece": _packed(b"abc"), "sizes_bytes": "three"},
    ],
)
def test_answers_are_bounded(answer: dict[str, Any]) -> None:
    class Site:
        connection = _Says(answer)

    answering = Answering(Site(), "0", "/x")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"odd|answers of"):
        answering.fetch("folder", Asked("v", "r", None, 1), [0], 20)
    Site.connection = _Says({"piece": _packed(b"abc"), "sizes_bytes": [3]})
    assert answering.fetch("folder", Asked("v", "r", None, 1), [0], 20) == [b"abc"]


@pytest.mark.more
@pytest.mark.slow
def test_other_inputs_and_a_full_device_keep_nothing(
    bundle: Path, data: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT_BYTES", 0)
    there = es.verify(bundle, device=str(board), eval_data=data, progress=False).there
    assert there is not None
    assert there.rows[0].values == there.rows[0].here
    names = {path.name for path in (tmp_path / "far/cache").iterdir()}
    own = {path.name for path in (tmp_path / "far/bundles").rglob("*")}
    assert len(names) <= len(own)  # the files of the bundle alone
    monkeypatch.setattr(module, "_pixels", lambda array, how: None)  # of what cannot be said in pixels: the inputs
    other = es.verify(bundle, device=str(board), eval_data=data, progress=False).there
    assert other is not None
    assert other.rows[0].values == there.rows[0].values
    assert other.bytes_sent > 2 * there.bytes_sent


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eval_data": "d"}, "give a device"),
        ({"device": "local", "run": False}, "are of this machine"),
        ({"device": "local", "by_layer": True}, "are of this machine"),
        ({"device": "pi-44b"}, "there is no device"),
    ],
)
def test_what_does_not_go_together(bundle: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DeviceError)) as caught:
        es.verify(bundle, progress=False, **given)
    assert words in f"{caught.value} {caught.value.hint}"


def test_the_agent_gives_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for name in ("../secret", "/etc/passwd"):
        with pytest.raises(AgentError, match="does not lie below"):
            answers.answers_give(tmp_path, {"files": [name], "offset": 0}, None)  # type: ignore[arg-type]
        with pytest.raises(AgentError, match="does not lie below"):
            answers.answers_forget(tmp_path, {"folder": name, "digests": []}, None)  # type: ignore[arg-type]
