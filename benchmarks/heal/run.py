"""How much of what pruning costs does healing give back, without labels, in how much time?

    EDGESPA_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/heal/run.py
    ... run.py --only resnet56 --seeds 3 --steps 1000
    ... run.py --table

Rows are kept in results/rows.jsonl, by what was asked; one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rows import Row, Rows, fill, table

from edgespa.adaptation.heal import HealConfig, heal, original_of
from edgespa.adaptation.held_out import fitted_on
from edgespa.config import Preprocess
from edgespa.data import load_data, prepare
from edgespa.graph.program import Program
from edgespa.pruning import PruneConfig, prune
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("EDGESPA_DATA", "../shared/data")).resolve()
ROWS = HERE / "results" / "rows.jsonl"


@dataclasses.dataclass(frozen=True)
class Network:
    """What is pruned and healed, on what, and what it is judged by.

    Attributes:
        model: In the data's models.py.
        how: From image to input.
        calibration: Images to prune and to heal on, below the data.
        judge: Images that nothing was chosen by.
        images: Of the calibration images so many.
        budget: What a density is a fraction of.
        densities: What is kept.
        steps: Of healing.
        settings: Of healing.
        round_to: Of pruning.
        allocation: Of pruning.
    """

    model: str
    how: Preprocess
    calibration: str
    judge: str
    images: int
    budget: str
    densities: tuple[float, ...]
    steps: int
    settings: dict[str, Any]
    round_to: int
    allocation: str = "equal-error"


CIFAR = Preprocess(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PHOTOGRAPHS = Preprocess(height=224, width=224, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
NETWORKS = {
    "resnet56": Network(
        "resnet56", CIFAR, "cifar10_jpeg.zip:train", "cifar10_jpeg.zip:test", 512, "parameters", (0.5, 0.25), 1000,
        {}, 1, "knapsack",
    ),
    "mobilenet_v2": Network(
        "mobilenet_v2", PHOTOGRAPHS, "photographs.py:calibrate", "photographs.py:judge", 300, "macs", (0.75, 0.5), 100,
        {"batch_size": 32, "norms": "keep", "lr": 1e-4, "augment": ("flip", "crop")}, 8, "knapsack",
    ),
}  # fmt: skip


def judged(network: Network, base: Base, programs: dict[str, Program]) -> Row:
    """Accuracy, and agreement with the unpruned network, on images that nothing was chosen by."""
    data = prepare(load_data(f"{DATA}/{network.judge}"), network.how)
    right = dict.fromkeys(programs, 0)
    same = dict.fromkeys(programs, 0)
    with torch.no_grad():
        for images, labels in data.batches(50):
            wanted = base.program(images).argmax(1)
            for name, program in programs.items():
                own = program(images).argmax(1)
                right[name] += int((own == labels).sum())
                same[name] += int((own == wanted).sum())
    found: Row = {"judged_on": len(data)}
    for name in programs:
        found |= {f"{name}_accuracy": right[name] / len(data), f"{name}_agreement": same[name] / len(data)}
    return found


def pruned(network: Network, base: Base, density: float, seed: int) -> Task:
    """The pruned task; kept beside the rows' file, but in no commit."""
    path = HERE / "results" / f"{network.model}-{density:g}-{network.allocation}-{seed}.spa"
    if not path.exists():
        images = load_data(f"{DATA}/{network.calibration}", labelled=False).limit(network.images, seed)
        # What healing holds out is new to pruning as well, as `prune --heal` has it: else its error says nothing.
        data = prepare(fitted_on(images, HealConfig().validation, seed), network.how)
        config = PruneConfig(
            method="asym-in-change", allocation=network.allocation, budget=network.budget, density=density,
            round_to=network.round_to, seed=seed,
        )  # fmt: skip
        prune(base, config, path.parent, network.how, data=data).save(path)
    return Task.load(path)


def measure(network: Network, base: Base, density: float, seed: int, steps: int, precision: str) -> Row:
    task = pruned(network, base, density, seed)
    data = load_data(f"{DATA}/{network.calibration}", labelled=False).limit(network.images, seed)
    config = HealConfig.model_validate({**network.settings, "steps": steps, "seed": seed, "mixed_precision": precision})
    used = time.process_time()
    healed = heal(base, data, network.how, config, HERE, task, original_of(task, base), progress=told())
    cpu = time.process_time() - used
    figures, metrics = healed.header.figures, healed.header.metrics
    programs = {"whole": base.program, "pruned": task.program(base), "healed": healed.program(base)}
    return {
        "parameters": figures.parameters / figures.base_parameters,
        "macs": figures.macs / figures.base_macs,
        "cpu_seconds": cpu,
        "lr": healed.header.provenance["lr"],
        "held_out_error": [metrics["unhealed_validation_error"], metrics["validation_error"]],
        **judged(network, base, programs),
    }


def told() -> Any:
    last = [0.0]

    def tell(done: float, total: float | None, text: str) -> None:
        if time.monotonic() - last[0] > 30:
            last[0] = time.monotonic()
            print(f"{done:.0f} of {total or 0:.0f}  {text}", file=sys.stderr, flush=True)

    return tell


def report(rows: Rows) -> str:
    body = []
    for row in rows.rows:
        accuracy = [f"{row[f'{name}_accuracy']:.1%}" for name in ("whole", "pruned", "healed")]
        agreement = [f"{row[f'{name}_agreement']:.1%}" for name in ("pruned", "healed")]
        before, after = row["held_out_error"]
        body.append([
            f"{row['network']}, {row['kept']:g} of the {row['of']}", row["allocation"], str(row["seed"]),
            f"{row['steps']:,}",
            *accuracy, *agreement, f"{before:.2f} -> {after:.2f}", f"{row['lr']:g}", f"{row['cpu_seconds']:.0f}",
        ])  # fmt: skip
    head = [
        "network", "allocation", "seed", "steps", "accuracy whole", "pruned", "healed", "agreement pruned", "healed",
        "held-out error", "rate", "CPU s",
    ]  # fmt: skip
    return table(head, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--density", type=float)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--table", action="store_true", help="only write the table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(ROWS)
    for name, network in NETWORKS.items():
        if asked.table or asked.only not in (None, name):
            continue
        base = Base.open(f"{DATA}/models.py:{network.model}", (1, 3, network.how.height, network.how.width))
        for seed in range(asked.seeds):
            for density in network.densities if asked.density is None else (asked.density,):
                steps = asked.steps or network.steps
                key: Row = {
                    "network": name, "kept": density, "of": network.budget, "images": network.images, "seed": seed,
                    "allocation": network.allocation, "steps": steps, "precision": asked.precision,
                }  # fmt: skip
                rows.get(
                    key, lambda n=network, b=base, d=density, s=seed, t=steps: measure(n, b, d, s, t, asked.precision)
                )
    fill(HERE / "README.md", {"table": report(rows)})


if __name__ == "__main__":
    main()
