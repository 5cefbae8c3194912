"""edgespa beside the published library: which networks they take, seconds of a training step, peak memory.

    make peer
    PYTHONPATH=.peer:.zoo python benchmarks/spa/published.py [--rounds N] [--steps N] [--only TEXT]
    python benchmarks/spa/published.py --table

structured-pruning-adapters 0.7.1 with torch-pruning 1.6.1, used as its README says: SPLoRA of rank 8 on every layer,
then every layer is pruned to 30% of its channels: *published-own* by the library's own importance, *published* by
chance, which needs nothing of the library. edgespa does the same: the same networks with random weights, rank and
widths, AdamW, batch, and random images. Each measurement has a process of its own and one thread; the tools take turns.
Given is the median of the rounds, in seconds of the processor, which other work lengthens less than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOOLS = ("edgespa", "published", "published-own")
DENSITIES = (1.0, 0.3)
RANK, BATCH, CLASSES, WARM_UP, TIME_LIMIT_S = 8, 16, 10, 2, 900
# Name -> height and width of its input.
NETWORKS = {
    "resnet56": 32, "mobilenet_v2": 96, "torchvision:resnet18": 96, "torchvision:resnet50": 96,
    "torchvision:vgg11_bn": 96, "torchvision:densenet121": 96, "torchvision:mobilenet_v2": 96,
    "torchvision:mobilenet_v3_small": 96, "torchvision:efficientnet_b0": 96, "torchvision:shufflenet_v2_x1_0": 96,
    "torchvision:convnext_tiny": 96, "torchvision:vit_b_16": 224,
}  # fmt: skip
Step = Callable[[Any, Any], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGESPA_DATA", "../shared/data")))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "published.jsonl")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", default="", help="networks whose name holds this text")
    parser.add_argument("--table", action="store_true", help="print the table of what is measured")
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "NETWORK", "DENSITY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tool, network, density = options.one
        print(json.dumps(one(tool, network, float(density), options.data, options.steps)))
    elif options.table:
        print(table(options.results))
    else:
        measure_all(options)


def measure_all(options: argparse.Namespace) -> None:
    """One row per tool, network, density and round; what is there is not measured again."""
    options.results.parent.mkdir(parents=True, exist_ok=True)
    rows = read(options.results)
    for network in (name for name in NETWORKS if options.only in name):
        for index in range(options.rounds):
            for density in DENSITIES:
                for tool in TOOLS:
                    key = {"tool": tool, "network": network, "density": density, "round": index}
                    if tool == "published-own" and density == 1:
                        continue  # nothing is pruned
                    failed = any(
                        "error" in row for row in rows if all(row[name] == key[name] for name in list(key)[:3])
                    )
                    if failed or any(key.items() <= row.items() for row in rows):
                        continue
                    row = {**key, **in_a_process(tool, network, density, options)}
                    rows.append(row)
                    with options.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)


def in_a_process(tool: str, network: str, density: float, options: argparse.Namespace) -> dict[str, Any]:
    """The figures, or the error, of a fresh process."""
    command = [sys.executable, __file__, "--data", str(options.data), "--steps", str(options.steps)]
    try:
        done = subprocess.run(
            [*command, "--one", tool, network, str(density)], capture_output=True, text=True, timeout=TIME_LIMIT_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIME_LIMIT_S} s"}
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": last[-1][:300] if last else f"exit status {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def one(tool: str, network: str, density: float, data: Path, steps: int) -> dict[str, Any]:
    """Build, prune, and train some steps."""
    import torch

    torch.manual_seed(0)
    size = NETWORKS[network]
    began = time.process_time()
    build_by = {"edgespa": ours, "published": published, "published-own": published_own}[tool]
    step, trained = build_by(network, density, size, data)
    build = time.process_time() - began
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(0, CLASSES, (BATCH,))
    times = []
    for _ in range(WARM_UP + steps):
        began = time.process_time()
        step(images, labels)
        times.append(time.process_time() - began)
    return {
        "step_s": statistics.median(times[WARM_UP:]),
        "build_s": build,
        "trained_parameters": trained,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
    }


def model_of(network: str, data: Path) -> Any:
    """The network with weights that do not matter here."""
    import torch

    if network.startswith("torchvision:"):
        for name in ("nms", "qnms"):  # torchvision's CUDA build beside a CPU torch
            if not hasattr(torch.ops.torchvision, name):
                schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{name}", schema)
        import torchvision

        return torchvision.models.get_model(network.partition(":")[2], weights=None, num_classes=CLASSES)
    sys.path.insert(0, str(data))
    import models

    return models.CifarResNet(9, CLASSES) if network == "resnet56" else models.MobileNetV2(CLASSES)


def stepper(model: Any, run: Callable[[Any], Any]) -> tuple[Step, int]:
    """A training step on what is trained of a model, and how many parameters that is."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step(images: Any, labels: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(run(images), labels).backward()
        optimizer.step()

    return step, sum(p.numel() for p in parameters)


