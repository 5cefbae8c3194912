"""Every file of a network in every runtime that runs here: which is the fastest, and is the pick the fastest again?

    EDGESPA_DATA=../shared/data PYTHONPATH=.zoo:PACKAGES python benchmarks/runtimes/run.py [NETWORK ...]
    python benchmarks/runtimes/run.py --table

Each network is exported once (ONNX and TFLite in float32 and int8, ncnn in float32) and profiled twice, as `edgespa
profile` does by default: each file in each runtime and arithmetic in a process of its own, with its self-check. The
first run picks; the second says how fast the pick is beside what is the fastest then. A network that is not installed
is left out, and said.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from rows import Row, Rows, fill, table  # noqa: E402

import edgespa as es  # noqa: E402
from edgespa.device.measure.results import VariantProfile  # noqa: E402
from edgespa.errors import EdgespaError  # noqa: E402

DATA = Path(os.environ.get("EDGESPA_DATA", HERE.parents[2] / "shared" / "data")).resolve()
RESULTS = HERE / "results" / "rows.jsonl"
OUT = HERE / "out"
ROUNDS, SECONDS = 2, 1.0
Way = tuple[str, str, str]
"""A variant, a runtime, in which numbers."""


@dataclasses.dataclass(frozen=True)
class Network:
    """What is exported, and of which images int8 is calibrated."""

    spec: str
    size: int
    data: str
    density: float | None = None


_PHOTOGRAPHS, _CIFAR = f"{DATA}/photographs.py:calibrate", f"{DATA}/cifar10_jpeg.zip:train"
NETWORKS = {
    "MobileNetV2": Network(f"{DATA}/models.py:mobilenet_v2", 224, _PHOTOGRAPHS),
    "ResNet-56": Network(f"{DATA}/models.py:resnet56", 32, _CIFAR),
    "ResNet-56, half of its MACs": Network(f"{DATA}/models.py:resnet56", 32, _CIFAR, 0.5),
    "ViT": Network(f"{HERE.parent}/latency_shapes/vit.py:vit", 32, _CIFAR),
    "EfficientNet-Lite0": Network(f"{HERE.parent}/int8/nets.py:lite0", 224, _PHOTOGRAPHS),
    "ResNet-18": Network(f"{HERE}/nets.py:resnet18", 224, _PHOTOGRAPHS),
    "LR-ASPP": Network(f"{HERE}/nets.py:lraspp", 256, _PHOTOGRAPHS),
}


def exported(name: str) -> Path:
    """The bundle of a network; made if it is not there."""
    network, path = NETWORKS[name], OUT / name.replace(" ", "-").replace(",", "")
    if path.exists():
        return path
    OUT.mkdir(exist_ok=True)
    images = {"calibration": network.data, "mean": 0.5, "std": 0.5, "limit": 64}
    source: str | Path = network.spec
    if network.density is not None:
        source = path.with_suffix(".spa")
        size = (1, 3, network.size, network.size)
        es.prune(network.spec, output=source, budget="macs", density=network.density, input_shape=size, **images)
    shape = {} if network.density is not None else {"input_shape": (1, 3, network.size, network.size)}
    es.export(
        source,
        output=path,
        formats=("onnx", "tflite", "ncnn"),
        precisions=("fp32", "int8"),
        int8_tolerance=1.0,  # how long it takes is asked for here, also of weights that are random
        int8_rounding="nearest",
        **shape,
        **images,
    )
    return path


def measured(name: str) -> Row:
    """Both runs of one network."""
    bundle = exported(name)
    runs = [
        es.profile(bundle, threads=(1, 2), seconds=SECONDS, rounds=ROUNDS, again=True, save=False).measured
        for _ in range(2)
    ]
    holds = {(each.variant, each.runtime, each.arithmetic) for each in runs[0].proofs if each.holds}
    rows = [
        {
            "way": _way(first),
            "threads": first.threads,
            "ms": [each.p50_ms for each in first.rounds],
            "again_ms": [each.p50_ms for each in second.rounds],
            "holds": (first.variant, first.runtime, first.arithmetic) in holds,
        }
        for first in runs[0].results
        for second in runs[1].results
        if (_way(first), first.threads) == (_way(second), second.threads)
    ]
    wrong = {f"{each.variant} {each.runtime}": "; ".join(each.failures) for each in runs[0].proofs if not each.holds}
    host = runs[0].host
    return {
        "rows": rows,
        "wrong": wrong,
        "not_measured": [f"{each.variant}: {each.reason}" for each in runs[0].skipped],
        "machine": host.cpu_model,
        "load": [each.before.load_average for each in runs],
    }


def _way(result: VariantProfile) -> Way:
    return result.variant, str(result.runtime), str(result.arithmetic)


def _times(name: str, row: Row) -> list[list[str]]:
    """A line for each way: ms by number of threads, and the share of the usual runtime's float32 file."""
    ways = list(dict.fromkeys(tuple(each["way"]) for each in row["rows"]))
    lines = []
    for way in ways:
        cells = [name, *way]
        for threads in (1, 2):
            own = next(each for each in row["rows"] if tuple(each["way"]) == way and each["threads"] == threads)
            usual = next(
                each
                for each in row["rows"]
                if tuple(each["way"]) == ("onnx-fp32", "onnxruntime", "fp32") and each["threads"] == threads
            )
            both = [*own["ms"], *own["again_ms"]]
            reference = statistics.median([*usual["ms"], *usual["again_ms"]])
            median = statistics.median(both)
            spread = (max(both) - min(both)) / median
            cells.append(f"{median:.3g} ± {spread / 2:.0%}, {median / reference:.2f}")
        cells.append("yes" if own["holds"] else "**no**")
        lines.append(cells)
    return lines


def _pick(name: str, row: Row, threads: int) -> list[str]:
    holding = [each for each in row["rows"] if each["threads"] == threads and each["holds"]]
    first = min(holding, key=lambda each: statistics.median(each["ms"]))
    again = min(holding, key=lambda each: statistics.median(each["again_ms"]))
    slower = statistics.median(first["again_ms"]) / statistics.median(again["again_ms"])
    return [name, str(threads), " ".join(first["way"]), " ".join(again["way"]), f"{slower:.2f}"]


def main() -> None:
    """Measure what is not there yet, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], metavar="NETWORK")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--export", action="store_true", help="only make the bundles, which needs no idle machine")
    options = parser.parse_args()
    rows = Rows(RESULTS)
    for name in options.networks or NETWORKS if not options.table else ():
        try:
            exported(name) if options.export else rows.get({"network": name}, lambda name=name: measured(name))
        except (EdgespaError, ImportError, FileNotFoundError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    found = [(name, row) for name in NETWORKS if (row := rows.find({"network": name})) is not None]
    fill(
        HERE / "README.md",
        {
            "times": table(
                ("network", "file", "runtime", "numbers", "1 thread: ms, of usual", "2 threads", "right"),
                [line for name, row in found for line in _times(name, row)],
            ),
            "picks": table(
                ("network", "threads", "pick", "fastest on a second run", "pick / fastest then"),
                [_pick(name, row, threads) for name, row in found for threads in (1, 2)],
            ),
        },
    )


if __name__ == "__main__":
    main()
