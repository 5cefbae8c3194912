r"""YOLO11n of ultralytics, from a random start, as docs/how-to/detection.md takes it.

    make zoo
    .venv/bin/pip install --no-deps --target FOLDER \
        ultralytics opencv-python-headless polars polars-runtime-32 ultralytics-thop
    PEER_PACKAGES=FOLDER EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 .venv/bin/python benchmarks/tasks/run.py yolo
    ... benchmarks/tasks/yolo.py BUNDLE      what run.py of the bundle says beside the package's own suppression

The package is under the AGPL: nothing of edgespa needs it, or is made of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "how-to" / "detection.md"
DATA = Path(os.environ.get("EDGESPA_DATA", ROOT.parent / "shared" / "data"))
sys.path[:0] = [str(ROOT), str(ROOT / ".zoo"), os.environ.get("PEER_PACKAGES", "")]


def _networks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("networks_of_the_zoo", HERE.parent / "zoo" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_networks().import_torchvision()
(_CODE,) = re.findall(r"```python\n(# yolo\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
exec(compile(_CODE, str(PAGE), "exec"))  # Yolo, the network, and Learn, its loss


def _place(row: tuple[float, ...]) -> tuple[float, ...]:
    """The surest first, then by class and place."""
    return (-row[4], row[5], *(round(each, 2) for each in row[:4]))


def compare(bundle: Path) -> dict[str, Any]:
    """Boxes that run.py prints for every photograph of the test split, beside those of the package.

    Both read the outputs of the bundle's fp32 ONNX file.
    """
    import numpy as np
    import torch

    from edgespa.device import runner

    nms = importlib.import_module("ultralytics.utils.nms")
    # torchvision's wheel has no operators beside torch of the CPU: the package's own suppression stands in for them.
    sys.modules["torchvision"].ops.nms = nms.TorchNMS.nms
    worst, boxes, differ = {"box": 0.0, "score": 0.0}, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(DATA / "bccd_voc.zip") as archive:
            names = [n for n in archive.namelist() if n.endswith(".jpg")]
            wanted = {w for n in archive.namelist() if n.endswith("test.txt") for w in archive.read(n).decode().split()}
            for name in names:
                if Path(name).stem in wanted:
                    (Path(folder) / Path(name).name).write_bytes(archive.read(name))
        command = [sys.executable, str(bundle / "run.py"), "--input", folder, "--json", "--score", "0.001"]
        command += ["--variant", "onnx-fp32"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        model = runner.Model(bundle, variant="onnx-fp32")
        for line in map(json.loads, lines):
            result = model(line["input"])
            raw = torch.from_numpy(result.outputs[0])[None].clone()
            (theirs,) = nms.non_max_suppression(raw, conf_thres=0.001, iou_thres=0.7, max_det=300)
            height, width = result.size
            scale = torch.tensor([width, height, width, height]) / SIDE  # noqa: F821
            theirs[:, :4].clamp_(0, SIDE)  # noqa: F821  # as the package does with what it hands out
            theirs[:, :4] *= scale
            # Boxes of one score have no order.
            rows = [sorted(map(tuple, theirs.tolist()), key=_place)]
            rows.append(sorted(((*b["box"], b["score"], b["index"]) for b in line["boxes"]), key=_place))
            boxes += len(theirs)
            if len(rows[0]) != len(rows[1]) or [row[5] for row in rows[0]] != [row[5] for row in rows[1]]:
                differ += 1
            elif rows[0]:
                apart = np.abs(np.array(rows[0]) - np.array(rows[1])).max(0)
                worst = {"box": max(worst["box"], *apart[:4]), "score": max(worst["score"], apart[4])}
    return {"photographs": len(lines), "boxes": boxes, "photographs_that_differ": differ, "worst": worst}


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1])), indent=1))