def published(network: str, density: float, size: int, data: Path) -> tuple[Step, int]:
    """The published library, as its README says, by chance."""
    import torch_pruning as tp

    return _published(network, density, size, data, tp.importance.RandomImportance())


def published_own(network: str, density: float, size: int, data: Path) -> tuple[Step, int]:
    """The same by the importance that it brings."""
    from sp_adapters.torch_pruning import MagnitudeImportance

    return _published(network, density, size, data, MagnitudeImportance())


def _published(network: str, density: float, size: int, data: Path, importance: Any) -> tuple[Step, int]:
    import sp_adapters
    import torch
    import torch_pruning as tp
    from sp_adapters import torch_pruning as own

    model = sp_adapters.SPLoRA(model_of(network, data), rank=RANK)
    if density < 1:
        last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1:]
        pruner = tp.pruner.MagnitudePruner(
            model.eval(),
            torch.randn(1, 3, size, size),
            importance=importance,
            pruning_ratio=1 - density,
            ignored_layers=last,
            customized_pruners=own.customized_pruners,
            root_module_types=own.root_module_types,
        )
        pruner.step()
    model.train()
    return stepper(model, model)


def ours(network: str, density: float, size: int, data: Path) -> tuple[Step, int]:
    """edgespa, without images and schedule: the same widths, by the first channels of each group."""
    import numpy as np
    import torch

    from edgespa.adapters.adapted import AdaptedProgram, plan
    from edgespa.adapters.factors import Factors, attach
    from edgespa.adapters.kinds import options_of
    from edgespa.adapters.places import find_places
    from edgespa.graph.groups import find_groups
    from edgespa.graph.surgery import compact, head_tensors, relative_indices
    from edgespa.graph.trace import trace

    program = trace(model_of(network, data).eval(), (torch.randn(2, 3, size, size),))
    options = options_of("splora", {"rank": RANK})
    planned = plan(program, "splora", options, head_tensors(program), torch.Generator().manual_seed(0))
    model = AdaptedProgram(program, planned.adapters, planned.trained, planned.shared)
    if density < 1:
        groups = find_groups(program)
        whole = groups.all_kept()
        kept = {name: np.arange(len(units)) < max(1, round(len(units) * density)) for name, units in whole.items()}
        indices = relative_indices(groups, whole, kept)
        shapes = {name: tuple(tensor.shape) for name, tensor in program.tensors()}
        own = Factors.of(model, planned.statistics)
        small = own.narrowed(shapes, indices, "splora", options, places=find_places(program))
        model = attach(compact(program, groups, kept), small, "splora", options)
    model.set_training(True)
    return stepper(model, model)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(path: Path) -> str:
    """One line per network: medians of the rounds, edgespa / published."""
    rows = read(path)
    head = [
        "network", *(f"{what} at {density:.0%}" for density in DENSITIES for what in ("CPU ms per step", "peak MiB")),
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for network in NETWORKS:
        cells = []
        for density in DENSITIES:
            at = [row for row in rows if (row["network"], row["density"]) == (network, density)]
            own = [[row for row in at if row["tool"] == tool] for tool in TOOLS[:2]]
            if all(own):
                cells += [" / ".join(_median(each, "step_s", 1000) for each in own)]
                cells += [" / ".join(_median(each, "peak_mib", 1) for each in own)]
        if cells:
            lines.append("| " + " | ".join([network, *cells]) + " |")
    errors: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "error" in row:
            errors.setdefault((row["tool"], row["error"]), []).append(row["network"])
    notes = [f"- {tool}: `{error}`: {', '.join(names)}" for (tool, error), names in sorted(errors.items())]
    return "\n".join([*lines, "", "Errors:", "", *(notes or ["- none"])])


def _median(rows: list[dict[str, Any]], name: str, factor: float) -> str:
    if any("error" in row for row in rows):
        return "fails"
    return f"{statistics.median(row[name] for row in rows) * factor:.0f}"


if __name__ == "__main__":
    main()
