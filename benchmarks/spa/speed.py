"""Seconds of an epoch against the MACs that are left: how close to proportional?

    python benchmarks/spa/speed.py [--rounds N] [--images N]
    python benchmarks/spa/speed.py --table

ResNet-56 at several channel densities (first channels of each group, the same fraction in each), SPLoRA of rank 8 and
fine-pruning, batches of 64 random images. The densities take turns within one process and one thread, so that other
work on the machine meets all of them alike; seconds of the processor; median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgespa.adaptation.moments import fresh_optimizer
from edgespa.adapters.adapted import AdaptedProgram, plan
from edgespa.adapters.kinds import FULL, options_of
from edgespa.graph.surgery import compact, head_tensors
from edgespa.tasks.base import Base

HERE = Path(__file__).resolve().parent
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1)
ADAPTERS = ("splora", FULL)
EPOCH, BATCH = 9_000, 64


def trained(base: Base, adapter: str, density: float) -> tuple[AdaptedProgram, float, float]:
    """A program in training, its MAC density and its parameter density."""
    kept = {
        name: np.arange(len(group)) < max(1, round(len(group) * density)) for name, group in base.groups.groups.items()
    }
    cost = base.cost.cost(kept)
    program = compact(base.program, base.groups, kept) if density < 1 else base.program
    generator = torch.Generator().manual_seed(0)
    planned = plan(program, adapter, options_of(adapter, {}), head_tensors(program), generator)
    model = AdaptedProgram(program, planned.adapters, planned.trained, planned.shared)
    model.set_training(True)
    return model, cost.macs / base.whole_cost.macs, cost.parameters / base.whole_cost.parameters


def step_seconds(model: AdaptedProgram, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Processor seconds of a training step: the median of some."""
    times = []
    for _ in range(steps):
        images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
        images = images.to(memory_format=torch.channels_last)
        began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    base = Base.open(f"{options.data}/models.py:resnet56", (1, 3, 32, 32))
    entries: list[tuple[str, float, Any, Any, float, float]] = []
    for adapter in ADAPTERS:
        for density in DENSITIES:
            model, macs, parameters = trained(base, adapter, density)
            named = {name: p for name, p in model.named_parameters() if p.requires_grad}
            entries.append((adapter, density, model, fresh_optimizer(named, 1e-3, 1e-4), macs, parameters))
    for *_, model, optimizer, _, _ in entries:
        step_seconds(model, optimizer, 1)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("w") as file:
        for index in range(options.rounds):
            for adapter, density, model, optimizer, macs, parameters in entries:
                row = {
                    "adapter": adapter, "density": density, "round": index, "macs": macs, "parameters": parameters,
                    "epoch_s": step_seconds(model, optimizer, options.steps) * (EPOCH // BATCH),
                    "load": os.getloadavg()[0],
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(json.dumps(row), flush=True)


def table(path: Path) -> str:
    """One line per method and density."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        "| method | channels | MACs | CPU s of an epoch | of the unpruned one | over the MAC density |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for adapter in ADAPTERS:
        whole = {row["round"]: row["epoch_s"] for row in rows if (row["adapter"], row["density"]) == (adapter, 1.0)}
        for density in DENSITIES:
            own = [row for row in rows if (row["adapter"], row["density"]) == (adapter, density)]
            if own:
                ratio = statistics.median(row["epoch_s"] / whole[row["round"]] for row in own)
                seconds = statistics.median(row["epoch_s"] for row in own)
                macs = own[0]["macs"]
                lines.append(
                    f"| `{adapter}` | {density:.0%} | {macs:.1%} | {seconds:.1f} | {ratio:.3f} | {ratio / macs:.1f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "speed.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the table of what is measured")
    options = parser.parse_args()
    if options.table:
        print(table(options.results))
    else:
        measure(options)


if __name__ == "__main__":
    main()
