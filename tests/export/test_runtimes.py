"""Every TFLite file in every runtime that there is: each runs the bundle's own run.py. ``make runtimes`` makes them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import Compaction
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.export.bundle import export
from edgespa.export.config import PRECISIONS, ExportConfig, Origin
from edgespa.graph.program import Program

pytestmark = [pytest.mark.usefixtures("converters"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2] / ".runtimes"
HOW = Preprocess(height=16, width=16, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def images(toy_folder: Path) -> Prepared:
    data: ImageData = load_data(str(toy_folder / "colours.npz"))
    return prepare(data, HOW)


@pytest.fixture(scope="module", params=["Residual", "Gated", "Attention", "pixels"])
def bundle(
    request: pytest.FixtureRequest,
    program_of: Callable[[str], Program],
    images: Prepared,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """All precisions of a network; ``pixels``: one that normalises by itself."""
    pixels = request.param == "pixels"
    config = ExportConfig(
        formats=("tflite",),
        precisions=PRECISIONS,
        calibration_images=32,
        int8_slowdown=1000.0,
        preprocess="in-graph" if pixels else "outside",
    )
    cost = Compaction(parameters=1, macs=1, base_parameters=1, base_macs=1)
    origin = Origin("toy", BaseEntry(spec="net.py:build", digest="sha256:0"), cost, HOW, ("a", "b", "c", "d"))
    output = tmp_path_factory.mktemp("bundle") / "b"
    manifest = export(program_of("Residual" if pixels else request.param), origin, config, output, calibration=images)
    assert [variant.precision for variant in manifest.variants] == list(PRECISIONS)
    return output


@pytest.mark.parametrize("runtime", ["tflite-runtime", "tensorflow"])
def test_all_runtimes_agree(bundle: Path, runtime: str) -> None:
    python = ROOT / runtime / "bin" / "python"
    if not python.exists():
        pytest.skip(f"RUNTIME ABSENT: {runtime}; make runtimes")
    command = [str(python), str(bundle / "run.py"), "--selfcheck", "--variant", "all", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout.splitlines()[-1])["selfcheck"]
    assert len(checks) == len(PRECISIONS)
    for check in checks:
        assert check["status"] == "passed", check
        assert check["runtime"].startswith(runtime.replace("-", "_"))
