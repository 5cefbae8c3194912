"""Every kind of adapter at some learning rates, and every criterion, on a small slice of the main job.

    python benchmarks/adapters/run.py [--data FOLDER] [--only TEXT]

ResNet-20 (CIFAR-10) to Fashion-MNIST: 4,000 training images (400 of them for validation), 4 epochs, 2,000 test images,
one seed. Prints one line per setting, as it is done.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.objectives.evaluate import accuracy
from edgespa.tasks.base import Base

RATES = {
    "full": (1e-2,),
    "splora": (2e-2,),
    "lora": (3e-3, 1e-2, 2e-2),
    "repadapter": (1e-2, 2e-2),
    "splopa": (1e-2, 3e-2, 6e-2),
    "convpass": (1e-2, 3e-2),
    "ssf": (2e-2, 5e-2),
}
CRITERIA = ("taylor", "taylor-activation", "gradient", "lrp", "l1", "bn-scale", "geometric-median", "random")
SETTINGS: tuple[dict[str, Any], ...] = (
    *({"adapter": kind, "lr": rate} for kind, rates in RATES.items() for rate in rates),
    *({"density": 0.4, "criterion": criterion} for criterion in CRITERIA),
)


def main() -> None:
    """Run all settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--only", default="", help="run the settings whose text holds this")
    options = parser.parse_args()
    base = Base.open(f"{options.data}/models.py:resnet20", (1, 3, 32, 32))
    preprocess = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    train = load_data(f"{options.data}/fashion:train").limit(4000)
    test = prepare(load_data(f"{options.data}/fashion:test").limit(2000), preprocess)
    for setting in SETTINGS:
        if options.only not in str(setting):
            continue
        began = time.perf_counter()
        task = adapt(base, train, preprocess, AdaptConfig(epochs=4, **setting), Path.cwd())
        figures = task.header.figures
        print(
            f"{setting}: test {accuracy(task.program(base), test):.3f}, MACs {figures.macs / figures.base_macs:.3f}, "
            f"stored parameters {figures.stored_parameters:,}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
