"""A search of 24 trials on ResNet-56, from CIFAR-10 to Fashion-MNIST, beside the defaults at fixed densities.

    python benchmarks/search/run.py data DATA WORK        some images of each part as .npz files
    python benchmarks/search/run.py search DATA WORK OUT  the search
    python benchmarks/search/run.py fixed DATA WORK OUT   the defaults, at four densities, measured in the same way
    python benchmarks/search/run.py draw WORK             front.svg and the table

DATA is the folder with `models.py`, the weights and `fashion/`; WORK a folder for what is made, OUT a name in it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgespa as es

PARTS = {"train": ("train", 1000), "validation": ("train", 600), "test": ("test", 2000)}
SIZE = (1, 3, 32, 32)
PIXELS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TRAINING: dict[str, Any] = {"epochs": 4, "batch_size": 32}
DENSITIES = (1.0, 0.75, 0.5, 0.35)


def parts(data: Path, work: Path) -> None:
    """Write disjoint parts: validation images are none of the training images."""
    from edgespa.data.load import load_data

    work.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for name, (split, count) in PARTS.items():
        source = load_data(f"{data / 'fashion'}:{split}")
        first = taken.get(split, 0)
        order = np.random.default_rng(0).permutation(len(source))[first : first + count]
        taken[split] = first + count
        images = np.stack([np.asarray(source.image(int(index))) for index in order])
        labels = np.array([int(source.labels[int(index)]) for index in order])
        np.savez(work / f"{name}.npz", images=images, labels=labels)


def searched(data: Path, work: Path, out: str) -> None:
    """The search, with the space that is the default."""
    began = time.monotonic()

    def tell(done: float, total: float | None, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {done:g} of {total}  {text}\n")

    found = es.search(
        f"{data / 'models.py'}:resnet56", input_shape=SIZE, data=work / "train.npz",
        validation_data=work / "validation.npz", eval_data=work / "test.npz", output=work / out, trials=24, seed=0,
        progress=tell, **PIXELS, **TRAINING,
    )  # fmt: skip
    sys.stdout.write(f"{found}\n{time.monotonic() - began:.1f} seconds\n")


def fixed(data: Path, work: Path, out: str) -> None:
    """What one gets without a search: the defaults of adapt at some densities, in float32 and int8."""
    rows = []
    for density in DENSITIES:
        task = es.adapt(
            f"{data / 'models.py'}:resnet56", input_shape=SIZE, data=work / "train.npz",
            validation_data=work / "validation.npz", output=work / f"{out}-{density:g}.spa", density=density, seed=0,
            overwrite=True, progress=False, **PIXELS, **TRAINING,
        )  # fmt: skip
        bundle = es.export(
            task, output=work / f"{out}-{density:g}", formats=("onnx",), precisions=("fp32", "int8"), trust=True,
            calibration=work / "train.npz", eval_data=work / "validation.npz", overwrite=True, progress=False,
        )  # fmt: skip
        measured = es.profile(bundle, runtimes=("onnxruntime",), again=True, progress=False).measured.results
        times = {each.variant: each.p50_ms for each in measured}
        tested = es.evaluate(bundle, eval_data=work / "test.npz", progress=False).details
        tests = {each.name: each.values[tested.measures[0].name] for each in tested.subjects}
        rows += [
            {
                "density": density,
                "variant": each.name,
                "quality": each.accuracy.value if each.accuracy else None,
                "test": tests.get(each.name),
                "ms": times.get(each.name),
                "bytes": each.size_bytes,
            }
            for each in bundle.manifest.variants
        ]
        (work / f"{out}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "draw":
        from draw import draw

        draw(Path(rest[0]))
    else:
        data, work = Path(rest[0]).absolute(), Path(rest[1]).absolute()
        {"data": lambda: parts(data, work), "search": lambda: searched(data, work, rest[2]),
         "fixed": lambda: fixed(data, work, rest[2])}[what]()  # fmt: skip
