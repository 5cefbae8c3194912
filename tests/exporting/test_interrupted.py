"""A real export that is interrupted, whose disk fills up, or that is given the wrong images: a bundle or nothing."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from edgespa.api.bundles import export_bundle
from edgespa.bundle import verify_files
from edgespa.errors import ConfigError
from edgespa.exporting.bundle import ExportConfig
from edgespa.tasks.base import Base

SCALE = max(1, settings().max_examples // 100)


def export(folder: Path, output: Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgespa", "export", f"{folder / 'net.py'}:build", "--input-shape", "1,3,8,8"]
    command += ["--format", "onnx", "--output", str(output)]
    environment = {**os.environ, "EDGESPA_CACHE": f"{output.parent}-cache"}  # of its own: nothing is made already
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so does all that comes of it, these tests among it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.more
def test_ctrl_c_at_any_time(toy_folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    (tmp_path / "first").mkdir()
    out, err = export(toy_folder, tmp_path / "first" / "out").communicate()
    whole = time.monotonic() - began
    assert "bundle: " in out, err
    draw, count = random.Random(4), 4
    # The first is there before anything is written, however unlike the first run's the speed of the others is.
    moments = [0.1, *(draw.uniform(0.3, 1.1) for _ in range(count * SCALE))]
    interrupted = 0
    for number, moment in enumerate(moments):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        process = export(toy_folder, folder / "out", start_new_session=True, preexec_fn=heed_interrupts)
        time.sleep(whole * moment)
        # As a terminal does: to the workers too. And as a service manager does.
        os.killpg(process.pid, (signal.SIGINT, signal.SIGTERM)[number % 2])
        out, err = process.communicate()
        left = os.listdir(folder)
        if left:
            assert left == ["out"], (number, left, err)
            verify_files(folder / "out")
        else:
            interrupted += 1
            assert process.returncode in (130, 143, -signal.SIGINT, -signal.SIGTERM, 1), (process.returncode, err)
            assert "internal error" not in err
    assert interrupted


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 3000])
def test_a_full_disk_is_told_and_leaves_nothing(toy_folder: Path, tmp_path: Path, limit: int) -> None:
    (tmp_path / "here").mkdir()

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    process = export(toy_folder, tmp_path / "here" / "out", preexec_fn=full)
    out, err = process.communicate()
    assert process.returncode == 1, (out, err)
    assert os.listdir(tmp_path / "here") == []
    assert "Error: " in err
    assert "internal error" not in err
    assert "Traceback" not in err


def test_calibration_images_that_say_nothing_are_refused(toy_base: Base, tmp_path: Path) -> None:
    """The proof of int8 is on the same images, where there are no others: it would pass."""
    random = np.random.default_rng(0)
    flat = np.broadcast_to(random.integers(0, 256, (12, 1, 1, 3)), (12, 8, 8, 3)).astype(np.uint8)
    one = random.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    for name, images in (("black", np.zeros_like(flat)), ("flat", flat), ("all_the_same", np.repeat(one, 12, 0))):
        np.savez(tmp_path / f"{name}.npz", images=images)
        with pytest.raises(ConfigError, match="are all the same, or of a single colour"):
            export_bundle(
                toy_base.spec,
                tmp_path / "out",
                ExportConfig(formats=("onnx",), precisions=("int8",)),
                input_shape=(1, 3, 8, 8),
                calibration=str(tmp_path / f"{name}.npz"),
            )
        assert not (tmp_path / "out").exists()
