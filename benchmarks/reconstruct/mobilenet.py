"""MobileNetV2 (ImageNet weights): agreement with its own unpruned decisions on JPEG-CIFAR images at 224 x 224."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import Row, Rows, table
from setting import Setting

from edgespa.config import Preprocess

PREPROCESS = Preprocess(height=224, width=224, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
MACS = (0.9, 0.75, 0.5)
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("asym-in-change, equal error, new weights", {"method": "asym-in-change", "allocation": "equal-error"}),
    ("asym-in-change, uniform, new weights", {"method": "asym-in-change"}),
    ("l1, global, old weights", {"method": "l1", "reweight": False}),
    ("l1, uniform, old weights", {"method": "l1", "allocation": "uniform", "reweight": False}),
    ("l1, uniform, new weights", {"method": "l1", "allocation": "uniform"}),
)
IMAGES = 256


def measure(data: Path, output: Path, results: Path) -> None:
    rows = Rows(results / "mobilenet.jsonl")
    images = f"{data}/cifar10_jpeg.zip"
    setting = Setting.of(
        f"{data}/models.py:mobilenet_v2", PREPROCESS, f"{images}:train", f"{images}:test", IMAGES, 0, (), 512
    )
    with torch.no_grad():
        own = [setting.base.program(x).argmax(1) for x, _ in setting.test.batches(32)]
    setting.test.labels = torch.cat(own)  # the unpruned network is right by definition
    for name, settings in VARIANTS:
        pruning = None
        for macs in MACS:
            key: Row = {"method": name, "macs": macs}
            if rows.find(key) is None:
                pruning = pruning or setting.pruning(**settings, budget="macs", round_to=8)

                def agreement(p: Any = pruning, m: float = macs) -> Row:
                    task = p.task(m, Path.cwd())
                    figures = task.header.figures
                    return {"agreement": setting.accuracy(task), "reached": figures.macs / figures.base_macs}

                rows.get(key, agreement)


def report(results: Path) -> str:
    rows = Rows(results / "mobilenet.jsonl")
    body = []
    for name, _ in VARIANTS:
        found = [rows.find({"method": name, "macs": macs}) for macs in MACS]
        body.append([name, *("-" if row is None else f"{row['agreement']:.1%}" for row in found)])
    return "\n\n".join(
        [
            f"Top-1 agreement with the unpruned network on 512 held-out images; {IMAGES} for calibration.",
            table(["units", *(f"{macs:.0%} of the MACs" for macs in MACS)], body),
        ]
    )
