"""Every file in every runtime that there is: each runs the bundle's own run.py. ``make runtimes`` makes them."""

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
from edgespa.exporting import quantise
from edgespa.exporting.bundle import export
from edgespa.exporting.config import PRECISIONS, ExportConfig, Origin
from edgespa.graph.program import Program
from tests.device.test_exact_sums import overflows

pytestmark = [pytest.mark.usefixtures("converters", "converted_once"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2] / ".runtimes"
HOW = Preprocess(height=16, width=16, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
NETWORKS = ("Residual", *(pytest.param(name, marks=pytest.mark.more) for name in ("Gated", "Attention", "pixels")))
# The folder of a runtime, what run.py calls it, and what files are written for it.
RUNTIMES = {
    "tflite-runtime": ("tflite_runtime 2.14", {"formats": ("tflite",)}),
    "tensorflow": ("tensorflow 2.", {"formats": ("tflite",)}),
    "onnxruntime-1.19": ("onnxruntime 1.19", {"formats": ("onnx",), "onnx_runtime": "1.19"}),
    "onnxruntime-1.10": ("onnxruntime 1.10", {"formats": ("onnx",), "onnx_runtime": "1.10"}),
}
# Of each format the one that is least like the newest is tried by make test.
MARKS = {"tensorflow": pytest.mark.more, "onnxruntime-1.19": pytest.mark.more}

Bundle = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def images(toy_folder: Path) -> Prepared:
    data: ImageData = load_data(str(toy_folder / "colours.npz"))
    return prepare(data, HOW)


@pytest.fixture(scope="module")
def bundle(program_of: Callable[[str], Program], images: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All precisions of a network for a runtime; ``pixels``: one that normalises by itself."""
    made: dict[str, Path] = {}

    def make(network: str, runtime: str) -> Path:
        _, options = RUNTIMES[runtime]
        key = f"{network} {options}"
        if key not in made:
            pixels = network == "pixels"
            config = ExportConfig.model_validate(
                {
                    **options,
                    "precisions": PRECISIONS,
                    "calibration_images": 32,
                    "preprocess": "in-graph" if pixels else "outside",
                }
            )
            cost = Compaction(parameters=1, macs=1, base_parameters=1, base_macs=1)
            origin = Origin("toy", BaseEntry(spec="net.py:build", digest="sha256:0"), cost, HOW, ("a", "b", "c", "d"))
            output = tmp_path_factory.mktemp("bundle") / "b"
            program = program_of("Residual" if pixels else network)
            with pytest.MonkeyPatch.context() as patch:
                # All that is tried is faster: gates and what lies between layers are in int8 too.
                patch.setattr(quantise, "interleaved_ms", lambda *_: (1.0, 2.0))
                manifest = export(program, origin, config, output, calibration=images)
            missing = set(PRECISIONS) - {variant.precision for variant in manifest.variants}
            assert missing <= ({"fp16", "int8-weights"} if network == "Gated" else set())  # its layers are too small
            made[key] = output
        return made[key]

    return make


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("runtime", [pytest.param(each, marks=MARKS.get(each, ())) for each in RUNTIMES])
def test_all_runtimes_agree(bundle: Bundle, network: str, runtime: str) -> None:
    python = ROOT / runtime / "bin" / "python"
    if not python.exists():
        pytest.skip(f"RUNTIME ABSENT: {runtime}; make runtimes")
    runner = bundle(network, runtime) / "run.py"
    command = [str(python), str(runner), "--selfcheck", "--variant", "all", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    checks = json.loads(done.stdout.splitlines()[-1])["selfcheck"]
    assert len(checks) >= len(PRECISIONS) - 2, done.stdout + done.stderr
    # The oldest has no exact kernels for weights alone: on such a processor it is wrong, and says so.
    inexact = {"onnx-int8-weights"} if runtime == "onnxruntime-1.10" and overflows() else set()
    failed = {check["name"] for check in checks if check["status"] != "passed"}
    assert failed <= inexact, done.stdout + done.stderr
    assert done.returncode == (1 if failed else 0), done.stdout + done.stderr
    for check in checks:
        assert check["runtime"].startswith(RUNTIMES[runtime][0]), check
