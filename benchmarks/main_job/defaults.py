"""Why the defaults of ``edgespa adapt`` are what they are: one change at a time, on a small slice of the main job.

    python benchmarks/main_job/defaults.py [--data FOLDER]

ResNet-20 (CIFAR-10) to Fashion-MNIST: 4,000 training images (400 of them for validation), 4 epochs, 2,000 test images,
one seed. Prints one line per setting.
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

SETTINGS: tuple[dict[str, Any], ...] = (
    {"density": 1.0, "lr": 1e-3},
    {"density": 1.0, "lr": 3e-3},
    {"density": 1.0, "lr": 1e-2},
    {"density": 1.0, "lr": 2e-2},
    {"density": 0.4, "lr": 3e-3},
    {"density": 0.4, "lr": 1e-2},
    {"density": 0.4, "lr": 2e-2},
    {"density": 0.4, "lr": 4e-2},
    {"density": 0.4, "lr": 2e-2, "normalisation": "l2"},
    {"density": 0.4, "lr": 2e-2, "normalisation": "none"},
    {"density": 0.4, "lr": 2e-2, "criterion": "l1"},
    {"density": 0.4, "lr": 2e-2, "kernel": "full"},
    {"density": 0.4, "lr": 1e-3, "adapter": "full"},
    {"density": 0.4, "lr": 3e-3, "adapter": "full"},
    {"density": 0.4, "lr": 1e-2, "adapter": "full"},
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
