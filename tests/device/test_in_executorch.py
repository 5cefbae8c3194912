"""ExecuTorch's files as the runner opens them, with a runtime in place of the package, which few have."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgespa.device.agent import probe
from edgespa.device.runner.bundle import RunnerError
from edgespa.device.runner.in_executorch import ExecuTorchModel
from edgespa.device.runner.models import infer, open_model
from edgespa.device.runner.runtimes import RUNTIMES, is_there
from edgespa.errors import ConfigError


class Runtime:
    """Two inputs, two outputs: the second input twice, and the sum of the first."""

    __name__ = "executorch.extension.pybindings._C"
    Verification = SimpleNamespace(InternalConsistency="checked")

    def __init__(self) -> None:
        self.threads, self.loaded, self.names, self.words = 4, [], ["forward"], b""

    def _threadpool_get_thread_count(self) -> int:
        return self.threads

    def _unsafe_reset_threadpool(self, count: int) -> None:
        self.threads = count

    def _load_for_executorch(self, path: str, program_verification: str) -> Any:
        assert program_verification == "checked"
        if self.words:
            os.write(2, self.words)
            raise RuntimeError("0x23")
        self.loaded.append(self.threads)
        meta = SimpleNamespace(num_inputs=lambda: 2, num_outputs=lambda: 2)
        return SimpleNamespace(
            method_names=lambda: self.names,
            method_meta=lambda name: meta,
            forward=lambda feed: [feed[1] * 2, feed[0].sum(1, keepdim=True)],
        )


def spec(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "layout": "other", "shape": list(shape)}


VARIANT = {
    "name": "executorch-fp32", "file": "model.pte", "format": "executorch", "preprocess": None, "parts": [],
    "inputs": [spec("in0", 1, 3), spec("in1", 1, 2)], "outputs": [spec("out0", 1, 2), spec("out1", 1, 1)],
}  # fmt: skip


def opened(folder: Path, runtime: Any, threads: int = 1, **other: Any) -> Any:
    (folder / "model.pte").touch()
    return open_model(folder, {**VARIANT, **other}, threads, runtime)


def test_inputs_and_outputs_go_by_their_numbers(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 2), np.float32)
    doubled, sums = infer(opened(tmp_path, Runtime()), [first, second])
    np.testing.assert_array_equal(doubled, second * 2)
    np.testing.assert_array_equal(sums, [[3], [12]])
    turned = {"inputs": VARIANT["inputs"][::-1], "outputs": VARIANT["outputs"][::-1]}
    sums, doubled = infer(opened(tmp_path, Runtime(), **turned), [second, first])
    np.testing.assert_array_equal(doubled, second * 2)
    np.testing.assert_array_equal(sums, [[3], [12]])


def test_what_goes_in_is_a_copy(tmp_path: Path) -> None:
    model, array = opened(tmp_path, Runtime()), np.ones((1, 3), np.float32)
    array.flags.writeable = False
    feed = model.feed([array, np.ones((1, 2), np.float64)])
    feed[0][0, 0] = 5
    assert array[0, 0] == 1
    assert [each.dtype for each in feed] == [torch.float32, torch.float32]


def test_threads_are_those_of_the_process(tmp_path: Path) -> None:
    """A file that was loaded with others is loaded again before it runs: its threads are gone."""
    runtime = Runtime()
    inputs = [np.ones((1, 3), np.float32), np.ones((1, 2), np.float32)]
    one = opened(tmp_path, runtime)
    infer(one, inputs)
    infer(one, inputs)
    assert runtime.loaded == [1]
    two = opened(tmp_path, runtime, threads=2)
    assert runtime.loaded == [1, 2]
    infer(two, inputs)
    assert runtime.loaded == [1, 2]
    infer(one, inputs)
    assert runtime.loaded == [1, 2, 1]
    assert runtime.threads == 1
    infer(two, inputs)
    assert runtime.loaded == [1, 2, 1, 2]
    third = opened(tmp_path, runtime, threads=2)
    infer(third, inputs)
    infer(two, inputs)  # the same number, and the same threads
    assert runtime.loaded == [1, 2, 1, 2, 2]
    infer(one, inputs)
    infer(third, inputs)  # the same number, and others than it was loaded with
    infer(two, inputs)
    assert runtime.loaded == [1, 2, 1, 2, 2, 1, 2, 2]
    runtime.threads = 7  # by somebody else in this process
    infer(two, inputs)
    assert runtime.loaded[-2:] == [2, 2]
    assert (len(runtime.loaded), runtime.threads) == (9, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arithmetic": "fp16"}, "executorch has no arithmetic fp16"),
        ({"inputs": [spec("in0", 1, 3), spec("image", 1, 2)]}, "model.pte has no image"),
        ({"inputs": [spec("in0", 1, 3), spec("in2", 1, 2)]}, "model.pte has no in2"),
        ({"inputs": [spec("in0", 1, 3)]}, "takes 2 inputs, and the manifest names others"),
        ({"inputs": [spec("in0", 1, 3), spec("in0", 1, 3)]}, "takes 2 inputs, and the manifest names others"),
        ({"outputs": [spec("out7", 1, 2)]}, "model.pte has no out7"),
        ({"outputs": [spec("in0", 1, 2)]}, "model.pte has no in0"),
    ],
)
def test_a_manifest_that_says_something_else(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=words):
        opened(tmp_path, Runtime(), **change)


def test_what_is_wrong_with_a_file_is_in_the_error_and_not_on_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = Runtime()
    runtime.words = b"[program.cpp:100] first\n[program.cpp:154] Program identifier 'help' != expected 'ET12'\n"
    with pytest.raises(RunnerError, match=r"cannot load model\.pte: Program identifier 'help' != expected 'ET12'$"):
        opened(tmp_path, runtime)
    assert capfd.readouterr().err == ""
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"
    silent = Runtime()
    silent.names = ["encode", "decode"]
    with pytest.raises(RunnerError, match="it has no forward, or more than that"):
        opened(tmp_path, silent)


def test_it_computes_in_float32_on_the_cpu(tmp_path: Path) -> None:
    model = opened(tmp_path, Runtime(), arithmetic="fp32")
    assert (model.arithmetic(), model.provider(), model.others({"asimdhp", "avx512_fp16"})) == ("fp32", "CPU", [])
    assert isinstance(model, ExecuTorchModel)


@pytest.mark.parametrize("there", [(), ("executorch",), ("executorch", "executorch.extension.pybindings._C")])
def test_a_folder_of_that_name_is_no_runtime(there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] not in there:
            if "." in name:
                raise ModuleNotFoundError(name)
            return None
        return SimpleNamespace(name=name) if name in there else None

    monkeypatch.setattr("importlib.util.find_spec", find)
    (own,) = (each for each in RUNTIMES if each.name == "executorch")
    assert is_there(own) == (len(there) == 2)
    assert probe.is_there("executorch", find) == (len(there) == 2)


def test_it_is_not_sent_to_devices() -> None:
    from edgespa.device.provision.wheels import _asked

    for text in ("executorch", "ExecuTorch==1.5.1"):
        with pytest.raises(ConfigError, match="executorch is not sent to devices: its package needs torch") as caught:
            _asked([text])
        assert "install torch for CPUs and executorch in a Python there" in str(caught.value.hint)
