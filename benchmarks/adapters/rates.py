"""What `edgespa adapt` finds out about the learning rate, and what comes of it.

    python benchmarks/adapters/rates.py [--data FOLDER] [--only TEXT]

Unpruned, 2,500 training images (250 of them for validation), 3 epochs, one seed. For each network and kind: the loss at
the end of each trial, and the validation accuracy of a training at the kind's own rate and at the one that was found.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edgespa.adaptation.config import AdaptConfig
from edgespa.adaptation.learn import adapt
from edgespa.config import Preprocess
from edgespa.data import load_data
from edgespa.tasks.base import Base

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
# Factory, height and width, data, mean and standard deviation, norms, kinds.
NETWORKS = (
    ("mobilenet_v2", 96, "cifar10_jpeg.zip", HALF, "keep", ("full", "splora")),
    ("mobilenet_v2", 96, "cifar10_jpeg.zip", HALF, "add", ("full", "splora")),
    ("resnet56", 32, "fashion", IMAGENET, "keep", ("full", "splora", "lora")),
    ("resnet20", 32, "fashion", IMAGENET, "keep", ("splopa", "repadapter", "ssf", "convpass")),
)


def main() -> None:
    """Go through networks and kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--only", default="", help="those whose name holds this")
    options = parser.parse_args()
    for factory, size, images, (mean, std), norms, kinds in NETWORKS:
        base = Base.open(f"{options.data}/models.py:{factory}", (1, 3, size, size))
        preprocess = Preprocess(height=size, width=size, channels=3, mean=mean, std=std)
        data = load_data(f"{options.data}/{images}:train").limit(2500)
        for kind in kinds:
            name = f"{factory}, norms {norms}, {kind}"
            if options.only not in name:
                continue
            config = AdaptConfig(adapter=kind, density=1.0, epochs=3, norms=norms, mixed_precision="bf16")
            found = adapt(base, data, preprocess, config, Path.cwd())
            accuracies = {found.header.provenance["lr"]: found.header.metrics["validation_accuracy"]}
            if config.peak_lr not in accuracies:
                own = adapt(base, data, preprocess, config.model_copy(update={"lr": config.peak_lr}), Path.cwd())
                accuracies[config.peak_lr] = own.header.metrics["validation_accuracy"]
            results = ", ".join(f"{accuracy:.1%} at {rate:g}" for rate, accuracy in accuracies.items())
            print(f"{name}: losses {found.header.provenance['lr_trials']}; validation accuracy {results}", flush=True)


if __name__ == "__main__":
    main()
